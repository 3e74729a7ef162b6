//! What the agent's tests share: the test plays watchdog (descriptor store) and httpd worker around a real
//! agent, real segments and the real loaders. Leaves no process and no file behind, also when a test fails.

// Each test file uses its own part of it.
#![allow(dead_code)]

#[path = "../scene/mod.rs"]
mod scene;
mod stage;
mod worker;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use helper_agent::instance::Instance;
use helper_agent::status::board::Board;
use helper_agent::store::{ToAgent, ToWatchdog};
use helper_agent::sys::pidfd::Pidfd;
use helper_agent::sys::spawn::{spawn, Program, Started};
use helper_agent::sys::{descriptor, listener, memfd};
use nix::sys::socket::SockType;
use passenger_shm::channel::{Channel, Received};
use passenger_shm::messages::{Config, Registration};
use passenger_shm::{create_segments, Capacities, ClientId, InspectView, ModuleView, SegmentFds};

#[allow(unused_imports)]
pub(crate) use scene::{is_running, wait_for, PATIENCE};
#[allow(unused_imports)]
pub(crate) use stage::{config, directive, Stage};
#[allow(unused_imports)]
pub(crate) use worker::{read_answer, send_get, Worker};

/// The store's copy of a process.
pub(crate) struct Kept {
    pub(crate) pid: i32,
    fds: [OwnedFd; 3],
}

/// A watchdog that is the test, with its agent.
pub(crate) struct Watchdog {
    pub(crate) stage: Stage,
    pub(crate) instance: Instance,
    pub(crate) segments: SegmentFds,
    pub(crate) agent: Started,
    pub(crate) channel: Channel,
    pub(crate) store: BTreeMap<(u32, u32), Kept>,
    pub(crate) workers: Vec<Worker>,
    doorbell: OwnedFd,
    spare: Vec<OwnedFd>,
    config: Config,
    /// Messages of the agent that were not about processes.
    pub(crate) said: Vec<ToWatchdog>,
}

impl Watchdog {
    /// Starts an agent and waits until it is ready.
    pub(crate) fn start(stage: Stage, config: Config) -> Self {
        let mut watchdog = Self::launch(stage, config);
        watchdog.wait_ready();
        watchdog
    }

    pub(crate) fn launch(stage: Stage, config: Config) -> Self {
        let segments = create_segments(&Capacities::for_httpd(4, 64, 6)).unwrap();
        let doorbell = descriptor::doorbell().unwrap();
        let instance = Instance::create(&stage.directory.join("registry")).unwrap();
        let (hello, hello_workers) = Channel::pair().unwrap();
        let (parent, parent_far) = Channel::pair().unwrap();
        let channels = [hello, hello_workers, parent, parent_far].map(OwnedFd::from);
        let admin = listener::open_to_all(&instance.path.join("admin"), SockType::SeqPacket);
        let mut spare = Vec::from(channels);
        spare.extend([Board::create().unwrap(), admin.unwrap()]);
        let (agent, channel) = launch_agent(&stage);
        let mut watchdog = Self {
            stage,
            instance,
            segments,
            agent,
            channel,
            store: BTreeMap::new(),
            workers: Vec::new(),
            doorbell,
            spare,
            config,
            said: Vec::new(),
        };
        watchdog.send_store();
        watchdog
    }

    /// Another agent for the same instance.
    pub(crate) fn replace_agent(&mut self) {
        let (agent, channel) = launch_agent(&self.stage);
        (self.agent, self.channel) = (agent, channel);
        self.said.clear();
        self.send_store();
        self.wait_ready();
    }

    pub(crate) fn kill_agent(&mut self) {
        self.agent.pidfd.signal(libc::SIGKILL).unwrap();
        self.agent.pidfd.reap_blocking().unwrap();
        self.pump();
    }

    fn send_store(&mut self) {
        let me = Pidfd::open(std::process::id().cast_signed_or_panic()).unwrap();
        let image =
            File::open(self.stage.directory.join("libexec/passenger-helper-agent")).unwrap();
        let start = ToAgent::Start {
            instance_dir: self.instance.path.to_str().unwrap().to_owned(),
            parent_pid: std::process::id().cast_signed_or_panic(),
            watchdog_generation: 1,
            oom_score_adj: Some(0),
        };
        let fds = [
            self.segments.routes.as_fd(),
            self.segments.routes_read_only.as_fd(),
            self.segments.traffic.as_fd(),
            self.doorbell.as_fd(),
            self.spare[0].as_fd(),
            self.spare[1].as_fd(),
            self.instance.lock.as_fd(),
            image.as_fd(),
            image.as_fd(),
            self.spare[2].as_fd(),
            me.as_fd(),
            self.spare[0].as_fd(),
            self.spare[1].as_fd(),
            self.spare[4].as_fd(),
            self.spare[5].as_fd(),
            self.spare[5].as_fd(),
        ];
        self.channel.send(&start, &fds).unwrap();
        let config = self.config.clone();
        self.send_config(config);
        for worker in &self.workers {
            self.send_worker(worker);
        }
        for ((slot, generation), kept) in &self.store {
            let message = ToAgent::Process {
                slot: *slot,
                generation: *generation,
                pid: kept.pid,
            };
            let fds: Vec<_> = kept.fds.iter().map(AsFd::as_fd).collect();
            self.channel.send(&message, &fds).unwrap();
        }
        self.channel.send(&ToAgent::StoreEnd, &[]).unwrap();
    }

    pub(crate) fn send_config(&mut self, config: Config) {
        let document =
            memfd::with_contents(c"config", &serde_json::to_vec(&config).unwrap()).unwrap();
        let message = ToAgent::Config {
            generation: config.generation,
        };
        self.config = config;
        let log = self.stage.log_file();
        self.channel
            .send(&message, &[document.as_fd(), log.as_fd()])
            .unwrap();
    }

    fn send_worker(&self, worker: &Worker) {
        let me = Pidfd::open(std::process::id().cast_signed_or_panic()).unwrap();
        let Some(far_end) = &worker.far_end else {
            return;
        };
        let message = ToAgent::Worker {
            slot: worker.id.slot(),
            generation: worker.id.generation(),
            pid: std::process::id().cast_signed_or_panic(),
        };
        self.channel
            .send(&message, &[far_end.as_fd(), me.as_fd()])
            .unwrap();
    }

    /// Reads what the agent said so far.
    pub(crate) fn pump(&mut self) {
        while self.channel.wait_readable(Duration::ZERO).unwrap_or(false) {
            let Ok(Some(Received { message, fds, .. })) = self.channel.recv::<ToWatchdog>() else {
                return;
            };
            match message {
                ToWatchdog::Process {
                    slot,
                    generation,
                    pid,
                    ..
                } => {
                    let kept = Kept {
                        pid,
                        fds: fds.try_into().unwrap(),
                    };
                    self.store.insert((slot, generation), kept);
                }
                ToWatchdog::Forget { slot, generation } => {
                    self.store.remove(&(slot, generation));
                }
                message => self.said.push(message),
            }
        }
    }

    pub(crate) fn wait_said(&mut self, what: &str, is_it: impl Fn(&ToWatchdog) -> bool) {
        wait_for(what, || {
            self.pump();
            self.said.iter().any(&is_it).then_some(())
        });
    }

    pub(crate) fn wait_ready(&mut self) {
        let wanted = self.config.generation;
        self.wait_said(
            "agent ready",
            |m| matches!(m, ToWatchdog::Ready { generation } if *generation == wanted),
        );
    }

    /// Makes a worker known to the agent; returns its number.
    pub(crate) fn worker(&mut self) -> usize {
        let id = ClientId::new(u16::try_from(self.workers.len()).unwrap(), 1);
        let view = ModuleView::attach(
            self.segments.routes_read_only.as_fd(),
            self.segments.traffic.as_fd(),
            self.doorbell.try_clone().unwrap(),
        )
        .unwrap();
        let (channel, far_end) = Channel::pair().unwrap();
        let worker = Worker {
            client: view.client(id),
            view,
            channel,
            id,
            far_end: Some(far_end.into()),
            instance_dir: self.instance.path.clone(),
        };
        self.send_worker(&worker);
        self.workers.push(worker);
        self.workers.len() - 1
    }

    pub(crate) fn inspect(&self) -> InspectView {
        let traffic = Some(self.segments.traffic.as_fd());
        InspectView::attach(self.segments.routes_read_only.as_fd(), traffic).unwrap()
    }

    /// PIDs in the store.
    pub(crate) fn pids(&mut self) -> Vec<i32> {
        self.pump();
        self.store.values().map(|kept| kept.pid).collect()
    }

    /// Waits until the store has exactly that many processes, and names them.
    pub(crate) fn wait_pids(&mut self, count: usize) -> Vec<i32> {
        wait_for(&format!("{count} app processes"), || {
            let pids = self.pids();
            (pids.len() == count).then_some(pids)
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.agent.pidfd.signal(libc::SIGKILL);
        let _ = self.agent.pidfd.reap_blocking();
        self.pump();
        for kept in self.store.values() {
            // Its own session, so its group is its own.
            let _ = helper_agent::sys::pidfd::signal_group_of_child(kept.pid, libc::SIGKILL);
        }
    }
}

fn launch_agent(stage: &Stage) -> (Started, Channel) {
    let (ours, theirs) = Channel::pair().unwrap();
    let image = File::open(stage.directory.join("libexec/passenger-helper-agent")).unwrap();
    let null = File::open("/dev/null").unwrap();
    let log = stage.log_file();
    let variables = [
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "SECRET=leaked",
        "RUST_BACKTRACE=1",
    ];
    let started = spawn(&Program {
        image: image.as_fd(),
        arguments: vec![CString::new("passenger-helper-agent").unwrap()],
        environment: variables
            .iter()
            .map(|v| CString::new(*v).unwrap())
            .collect(),
        descriptors: vec![
            (null.as_fd(), 0),
            (log.as_fd(), 1),
            (log.as_fd(), 2),
            (theirs.as_fd(), 3),
        ],
        new_session: true,
        oom_score_adj: None,
        nofile: None,
    })
    .unwrap();
    (started, ours)
}

/// PIDs are positive numbers of 31 bits.
trait CastPid {
    fn cast_signed_or_panic(self) -> i32;
}

impl CastPid for u32 {
    fn cast_signed_or_panic(self) -> i32 {
        i32::try_from(self).unwrap()
    }
}

pub(crate) fn registration(generation: u64, chain: &[u32], document_root: &str) -> Registration {
    Registration {
        generation,
        chain: chain.to_vec(),
        document_root: document_root.into(),
        base_uri: String::new(),
    }
}

/// How many processes hold that open file (a socket inode) besides this one.
pub(crate) fn holders_of_inode(inode: &str) -> Vec<i32> {
    let mut holders = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(fds) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let holds = |fd: fs::DirEntry| {
            fs::read_link(fd.path()).is_ok_and(|target| target.to_str() == Some(inode))
        };
        if fds.flatten().any(holds) {
            holders.push(pid);
        }
    }
    holders
}
