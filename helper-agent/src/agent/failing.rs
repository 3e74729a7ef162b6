//! A start that does not succeed: time is up, the process said why or just ended. Ends in a report for
//! whoever asks, one line in the log, and an event for the pool.

use std::sync::PoisonError;

use super::board::seconds_now;
use super::core::Agent;
use super::processes::{Body, Process, Way};
use crate::pool::{Event, GroupId, ProcessId};
use crate::spawn::report::{self, Cause, Story};
use crate::sys::process::random_bytes;

impl Agent {
    pub(super) fn on_start_timed_out(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let has_body = process.body.is_some();
        let Some(starting) = process.starting() else {
            return;
        };
        let timeout = starting.timeout;
        let cause = starting
            .cause
            .get_or_insert(Cause::TimedOut(timeout))
            .clone();
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
        let ended = Cause::Ended(starting.ended.flatten());
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
        if has_crashed && !is_ending {
            self.distrust_preloader(group_id, code_generation);
        }
        self.bury(id);
        self.tell(Event::SpawnFailed { process: id });
    }

    /// Keeps why a start failed for whoever asks, and tells the log once.
    pub(super) fn report(&mut self, group: GroupId, cause: &Cause, story: &Story, output: &str) {
        let is_stopping = self.stop_at.is_some();
        let Some(group) = self.groups.get_mut(group) else {
            return;
        };
        let friendly = group.options.is_friendly();
        let failure = report::failure(error_id(), &group.name, cause, story, output, friendly);
        if is_stopping {
            log::debug!("{}", failure.summary);
        } else {
            log::error!(
                "{} (error {}). {}",
                failure.summary,
                failure.id,
                failure.advice
            );
        }
        group.failure = Some(failure);
        group.failed_at = seconds_now();
        group.failed_starts = group.failed_starts.saturating_add(1);
        self.board.touch();
    }
}

/// Short, and unlikely to be twice in a log.
fn error_id() -> String {
    let mut bytes = [0; 4];
    // Without random numbers the id is a zero that still leads to the right lines by their time.
    let _ = random_bytes(&mut bytes);
    format!("{:08x}", u32::from_ne_bytes(bytes))
}
