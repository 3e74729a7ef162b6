//! The world outside the pool: it obeys the pool's commands, tells it what it sees, and checks its books.

use std::collections::BTreeMap;

use helper_agent::pool::{
    Command, Event, GroupId, GroupLimits, LoadSeen, Millis, Observation, Pool, PoolLimits,
    ProcessId, QueueSeen, Rolling,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Starting,
    Live,
    /// Out of routing for a while, its last requests under way.
    Leaving,
    /// At its out-of-band work.
    Working,
    Draining,
    /// Asked, terminated (1) or killed (2).
    Told(u8),
}

#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) group: GroupId,
    pub(crate) phase: Phase,
    pub(crate) concurrency: u32,
    pub(crate) in_use: u32,
    pub(crate) orphans: u32,
    pub(crate) streams: u32,
    pub(crate) takes: u64,
    pub(crate) drained_at: u64,
}

/// The world outside the pool, as far as the pool can tell.
pub(crate) struct World {
    pub(crate) pool: Pool,
    pub(crate) now: u64,
    pub(crate) max: u32,
    pub(crate) actors: BTreeMap<ProcessId, Actor>,
    /// Arrival times of those who wait, per group.
    pub(crate) queues: BTreeMap<GroupId, Vec<u64>>,
    pub(crate) is_stopping: bool,
    pub(crate) finished: u32,
    /// How often each process was told to work.
    pub(crate) works: BTreeMap<ProcessId, u32>,
}

impl World {
    pub(crate) fn new() -> Self {
        let max = 3;
        let limits = PoolLimits {
            max_processes: max,
            idle_ms: Some(60_000),
            stream_drain_ms: 10_000,
            request_drain_ms: Some(600_000),
        };
        let mut world = Self {
            pool: Pool::new(limits),
            now: 0,
            max,
            actors: BTreeMap::new(),
            queues: BTreeMap::new(),
            is_stopping: false,
            finished: 0,
            works: BTreeMap::new(),
        };
        for id in 0..4 {
            let limits = GroupLimits {
                min_instances: (id % 3) as u32,
                max_instances: 0,
                confirmed: true,
                rolling: Rolling::Auto,
                resists_errors: true,
            };
            world.queues.insert(GroupId(id), vec![]);
            world.tell(Event::GroupAdded {
                group: GroupId(id),
                limits,
            });
        }
        world
    }

    pub(crate) fn tell(&mut self, event: Event) {
        let before = self.actors.len();
        let is_adoption = matches!(event, Event::Adopted { .. });
        for command in self.pool.handle(Millis(self.now), event) {
            self.obey(command);
        }
        assert!(
            self.actors.len() <= (self.max as usize).max(before) || is_adoption,
            "the pool grew over its limit of {}: {:?}",
            self.max,
            self.actors
        );
        assert_eq!(
            self.pool.size(),
            self.actors.len(),
            "a process is not accounted for"
        );
    }

    pub(crate) fn advance(
        &mut self,
        command: Command,
        id: ProcessId,
        phases: &[Phase],
        next: Phase,
    ) {
        let actor = self
            .actors
            .get_mut(&id)
            .expect("a command names a process that exists");
        assert!(
            phases.contains(&actor.phase),
            "{command:?} to a process in {:?}",
            actor.phase
        );
        actor.phase = next;
    }

    pub(crate) fn obey_about_work(&mut self, command: Command) {
        match command {
            Command::Rest { process } => {
                self.advance(command, process, &[Phase::Live], Phase::Leaving);
                self.check_absence(process);
            }
            Command::Work { process } => {
                let seen = &self.actors[&process];
                assert_eq!(seen.in_use, 0, "work while a worker holds a seat: {seen:?}");
                self.advance(command, process, &[Phase::Leaving], Phase::Working);
                *self.works.entry(process).or_default() += 1;
            }
            Command::Resume { process } => {
                self.advance(
                    command,
                    process,
                    &[Phase::Leaving, Phase::Working],
                    Phase::Live,
                );
            }
            Command::WorkOverdue { process } => {
                assert_eq!(self.actors[&process].phase, Phase::Working);
            }
            Command::CannotWork { group } => {
                let is_one = |a: &&Actor| a.group == group && a.phase == Phase::Live;
                assert_eq!(self.actors.values().filter(is_one).count(), 1);
            }
            _ => unreachable!("not about out-of-band work"),
        }
    }

    pub(crate) fn obey(&mut self, command: Command) {
        match command {
            Command::Spawn { group, process } => {
                assert!(!self.is_stopping, "nothing starts while the instance ends");
                let twins = self
                    .actors
                    .values()
                    .filter(|a| a.group == group && a.phase == Phase::Starting);
                assert_eq!(twins.count(), 0, "one spawn at a time per group");
                let actor = Actor {
                    group,
                    phase: Phase::Starting,
                    concurrency: 1,
                    in_use: 0,
                    orphans: 0,
                    streams: 0,
                    takes: 0,
                    drained_at: 0,
                };
                assert!(
                    self.actors.insert(process, actor).is_none(),
                    "an id is never used twice"
                );
            }
            Command::Rest { .. }
            | Command::Work { .. }
            | Command::Resume { .. }
            | Command::WorkOverdue { .. }
            | Command::CannotWork { .. } => self.obey_about_work(command),
            Command::Drain { process } => {
                let up = [Phase::Live, Phase::Leaving, Phase::Working];
                self.advance(command, process, &up, Phase::Draining);
                let now = self.now;
                self.actors.get_mut(&process).unwrap().drained_at = now;
            }
            Command::DrainOverdue { process } => {
                let seen = &self.actors[&process];
                assert_eq!(seen.phase, Phase::Draining);
                assert!(self.now - seen.drained_at >= 60_000, "too soon: {seen:?}");
            }
            Command::AskToStop { process } => {
                self.check_stop(&self.actors[&process]);
                self.advance(command, process, &[Phase::Draining], Phase::Told(0));
            }
            Command::Terminate { process } => {
                self.advance(command, process, &[Phase::Told(0)], Phase::Told(1));
            }
            Command::Kill { process } => self.advance(
                command,
                process,
                &[
                    Phase::Starting,
                    Phase::Draining,
                    Phase::Told(0),
                    Phase::Told(1),
                ],
                Phase::Told(2),
            ),
            Command::AwaitCode { .. } => {}
            Command::KeptOld { group } => {
                let up = [Phase::Live, Phase::Leaving, Phase::Working];
                let is_kept = |a: &Actor| a.group == group && up.contains(&a.phase);
                assert!(self.actors.values().any(is_kept), "nothing was kept");
            }
            Command::NoteFailure { group } => {
                if let Some(queue) = self.queues.get_mut(&group) {
                    queue.clear();
                }
            }
            Command::Forget { group } => {
                assert!(self.actors.values().all(|a| a.group != group));
                self.queues.remove(&group);
            }
            Command::Finished => {
                assert!(self.is_stopping && self.actors.is_empty());
                self.finished += 1;
            }
        }
    }

    /// One process of a group is away at a time, and another serves meanwhile.
    pub(crate) fn check_absence(&self, id: ProcessId) {
        let group = self.actors[&id].group;
        let count = |phases: &[Phase]| {
            let is_it = |a: &&Actor| a.group == group && phases.contains(&a.phase);
            self.actors.values().filter(is_it).count()
        };
        assert_eq!(
            count(&[Phase::Leaving, Phase::Working]),
            1,
            "{:?}",
            self.actors
        );
        assert!(
            count(&[Phase::Live]) > 0,
            "the last one went: {:?}",
            self.actors
        );
    }

    pub(crate) fn check_stop(&self, seen: &Actor) {
        assert!(
            seen.in_use == 0 || self.is_stopping || self.now - seen.drained_at >= 60_000,
            "`stop` while a worker holds a seat: {seen:?}"
        );
        assert!(
            seen.streams == 0 || self.is_stopping || self.now - seen.drained_at >= 10_000,
            "`stop` before the workers could close its streams: {seen:?}"
        );
    }

    pub(crate) fn look(&mut self) {
        let queues = self.queues.iter().map(|(id, queue)| {
            let oldest_ms = queue
                .iter()
                .map(|since| self.now - since)
                .max()
                .unwrap_or(0);
            (
                *id,
                QueueSeen {
                    waiting: u32::try_from(queue.len()).unwrap(),
                    oldest_ms,
                },
            )
        });
        let loads = self.actors.iter().map(|(id, a)| {
            (
                *id,
                LoadSeen {
                    in_use: a.in_use,
                    orphans: a.orphans,
                    streams: a.streams,
                    takes: a.takes,
                },
            )
        });
        let observation = Observation {
            queues: queues.collect(),
            loads: loads.collect(),
        };
        self.tell(Event::Looked(observation));
    }

    pub(crate) fn pick(&self, nth: usize, wanted: impl Fn(&Actor) -> bool) -> Option<ProcessId> {
        let found: Vec<ProcessId> = self
            .actors
            .iter()
            .filter(|(_, a)| wanted(a))
            .map(|(id, _)| *id)
            .collect();
        (!found.is_empty()).then(|| found[nth % found.len()])
    }

    pub(crate) fn end(&mut self, id: ProcessId, event: Event) {
        self.actors.remove(&id);
        self.tell(event);
    }

    /// Every free seat of a live process goes to somebody who waits; then all work is done.
    pub(crate) fn serve(&mut self) {
        for actor in self.actors.values_mut() {
            actor.in_use = 0;
            let Some(queue) = self.queues.get_mut(&actor.group) else {
                continue;
            };
            let free = if actor.concurrency == 0 {
                64
            } else {
                actor.concurrency
            };
            if actor.phase == Phase::Live {
                let n = queue.len().min(free.saturating_sub(actor.orphans) as usize);
                queue.drain(..n);
                actor.in_use = u32::try_from(n).unwrap();
                actor.takes += n as u64;
            }
        }
    }

    pub(crate) fn restart(&mut self, group: GroupId) {
        let starts = |a: &Actor| a.group == group && a.phase == Phase::Starting;
        let before: Vec<ProcessId> = self
            .actors
            .iter()
            .filter(|(_, a)| starts(a))
            .map(|(id, _)| *id)
            .collect();
        self.tell(Event::Restart { group });
        if self.pool.has_group(group) {
            assert!(
                before.iter().all(|id| !starts(&self.actors[id])),
                "a start from before the restart may still join"
            );
        }
    }
}
