//! The tables as the pool sees them, slots that can be reused, and orphans: seats whose worker went away
//! while the app may still be computing. Only the app can tell, so it is asked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use passenger_shm::{Load, Orphan, STALE_GRANT};

use super::board::seconds_now;
use super::core::Agent;
use super::processes::{Phase, Process, Question};
use crate::pool::{Event, GroupId, LoadSeen, Observation, ProcessId, QueueSeen};
use crate::spawn::dialogue;

/// A dead process's slot is reused when no worker is in it any more, or after this: workers look at the
/// process's state at least once a second.
const LIMBO: Duration = Duration::from_secs(3);
/// How long what an ended process printed is read for certain, though others hold the other end of it: a daemon that it
/// started, say. After that only those of the [`MOST_LINGERING`] that ended last are read on.
const AFTERLIFE: Duration = Duration::from_secs(10);
/// Ended processes of one app whose output is still read. Each costs descriptors in agent, watchdog and reserve, and an
/// app could have as many as it likes.
const MOST_LINGERING: usize = 8;

impl Agent {
    /// Reads queues and seats, and does the housekeeping of the tables on the way.
    pub(super) fn observe(&mut self) -> Observation {
        self.view.revoke_stale_grants(STALE_GRANT);
        self.end_idle_preloaders();
        let mut observation = Observation::default();
        for (id, group) in self.groups.iter() {
            let queue = self.view.queue(group.reference);
            let oldest_ms = u64::try_from(queue.oldest.as_millis()).unwrap_or(u64::MAX);
            observation.queues.push((
                id,
                QueueSeen {
                    waiting: queue.length,
                    oldest_ms,
                },
            ));
        }
        let mut gone = Vec::new();
        for (id, process) in self.processes.iter_mut() {
            match &mut process.phase {
                Phase::Starting(_) => {}
                Phase::Serving => {
                    let load = self.view.load(process.reference);
                    if process.takes_seen != load.takes {
                        process.takes_seen = load.takes;
                        process.last_used = seconds_now();
                    }
                    observation.loads.push((id, seen(load, process)));
                }
                Phase::Dead { since, is_freed } => {
                    let load = self.view.load(process.reference);
                    let is_empty = load.is_idle() || since.elapsed() >= LIMBO;
                    // Until its end is noted its requests are counted by the slot.
                    if !*is_freed && is_empty && self.board.is_newer_than(*since) {
                        self.view.free_process(process.reference);
                        *is_freed = true;
                    }
                    if *is_freed && process.is_drained {
                        gone.push(id);
                    }
                }
            }
        }
        for id in gone {
            self.processes.remove(id);
        }
        self.forget_lingering();
        observation
    }

    /// Gives up what ended processes have left open, where that is too much.
    fn forget_lingering(&mut self) {
        let mut lingering: BTreeMap<GroupId, Vec<(Instant, ProcessId)>> = BTreeMap::new();
        for (id, process) in self.processes.iter() {
            let Phase::Dead {
                since,
                is_freed: true,
            } = process.phase
            else {
                continue;
            };
            lingering
                .entry(process.group)
                .or_default()
                .push((since, id));
        }
        for mut of_group in lingering.into_values() {
            of_group.sort_unstable();
            let surplus = of_group.len().saturating_sub(MOST_LINGERING);
            let is_old = |(since, _): &(Instant, ProcessId)| since.elapsed() >= AFTERLIFE;
            for (_, id) in of_group.into_iter().take(surplus).filter(is_old) {
                if let Some(process) = self.processes.remove(id) {
                    log::debug!(
                        "nobody reads any more what descendants of process {} print",
                        process.pid()
                    );
                    self.store.forget(process.reference);
                }
            }
        }
        self.forget_preloaders(AFTERLIFE);
    }

    /// A look at one process.
    pub(super) fn seen(&self, id: ProcessId) -> Option<LoadSeen> {
        let process = self.processes.get(id)?;
        let load = self.view.load(process.reference);
        Some(seen(load, process))
    }

    /// Asks every process with orphans which requests it executes, one question at a time.
    pub(super) fn ask_about_orphans(&mut self) {
        for (_, process) in self.processes.iter_mut() {
            if !process.is_serving() || process.question.is_some() {
                continue;
            }
            let is_abandoned = std::mem::take(&mut process.is_abandoned);
            if self.view.load(process.reference).orphans == 0 && !is_abandoned {
                continue;
            }
            let orphans = self.view.orphans(process.reference);
            let Some(body) = &process.body else { continue };
            if body.is_command {
                // It cannot be asked. That its client hung up it has seen as well as we have.
                let free = |orphan: &&Orphan| self.view.free_orphan(process.reference, orphan);
                let freed = orphans.iter().filter(free).count();
                if let Some(group) = self.groups.get(process.group) {
                    let freed = u32::try_from(freed).unwrap_or(u32::MAX);
                    self.view.wake_waiters(group.reference, freed);
                }
                continue;
            }
            let token = self.next_token;
            self.next_token += 1;
            if body.say(&dialogue::ask_busy(token)).is_ok() {
                process.question = Some(Question {
                    token,
                    looks: 0,
                    orphans,
                });
            }
        }
    }

    /// Frees the orphans that the answer does not name. Numbers are zero where the protocol has none
    /// (HTTP): then as many as the answer has may still be in execution.
    pub(super) fn on_busy(&mut self, id: ProcessId, token: u64, numbers: &[u64]) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let Some(question) = process.question.take_if(|question| question.token == token) else {
            return;
        };
        let unnamed = numbers.iter().filter(|number| **number == 0).count();
        let mut may_free = question.orphans.len().saturating_sub(unnamed);
        let mut freed = 0;
        for orphan in &question.orphans {
            if may_free > 0 && !numbers.contains(&orphan.number) {
                may_free -= 1;
                freed += u32::from(self.view.free_orphan(process.reference, orphan));
            }
        }
        if freed > 0 {
            log::debug!(
                "app process {} finished {freed} abandoned requests",
                process.pid()
            );
            if let Some(group) = self.groups.get(process.group) {
                self.view.wake_waiters(group.reference, freed);
            }
        }
    }

    /// Tells a process that no requests come: it may do its out-of-band work.
    pub(super) fn tell_to_work(&mut self, id: ProcessId) {
        let token = self.next_token;
        self.next_token += 1;
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        process.work_token = Some(token);
        log::debug!("app process {} may do its out-of-band work", process.pid());
        let said = process
            .body
            .as_ref()
            .map(|body| body.say(&dialogue::work(token)));
        if let Some(Err(e)) = said {
            // It ended, or does not read its lines: the pool waits for it as long as for any work.
            log::debug!("app process {} cannot be told: {e}", process.pid());
        }
    }

    pub(super) fn on_work_done(&mut self, id: ProcessId, token: u64) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        if process
            .work_token
            .take_if(|known| *known == token)
            .is_some()
        {
            log::debug!("app process {} is done with its work", process.pid());
            self.tell(Event::WorkDone { process: id });
        }
    }

    /// The log hears of work that does not end.
    pub(super) fn complain_of(&self, id: ProcessId) {
        if let Some(process) = self.processes.get(id) {
            let group = self.groups.get(process.group);
            log::error!(
                "app {}: process {} has not come back from its out-of-band work for a minute and is replaced",
                group.map_or("?", |group| &group.name),
                process.pid()
            );
        }
    }

    /// The log hears of requests that end with their process.
    pub(super) fn complain_of_requests(&self, id: ProcessId) {
        if let Some(process) = self.processes.get(id) {
            let group = self.groups.get(process.group);
            let load = self.view.load(process.reference);
            log::warn!(
                "app {}: process {} is to end and still has {} request(s) after all the time it had for them \
                 (PassengerDrainTime), it is ended with them",
                group.map_or("?", |group| &group.name),
                process.pid(),
                load.held.saturating_add(load.granted)
            );
        }
    }

    /// Marks a process dead in the tables; its slot is freed by a later look.
    pub(super) fn bury(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        self.view.dead(process.reference);
        if process.is_serving() {
            let takes = process.takes(self.view.load(process.reference).takes);
            if let Some(group) = self.groups.get_mut(process.group) {
                group.tally.requests_of_ended += takes;
            }
        }
        self.board.touch();
        process.phase = Phase::Dead {
            since: Instant::now(),
            is_freed: false,
        };
        process.question = None;
        process.work_token = None;
        if process.body.is_none() {
            process.is_drained = true;
        } else if process.is_drained {
            self.store.forget(process.reference);
        }
    }
}

fn seen(load: Load, process: &Process) -> LoadSeen {
    LoadSeen {
        in_use: load.held.saturating_add(load.granted),
        orphans: load.orphans,
        streams: load.streams,
        takes: process.takes(load.takes),
    }
}
