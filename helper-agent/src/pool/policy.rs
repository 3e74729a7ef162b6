//! What follows from the books: the wishes for new processes and their order, who is sacrificed
//! when the pool is full, who is reaped, and how an ending process is urged on. All of the
//! pool's opinions and their numbers are here.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::event::{Command, GroupId, Millis, ProcessId};
use super::process::{Absence, Process, Stage, State};
use super::{group, Pool};

/// So long after a process became ready the queue may still be on its way into it.
const SETTLE_MS: u64 = 50;
/// Seats that are all taken by the same requests for so long will not serve the next one soon.
const STUCK_MS: u64 = 1_000;
/// A process that drains for longer may be stuck in a request and is not counted upon to make room.
const DRAIN_PROMISE_MS: u64 = 5_000;
/// Shortest residence of a group's only process before it must make room for a starved group.
const RESIDENCE_MS: u64 = 1_000;
/// Unused for so long, a process beyond its group's minimum gives way to a group whose requests wait.
const SPARE_MS: u64 = 10_000;
/// An unconfirmed group is kept at least so long: its users may only be slow to come back.
const UNCONFIRMED_MS: u64 = 300_000;
/// A process of a group that is certainly gone is kept so long after its last request: workers of the
/// configuration before may have another.
const GONE_MS: u64 = 5_000;
/// How often the tables are worth a look while a process drains …
const DRAIN_LOOK_MS: u64 = 25;
/// … and while it has nothing but streams left, or requests that take long.
const PARTING_LOOK_MS: u64 = 250;

/// Why a group wants another process; smaller comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    /// Requests wait and there is no process at all.
    Starved,
    /// Requests wait although processes run.
    Short,
    /// Every seat is taken, and has been for long.
    Full,
    /// Fewer processes than configured.
    Minimum,
    /// Its only process wants to do out-of-band work.
    Cover,
    /// A process runs code or configuration from before a restart.
    Replace,
}

/// A group's processes, counted.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    starting: u32,
    live: u32,
    /// Doing out-of-band work.
    away: u32,
    /// Waiting for their moment to do it.
    due: u32,
    full: u32,
    stuck: u32,
    /// Became live a moment ago.
    fresh: u32,
    unlimited: u32,
    old: u32,
}

/// Whether an ending process makes room before long.
fn leaves_soon(process: &Process, now: Millis) -> bool {
    match process.state {
        State::Ending(Stage::Draining { since, .. }) => now.since(since) < DRAIN_PROMISE_MS,
        State::Ending(_) => true,
        State::Starting | State::Live | State::Away(_) => false,
    }
}

impl Pool {
    /// Brings the world in line with the books. Runs after every event.
    pub(super) fn decide(&mut self, now: Millis, out: &mut Vec<Command>) {
        if self.stop.is_some() {
            self.end_everything(now, out);
        } else {
            self.prove(now);
            self.lose_patience(now, out);
            self.work(now, out);
            self.reap(now, out);
            self.fill(now, out);
            self.make_room(now, out);
            self.complain_of_work(now, out);
            self.forget(now, out);
        }
        self.urge(now, out);
        self.finish(out);
    }

    /// How long the rim may wait before it should look at the tables again, in milliseconds.
    #[must_use]
    pub fn next_look_ms(&self, now: Millis) -> u64 {
        let counts = self.counts(now);
        let looks = self.processes.values().map(|p| match p.state {
            State::Ending(Stage::Draining { is_seen: true, .. }) if p.load.in_use == 0 => {
                PARTING_LOOK_MS
            }
            State::Ending(Stage::Draining { since, .. })
                if now.since(since) >= DRAIN_PROMISE_MS =>
            {
                PARTING_LOOK_MS
            }
            State::Ending(Stage::Draining { .. }) | State::Away(Absence::Leaving { .. }) => {
                DRAIN_LOOK_MS
            }
            _ => 1_000,
        });
        let mut wait = looks.min().unwrap_or(1_000);
        wait = wait.min(self.work_look_ms(now));
        wait = wait.min(self.patience_ms(now).max(DRAIN_LOOK_MS));
        for (id, group) in self.groups.iter().filter(|(_, group)| group.has_demand()) {
            let count = counts.get(id).copied().unwrap_or_default();
            if count.starting == 0 {
                let retry = group
                    .may_serve_request_at(now, count.live > 0)
                    .unwrap_or(now);
                wait = wait.min(retry.since(now).max(DRAIN_LOOK_MS));
            }
        }
        wait
    }

    fn counts(&self, now: Millis) -> BTreeMap<GroupId, Count> {
        let mut counts: BTreeMap<GroupId, Count> = BTreeMap::new();
        for process in self.processes.values() {
            let count = counts.entry(process.group).or_default();
            let group = self.groups.get(&process.group);
            let edition = group.map_or(0, |g| g.edition);
            match process.state {
                State::Starting => count.starting += 1,
                State::Live => {
                    count.live += 1;
                    count.due += u32::from(process.is_due_for_work(now));
                    count.full += u32::from(process.is_full());
                    let is_stuck = process
                        .stuck_since
                        .is_some_and(|t| now.since(t) >= STUCK_MS);
                    count.stuck += u32::from(is_stuck);
                    count.fresh += u32::from(now.since(process.since) < SETTLE_MS);
                    count.unlimited += u32::from(process.concurrency == 0);
                    let is_kept = group.is_some_and(|g| g.keeps_old);
                    let is_replaced = process.is_replaced(edition) && !is_kept;
                    count.old += u32::from(is_replaced || process.is_retiring);
                }
                State::Away(_) => count.away += 1,
                State::Ending(_) => {}
            }
        }
        counts
    }

    pub(super) fn is_pool_full(&self) -> bool {
        self.processes.len() >= self.limits.max_processes as usize
    }

    /// What a group wants most now. One spawn at a time per group: only a ready process tells how
    /// many requests it takes at once.
    fn wish(&self, id: GroupId, count: Count, now: Millis) -> Option<Wish> {
        let group = self.groups.get(&id)?;
        let max = group.limits.max_instances;
        if count.starting > 0 {
            return None;
        }
        let may_serve = |has_live| {
            group
                .may_serve_request_at(now, has_live)
                .is_none_or(|t| t <= now)
        };
        let may_fill = group.may_fill_at().is_none_or(|t| t <= now);
        if count.live == 0 && group.has_demand() {
            return may_serve(false).then_some(Wish::Starved);
        }
        let staying = count.live + count.away;
        if max == 0 || staying < max {
            let all_full = count.live > 0 && count.full == count.live;
            let all_stuck = count.live > 0 && count.stuck == count.live;
            // Who waits while a seat is free was woken for it and has not got a processor yet: another process
            // would only make that worse. In a lasting queue seats are handed over and never free.
            let waits = group.queue.waiting > 0 && all_full;
            if waits && count.unlimited == 0 && count.fresh == 0 && may_serve(true) {
                return Some(Wish::Short);
            }
            // In advance, for nobody in particular: not where the last requests are under way.
            if all_stuck && may_fill && !group.is_gone {
                return Some(Wish::Full);
            }
            if staying < group.min_instances() && may_fill {
                return Some(Wish::Minimum);
            }
            if count.due > 0 && staying == 1 && may_fill {
                return Some(Wish::Cover);
            }
        }
        (count.old > 0 && may_fill).then_some(Wish::Replace)
    }

    /// A process that started after the last failure and did not die young, or has finished a request, proves
    /// that its app works again.
    fn prove(&mut self, now: Millis) {
        for process in self.processes.values().filter(|p| p.is_live()) {
            let Some(group) = self.groups.get_mut(&process.group) else {
                continue;
            };
            let is_newer = group
                .failed_at()
                .is_some_and(|failed| process.since >= failed);
            let is_old = now.since(process.since) >= group::EARLY_DEATH_MS;
            if is_newer && (is_old || process.has_served) {
                group.recovered();
            }
        }
    }

    /// Starts processes while the pool has room, the longest starved group first. Nobody grows
    /// while somebody starves.
    fn fill(&mut self, now: Millis, out: &mut Vec<Command>) {
        while !self.is_pool_full() {
            let counts = self.counts(now);
            let best = self
                .groups
                .iter()
                .filter_map(|(id, group)| {
                    let count = counts.get(id).copied().unwrap_or_default();
                    let wish = self.wish(*id, count, now)?;
                    Some((wish, Reverse(group.queue.oldest_ms), *id))
                })
                .min();
            let Some((_, _, id)) = best else { return };
            self.spawn(now, id, out);
        }
    }

    fn spawn(&mut self, now: Millis, id: GroupId, out: &mut Vec<Command>) {
        let process = self.new_process_id();
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.is_demanded = false;
        self.processes
            .insert(process, Process::starting(id, group.edition, now));
        out.push(Command::Spawn { group: id, process });
    }

    /// When the pool is full: one process ends for every starved group that no ending process
    /// already makes room for.
    fn make_room(&mut self, now: Millis, out: &mut Vec<Command>) {
        if !self.is_pool_full() {
            return;
        }
        let counts = self.counts(now);
        let wishes: Vec<(GroupId, Wish)> = self
            .groups
            .keys()
            .filter_map(|id| {
                let count = counts.get(id).copied().unwrap_or_default();
                Some((*id, self.wish(*id, count, now)?))
            })
            .collect();
        let ending = self.leaving_soon(now);
        let starved = wishes
            .iter()
            .filter(|(_, wish)| *wish == Wish::Starved)
            .count();
        for _ in ending..starved {
            let Some(victim) = self.victim(now) else {
                return;
            };
            self.end(now, victim, out);
        }
        if starved == 0 && ending == 0 {
            // A replacement needs room too, and takes it from its own group, whatever else that wants: under
            // load it always wants to grow.
            let replaces = |id: &GroupId| counts.get(id).is_some_and(|c| c.old > 0);
            let short = wishes.iter().find(|(_, wish)| *wish == Wish::Short);
            if let Some((id, _)) = wishes.iter().find(|(id, _)| replaces(id)) {
                self.end_one_replaced(now, *id, out);
            } else if let Some(spare) = short.and_then(|(id, _)| self.spare(now, *id)) {
                self.end(now, spare, out);
            }
        }
    }

    /// A process that nobody has used for a while and its group does not need, for another group whose requests
    /// wait.
    fn spare(&self, now: Millis, wanted_by: GroupId) -> Option<ProcessId> {
        let counts = self.counts(now);
        let is_over = |id: GroupId| {
            let live = counts.get(&id).map_or(0, |c| c.live);
            self.groups
                .get(&id)
                .is_some_and(|g| live > g.min_instances() && !g.has_demand())
        };
        self.processes
            .iter()
            .filter(|(_, p)| p.is_live() && p.is_idle() && p.group != wanted_by)
            .filter(|(_, p)| now.since(p.last_used) >= SPARE_MS && is_over(p.group))
            .min_by_key(|(id, p)| (p.last_used, **id))
            .map(|(id, _)| *id)
    }

    /// Who makes room: an idle process (longest unused first); else one of the group with most
    /// processes, if it has several; else the one longest in service, after its residence.
    fn victim(&self, now: Millis) -> Option<ProcessId> {
        let counts = self.counts(now);
        let live = || self.processes.iter().filter(|(_, p)| p.is_live());
        let idle = live()
            .filter(|(_, p)| p.is_idle() && !self.has_queue(p.group))
            .min_by_key(|(id, p)| (p.last_used, **id));
        if let Some((id, _)) = idle {
            return Some(*id);
        }
        let richest = counts
            .iter()
            .filter(|(_, c)| c.live > 1)
            .max_by_key(|(_, c)| c.live);
        if let Some((group, _)) = richest {
            return live()
                .filter(|(_, p)| p.group == *group)
                .min_by_key(|(id, p)| (p.load.in_use, p.since, **id))
                .map(|(id, _)| *id);
        }
        live()
            .filter(|(_, p)| {
                let spawn_ms = self.groups.get(&p.group).map_or(0, |g| g.spawn_ms);
                now.since(p.since) >= RESIDENCE_MS.max(2 * spawn_ms)
            })
            .min_by_key(|(id, p)| (p.since, **id))
            .map(|(id, _)| *id)
    }

    /// How many processes must still end for groups without any that wait for a place in a full pool.
    pub(super) fn places_needed(&self, now: Millis) -> usize {
        if !self.is_pool_full() {
            return 0;
        }
        let counts = self.counts(now);
        let is_starved = |id: &&GroupId| {
            let count = counts.get(id).copied().unwrap_or_default();
            self.wish(**id, count, now) == Some(Wish::Starved)
        };
        let starved = self.groups.keys().filter(is_starved).count();
        starved.saturating_sub(self.leaving_soon(now))
    }

    /// How many ending processes make room before long.
    fn leaving_soon(&self, now: Millis) -> usize {
        let processes = self.processes.values();
        processes.filter(|p| leaves_soon(p, now)).count()
    }

    fn has_queue(&self, id: GroupId) -> bool {
        self.groups.get(&id).is_some_and(|g| g.queue.waiting > 0)
    }

    /// Ends one process that is older than its group's last restart: the idlest, newest first.
    pub(super) fn end_one_replaced(&mut self, now: Millis, id: GroupId, out: &mut Vec<Command>) {
        let edition = self.groups.get(&id).map_or(0, |g| g.edition);
        let old = self
            .processes
            .iter()
            .filter(|(_, p)| p.group == id && p.is_live() && p.is_replaced(edition))
            .min_by_key(|(id, p)| (p.edition, p.busyness(), Reverse(**id)))
            .map(|(id, _)| *id);
        if let Some(old) = old {
            self.end(now, old, out);
        }
    }

    /// Ends idle processes: those unused for the pool's idle time beyond the group's minimum, and
    /// any while the pool is over a limit that was lowered.
    fn reap(&mut self, now: Millis, out: &mut Vec<Command>) {
        let mut counts = self.counts(now);
        let mut idle: Vec<(Millis, ProcessId)> = self
            .processes
            .iter()
            .filter(|(_, p)| p.is_live() && p.is_idle() && !self.has_queue(p.group))
            .map(|(id, p)| (p.last_used, *id))
            .collect();
        idle.sort_unstable();
        let staying = self.processes.values().filter(|p| !p.is_ending()).count();
        let mut surplus = staying.saturating_sub(self.limits.max_processes as usize);
        for (last_used, id) in idle {
            let Some(group_id) = self.processes.get(&id).map(|p| p.group) else {
                continue;
            };
            let Some(count) = counts.get_mut(&group_id) else {
                continue;
            };
            let Some(group) = self.groups.get(&group_id) else {
                continue;
            };
            let is_stale = self
                .idle_patience(group)
                .is_some_and(|patience| now.since(last_used) >= patience);
            let is_spare = count.live > group.min_instances();
            if surplus > 0 || (is_stale && is_spare) {
                surplus = surplus.saturating_sub(1);
                count.live -= 1;
                self.end(now, id, out);
            }
        }
    }

    /// How long an unused process of a group stays, in milliseconds; `None`: for ever.
    fn idle_patience(&self, group: &group::Group) -> Option<u64> {
        match (group.limits.confirmed, group.is_gone) {
            (true, _) => self.limits.idle_ms,
            (false, true) => Some(GONE_MS),
            (false, false) => Some(self.limits.idle_ms.unwrap_or(0).max(UNCONFIRMED_MS)),
        }
    }

    fn forget(&mut self, now: Millis, out: &mut Vec<Command>) {
        let gone: Vec<GroupId> = self
            .groups
            .iter()
            .filter(|(_, g)| !g.has_demand())
            .filter(|(_, g)| {
                let patience = self.idle_patience(g);
                g.unconfirmed_since
                    .zip(patience)
                    .is_some_and(|(since, patience)| now.since(since) >= patience)
            })
            .filter(|(id, _)| self.processes.values().all(|p| p.group != **id))
            .map(|(id, _)| *id)
            .collect();
        for group in gone {
            self.groups.remove(&group);
            out.push(Command::Forget { group });
        }
    }
}
