//! Restarts: every process of a group gives way to one that started after it. Owns who waits for the new
//! code meanwhile, and what it means when the new code does not start.
//!
//! ```text
//!                    on              auto                        off
//! requests           old code        wait 1 s if the app         wait
//!                                    usually starts in 1 s
//! first new is ready one old ends    one old ends                all old end
//! new code fails     old stay (resisting) or all end (not resisting: the error page is wanted)
//! ```

use super::event::{CodeWait, Command, GroupId, Millis, ProcessId, Rolling};
use super::process::{Stage, State};
use super::Pool;

/// Requests wait so long for new code, and only for apps that usually start within it.
const BRIEFLY_MS: u32 = 1_000;

impl Pool {
    /// From here on no process joins that was asked for earlier.
    /// `rolling` says more than the group's limits do.
    pub(super) fn restart(
        &mut self,
        now: Millis,
        id: GroupId,
        rolling: Option<Rolling>,
        out: &mut Vec<Command>,
    ) {
        let serves = self.processes.values().any(|p| p.group == id && p.is_up());
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.edition += 1;
        group.keeps_old = false;
        group.rolling = rolling.unwrap_or(group.limits.rolling);
        group.recovered();
        let wait = match group.rolling {
            _ if !serves => CodeWait::No,
            Rolling::On => CodeWait::No,
            Rolling::Auto if group.spawn_ms > u64::from(BRIEFLY_MS) => CodeWait::No,
            Rolling::Auto => CodeWait::Briefly(BRIEFLY_MS),
            Rolling::Off => CodeWait::Always,
        };
        self.set_code_wait(now, id, wait, out);
        for (process, entry) in &mut self.processes {
            if entry.group == id && entry.is_starting() {
                // Nobody knows whether it has read the old code already.
                entry.state = State::Ending(Stage::Killed);
                out.push(Command::Kill { process: *process });
            }
        }
    }

    fn set_code_wait(&mut self, now: Millis, id: GroupId, wait: CodeWait, out: &mut Vec<Command>) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let is_news = group.code_wait.0 != wait;
        group.code_wait = (wait, now);
        if is_news {
            out.push(Command::AwaitCode { group: id, wait });
        }
    }

    /// A process of the group became ready; by [`Pool::restart`] only the newest edition can.
    pub(super) fn new_code_started(&mut self, now: Millis, id: GroupId, out: &mut Vec<Command>) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.keeps_old = false;
        if group.rolling == Rolling::Off {
            self.end_all_old(now, id, out);
        }
        self.set_code_wait(now, id, CodeWait::No, out);
    }

    /// A start of the group failed.
    pub(super) fn new_code_failed(&mut self, now: Millis, id: GroupId, out: &mut Vec<Command>) {
        let has_old = !self.old(id).is_empty();
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if has_old && group.limits.resists_errors {
            if !group.keeps_old {
                group.keeps_old = true;
                out.push(Command::KeptOld { group: id });
            }
        } else if has_old {
            self.end_all_old(now, id, out);
        }
        self.set_code_wait(now, id, CodeWait::No, out);
    }

    fn old(&self, id: GroupId) -> Vec<ProcessId> {
        let edition = self.groups.get(&id).map_or(0, |g| g.edition);
        self.processes
            .iter()
            .filter(|(_, p)| p.group == id && p.is_up() && p.edition < edition)
            .map(|(id, _)| *id)
            .collect()
    }

    fn end_all_old(&mut self, now: Millis, id: GroupId, out: &mut Vec<Command>) {
        for old in self.old(id) {
            self.end(now, old, out);
        }
    }

    /// Ends waits that have lasted long enough.
    pub(super) fn lose_patience(&mut self, now: Millis, out: &mut Vec<Command>) {
        let over: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, group)| {
                matches!(group.code_wait, (CodeWait::Briefly(ms), since)
                    if now.since(since) >= u64::from(ms))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            self.set_code_wait(now, id, CodeWait::No, out);
        }
    }

    /// Milliseconds until [`Pool::lose_patience`] has something to do.
    pub(super) fn patience_ms(&self, now: Millis) -> u64 {
        let left = |(wait, since): (CodeWait, Millis)| match wait {
            CodeWait::Briefly(ms) => Some(since.plus(u64::from(ms)).since(now)),
            CodeWait::No | CodeWait::Always => None,
        };
        self.groups
            .values()
            .filter_map(|group| left(group.code_wait))
            .min()
            .unwrap_or(u64::MAX)
    }
}
