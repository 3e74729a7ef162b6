//! Out-of-band work: a process whose response asked for it gets no requests for a while, works, and comes
//! back. Owns who may go when, and what happens to those who stay away.
//!
//! ```text
//!             Rest                    Work               WorkDone · Resume
//!   Live ───────────► Leaving ───────────────► Working ───────────────────► Live
//!    ▲                   │ needed, or its         │ WORK_MS
//!    └───── Resume ──────┘ requests take long     └────────► Ending
//! ```
//!
//! At most one process of a group is away. One goes only when another that lives has room, so that nobody waits
//! for it; a group with no other process gets one, if its limits allow.

use std::collections::BTreeMap;

use super::event::{Command, GroupId, Millis, ProcessId};
use super::process::{Absence, Process, State};
use super::Pool;

/// Work that takes longer is taken for a process that hangs: it is replaced.
pub(super) const WORK_MS: u64 = 60_000;
/// A process whose requests (a stream of events, a download) have not ended after this serves on …
const LEAVE_MS: u64 = 10_000;
/// … and tries again so much later.
const LEAVE_AGAIN_MS: u64 = 60_000;
/// Under a load that keeps every process busy, work is postponed for so long.
const PATIENCE_MS: u64 = 5_000;
/// How often the tables are worth a look while a process waits for a moment to go.
const CHANCE_LOOK_MS: u64 = 100;

impl Pool {
    /// A response of the process asked for work.
    pub(super) fn work_wanted(&mut self, now: Millis, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.wants_work.get_or_insert(now);
        }
    }

    /// The process is done with its work.
    pub(super) fn work_done(&mut self, now: Millis, id: ProcessId, out: &mut Vec<Command>) {
        let is_working = |p: &Process| matches!(p.state, State::Away(Absence::Working { .. }));
        if self.processes.get(&id).is_some_and(is_working) {
            self.come_back(now, id, out);
        }
    }

    /// Moves every absence on, and begins new ones.
    pub(super) fn work(&mut self, now: Millis, out: &mut Vec<Command>) {
        let mut back = Vec::new();
        let mut overdue = Vec::new();
        let live = self.live_counts();
        for (id, process) in &mut self.processes {
            let State::Away(absence) = process.state else {
                continue;
            };
            match absence {
                Absence::Leaving {
                    was_told: false, ..
                } if !live.contains_key(&process.group) => back.push(*id),
                // Orphans do not hold it back: the loader finishes what it was sent first.
                Absence::Leaving { is_seen: true, .. } if process.load.in_use == 0 => {
                    process.state = State::Away(Absence::Working { since: now });
                    process.wants_work = None;
                    out.push(Command::Work { process: *id });
                }
                Absence::Leaving { since, .. } if now.since(since) >= LEAVE_MS => {
                    process.work_not_before = now.plus(LEAVE_AGAIN_MS);
                    back.push(*id);
                }
                Absence::Working { since } if now.since(since) >= WORK_MS => overdue.push(*id),
                Absence::Leaving { .. } | Absence::Working { .. } => {}
            }
        }
        for id in back {
            self.come_back(now, id, out);
        }
        for id in overdue {
            out.push(Command::WorkOverdue { process: id });
            self.end(now, id, out);
        }
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            if let Some(id) = self.next_to_leave(now, group) {
                self.leave(now, id, out);
            }
        }
    }

    fn leave(&mut self, now: Millis, id: ProcessId, out: &mut Vec<Command>) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.state = State::Away(Absence::Leaving {
                since: now,
                is_seen: false,
                was_told: false,
            });
            out.push(Command::Rest { process: id });
        }
    }

    fn come_back(&mut self, now: Millis, id: ProcessId, out: &mut Vec<Command>) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.state = State::Live;
            process.last_used = now;
            process.stuck_since = None;
            out.push(Command::Resume { process: id });
        }
    }

    fn live_counts(&self) -> BTreeMap<GroupId, u32> {
        let mut live = BTreeMap::new();
        for process in self.processes.values().filter(|p| p.is_live()) {
            *live.entry(process.group).or_default() += 1;
        }
        live
    }

    /// Who of a group may go now: the one that has waited longest.
    fn next_to_leave(&self, now: Millis, id: GroupId) -> Option<ProcessId> {
        let group = self.groups.get(&id)?;
        let of_group = || self.processes.iter().filter(|(_, p)| p.group == id);
        if of_group().any(|(_, p)| p.is_away()) {
            return None;
        }
        let candidates = of_group().filter(|(_, p)| p.is_due_for_work(now));
        let (candidate, process) = candidates.min_by_key(|(id, p)| (p.wants_work, **id))?;
        let mut others = of_group().filter(|(other, p)| *other != candidate && p.is_live());
        let is_alone = others.clone().next().is_none();
        let has_room_elsewhere = others.any(|(_, p)| !p.is_full());
        let has_waited = process
            .wants_work
            .is_some_and(|since| now.since(since) >= PATIENCE_MS);
        let is_quiet = group.queue.waiting == 0 && has_room_elsewhere;
        // Of processes that are all busy none is the last free one.
        let is_no_loss = has_waited && (has_room_elsewhere || process.is_full());
        (!is_alone && (is_quiet || is_no_loss)).then_some(*candidate)
    }

    /// Milliseconds until [`Pool::work`] may have something to do.
    pub(super) fn work_look_ms(&self, now: Millis) -> u64 {
        let live = self.live_counts();
        let has_chance =
            |p: &&Process| p.is_due_for_work(now) && live.get(&p.group).copied().unwrap_or(0) > 1;
        let wants = self.processes.values().any(|p| has_chance(&p));
        if wants {
            CHANCE_LOOK_MS
        } else {
            u64::MAX
        }
    }

    /// Says once of each group that its work is never done because it has one process and may have no other.
    pub(super) fn complain_of_work(&mut self, now: Millis, out: &mut Vec<Command>) {
        let is_full = self.is_pool_full();
        let live = self.live_counts();
        for process in self.processes.values().filter(|p| p.is_due_for_work(now)) {
            let Some(group) = self.groups.get_mut(&process.group) else {
                continue;
            };
            let has_waited = process
                .wants_work
                .is_some_and(|since| now.since(since) >= PATIENCE_MS);
            let is_alone = live.get(&process.group) == Some(&1);
            let may_not_grow = is_full || group.limits.max_instances == 1;
            if has_waited && is_alone && may_not_grow && !group.has_complained_of_work {
                group.has_complained_of_work = true;
                out.push(Command::CannotWork {
                    group: process.group,
                });
            }
        }
    }
}
