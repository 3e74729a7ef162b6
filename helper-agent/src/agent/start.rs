//! From `exec` to the loop: descriptor 3, the store as the watchdog sends it, the segments, the runtime.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use passenger_shm::channel::{Channel, Received};
use passenger_shm::{AgentView, ClientId, ProcessRef};

use super::core::Agent;
use crate::config::Configuration;
use crate::loaders;
use crate::log as sink;
use crate::spawn::launch::Limits;
use crate::store::{Past, StartDescriptors, ToAgent, ToWatchdog};
use crate::sys::pidfd::Pidfd;
use crate::sys::{descriptor, limits, memfd, process};

/// Descriptor of the store channel.
const STORE_FD: i32 = 3;
/// Longest configuration document, in bytes.
pub(super) const CONFIG_BYTES: usize = 64 << 20;

/// A configuration as it came: document and log.
#[derive(Debug)]
pub(super) struct ConfigFiles {
    pub(super) document: OwnedFd,
    pub(super) log: OwnedFd,
}

/// A worker as it came.
#[derive(Debug)]
pub(super) struct StoredWorker {
    pub(super) client: ClientId,
    pub(super) pid: i32,
    pub(super) connection: Channel,
    pub(super) pidfd: OwnedFd,
}

/// An app process as it came.
#[derive(Debug)]
pub(super) struct StoredProcess {
    pub(super) reference: ProcessRef,
    pub(super) pid: i32,
    pub(super) pidfd: Pidfd,
    pub(super) output: OwnedFd,
    pub(super) control: OwnedFd,
}

/// Everything up to `StoreEnd`.
#[derive(Debug)]
pub(super) struct Inventory {
    pub(super) instance_dir: PathBuf,
    pub(super) parent_pid: i32,
    pub(super) watchdog_generation: u32,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) descriptors: StartDescriptors,
    pub(super) files: ConfigFiles,
    pub(super) configuration: Configuration,
    pub(super) past: Past,
    pub(super) workers: Vec<StoredWorker>,
    pub(super) processes: Vec<StoredProcess>,
    /// What came between the others and belongs to the time after.
    pub(super) later: Vec<ToAgent>,
}

/// The agent's program: returns the status to exit with.
#[must_use]
pub fn main() -> u8 {
    sink::install();
    process::set_name(c"passenger-agent");
    match run() {
        Ok(()) => 0,
        Err(e) => {
            log::error!("the helper agent cannot go on: {e}");
            1
        }
    }
}

fn run() -> io::Result<()> {
    let channel = Channel::from(descriptor::take_inherited(STORE_FD)?);
    process::become_subreaper()?;
    let nofile = limits::raise_nofile()?;
    let mut inventory = read_store(&channel)?;
    let past = std::mem::take(&mut inventory.past);
    let doorbell = inventory.descriptors.doorbell.try_clone()?;
    let view = AgentView::attach(
        inventory.descriptors.routes.as_fd(),
        inventory.descriptors.traffic.as_fd(),
        doorbell,
    )
    .map_err(io::Error::other)?;
    let limits = Limits {
        nofile: Some(nofile),
        oom_score_adj: inventory.oom_score_adj.map(limits::app_score),
    };
    let loaders = loaders::of(&inventory.instance_dir, &process::own_image_path()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let finished = runtime.block_on(async {
        let mut agent = Agent::new(Arc::new(channel), view, inventory, loaders, limits)?;
        agent.waiting.past = past;
        agent.run().await
    });
    // A helper thread may hang in somebody's file system for ever.
    runtime.shutdown_background();
    finished
}

/// Reads until `StoreEnd`; blocks.
fn read_store(channel: &Channel) -> io::Result<Inventory> {
    let mut start = None;
    let mut config = None;
    let mut past = Past::default();
    let (mut workers, mut processes, mut later) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let received = match channel.recv::<ToAgent>() {
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => continue,
            received => received?,
        };
        let Some(Received { message, fds, .. }) = received else {
            // It died while it was speaking. Whatever it had no time for ends with it; the rest is worth
            // keeping, and the next thing to happen is that this agent becomes the watchdog.
            log::warn!("the watchdog ended before it had said everything");
            break;
        };
        match message {
            ToAgent::Start {
                instance_dir,
                parent_pid,
                watchdog_generation,
                oom_score_adj,
            } => {
                let descriptors = StartDescriptors::from_order(fds)?;
                let facts = (instance_dir, parent_pid, watchdog_generation);
                start = Some((facts, oom_score_adj, descriptors));
            }
            ToAgent::Config { generation } => config = Some(take_config(channel, generation, fds)?),
            ToAgent::PastConfig { generation } => {
                let [document] = exactly(fds)?;
                past.add(generation, document);
            }
            ToAgent::Worker {
                slot,
                generation,
                pid,
            } => {
                workers.push(stored_worker(ClientId::new(slot, generation), pid, fds)?);
            }
            ToAgent::Process {
                slot,
                generation,
                pid,
            } => {
                let [pidfd, output, control] = exactly(fds)?;
                let reference = ProcessRef::new(slot, generation);
                let pidfd = Pidfd::from(pidfd);
                processes.push(StoredProcess {
                    reference,
                    pid,
                    pidfd,
                    output,
                    control,
                });
            }
            ToAgent::StoreEnd => break,
            ToAgent::WorkerGone { .. }
            | ToAgent::ChildExited { .. }
            | ToAgent::Beat
            | ToAgent::Retire
            | ToAgent::Stop { .. } => {
                later.push(message);
            }
        }
    }
    let missing = || io::Error::other("the store lacks Start or Config");
    let (facts, oom_score_adj, descriptors) = start.ok_or_else(missing)?;
    let (instance_dir, parent_pid, watchdog_generation) = facts;
    let (files, configuration) = config.ok_or_else(missing)?;
    Ok(Inventory {
        instance_dir: instance_dir.into(),
        parent_pid,
        watchdog_generation,
        oom_score_adj,
        descriptors,
        files,
        configuration,
        past,
        workers,
        processes,
        later,
    })
}

/// Without any configuration there is nothing to be: refusing the first one ends this agent.
fn take_config(
    channel: &Channel,
    generation: u64,
    fds: Vec<OwnedFd>,
) -> io::Result<(ConfigFiles, Configuration)> {
    let [document, log] = exactly(fds)?;
    sink::replace(log.try_clone()?);
    let files = ConfigFiles { document, log };
    match parse(&files.document) {
        Ok(configuration) => Ok((files, configuration)),
        Err(message) => {
            let refusal = ToWatchdog::ConfigRefused {
                generation,
                message: message.clone(),
            };
            channel.send(&refusal, &[])?;
            Err(io::Error::other(message))
        }
    }
}

/// Reads a configuration document.
pub(super) fn parse(document: &OwnedFd) -> Result<Configuration, String> {
    let bytes = memfd::contents_of(document, CONFIG_BYTES)
        .map_err(|e| format!("cannot read the configuration from httpd's parent: {e}"))?;
    Configuration::parse(&bytes)
}

pub(super) fn stored_worker(
    client: ClientId,
    pid: i32,
    fds: Vec<OwnedFd>,
) -> io::Result<StoredWorker> {
    let [connection, pidfd] = exactly(fds)?;
    Ok(StoredWorker {
        client,
        pid,
        connection: Channel::foreign(connection)?,
        pidfd,
    })
}

/// The descriptors of a message, if there are as many as its kind has.
pub(super) fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    let count = fds.len();
    fds.try_into().map_err(|_| {
        let text = format!("a message came with {count} descriptors instead of {N}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}
