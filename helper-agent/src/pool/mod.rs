//! The pool: which process is started, kept, replaced and ended, and when. A pure state machine:
//! [`Event`]s and the time go in, [`Command`]s come out; no I/O, clock or randomness of its own, so
//! that property tests run thousands of simulated hours of it (`tests/pool_properties/`).
//!
//! ```text
//!            Spawn                SpawnReady             leave · idle · evicted · old · stop
//!   (wish) ─────────► Starting ─────────────► Live ─────────────────────► Ending
//!                        │ SpawnFailed          │ Exited            Draining → Asked → Terminated → Killed
//!                        ▼                      ▼                                │ Exited
//!                      gone                   gone                             gone
//! ```
//! From `Live` there is a way out and back: `out_of_band.rs`.
//!
//! * `event.rs` – the vocabulary;
//! * `process.rs`, `group.rs` – the books;
//! * `restart.rs` – restarts: who waits for the new code, and what its failure means;
//! * `out_of_band.rs` – processes that are away to do work of their own;
//! * `policy.rs` – what follows from the books: the only place with opinions; `ending.rs` – how an end is
//!   urged on.
//!
//! Every process counts against the pool's limit from the wish until it is reaped, ending ones
//! included: the limit is there for the machine's memory.

mod ending;
mod event;
mod group;
mod out_of_band;
mod policy;
mod process;
mod restart;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use event::{
    CodeWait, Command, Event, GroupId, GroupLimits, LoadSeen, Millis, Observation, PoolLimits,
    ProcessId, QueueSeen, Rolling,
};
use group::Group;
use process::{Absence, Process, Stage, State};

/// The books and the policy over them. See the module's page.
#[derive(Debug)]
pub struct Pool {
    limits: PoolLimits,
    groups: BTreeMap<GroupId, Group>,
    processes: BTreeMap<ProcessId, Process>,
    next_process: u64,
    stop: Option<Stopping>,
}

/// The instance is ending.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    /// Ask processes whose seats are still held from here on.
    ask_at: Millis,
    /// SIGTERM so long after `stop` was said.
    terminate_after_ms: u64,
    /// Force from here on.
    kill_at: Millis,
    has_finished: bool,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            groups: BTreeMap::new(),
            processes: BTreeMap::new(),
            next_process: 1,
            stop: None,
        }
    }

    /// An id for a process that the rim found alive ([`Event::Adopted`]).
    pub fn new_process_id(&mut self) -> ProcessId {
        let id = ProcessId(self.next_process);
        self.next_process += 1;
        id
    }

    /// Number of processes that exist or are being started.
    #[must_use]
    pub fn size(&self) -> usize {
        self.processes.len()
    }

    /// Whether the books have that group.
    #[must_use]
    pub fn has_group(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// Takes in what happened and says what to do. Events about groups or processes that are not
    /// in the books are ignored: they crossed with the end of their subject.
    pub fn handle(&mut self, now: Millis, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Configured(limits) => self.limits = limits,
            Event::GroupAdded { group, limits } => {
                self.groups
                    .entry(group)
                    .or_insert_with(|| Group::new(limits, now));
            }
            Event::GroupChanged { group, limits } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.set_limits(limits, now);
                }
            }
            Event::GroupGone { group } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.is_gone = true;
                }
            }
            Event::Adopted { .. } => self.adopt(now, &event),
            Event::Restart { group } => self.restart(now, group, None, &mut commands),
            Event::Roll { group } => self.restart(now, group, Some(Rolling::On), &mut commands),
            Event::Retire { process } => {
                if let Some(process) = self.processes.get_mut(&process) {
                    process.is_retiring = true;
                }
            }
            Event::Demand { group } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.is_demanded = true;
                }
            }
            Event::Looked(observation) => self.observe(now, observation),
            Event::SpawnReady {
                process,
                concurrency,
                has_loaded,
            } => {
                self.ready(now, process, (concurrency, has_loaded), &mut commands);
            }
            Event::SpawnFailed { process } => self.failed(now, process, &mut commands),
            Event::SpawnKilled { process } => self.killed(now, process, &mut commands),
            Event::Exited { process } => self.exited(now, process, &mut commands),
            Event::LeaveAsked { process } => self.end(now, process, &mut commands),
            Event::WorkWanted { process } => self.work_wanted(now, process),
            Event::WorkDone { process } => self.work_done(now, process, &mut commands),
            Event::Stop { deadline_ms } => self.stop(now, deadline_ms),
            Event::Tick => {}
        }
        self.decide(now, &mut commands);
        commands
    }

    fn adopt(&mut self, now: Millis, event: &Event) {
        let Event::Adopted {
            group,
            process,
            concurrency,
            draining,
            away,
            outdated,
        } = *event
        else {
            return;
        };
        let Some(edition) = self.groups.get(&group).map(|g| g.edition) else {
            return;
        };
        self.next_process = self.next_process.max(process.0 + 1);
        let edition = if outdated {
            edition.saturating_sub(1)
        } else {
            edition
        };
        let mut adopted = Process::starting(group, edition, now);
        adopted.concurrency = concurrency;
        adopted.state = if draining {
            State::Ending(Stage::Draining {
                since: now,
                is_seen: false,
            })
        } else if away {
            // Whether it was told to work, nobody knows: it is told again, and says so if it is done.
            State::Away(Absence::Leaving {
                since: now,
                is_seen: false,
                was_told: true,
            })
        } else {
            State::Live
        };
        self.processes.insert(process, adopted);
    }

    fn observe(&mut self, now: Millis, observation: Observation) {
        for (id, queue) in observation.queues {
            if let Some(group) = self.groups.get_mut(&id) {
                group.queue = queue;
                // The table is the truth; who announced a demand sits in it by now.
                group.is_demanded = false;
            }
        }
        for (id, load) in observation.loads {
            if let Some(process) = self.processes.get_mut(&id) {
                process.observe(load, now);
            }
        }
    }

    fn ready(
        &mut self,
        now: Millis,
        id: ProcessId,
        (concurrency, has_loaded): (u32, bool),
        out: &mut Vec<Command>,
    ) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if !process.is_starting() {
            return;
        }
        let spawn_ms = now.since(process.since);
        process.state = State::Live;
        process.since = now;
        process.last_used = now;
        process.concurrency = concurrency;
        let group_id = process.group;
        if let Some(group) = self.groups.get_mut(&group_id) {
            if has_loaded {
                group.spawn_ms = spawn_ms;
            }
            group.kills = None;
            group.is_demanded = false;
        }
        self.end_one_replaced(now, group_id, out);
        self.new_code_started(now, group_id, out);
    }

    fn failed(&mut self, now: Millis, id: ProcessId, out: &mut Vec<Command>) {
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        // One that we ended ourselves says nothing about the app.
        if self.stop.is_some() || process.is_ending() {
            return;
        }
        if let Some(group) = self.groups.get_mut(&process.group) {
            group.failed(now);
            out.push(Command::NoteFailure {
                group: process.group,
            });
        }
        self.new_code_failed(now, process.group, out);
    }

    /// Nobody is told: another start is made at once, unless they are killed again and again (no memory?).
    fn killed(&mut self, now: Millis, id: ProcessId, out: &mut Vec<Command>) {
        let process = self.processes.get(&id);
        let lived_ms = process.map_or(0, |process| now.since(process.since));
        let group = process.and_then(|process| self.groups.get_mut(&process.group));
        if group.is_some_and(|group| group.has_patience_with_kills(now, lived_ms)) {
            self.processes.remove(&id);
        } else {
            self.failed(now, id, out);
        }
    }

    fn exited(&mut self, now: Millis, id: ProcessId, out: &mut Vec<Command>) {
        let Some(process) = self.processes.get(&id) else {
            return;
        };
        if process.is_starting() {
            self.failed(now, id, out);
            return;
        }
        let died_by_itself = process.is_up();
        let died_young = !process.has_served && now.since(process.since) < group::EARLY_DEATH_MS;
        let group_id = process.group;
        self.processes.remove(&id);
        if let (true, Some(group)) = (died_by_itself, self.groups.get_mut(&group_id)) {
            if died_young {
                group.failed(now);
            } else {
                group.recovered();
            }
        }
    }

    /// Takes a process out of routing for good, which is how every end but a crash begins.
    fn end(&mut self, now: Millis, id: ProcessId, out: &mut Vec<Command>) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if process.is_up() {
            process.state = State::Ending(Stage::Draining {
                since: now,
                is_seen: false,
            });
            out.push(Command::Drain { process: id });
        }
    }

    fn stop(&mut self, now: Millis, deadline_ms: u64) {
        // A second, shorter deadline (the administrator lost patience) replaces the first.
        let kill_at = now.plus(deadline_ms - deadline_ms.min(1_000).min(deadline_ms / 10));
        let ask_at = now.plus(deadline_ms / 2);
        let terminate_after_ms = ending::TERMINATE_AFTER_MS.min(deadline_ms / 4);
        let has_finished = self.stop.is_some_and(|stop| stop.has_finished);
        self.stop = Some(Stopping {
            ask_at,
            terminate_after_ms,
            kill_at,
            has_finished,
        });
    }
}
