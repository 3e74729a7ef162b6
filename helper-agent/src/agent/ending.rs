//! The end of a process: out of routing, asked, signalled, reaped, its group killed, its slot free, its
//! output read to the end.
//!
//! Order matters: the process group is killed while its leader is an unreaped zombie, because only then its
//! number certainly still names it.

use std::path::Path;
use std::time::{Duration, Instant};

use super::board::seconds_now;
use super::core::Agent;
use super::processes::{Body, Phase};
use super::remains;
use super::tasks::{self, Happening};
use crate::instance;
use crate::pool::{Event, GroupId, Observation, ProcessId};
use crate::status::board::CrashNote;
use crate::sys::process::{self, ExitStatus};

/// What a failed process printed last may take so long to arrive after its end.
pub(super) const LAST_LINES: Duration = Duration::from_millis(200);

/// How long the watchdog may take to say how a process ended that is its child.
const EXPLANATION: Duration = Duration::from_millis(500);

/// A process that ended, of which it is not known how.
#[derive(Debug)]
pub(super) struct End {
    pid: i32,
    group: GroupId,
    was_asked: bool,
    since: Instant,
}

impl Agent {
    pub(super) fn with_body(&self, id: ProcessId, act: impl FnOnce(&Body)) {
        if let Some(body) = self
            .processes
            .get(id)
            .and_then(|process| process.body.as_ref())
        {
            act(body);
        }
    }

    /// No worker takes a seat of it any more.
    pub(super) fn drain(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(id) {
            self.view.drain(process.reference);
            process.is_ending = true;
        }
        self.tell_of_detached(id);
    }

    /// By force.
    pub(super) fn kill(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        process.is_ending = true;
        match &process.body {
            Some(body) => {
                if matches!(process.phase, Phase::Serving) {
                    let group = self.groups.get(process.group);
                    log::warn!(
                        "app {}: process {} was asked to end and has not in time; it is killed with its process group",
                        group.map_or("?", |group| &group.name),
                        body.pid
                    );
                }
                body.kill_group();
            }
            // Still being prepared or waiting for a preloader: there is nothing to kill.
            None => {
                self.abandon(id);
                self.conclude(id);
            }
        }
    }

    /// A pidfd says that a process has ended.
    pub(super) fn on_exited(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let Some(body) = process.body.as_mut().filter(|body| !body.is_reaped) else {
            return;
        };
        let status = end_of(body);
        let pid = body.pid;
        let (reference, is_ending) = (process.reference, process.is_ending);
        let is_complete = process.is_drained && process.is_silent;
        let path =
            instance::app_socket(&self.instance_dir, reference.slot(), reference.generation());
        if let Err(e) = std::fs::remove_file(&path) {
            log::debug!("cannot remove {}: {e}", path.display());
        }
        match &mut process.phase {
            Phase::Starting(starting) => {
                starting.ended = Some(status);
                if is_complete {
                    self.conclude(id);
                } else {
                    let conclude = Happening::Conclude { process: id };
                    tasks::after(LAST_LINES, self.happenings.clone(), conclude);
                }
            }
            Phase::Serving => {
                let end = End {
                    pid,
                    group: process.group,
                    was_asked: is_ending,
                    since: Instant::now(),
                };
                match status {
                    Some(status) => self.explain(&end, status),
                    // Its parent is the watchdog, which will say in a moment how, or nobody we know.
                    None => self.ends.push(end),
                }
                // What it has done last says whether it ever worked.
                let seen = self.seen(id);
                self.tell(Event::Looked(Observation {
                    queues: vec![],
                    loads: seen.into_iter().map(|seen| (id, seen)).collect(),
                }));
                self.tell_of_detached(id);
                self.bury(id);
                self.tell(Event::Exited { process: id });
            }
            Phase::Dead { .. } => {}
        }
    }

    pub(super) fn on_output_closed(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        process.is_drained = true;
        if matches!(process.phase, Phase::Dead { .. }) {
            self.store.forget(process.reference);
        }
        self.conclude_if_complete(id);
    }

    pub(super) fn on_control_closed(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.is_silent = true;
            let is_command = process.port.is_some();
            if let Some(starting) = process.starting().filter(|_| is_command) {
                // Its shim is no more: the command runs.
                starting.story.began("answer".to_owned());
            }
        }
        self.conclude_if_complete(id);
    }

    /// Whether a failed start has said and printed all it ever will.
    fn conclude_if_complete(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let is_complete = process.is_drained && process.is_silent;
        if is_complete
            && process
                .starting()
                .is_some_and(|starting| starting.ended.is_some())
        {
            self.conclude(id);
        }
    }

    /// The watchdog reaped a process that an earlier agent had started.
    pub(super) fn on_child_exited(&mut self, pid: i32, status: ExitStatus) {
        if let Some(index) = self.ends.iter().position(|end| end.pid == pid) {
            let end = self.ends.swap_remove(index);
            self.explain(&end, status);
        }
        let Some(id) = self.processes.by_pid(pid) else {
            return;
        };
        let body = self
            .processes
            .get_mut(id)
            .and_then(|process| process.body.as_mut());
        if let Some(body) = body.filter(|body| !body.is_child) {
            body.exit = Some(status);
        }
        self.on_exited(id);
    }

    /// How a process ended, and where it left its memory if it crashed.
    fn explain(&mut self, end: &End, status: ExitStatus) {
        self.say_how(end, &status.to_string());
        if let ExitStatus::Killed {
            dumped_core: true, ..
        } = status
        {
            let group = self.groups.get(end.group);
            let (name, root) = group.map_or(("?", "/"), |g| (&g.name, &g.facts.app_root));
            let place = remains::sentence(end.pid, Path::new(root));
            log::warn!("app {name}: process {} has crashed, {place}", end.pid);
        }
    }

    /// For the log, and for those who look: how a process ended.
    fn say_how(&mut self, end: &End, how: &str) {
        let pid = end.pid;
        let group = self.groups.get_mut(end.group);
        let name = group.as_ref().map_or("?", |group| &group.name);
        if end.was_asked {
            log::info!("app {name}: process {pid} {how}");
            return;
        }
        let text = format!("process {pid} {how} without having been asked to");
        log::warn!("app {name}: {text}");
        if let Some(group) = group {
            group.app_log.note(&text);
            group.tally.crashes += 1;
            group.last_crash = Some(CrashNote {
                pid,
                at: seconds_now(),
                how: how.to_owned(),
            });
            self.board.touch();
        }
    }

    /// Nobody has said how these ended.
    pub(super) fn give_up_explanations(&mut self) {
        let is_due = |end: &End| end.since.elapsed() >= EXPLANATION;
        while let Some(index) = self.ends.iter().position(is_due) {
            let end = self.ends.swap_remove(index);
            self.say_how(&end, "ended");
        }
    }

    /// Reaps children that have ended: processes of ours the way they deserve, and orphaned descendants of
    /// theirs that became ours.
    pub(super) fn reap_strangers(&mut self) {
        while let Ok(Some(exit)) = process::peek_any() {
            if let Some(id) = self.processes.by_pid(exit.pid) {
                self.on_exited(id);
            }
            if let Some(id) = self.preloaders.by_pid(exit.pid) {
                self.on_preloader_exited(id);
            }
            // An error: it was reaped above.
            if let Ok(Some(_)) = process::reap(exit.pid) {
                log::debug!("process {} {}", exit.pid, exit.status);
                self.on_runner_exited(&exit);
            }
        }
    }
}

/// Kills what is left of its group and reaps it.
pub(super) fn end_of(body: &mut Body) -> Option<ExitStatus> {
    let status = if body.is_child {
        body.kill_group();
        match body.pidfd.reap() {
            Ok(Some(exit)) => Some(exit.status),
            Ok(None) | Err(_) => None,
        }
    } else {
        // The watchdog reaps it; by its pidfd its group can be named even after that.
        if let Err(e) = body.pidfd.signal_group(libc::SIGKILL) {
            log::debug!(
                "cannot kill what is left of the group of process {}: {e}",
                body.pid
            );
        }
        body.exit
    };
    body.is_reaped = true;
    status
}
