//! What the watchdog is told, and becoming it when it is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use passenger_shm::channel::Channel;
use passenger_shm::{ClientId, ProcessRef};

use super::core::{watch, Agent};
use super::tasks::{self, Happenings};
use super::vigil::Vigil;
use crate::starvation::Starvation;
use crate::store::ToWatchdog;
use crate::sys::pidfd::Pidfd;
use crate::watchdog::takeover::{self, HandOver, HeldProcess, HeldWorker};

/// How long a watchdog may take to read before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Our end of the store channel.
#[derive(Debug)]
pub(super) struct StoreLink {
    channel: Arc<Channel>,
    was_ready: bool,
    watchdog: Option<WatchdogProcess>,
    vigil: Vigil,
}

/// The watchdog, our parent.
#[derive(Debug)]
struct WatchdogProcess {
    pid: i32,
    pidfd: Pidfd,
    starvation: Starvation,
}

impl WatchdogProcess {
    /// `None` if it has died already, which the end of its channel tells.
    fn find() -> Option<Self> {
        let pid = nix::unistd::getppid().as_raw();
        let pidfd = Pidfd::open(pid).ok()?;
        // Asked after opening: if it still is our parent, the pidfd is its.
        (nix::unistd::getppid().as_raw() == pid).then(|| Self {
            pid,
            pidfd,
            starvation: Starvation::of(pid),
        })
    }
}

impl StoreLink {
    pub(super) fn new(channel: Arc<Channel>, out: Happenings) -> io::Result<Self> {
        channel.set_nonblocking(true)?;
        watch(tasks::store(Arc::clone(&channel), out));
        Ok(Self {
            channel,
            was_ready: false,
            watchdog: WatchdogProcess::find(),
            vigil: Vigil::new(Instant::now()),
        })
    }

    /// The watchdog said that it lives.
    pub(super) fn heard(&mut self) {
        self.vigil.heard();
    }

    /// Kills a watchdog that hangs: the end of its channel then has us take its place.
    pub(super) fn watch_the_watchdog(&mut self) {
        let now = Instant::now();
        let Some(watchdog) = self.watchdog.as_mut().filter(|_| self.vigil.is_due(now)) else {
            return;
        };
        let was_starved = watchdog.starvation.was_starved();
        let Some(seconds) = self.vigil.look(now, was_starved) else {
            return;
        };
        let pid = watchdog.pid;
        log::error!("the watchdog {pid} has said nothing for {seconds} s; killing it");
        if let Err(e) = watchdog.pidfd.signal(libc::SIGKILL) {
            log::error!("cannot kill the watchdog {pid}: {e}");
        }
    }

    /// Sends, waiting briefly if the watchdog is behind: it does nothing that takes long.
    fn send(&self, message: &ToWatchdog, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.channel.send(message, fds) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                sent => return sent,
            }
        }
    }

    /// As [`StoreLink::send`], for what its end of file tells as well.
    fn send_or_log(&self, message: &ToWatchdog) {
        if let Err(e) = self.send(message, &[]) {
            log::error!("cannot tell the watchdog {message:?}: {e}");
        }
    }

    pub(super) fn ready(&mut self, generation: u64) {
        self.send_or_log(&ToWatchdog::Ready { generation });
        self.was_ready = true;
    }

    pub(super) fn config_refused(&self, generation: u64, message: String) {
        self.send_or_log(&ToWatchdog::ConfigRefused {
            generation,
            message,
        });
    }

    /// Puts a process's descriptors in the store: pidfd, output, control socket.
    pub(super) fn deposit(
        &self,
        process: ProcessRef,
        (pid, app): (i32, &str),
        fds: [BorrowedFd<'_>; 3],
    ) -> io::Result<()> {
        let (slot, generation) = (process.slot(), process.generation());
        self.send(
            &ToWatchdog::Process {
                slot,
                generation,
                pid,
                app: app.to_owned(),
            },
            &fds,
        )
    }

    pub(super) fn forget(&self, process: ProcessRef) {
        let (slot, generation) = (process.slot(), process.generation());
        self.send_or_log(&ToWatchdog::Forget { slot, generation });
    }

    pub(super) fn missed(&self) {
        self.send_or_log(&ToWatchdog::Missed);
    }

    pub(super) fn stopped(&self) {
        self.send_or_log(&ToWatchdog::Stopped);
    }
}

impl Agent {
    /// The watchdog is gone. PID, children and descriptors stay; the program becomes the watchdog's.
    pub(super) fn become_watchdog(&mut self) -> ! {
        let workers = self
            .workers
            .iter()
            .map(|((slot, generation), worker)| HeldWorker {
                client: ClientId::new(*slot, *generation),
                pid: worker.pid,
                connection: worker.connection.as_fd(),
                pidfd: worker.pidfd.as_fd(),
            });
        let processes = self.processes.iter().filter_map(|(_, process)| {
            let body = process.body.as_ref()?;
            Some(HeldProcess {
                slot: process.reference.slot(),
                generation: process.reference.generation(),
                pid: body.pid,
                app: self
                    .groups
                    .get(process.group)
                    .map(|group| group.name.clone())
                    .unwrap_or_default(),
                pidfd: body.pidfd.as_fd(),
                output: body.output.as_fd(),
                control: body.control.as_fd(),
            })
        });
        let stop_in_ms = self.stop_at.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
        });
        takeover::hand_over(&HandOver {
            instance_dir: &self.instance_dir.to_string_lossy(),
            parent_pid: self.parent_pid,
            watchdog_generation: self.watchdog_generation,
            descriptors: &self.descriptors,
            config: (
                self.configuration.generation,
                self.files.document.as_fd(),
                self.files.log.as_fd(),
            ),
            past: self.waiting.past.iter().collect(),
            workers: workers.collect(),
            processes: processes.collect(),
            was_ready: self.store.was_ready,
            nofile: self.limits.nofile,
            oom_score_adj: self.oom_score_adj,
            is_retired: self.is_retired,
            stop_in_ms,
        })
    }
}
