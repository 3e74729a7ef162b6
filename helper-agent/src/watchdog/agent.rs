//! The agent's process as the watchdog sees it: starting it, feeding it the store, hearing it, its death.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBufForce;
use passenger_shm::channel::Channel;
use passenger_shm::messages::ToParent;

use super::core::{Source, Watchdog};
use super::outbox::Item;
use super::supervisor::Action;
use super::table::ProcessKey;
use super::takeover::own_environment;
use crate::instance;
use crate::starvation::Starvation;
use crate::store::ToWatchdog;
use crate::sys::epoll::Trigger;
use crate::sys::pidfd::Pidfd;
use crate::sys::spawn::{self, Program};
use crate::sys::{descriptor, limits};

/// Messages that are read before others get their turn.
const MESSAGES_PER_TURN: usize = 64;

/// Failed starts in a row after which a first start is given up: httpd refuses to start then.
const FIRST_ATTEMPTS: u32 = 3;

/// Room for the store in a new agent's channel, in bytes: some hundred for each worker and process.
const STORE_BYTES: usize = 4 << 20;

/// A running agent.
#[derive(Debug)]
pub(super) struct AgentProcess {
    pub(super) pid: i32,
    pub(super) pidfd: Pidfd,
    death_token: u64,
    pub(super) channel: Channel,
    pub(super) channel_token: u64,
    pub(super) outbox: VecDeque<Item>,
    pub(super) waits_for_room: bool,
    pub(super) channel_ended: bool,
    /// It has been told the whole store; the outputs are its to read.
    pub(super) has_store: bool,
    /// It has said that it is done.
    said_stopped: bool,
    starvation: Starvation,
}

impl AgentProcess {
    pub(super) fn push(&mut self, item: Item) {
        self.outbox.push_back(item);
    }
}

impl Watchdog {
    /// Starts, aborts or kills the agent when that is due.
    pub(super) fn supervise(&mut self, now: Instant) {
        if self.supervisor.next_look().is_none_or(|look| look > now) {
            return;
        }
        let starved = self
            .agent
            .as_mut()
            .is_some_and(|agent| agent.starvation.was_starved());
        match self.supervisor.tick(now, self.view.heartbeat(), starved) {
            Action::Nothing => {}
            Action::Start => self.start_agent(),
            Action::Abort(reason) => self.signal_agent(libc::SIGABRT, &reason),
            Action::Kill => self.signal_agent(libc::SIGKILL, "it did not die of SIGABRT"),
            Action::Abandon => self.on_agent_death(),
        }
    }

    fn signal_agent(&self, signal: i32, reason: &str) {
        let Some(agent) = &self.agent else { return };
        let name = nix::sys::signal::Signal::try_from(signal).map_or("a signal", |s| s.as_str());
        log::error!("sending {name} to helper agent {}: {reason}", agent.pid);
        if let Err(e) = agent.pidfd.signal(signal) {
            log::error!("cannot send {name} to helper agent {}: {e}", agent.pid);
        }
    }

    fn start_agent(&mut self) {
        match self.try_start_agent() {
            Ok(pid) => {
                self.supervisor.started(Instant::now());
                self.agent_history.started();
                log::debug!("started helper agent {pid}");
                if let Err(e) = instance::write_pid(&self.instance_dir, "agent.pid", pid) {
                    log::warn!("{e}");
                }
            }
            Err(e) => {
                let pause = self.supervisor.gone(Instant::now());
                log::error!(
                    "cannot start a helper agent: {e}; trying again in {} ms",
                    pause.as_millis()
                );
                self.give_up_first_start(&format!("cannot start the helper agent: {e}"));
            }
        }
    }

    fn try_start_agent(&mut self) -> io::Result<i32> {
        let (ours, theirs) = Channel::pair()?;
        ours.set_nonblocking(true)?;
        // Without the right to it the store may take more than one turn.
        let _ = setsockopt(&ours, SndBufForce, &STORE_BYTES);
        // Before there is an agent: whatever happens to this process from here on, the agent has all it needs
        // to take its place. What there is no room for follows.
        let mut outbox = VecDeque::from(self.whole_store());
        let (has_store, _) = self.send_queued(&ours, &mut outbox);
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let log = crate::log::descriptor()?;
        let started = spawn::spawn(&Program {
            image: self.descriptors.agent_image.as_fd(),
            arguments: vec![CString::new("passenger-helper-agent")?],
            environment: own_environment(),
            descriptors: vec![
                (null.as_fd(), 0),
                (log.as_fd(), 1),
                (log.as_fd(), 2),
                (theirs.as_fd(), 3),
            ],
            new_session: true,
            // The last to go but the watchdog; in vain without root.
            oom_score_adj: self.originals.oom_score_adj.map(limits::agent_score),
            nofile: self.originals.nofile,
        })?;
        let death_token =
            self.events
                .add(started.pidfd.as_fd(), Source::AgentDeath, Trigger::Readable)?;
        let channel_token =
            self.events
                .add(ours.as_fd(), Source::AgentChannel, Trigger::Readable)?;
        self.agent = Some(AgentProcess {
            pid: started.pid,
            pidfd: started.pidfd,
            death_token,
            channel: ours,
            channel_token,
            outbox,
            waits_for_room: false,
            channel_ended: false,
            has_store,
            said_stopped: false,
            starvation: Starvation::of(started.pid),
        });
        if has_store {
            self.unwatch_outputs();
        }
        Ok(started.pid)
    }

    /// Reads what the agent says.
    pub(super) fn on_agent_messages(&mut self) {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(agent) = self.agent.as_ref().filter(|agent| !agent.channel_ended) else {
                return;
            };
            let pid = agent.pid;
            match agent.channel.recv::<ToWatchdog>() {
                Ok(Some(received)) => self.on_agent_message(received.message, received.fds),
                Ok(None) => {
                    self.on_agent_channel_end();
                    return;
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => return,
                    // It closed its end with unread messages in it; what it sent is still to be read.
                    io::ErrorKind::ConnectionReset => {}
                    io::ErrorKind::InvalidData => {
                        log::error!("helper agent {pid} sent what is not a message: {e}");
                    }
                    _ => {
                        log::error!("cannot read from helper agent {pid}: {e}");
                        self.on_agent_channel_end();
                        return;
                    }
                },
            }
        }
    }

    /// The channel is at its end: it should be dead in a moment, and is made to be if it is not.
    fn on_agent_channel_end(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        self.events
            .remove(agent.channel.as_fd(), agent.channel_token);
        agent.outbox.clear();
        agent.channel_ended = true;
        if !agent.said_stopped {
            self.supervisor.channel_closed(Instant::now());
        }
    }

    fn on_agent_message(&mut self, message: ToWatchdog, fds: Vec<OwnedFd>) {
        match message {
            ToWatchdog::Ready { generation } => self.on_ready(generation),
            ToWatchdog::ConfigRefused {
                generation,
                message,
            } => {
                self.on_config_refused(generation, message);
            }
            ToWatchdog::Process {
                slot,
                generation,
                pid,
                app,
            } => {
                self.on_deposit((slot, generation), pid, app, fds);
            }
            ToWatchdog::Forget { slot, generation } => {
                if let Some(entry) = self.table.processes.remove(&(slot, generation)) {
                    if let Some(token) = entry.token {
                        self.events.remove(entry.output.as_fd(), token);
                    }
                    self.on_reserve_garbage();
                }
            }
            ToWatchdog::Missed => self.tell_again(),
            ToWatchdog::Stopped => {
                if let Some(agent) = &mut self.agent {
                    agent.said_stopped = true;
                }
            }
        }
    }

    fn on_deposit(&mut self, key: ProcessKey, pid: i32, app: String, fds: Vec<OwnedFd>) {
        let count = fds.len();
        let Ok(fds) = <[OwnedFd; 3]>::try_from(fds) else {
            log::error!("process {pid} came to the store with {count} descriptors instead of 3");
            return;
        };
        let entry = self.process_entry(pid, app, fds);
        self.reserve.put_process(key, &entry);
        self.table.processes.insert(key, entry);
    }

    fn on_ready(&mut self, generation: u64) {
        if let Some(took) = self.supervisor.ready(Instant::now(), self.view.heartbeat()) {
            let pid = self.agent.as_ref().map_or(0, |agent| agent.pid);
            log::info!("helper agent {pid} is ready after {} ms", took.as_millis());
        }
        if !self.told_parent {
            self.on_first_ready();
        }
        if self
            .table
            .pending
            .as_ref()
            .is_some_and(|config| config.generation == generation)
        {
            if let Some(config) = self.table.pending.take() {
                let before = std::mem::replace(&mut self.table.config, config);
                self.table.past.add(before.generation, before.document);
            }
            self.tell_parent(&ToParent::Configured { generation }, &[]);
        }
    }

    fn on_config_refused(&mut self, generation: u64, message: String) {
        if !self.told_parent {
            self.fail_start(message);
            return;
        }
        log::error!("configuration {generation} was refused: {message}");
        let refused = self
            .table
            .pending
            .take_if(|config| config.generation == generation);
        if let Some(refused) = refused {
            // The log moved on even if the configuration did not.
            self.table.config.log = refused.log;
            // Nor may it be what a new pair finds after a double death.
            self.renew_reserve();
            self.tell_parent(
                &ToParent::ConfigureRefused {
                    generation,
                    message,
                },
                &[],
            );
        }
    }

    /// Ends a first start that cannot succeed, with the reason for httpd's administrator.
    fn give_up_first_start(&mut self, message: &str) {
        if !self.told_parent && self.supervisor.failures() >= FIRST_ATTEMPTS {
            self.fail_start(message.to_owned());
        }
    }

    /// Its pidfd says that it is dead.
    pub(super) fn on_agent_death(&mut self) {
        // It may have deposited a process with its last breath.
        while self.agent_has_messages() {
            self.on_agent_messages();
        }
        let Some(agent) = self.agent.take() else {
            return;
        };
        self.events.remove(agent.pidfd.as_fd(), agent.death_token);
        self.events
            .remove(agent.channel.as_fd(), agent.channel_token);
        let ended = match agent.pidfd.reap() {
            Ok(Some(exit)) => exit.status.to_string(),
            // The kernel keeps it, but it is as good as dead; it is reaped with whatever else ends one day.
            Ok(None) => "does not die of SIGKILL and is left behind".to_owned(),
            Err(_) => "is gone".to_owned(),
        };
        let pid = agent.pid;
        if agent.said_stopped {
            log::debug!("helper agent {pid} {ended}");
        } else if self.ending.is_some() {
            log::warn!("helper agent {pid} {ended} while stopping");
        } else {
            self.agent_history.died(&ended);
            let pause = self.supervisor.gone(Instant::now());
            log::error!(
                "helper agent {pid} {ended}; requests go on with the processes there are, \
                 starting another in {} ms",
                pause.as_millis()
            );
            self.give_up_first_start(&format!("the helper agent {ended} before it was ready"));
        }
        self.watch_outputs();
        self.reap_children();
        self.on_agent_death_while_ending();
    }

    /// Whether there is something to read, the end of the channel included.
    fn agent_has_messages(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| {
            let events = descriptor::poll_now(agent.channel.as_fd(), libc::POLLIN);
            !agent.channel_ended && events.is_ok_and(|events| events != 0)
        })
    }
}
