//! App processes as the rim has them: from the wish to start one until it is reaped, its slot is free and
//! its output is read to the end.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use passenger_shm::{Orphan, ProcessRef};
use tokio::task::AbortHandle;

use super::forking::Forking;
use super::retiring::Share;
use super::tasks::SharedTail;
use crate::pool::{GroupId, ProcessId};
use crate::spawn::port::Reservation;
use crate::spawn::prepare::Prepared;
use crate::spawn::report::{Cause, Story};
use crate::spawn::{command, dialogue, environment};
use crate::sys::pidfd::{self, Pidfd};
use crate::sys::process::ExitStatus;

/// One app process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) group: GroupId,
    pub(super) reference: ProcessRef,
    pub(super) code_generation: u32,
    pub(super) phase: Phase,
    /// What there is of it; `None` while its start is prepared.
    pub(super) body: Option<Body>,
    /// Its port, while this agent keeps it; commands only.
    pub(super) port: Option<Arc<Reservation>>,
    /// What it has had of requests and time.
    pub(super) share: Share,
    /// Seats of its slot that were taken before it.
    pub(super) takes_before: u64,
    /// Seats taken when last looked at.
    pub(super) takes_seen: u64,
    /// When that number changed last, in seconds since 1970; 0 = never.
    pub(super) last_used: u64,
    /// How long its start took, in milliseconds.
    pub(super) spawn_ms: u64,
    /// PID of the preloader that forked it, or 0.
    pub(super) forked_by: i32,
    /// A question about orphans that it has not answered.
    pub(super) question: Option<Question>,
    /// Whether a client left one of its requests, which nobody watches since: it counts instead of having seats.
    pub(super) is_abandoned: bool,
    /// The out-of-band work that it was told to do.
    pub(super) work_token: Option<u64>,
    /// Whether the pool wants it to end.
    pub(super) is_ending: bool,
    /// Whether it got requests and is to be told of when it gets none any more.
    pub(super) is_attached: bool,
    /// A hook looks into it, and then it is killed: until then it is not told to end.
    pub(super) is_inspected: bool,
    /// Whether its output is read to the end.
    pub(super) is_drained: bool,
    /// Whether its control socket is read to the end.
    pub(super) is_silent: bool,
}

impl Process {
    /// One of which nothing exists yet and nothing is known but this.
    pub(super) fn new(
        group: GroupId,
        reference: ProcessRef,
        code_generation: u32,
        phase: Phase,
    ) -> Self {
        Self {
            group,
            reference,
            code_generation,
            phase,
            body: None,
            port: None,
            share: Share::default(),
            takes_before: 0,
            takes_seen: 0,
            last_used: 0,
            spawn_ms: 0,
            forked_by: 0,
            question: None,
            is_abandoned: false,
            work_token: None,
            is_ending: false,
            is_attached: false,
            is_inspected: false,
            is_drained: false,
            is_silent: false,
        }
    }
}

/// Where it is in its life, as the rim sees it.
#[derive(Debug)]
pub(super) enum Phase {
    /// Not ready yet.
    Starting(Box<Starting>),
    /// Takes requests, or ends.
    Serving,
    /// Reaped.
    Dead {
        /// Since when.
        since: Instant,
        /// Whether its slot in `routes` is free again.
        is_freed: bool,
    },
}

/// What is known of a process that starts.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) story: Story,
    pub(super) cause: Option<Cause>,
    pub(super) tail: SharedTail,
    pub(super) deadline: AbortHandle,
    pub(super) timeout: Duration,
    pub(super) uid: u32,
    pub(super) forced_concurrency: Option<u32>,
    pub(super) way: Way,
    /// Whether the app's code is loaded for it: it is not by the fork of a preloader that was ready.
    pub(super) has_loaded: bool,
    pub(super) began: Instant,
    /// Set when it ended, with its status if that is known; the report waits a moment for the rest of
    /// what it said and printed.
    pub(super) ended: Option<Option<ExitStatus>>,
}

/// How a process comes into being.
#[derive(Debug)]
pub(super) enum Way {
    /// Not decided yet.
    Open,
    /// By shim and loader alone; also where preloading did not work out.
    Direct,
    /// A preloader loads the app for it.
    Load,
    /// A preloader was asked to fork it.
    Asked(Forking),
    /// A preloader has forked it.
    Forked,
}

/// Descriptors and tasks of a process that exists.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) pid: i32,
    pub(super) pidfd: Arc<Pidfd>,
    pub(super) output: Arc<OwnedFd>,
    pub(super) control: Arc<UnixStream>,
    /// Whether it is a command, which understands signals and nothing else.
    pub(super) is_command: bool,
    /// Whether it was started by this agent, which then is the one to reap it.
    pub(super) is_child: bool,
    /// Whether it has ended and its PID may name somebody else.
    pub(super) is_reaped: bool,
    /// How it ended, when the watchdog reaped it.
    pub(super) exit: Option<ExitStatus>,
    pub(super) tasks: Vec<AbortHandle>,
}

/// "Which requests are you executing?"
#[derive(Debug)]
pub(super) struct Question {
    pub(super) token: u64,
    /// Looks, of one a second, that it has outlived.
    pub(super) looks: u32,
    /// The orphans there were when it was asked: only these can be freed by the answer.
    pub(super) orphans: Vec<Orphan>,
}

impl Body {
    /// Says a line on the control socket. Never blocks: who does not read its lines is ended by signals.
    pub(super) fn say(&self, line: &str) -> io::Result<()> {
        let sent = self.control.as_ref().write(line.as_bytes())?;
        if sent < line.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Ends what it was sent to finish, then itself.
    pub(super) fn ask_to_stop(&self) {
        if self.is_command {
            self.ask_command_to_stop();
        } else if let Err(e) = self.say(dialogue::stop()) {
            log::debug!("app process {} cannot be asked to stop: {e}", self.pid);
        }
    }

    fn ask_command_to_stop(&self) {
        if self.is_reaped || !command::is_shell(self.pid) {
            self.signal(libc::SIGTERM);
        } else if let Err(e) = self.signal_group(libc::SIGTERM) {
            log::error!("cannot end the command of process {}: {e}", self.pid);
        }
    }

    /// Says it once more, to one that did not listen. To a command it was a signal already, and many take a second
    /// one for "leave everything as it is".
    pub(super) fn terminate(&self) {
        if !self.is_command {
            self.signal(libc::SIGTERM);
        }
    }

    /// Sends a signal to the process alone.
    pub(super) fn signal(&self, signal: i32) {
        if let Err(e) = self.pidfd.signal(signal) {
            log::error!(
                "cannot send signal {signal} to app process {}: {e}",
                self.pid
            );
        }
    }

    /// SIGKILL to its process group. Only while it is unreaped: by its number if it is our child, by its
    /// pidfd otherwise.
    pub(super) fn kill_group(&self) {
        if self.is_child && self.is_reaped {
            return;
        }
        match self.signal_group(libc::SIGKILL) {
            Ok(true) => {}
            // There is no such group any more: at least the process itself. It may be gone, too.
            Ok(false) => {
                let _ = self.pidfd.signal(libc::SIGKILL);
            }
            Err(e) => log::error!(
                "cannot kill the process group of app process {}: {e}",
                self.pid
            ),
        }
    }
}

impl Body {
    fn signal_group(&self, signal: i32) -> io::Result<bool> {
        if self.is_child {
            pidfd::signal_group_of_child(self.pid, signal)
        } else {
            let group = self.pidfd.signal_group(signal);
            group.or_else(|_| self.pidfd.signal(signal))
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Starting {
    /// Takes what its preparation found out.
    pub(super) fn note(&mut self, prepared: &Prepared) {
        self.uid = prepared.uid;
        self.forced_concurrency = prepared.forced_concurrency;
        for (key, value) in &prepared.facts {
            self.story.fact(*key, value);
        }
        let variables = environment::shown(&prepared.order.environment);
        self.story.environment(variables);
    }
}

impl Process {
    pub(super) fn starting(&mut self) -> Option<&mut Starting> {
        match &mut self.phase {
            Phase::Starting(starting) => Some(starting),
            Phase::Serving | Phase::Dead { .. } => None,
        }
    }

    /// Seats taken since it began, of those that its slot has counted.
    pub(super) fn takes(&self, counted: u64) -> u64 {
        counted.saturating_sub(self.takes_before)
    }

    pub(super) fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Serving)
    }

    pub(super) fn pid(&self) -> i32 {
        self.body.as_ref().map_or(0, |body| body.pid)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Processes {
    entries: BTreeMap<ProcessId, Process>,
}

impl Processes {
    pub(super) fn insert(&mut self, id: ProcessId, process: Process) {
        self.entries.insert(id, process);
    }

    pub(super) fn remove(&mut self, id: ProcessId) -> Option<Process> {
        self.entries.remove(&id)
    }

    pub(super) fn get(&self, id: ProcessId) -> Option<&Process> {
        self.entries.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.entries.get_mut(&id)
    }

    pub(super) fn by_pid(&self, pid: i32) -> Option<ProcessId> {
        let is_it = |p: &Process| {
            p.body
                .as_ref()
                .is_some_and(|b| b.pid == pid && !b.is_reaped)
        };
        self.entries
            .iter()
            .find(|(_, p)| is_it(p))
            .map(|(id, _)| *id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ProcessId, &Process)> {
        self.entries.iter().map(|(id, process)| (*id, process))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ProcessId, &mut Process)> {
        self.entries.iter_mut().map(|(id, process)| (*id, process))
    }
}
