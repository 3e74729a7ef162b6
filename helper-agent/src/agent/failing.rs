//! A start that does not succeed: time is up, the process said why or just ended. Ends in a report for
//! whoever asks, one line in the log, and an event for the pool.

use std::sync::PoisonError;
use std::time::Duration;

use super::board::seconds_now;
use super::core::Agent;
use super::processes::{Body, Process, Way};
use super::tasks::{self, Happening};
use crate::pool::{Event, GroupId, ProcessId};
use crate::spawn::diagnosis::{self, Diagnosis};
use crate::spawn::report::{self, Cause, Story};
use crate::sys::process::{random_bytes, ExitStatus};

/// How somebody else, or the kernel for want of memory, ends a process.
const KILLED: ExitStatus = ExitStatus::Killed {
    signal: libc::SIGKILL,
    dumped_core: false,
};

/// So many starts in a row that failed, and a fork that was killed looks like one that cannot live.
const KILLED_FORKS: u32 = 3;

/// Longest wait for what the kernel says about a process that hangs.
const DIAGNOSIS_PATIENCE: Duration = Duration::from_secs(2);

impl Agent {
    pub(super) fn on_start_timed_out(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let own_pid = process.body.as_ref().map(|body| body.pid);
        let Some(starting) = process.starting() else {
            return;
        };
        // From here on it cannot become ready any more.
        let timeout = starting.timeout;
        starting.cause.get_or_insert(Cause::TimedOut(timeout));
        match own_pid.or_else(|| self.preloader_of(id)) {
            Some(pid) => self.diagnose(id, pid),
            None => self.give_up_start(id),
        }
    }

    /// Has a helper thread see what hangs there; it lives until that is known.
    fn diagnose(&mut self, id: ProcessId, pid: i32) {
        let out = self.happenings.clone();
        let begun = self.helpers.run(move || {
            let diagnosis = diagnosis::of(pid);
            let _ = out.blocking_send(Happening::Diagnosed {
                process: id,
                diagnosis,
            });
        });
        // The kernel may keep the thread waiting, or there is none.
        let patience = if begun.is_ok() {
            DIAGNOSIS_PATIENCE
        } else {
            Duration::ZERO
        };
        let nothing = Happening::Diagnosed {
            process: id,
            diagnosis: Diagnosis::default(),
        };
        tasks::after(patience, self.happenings.clone(), nothing);
    }

    pub(super) fn on_diagnosed(&mut self, id: ProcessId, diagnosis: Diagnosis) {
        let process = self.processes.get_mut(id);
        let Some(starting) = process.and_then(Process::starting) else {
            return;
        };
        if !diagnosis.sentence.is_empty() {
            starting.story.was_doing(diagnosis.sentence);
            for (key, value) in diagnosis.facts {
                starting.story.fact(key, value);
            }
        }
        self.give_up_start(id);
    }

    /// Ends whatever there is of a start whose cause is known.
    fn give_up_start(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let has_body = process.body.is_some();
        let Some(cause) = process.starting().and_then(|s| s.cause.clone()) else {
            return;
        };
        if has_body {
            self.with_body(id, Body::kill_group);
        } else {
            self.abandon(id);
            self.fail_start(id, cause);
        }
    }

    pub(super) fn on_overdue(&mut self, id: ProcessId) {
        let is_starting = self
            .processes
            .get_mut(id)
            .is_some_and(|p| p.starting().is_some());
        if is_starting {
            self.with_body(id, Body::kill_group);
        }
    }

    /// A start that has no process (any more) has failed.
    pub(super) fn fail_start(&mut self, id: ProcessId, cause: Cause) {
        if let Some(starting) = self.processes.get_mut(id).and_then(Process::starting) {
            starting.cause.get_or_insert(cause);
            self.conclude(id);
        }
    }

    /// Writes the report of a failed start and tells everybody. A second call does nothing.
    pub(super) fn conclude(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let (group_id, code_generation) = (process.group, process.code_generation);
        let Some(starting) = process.starting() else {
            return;
        };
        starting.deadline.abort();
        let status = starting.ended.flatten();
        // Not by us: we give a reason first.
        let was_killed = starting.cause.is_none() && status == Some(KILLED);
        let ended = Cause::Ended(status);
        let cause = starting.cause.take().unwrap_or(ended);
        let has_crashed = matches!((&starting.way, &cause), (Way::Forked, Cause::Ended(_)));
        let tail = starting
            .tail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let story = std::mem::take(&mut starting.story);
        let output = tail.map(|tail| tail.text()).unwrap_or_default();
        let is_ending = process.is_ending;
        if is_ending {
            log::debug!("a start that is not wanted any more was given up");
        } else {
            self.report(group_id, &cause, &story, &output);
        }
        let fails_often = self
            .groups
            .get(group_id)
            .is_some_and(|group| group.failed_starts >= KILLED_FORKS);
        if has_crashed && !is_ending && (!was_killed || fails_often) {
            self.distrust_preloader(group_id, code_generation);
        }
        self.bury(id);
        self.tell(if was_killed {
            Event::SpawnKilled { process: id }
        } else {
            Event::SpawnFailed { process: id }
        });
    }

    /// Keeps why a start failed for whoever asks, and tells the log once.
    pub(super) fn report(&mut self, group: GroupId, cause: &Cause, story: &Story, output: &str) {
        let is_stopping = self.stop_at.is_some();
        let id = group;
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        let friendly = group.options.is_friendly();
        let failure = report::failure(error_id(), &group.name, cause, story, output, friendly);
        if is_stopping {
            log::debug!("{}", failure.summary);
        } else {
            group.app_log.note(&report::in_full(&failure));
            log::error!(
                "{} (error {}). {}",
                failure.summary,
                failure.id,
                failure.advice
            );
        }
        let (error_id, summary) = (failure.id.clone(), failure.summary.clone());
        group.failure = Some(failure);
        group.failed_at = seconds_now();
        group.failed_starts = group.failed_starts.saturating_add(1);
        self.board.touch();
        if !is_stopping {
            self.tell_of_failure(id, error_id, summary);
        }
    }
}

/// Short, and unlikely to be twice in a log.
fn error_id() -> String {
    let mut bytes = [0; 4];
    // Without random numbers the id is a zero that still leads to the right lines by their time.
    let _ = random_bytes(&mut bytes);
    format!("{:08x}", u32::from_ne_bytes(bytes))
}
