//! How an agent becomes the watchdog when the watchdog has died: it replaces its own program by the
//! watchdog's, in place. PID, children and the subreaper flag survive, so the apps keep a parent; the
//! descriptors survive by their numbers, which a JSON table in a memfd names.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Instant;

use passenger_shm::ClientId;
use serde::{Deserialize, Serialize};

use super::stop;
use crate::store::{Past, StartDescriptors};
use crate::sys::limits::NoFile;
use crate::sys::patience::Patience;
use crate::sys::pidfd::Pidfd;
use crate::sys::{descriptor, limits, memfd, process, spawn};

/// Longest table that is read, in bytes: some hundred for each worker and process.
const TABLE_BYTES: usize = 64 * 1024 * 1024;

/// A worker as the agent has it.
#[derive(Debug)]
pub struct HeldWorker<'a> {
    /// Its identity.
    pub client: ClientId,
    /// Its PID.
    pub pid: i32,
    /// Our end of its connection.
    pub connection: BorrowedFd<'a>,
    /// Its pidfd.
    pub pidfd: BorrowedFd<'a>,
}

/// An app process as the agent has it.
#[derive(Debug)]
pub struct HeldProcess<'a> {
    /// Process slot.
    pub slot: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// Its PID.
    pub pid: i32,
    /// Name of its app, empty if it is not known.
    pub app: String,
    /// Its pidfd.
    pub pidfd: BorrowedFd<'a>,
    /// Read end of its output pipe.
    pub output: BorrowedFd<'a>,
    /// Our end of its control socket.
    pub control: BorrowedFd<'a>,
}

/// Everything the new watchdog needs.
#[derive(Debug)]
pub struct HandOver<'a> {
    /// As in [`crate::store::ToAgent::Start`].
    pub instance_dir: &'a str,
    /// As in [`crate::store::ToAgent::Start`].
    pub parent_pid: i32,
    /// As in [`crate::store::ToAgent::Start`]: that of the watchdog that died.
    pub watchdog_generation: u32,
    /// What came with [`crate::store::ToAgent::Start`].
    pub descriptors: &'a StartDescriptors,
    /// Generation, memfd and log of the configuration in use.
    pub config: (u64, BorrowedFd<'a>, BorrowedFd<'a>),
    /// Generation and memfd of those before.
    pub past: Vec<(u64, BorrowedFd<'a>)>,
    /// All workers.
    pub workers: Vec<HeldWorker<'a>>,
    /// All app processes that are not forgotten.
    pub processes: Vec<HeldProcess<'a>>,
    /// Whether [`crate::store::ToWatchdog::Ready`] was said: httpd's parent was told then.
    pub was_ready: bool,
    /// `RLIMIT_NOFILE` this agent was started with, if it raised it.
    pub nofile: Option<NoFile>,
    /// As in [`crate::store::ToAgent::Start`].
    pub oom_score_adj: Option<i32>,
    /// Whether [`crate::store::ToAgent::Retire`] was received.
    pub is_retired: bool,
    /// Time left in milliseconds if [`crate::store::ToAgent::Stop`] was received.
    pub stop_in_ms: Option<u64>,
}

/// A process that became the watchdog: call this when the store channel is at its end. Does not return: if
/// the program cannot be replaced it exits, and httpd's parent starts another watchdog from the reserve.
/// If httpd is gone as well nobody will look after the apps any more, so it ends them.
pub fn hand_over(hand_over: &HandOver<'_>) -> ! {
    log::warn!("the watchdog is gone; this helper agent takes its place");
    let error = match prepare(hand_over) {
        Ok((arguments, environment, _table)) => {
            let image = hand_over.descriptors.watchdog_image.as_fd();
            spawn::replace(image, &arguments, &environment)
        }
        Err(e) => e,
    };
    if !httpd_is_gone(&hand_over.descriptors.parent_pidfd) {
        log::error!("cannot become the watchdog: {error}; leaving that to httpd's parent");
        std::process::exit(1);
    }
    log::error!("cannot become the watchdog: {error}; ending all apps of this instance");
    let mut patience = Patience::new(Instant::now());
    stop::end_descendants(&mut patience);
    stop::remove_directory(Path::new(hand_over.instance_dir), &mut patience);
    std::process::exit(1);
}

fn httpd_is_gone(parent: &OwnedFd) -> bool {
    let copy = parent.try_clone();
    copy.is_ok_and(|copy| Pidfd::from(copy).has_exited())
}

type Strings = Vec<CString>;

fn prepare(hand_over: &HandOver<'_>) -> io::Result<(Strings, Strings, OwnedFd)> {
    // The table needs a descriptor; in vain where the hard limit is reached and we are not root.
    let _ = limits::make_room(16);
    // Whatever a library opened without the flag must not outlive this program.
    descriptor::cloexec_from(3)?;
    let table = Inherited::of(hand_over)?;
    let text = serde_json::to_vec(&table)?;
    let table = memfd::with_contents(c"passenger-take-over", &text)?;
    descriptor::set_cloexec(table.as_fd(), false)?;
    let arguments = [
        "passenger-watchdog",
        "--take-over",
        &table.as_raw_fd().to_string(),
    ]
    .into_iter()
    .map(CString::new)
    .collect::<Result<_, _>>()?;
    Ok((arguments, own_environment(), table))
}

/// The environment of this process in the form `exec` takes.
pub(crate) fn own_environment() -> Vec<CString> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            let mut text = name.into_vec();
            text.push(b'=');
            text.extend(value.into_vec());
            CString::new(text).ok()
        })
        .collect()
}

/// The table: numbers of descriptors that the exec leaves open.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Inherited {
    pub(super) instance_dir: String,
    pub(super) parent_pid: i32,
    pub(super) watchdog_generation: u32,
    start: Vec<RawFd>,
    pub(super) config_generation: u64,
    config: RawFd,
    log: RawFd,
    past: Vec<(u64, RawFd)>,
    pub(super) workers: Vec<InheritedWorker>,
    pub(super) processes: Vec<InheritedProcess>,
    pub(super) was_ready: bool,
    nofile: Option<(u64, u64)>,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) is_retired: bool,
    pub(super) stop_in_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InheritedWorker {
    pub(super) slot: u16,
    pub(super) generation: u16,
    pub(super) pid: i32,
    pub(super) connection: RawFd,
    pub(super) pidfd: RawFd,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InheritedProcess {
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) pid: i32,
    pub(super) app: String,
    pub(super) pidfd: RawFd,
    pub(super) output: RawFd,
    pub(super) control: RawFd,
}

impl Inherited {
    fn of(hand_over: &HandOver<'_>) -> io::Result<Self> {
        let mut keeper = Keeper::default();
        let mut keep = |fd| keeper.keep(fd);
        let (config_generation, config, log) = hand_over.config;
        let start = hand_over.descriptors.in_order().into_iter().map(&mut keep);
        let start = start.collect::<Result<_, _>>()?;
        let (config, log) = (keep(config)?, keep(log)?);
        let mut past = Vec::with_capacity(hand_over.past.len());
        for (generation, document) in &hand_over.past {
            past.push((*generation, keep(*document)?));
        }
        let mut workers = Vec::with_capacity(hand_over.workers.len());
        for worker in &hand_over.workers {
            workers.push(InheritedWorker {
                slot: worker.client.slot(),
                generation: worker.client.generation(),
                pid: worker.pid,
                connection: keep(worker.connection)?,
                pidfd: keep(worker.pidfd)?,
            });
        }
        let mut processes = Vec::with_capacity(hand_over.processes.len());
        for process in &hand_over.processes {
            processes.push(InheritedProcess {
                slot: process.slot,
                generation: process.generation,
                pid: process.pid,
                app: process.app.clone(),
                pidfd: keep(process.pidfd)?,
                output: keep(process.output)?,
                control: keep(process.control)?,
            });
        }
        Ok(Self {
            instance_dir: hand_over.instance_dir.to_owned(),
            parent_pid: hand_over.parent_pid,
            watchdog_generation: hand_over.watchdog_generation,
            start,
            config_generation,
            config,
            log,
            past,
            workers,
            processes,
            was_ready: hand_over.was_ready,
            nofile: hand_over.nofile.map(|limit| (limit.soft, limit.hard)),
            oom_score_adj: hand_over.oom_score_adj,
            is_retired: hand_over.is_retired,
            stop_in_ms: hand_over.stop_in_ms,
        })
    }

    /// Reads the table from the descriptor that `--take-over` names.
    pub(super) fn read(table: RawFd) -> io::Result<Self> {
        let table = descriptor::take_inherited(table)?;
        Ok(serde_json::from_slice(&memfd::contents_of(
            &table,
            TABLE_BYTES,
        )?)?)
    }

    /// Takes the instance's descriptors; once.
    pub(super) fn take_start(&mut self) -> io::Result<StartDescriptors> {
        let numbers = std::mem::take(&mut self.start);
        let fds = numbers
            .into_iter()
            .map(descriptor::take_inherited)
            .collect::<Result<_, _>>()?;
        StartDescriptors::from_order(fds)
    }

    /// Takes memfd and log of the configuration; once.
    pub(super) fn take_config(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        Ok((
            descriptor::take_inherited(self.config)?,
            descriptor::take_inherited(self.log)?,
        ))
    }

    /// Takes the configurations before; once.
    pub(super) fn take_past(&mut self) -> io::Result<Past> {
        let mut past = Past::default();
        for (generation, document) in std::mem::take(&mut self.past) {
            past.add(generation, descriptor::take_inherited(document)?);
        }
        Ok(past)
    }

    /// The limit that a new agent gets.
    pub(super) fn nofile(&self) -> Option<NoFile> {
        self.nofile.map(|(soft, hard)| NoFile { soft, hard })
    }
}

/// Lets descriptors survive the exec. The same one may stand in the table twice (the log), where each entry
/// is taken once: then it gets a second number. Nothing else is copied: there may be no room.
#[derive(Default)]
struct Keeper(BTreeSet<RawFd>);

impl Keeper {
    fn keep(&mut self, fd: BorrowedFd<'_>) -> io::Result<RawFd> {
        if self.0.insert(fd.as_raw_fd()) {
            descriptor::set_cloexec(fd, false)?;
            return Ok(fd.as_raw_fd());
        }
        let copy = descriptor::duplicate_above(fd, 3)?;
        descriptor::set_cloexec(copy.as_fd(), false)?;
        Ok(std::os::fd::IntoRawFd::into_raw_fd(copy))
    }
}

/// Name in `ps` of a watchdog, however it was started.
pub(super) fn set_name() {
    process::set_name(c"passenger-watch");
}
