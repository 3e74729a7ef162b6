//! The way to the end: the agent is asked to end its apps in time; what is left after that is killed.
//! Also reaps children, of which this process has some once an agent has died.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::MsgFlags;
use passenger_shm::messages::ToParent;

use super::core::Watchdog;
use super::outbox::Item;
use super::stop;
use crate::store::ToAgent;
use crate::sys::patience::Patience;
use crate::sys::pidfd;
use crate::sys::process::{self, Exit};

/// The agent kills at the deadline; this long after it the watchdog does.
const GRACE: Duration = Duration::from_millis(500);

/// Longest time that anybody may give, in milliseconds: a day.
const LONGEST_MS: u64 = 86_400_000;

/// The instance is ending.
#[derive(Debug)]
pub(super) struct Ending {
    deadline: Instant,
    /// What was given until then.
    deadline_ms: u64,
    status: i32,
}

impl Watchdog {
    /// Handles what was signalled to the watchdog itself.
    pub(super) fn on_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.next() {
            match signal {
                Signal::SIGCHLD => self.reap_children(),
                Signal::SIGTERM | Signal::SIGINT => {
                    self.begin_stop(self.settings.shutdown_ms, &format!("received {signal}"));
                }
                other => log::debug!("received {other}; nothing to do"),
            }
        }
    }

    /// Reaps children that have ended, apps after their process groups.
    pub(super) fn reap_children(&mut self) {
        while let Ok(Some(exit)) = process::peek_any() {
            if self
                .agent
                .as_ref()
                .is_some_and(|agent| agent.pid == exit.pid)
            {
                self.on_agent_death();
                continue;
            }
            self.on_child_exit(exit);
            if let Err(e) = process::reap(exit.pid) {
                log::error!("cannot reap child {}: {e}", exit.pid);
                return;
            }
        }
    }

    fn on_child_exit(&mut self, exit: Exit) {
        if self.on_hook_exit(exit) {
            return;
        }
        let entry = self
            .table
            .processes
            .values_mut()
            .find(|entry| entry.pid == exit.pid);
        let Some(entry) = entry.filter(|entry| entry.exited.is_none()) else {
            return;
        };
        entry.exited = Some(exit.status);
        // An agent says so itself, once it knows how.
        let level = match &self.agent {
            Some(agent) if agent.has_store => log::Level::Debug,
            _ => log::Level::Info,
        };
        let (app, pid, status) = (&entry.app, exit.pid, exit.status);
        log::log!(level, "app {app}: process {pid} {status}");
        // Unreaped, it still names its group: what it has left in there goes with it.
        let _ = pidfd::signal_group_of_child(exit.pid, libc::SIGKILL);
        if self.agent.as_ref().is_some_and(|agent| agent.has_store) {
            let message = ToAgent::ChildExited {
                pid: exit.pid,
                status: exit.status,
            };
            self.tell_agent(Item::Plain(message));
        }
    }

    /// Begins to end everything; a second call can only shorten the time.
    pub(super) fn begin_stop(&mut self, deadline_ms: u64, reason: &str) {
        let deadline = Instant::now() + Duration::from_millis(deadline_ms.min(LONGEST_MS));
        let status = match &self.ending {
            Some(ending) if ending.deadline <= deadline => return,
            Some(ending) => ending.status,
            None => 0,
        };
        log::info!("{reason}: ending all apps within {deadline_ms} ms");
        self.ending = Some(Ending {
            deadline,
            deadline_ms,
            status,
        });
        if !self.is_stop_hook_running() && !self.begin_stop_hook() {
            self.ask_to_end();
        }
    }

    /// The apps have all of the time that was given from now on.
    pub(super) fn ask_to_end(&mut self) {
        let Some(ending) = &mut self.ending else {
            return;
        };
        let deadline_ms = ending.deadline_ms;
        ending.deadline = Instant::now() + Duration::from_millis(deadline_ms.min(LONGEST_MS));
        match self.agent {
            Some(_) => self.tell_agent(Item::Plain(ToAgent::Stop { deadline_ms })),
            None => self.ask_apps_to_stop(),
        }
    }

    /// Ends a start that has failed, with the reason for httpd's administrator.
    pub(super) fn fail_start(&mut self, message: String) {
        log::error!("{message}");
        self.tell_parent(&ToParent::Failed { message }, &[]);
        self.ending = Some(Ending {
            deadline: Instant::now(),
            deadline_ms: 0,
            status: 1,
        });
    }

    pub(super) fn on_agent_death_while_ending(&mut self) {
        if self.ending.is_some() && !self.is_stop_hook_running() {
            self.ask_apps_to_stop();
        }
    }

    /// Without an agent: the same request that it would make, on the same sockets.
    fn ask_apps_to_stop(&self) {
        for entry in self
            .table
            .processes
            .values()
            .filter(|entry| !entry.pidfd.has_exited())
        {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let asked = nix::sys::socket::send(entry.control.as_raw_fd(), b"stop\n", flags);
            if asked.is_err() {
                // It does not listen there (any more); the signal says the same.
                let _ = entry.pidfd.signal(libc::SIGTERM);
            }
        }
    }

    /// Looks whether the end has come; `Some` is the exit status.
    pub(super) fn proceed_ending(&mut self, now: Instant) -> Option<i32> {
        if self.is_stop_hook_running() {
            return None;
        }
        let ending = self.ending.as_ref()?;
        let status = ending.status;
        let apps_are_gone = || {
            self.table
                .processes
                .values()
                .all(|entry| entry.pidfd.has_exited())
        };
        let is_done = self.agent.is_none() && apps_are_gone();
        if !is_done && now < ending.deadline + GRACE {
            return None;
        }
        let stored = self.table.processes.values();
        let stored = stored.map(|entry| (entry.pid, &entry.pidfd));
        let mut patience = Patience::new(now);
        let killed = stop::end_descendants(&mut patience)
            + stop::end_stored(stored, &mut patience)
            + stop::end_cgroup(&self.instance_dir, &mut patience);
        if killed > 0 {
            log::warn!("killed {killed} processes that were left");
        }
        self.drain_all();
        stop::remove_directory(&self.instance_dir, &mut patience);
        log::info!("the instance {} has ended", self.instance_dir.display());
        self.run_last_hook();
        Some(status)
    }
}
