//! The loop: what is waited for, what is due, and who handles it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use passenger_shm::channel::Channel;
use passenger_shm::{ClientId, WatchdogView};

use super::agent::AgentProcess;
use super::hooks::WatchdogHooks;
use super::reserve::Reserve;
use super::settings::Settings;
use super::shutdown::Ending;
use super::status::{AgentHistory, Reporter};
use super::supervisor::Supervisor;
use super::table::{ProcessKey, Table};
use crate::output::Scratch;
use crate::store::StartDescriptors;
use crate::sys::epoll::{Epoll, Event, Trigger};
use crate::sys::limits::NoFile;
use crate::sys::pidfd::Pidfd;
use crate::sys::signals::Signals;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Parent,
    ParentDeath,
    Hello,
    Status,
    AgentChannel,
    AgentDeath,
    WorkerDeath(ClientId),
    Output(ProcessKey),
}

/// What is waited for. Every registration has a number of its own, so that an event which was fetched
/// before its source went away finds nothing instead of a successor.
#[derive(Debug)]
pub(super) struct Events {
    epoll: Epoll,
    sources: BTreeMap<u64, Source>,
    next: u64,
}

impl Events {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            sources: BTreeMap::new(),
            next: 1,
        })
    }

    /// Adds a descriptor and returns its number.
    pub(super) fn add(
        &mut self,
        fd: BorrowedFd<'_>,
        source: Source,
        trigger: Trigger,
    ) -> io::Result<u64> {
        let token = self.next;
        self.next += 1;
        self.epoll.add(fd, token, trigger)?;
        self.sources.insert(token, source);
        Ok(token)
    }

    pub(super) fn change(
        &mut self,
        fd: BorrowedFd<'_>,
        token: u64,
        trigger: Trigger,
    ) -> io::Result<()> {
        self.epoll.change(fd, token, trigger)
    }

    /// Takes a descriptor out; before it is closed, since others have copies of it.
    pub(super) fn remove(&mut self, fd: BorrowedFd<'_>, token: u64) {
        if self.sources.remove(&token).is_some() {
            self.epoll.remove(fd);
        }
    }
}

/// What this process was started with, for those it starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Originals {
    pub(super) oom_score_adj: Option<i32>,
    pub(super) nofile: Option<NoFile>,
}

/// The watchdog.
pub(super) struct Watchdog {
    pub(super) instance_dir: PathBuf,
    pub(super) parent_pid: i32,
    pub(super) generation: u32,
    pub(super) originals: Originals,
    pub(super) descriptors: StartDescriptors,
    pub(super) parent: Channel,
    pub(super) parent_token: u64,
    pub(super) parent_death: Pidfd,
    pub(super) parent_death_token: u64,
    pub(super) hello: Channel,
    pub(super) signals: Signals,
    pub(super) view: WatchdogView,
    pub(super) table: Table,
    pub(super) supervisor: Supervisor,
    pub(super) agent: Option<AgentProcess>,
    pub(super) agent_history: AgentHistory,
    /// Number of the status socket in the event loop, while it is watched.
    pub(super) status_token: Option<u64>,
    /// Children that answer tools.
    pub(super) reporters: Vec<Reporter>,
    pub(super) scratch: Scratch,
    pub(super) settings: Settings,
    /// Outputs with more to read than one turn allows.
    pub(super) busy_outputs: Vec<ProcessKey>,
    pub(super) ending: Option<Ending>,
    /// Programs that are run at httpd's start and stop.
    pub(super) hooks: WatchdogHooks,
    /// Whether another instance has taken over.
    pub(super) is_retired: bool,
    /// Whether httpd's parent knows that the instance is up.
    pub(super) told_parent: bool,
    pub(super) next_round: Instant,
    /// A copy of everything, for the case that nobody else has one.
    pub(super) reserve: Reserve,
    pub(super) reserve_renewals: u32,
    pub(super) events: Events,
}

/// How often unfinished lines and other slow things are looked at.
const ROUND: Duration = Duration::from_secs(1);

impl Watchdog {
    /// Registers what is always waited for.
    pub(super) fn watch_fixed(&mut self) -> io::Result<()> {
        let events = &mut self.events;
        events.add(self.signals.as_fd(), Source::Signals, Trigger::Readable)?;
        self.parent.set_nonblocking(true)?;
        self.parent_token = events.add(self.parent.as_fd(), Source::Parent, Trigger::Readable)?;
        let death = self.parent_death.as_fd();
        self.parent_death_token = events.add(death, Source::ParentDeath, Trigger::Readable)?;
        self.hello.set_nonblocking(true)?;
        events.add(self.hello.as_fd(), Source::Hello, Trigger::Readable)?;
        let status = self.descriptors.status.as_fd();
        self.status_token = Some(events.add(status, Source::Status, Trigger::Readable)?);
        Ok(())
    }

    /// Runs until everything has ended; returns the exit status.
    pub(super) fn run(mut self) -> i32 {
        let mut fetched = Vec::with_capacity(32);
        loop {
            if let Some(status) = self.proceed() {
                return status;
            }
            fetched.clear();
            let timeout = self.timeout(Instant::now());
            if let Err(e) = self.events.epoll.wait(Some(timeout), &mut fetched) {
                // Cannot happen to a valid epoll; without the pause it would be a busy loop.
                log::error!("the watchdog cannot wait for events: {e}");
                std::thread::sleep(Duration::from_millis(100));
            }
            for event in &fetched {
                self.dispatch(*event);
            }
        }
    }

    fn dispatch(&mut self, event: Event) {
        let Some(source) = self.events.sources.get(&event.token).copied() else {
            return;
        };
        match source {
            Source::Signals => self.on_signals(),
            Source::Parent => self.on_parent(),
            Source::ParentDeath => self.on_parent_death(),
            Source::Hello => self.on_hello(),
            Source::Status => self.on_status(),
            Source::AgentChannel if event.is_readable => self.on_agent_messages(),
            Source::AgentChannel => {}
            Source::AgentDeath => self.on_agent_death(),
            Source::WorkerDeath(client) => self.on_worker_death(client),
            Source::Output(key) => self.drain_output(key),
        }
    }

    /// What is due by time or left over; `Some` when all is over.
    fn proceed(&mut self) -> Option<i32> {
        let now = Instant::now();
        for key in std::mem::take(&mut self.busy_outputs) {
            self.drain_output(key);
        }
        if now >= self.next_round {
            self.next_round = now + ROUND;
            self.drain_unfinished();
            self.watch_status_again();
            self.beat();
            crate::log::catch_up();
        }
        if self.ending.is_none() {
            self.supervise(now);
        }
        self.look_after_hook(now);
        self.flush_outbox();
        self.proceed_ending(now)
    }

    fn timeout(&self, now: Instant) -> Duration {
        if !self.busy_outputs.is_empty() {
            return Duration::ZERO;
        }
        let supervisor = match self.ending {
            None => self.supervisor.next_look(),
            Some(_) => Some(now + Duration::from_millis(100)),
        };
        let next = supervisor.map_or(self.next_round, |look| look.min(self.next_round));
        next.saturating_duration_since(now)
    }
}
