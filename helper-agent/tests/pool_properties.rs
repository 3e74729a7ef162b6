//! Random schedules against the pool, played against a simulated world of processes, requests and
//! clocks: whatever happens in which order, the books stay true and nobody starves.

use std::collections::BTreeMap;

use helper_agent::pool::{
    Command, Event, GroupId, GroupLimits, LoadSeen, Millis, Observation, Pool, PoolLimits,
    ProcessId, QueueSeen, Rolling,
};
use proptest::prelude::*;

/// What may happen to the world in one step.
#[derive(Debug, Clone)]
enum Chance {
    Arrive {
        group: u64,
    },
    Serve,
    Abandon {
        process: usize,
    },
    Upgrade {
        process: usize,
    },
    HangUp {
        process: usize,
    },
    SpawnSucceeds {
        process: usize,
        concurrency: u32,
    },
    SpawnFails {
        process: usize,
    },
    Crash {
        process: usize,
    },
    Obey {
        process: usize,
    },
    Leave {
        process: usize,
    },
    WantWork {
        process: usize,
    },
    FinishWork {
        process: usize,
    },
    Restart {
        group: u64,
    },
    Retire {
        process: usize,
    },
    Limits {
        group: u64,
        min: u32,
        max: u32,
        confirmed: bool,
        rolling: Rolling,
        resists: bool,
    },
    Resize {
        max: u32,
    },
    Pass {
        ms: u64,
    },
}

fn rolling() -> impl Strategy<Value = Rolling> {
    prop_oneof![Just(Rolling::Auto), Just(Rolling::On), Just(Rolling::Off)]
}

fn chance() -> impl Strategy<Value = Chance> {
    let group = 0..4u64;
    let process = any::<usize>();
    prop_oneof![
        6 => group.clone().prop_map(|group| Chance::Arrive { group }),
        6 => Just(Chance::Serve),
        1 => process.prop_map(|process| Chance::Abandon { process }),
        2 => process.prop_map(|process| Chance::Upgrade { process }),
        1 => process.prop_map(|process| Chance::HangUp { process }),
        5 => (process, 0..4u32).prop_map(|(process, concurrency)| Chance::SpawnSucceeds {
            process,
            concurrency
        }),
        2 => process.prop_map(|process| Chance::SpawnFails { process }),
        1 => process.prop_map(|process| Chance::Crash { process }),
        4 => process.prop_map(|process| Chance::Obey { process }),
        1 => process.prop_map(|process| Chance::Leave { process }),
        4 => process.prop_map(|process| Chance::WantWork { process }),
        3 => process.prop_map(|process| Chance::FinishWork { process }),
        1 => group.clone().prop_map(|group| Chance::Restart { group }),
        1 => process.prop_map(|process| Chance::Retire { process }),
        1 => (group, 0..3u32, 0..4u32, any::<bool>(), rolling(), any::<bool>())
            .prop_map(|(group, min, max, confirmed, rolling, resists)| {
                Chance::Limits { group, min, max, confirmed, rolling, resists }
            }),
        1 => (1..5u32).prop_map(|max| Chance::Resize { max }),
        6 => prop_oneof![1..50u64, 500..3_000u64, 60_000..400_000u64]
            .prop_map(|ms| Chance::Pass { ms }),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
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
struct Actor {
    group: GroupId,
    phase: Phase,
    concurrency: u32,
    in_use: u32,
    orphans: u32,
    streams: u32,
    takes: u64,
    drained_at: u64,
}

/// The world outside the pool, as far as the pool can tell.
struct World {
    pool: Pool,
    now: u64,
    max: u32,
    actors: BTreeMap<ProcessId, Actor>,
    /// Arrival times of those who wait, per group.
    queues: BTreeMap<GroupId, Vec<u64>>,
    is_stopping: bool,
    finished: u32,
    /// How often each process was told to work.
    works: BTreeMap<ProcessId, u32>,
}

impl World {
    fn new() -> Self {
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

    fn tell(&mut self, event: Event) {
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

    fn advance(&mut self, command: Command, id: ProcessId, phases: &[Phase], next: Phase) {
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

    fn obey_about_work(&mut self, command: Command) {
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

    fn obey(&mut self, command: Command) {
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
    fn check_absence(&self, id: ProcessId) {
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

    fn check_stop(&self, seen: &Actor) {
        assert!(
            seen.in_use == 0 || self.is_stopping || self.now - seen.drained_at >= 60_000,
            "`stop` while a worker holds a seat: {seen:?}"
        );
        assert!(
            seen.streams == 0 || self.is_stopping || self.now - seen.drained_at >= 10_000,
            "`stop` before the workers could close its streams: {seen:?}"
        );
    }

    fn look(&mut self) {
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

    fn pick(&self, nth: usize, wanted: impl Fn(&Actor) -> bool) -> Option<ProcessId> {
        let found: Vec<ProcessId> = self
            .actors
            .iter()
            .filter(|(_, a)| wanted(a))
            .map(|(id, _)| *id)
            .collect();
        (!found.is_empty()).then(|| found[nth % found.len()])
    }

    fn end(&mut self, id: ProcessId, event: Event) {
        self.actors.remove(&id);
        self.tell(event);
    }

    /// Every free seat of a live process goes to somebody who waits; then all work is done.
    fn serve(&mut self) {
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

    fn restart(&mut self, group: GroupId) {
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

    fn step(&mut self, chance: &Chance) {
        match *chance {
            Chance::Arrive { group } => {
                if let Some(queue) = self.queues.get_mut(&GroupId(group)) {
                    queue.push(self.now);
                    self.tell(Event::Demand {
                        group: GroupId(group),
                    });
                }
            }
            Chance::Serve => self.serve(),
            Chance::Abandon { process } => {
                if let Some(id) = self.pick(process, |a| a.in_use > 0) {
                    let actor = self.actors.get_mut(&id).unwrap();
                    actor.in_use -= 1;
                    actor.orphans += 1;
                }
            }
            Chance::Upgrade { process } => {
                if let Some(id) = self.pick(process, |a| a.in_use > 0) {
                    let actor = self.actors.get_mut(&id).unwrap();
                    actor.in_use -= 1;
                    actor.streams += 1;
                }
            }
            Chance::HangUp { process } => {
                if let Some(id) = self.pick(process, |a| a.streams > 0) {
                    self.actors.get_mut(&id).unwrap().streams = 0;
                }
            }
            Chance::SpawnSucceeds {
                process,
                concurrency,
            } => {
                if let Some(id) = self.pick(process, |a| a.phase == Phase::Starting) {
                    let actor = self.actors.get_mut(&id).unwrap();
                    actor.phase = Phase::Live;
                    actor.concurrency = concurrency;
                    self.tell(Event::SpawnReady {
                        process: id,
                        concurrency,
                        has_loaded: process % 2 == 0,
                    });
                }
            }
            Chance::SpawnFails { process } => {
                if let Some(id) = self.pick(process, |a| a.phase == Phase::Starting) {
                    self.end(id, Event::SpawnFailed { process: id });
                }
            }
            Chance::Crash { process } => {
                if let Some(id) = self.pick(process, |_| true) {
                    self.end(id, Event::Exited { process: id });
                }
            }
            Chance::Obey { process } => {
                if let Some(id) = self.pick(process, |a| matches!(a.phase, Phase::Told(_))) {
                    self.end(id, Event::Exited { process: id });
                }
            }
            Chance::Leave { process } => {
                if let Some(id) = self.pick(process, |_| true) {
                    self.tell(Event::LeaveAsked { process: id });
                }
            }
            Chance::WantWork { .. } | Chance::FinishWork { .. } => self.bother_about_work(chance),
            Chance::Restart { .. }
            | Chance::Retire { .. }
            | Chance::Limits { .. }
            | Chance::Resize { .. } => {
                self.administer(chance);
            }
            Chance::Pass { ms } => {
                self.now += ms;
                self.look();
            }
        }
    }

    fn bother_about_work(&mut self, chance: &Chance) {
        match *chance {
            Chance::WantWork { process } => {
                if let Some(process) = self.pick(process, |_| true) {
                    self.tell(Event::WorkWanted { process });
                }
            }
            Chance::FinishWork { process } => {
                if let Some(process) = self.pick(process, |a| a.phase == Phase::Working) {
                    self.tell(Event::WorkDone { process });
                }
            }
            _ => unreachable!("not about out-of-band work"),
        }
    }

    /// What an administrator may do.
    fn administer(&mut self, chance: &Chance) {
        match *chance {
            Chance::Restart { group } => self.restart(GroupId(group)),
            Chance::Retire { process } => {
                if let Some(process) = self.pick(process, |a| a.phase == Phase::Live) {
                    self.tell(Event::Retire { process });
                }
            }
            Chance::Limits {
                group,
                min,
                max,
                confirmed,
                rolling,
                resists,
            } => {
                let limits = GroupLimits {
                    min_instances: min,
                    max_instances: max,
                    confirmed,
                    rolling,
                    resists_errors: resists,
                };
                self.tell(Event::GroupChanged {
                    group: GroupId(group),
                    limits,
                });
            }
            Chance::Resize { max } => {
                self.max = max;
                let limits = PoolLimits {
                    max_processes: max,
                    idle_ms: Some(60_000),
                    stream_drain_ms: 10_000,
                    request_drain_ms: Some(600_000),
                };
                self.tell(Event::Configured(limits));
            }
            _ => unreachable!("not the administrator's"),
        }
    }

    /// The world behaves from here on: spawns succeed, apps finish and obey.
    fn calm(&mut self, rounds: usize) {
        for _ in 0..rounds {
            while let Some(id) = self.pick(0, |a| a.phase == Phase::Starting) {
                self.step(&Chance::SpawnSucceeds {
                    process: 0,
                    concurrency: 1,
                });
                assert_ne!(self.actors[&id].phase, Phase::Starting);
            }
            self.serve();
            while self.pick(0, |a| a.phase == Phase::Working).is_some() {
                self.step(&Chance::FinishWork { process: 0 });
            }
            for actor in self.actors.values_mut() {
                actor.orphans = 0;
                if actor.phase != Phase::Live {
                    actor.in_use = 0;
                }
            }
            self.now += self.pool.next_look_ms(Millis(self.now));
            self.look();
            while self
                .pick(0, |a| matches!(a.phase, Phase::Told(_)))
                .is_some()
            {
                self.step(&Chance::Obey { process: 0 });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Every `tell` checks: the limit holds, every process is accounted for, commands fit the
    /// phase of the process they name.
    #[test]
    fn the_books_are_true_whatever_happens(story in prop::collection::vec(chance(), 1..200)) {
        let mut world = World::new();
        for chance in &story {
            world.step(chance);
        }
    }

    #[test]
    fn who_waits_is_served_once_the_world_behaves(
        story in prop::collection::vec(chance(), 1..120),
        group in 0..4u64,
    ) {
        let mut world = World::new();
        for chance in &story {
            world.step(chance);
        }
        let Some(queue) = world.queues.get_mut(&GroupId(group)) else { return Ok(()) };
        queue.push(world.now);
        world.look();
        // Back-off after the story's failures (60 s), the residence of processes that took a minute to start, and
        // the drains of up to four groups, streams that nobody closes included.
        let end = world.now + 600_000;
        while world.now < end {
            world.calm(1);
            if world.queues.values().all(Vec::is_empty) {
                return Ok(());
            }
        }
        prop_assert!(false, "still waiting: {:?} {:?}", world.queues, world.actors);
    }

    #[test]
    fn stop_ends_everything_by_its_deadline(story in prop::collection::vec(chance(), 1..80)) {
        let mut world = World::new();
        for chance in &story {
            world.step(chance);
        }
        world.is_stopping = true;
        world.tell(Event::Stop { deadline_ms: 30_000 });
        for _ in 0..30 {
            world.now += 1_000;
            world.look();
        }
        let unkilled = world.pick(0, |a| a.phase != Phase::Told(2));
        prop_assert_eq!(unkilled, None, "not killed by the deadline: {:?}", &world.actors);
        while world.pick(0, |_| true).is_some() {
            world.step(&Chance::Obey { process: 0 });
        }
        world.look();
        prop_assert_eq!(world.finished, 1);
    }

    #[test]
    fn wanted_work_is_done_once_the_world_behaves(
        story in prop::collection::vec(chance(), 1..80),
        wants in 0..4u64,
    ) {
        let mut world = World::new();
        for chance in &story {
            world.step(chance);
        }
        world.step(&Chance::Resize { max: 12 });
        for group in 0..4 {
            let limits = GroupLimits { min_instances: 1, max_instances: 0, confirmed: true, rolling: Rolling::On, resists_errors: true };
            world.tell(Event::GroupChanged { group: GroupId(group), limits });
        }
        if !world.pool.has_group(GroupId(wants)) {
            return Ok(()); // forgotten in the story
        }
        // Back-off after the story's failures included.
        world.calm(200);
        let process = world.pick(0, |a| a.group == GroupId(wants) && a.phase == Phase::Live);
        let process = process.expect("the minimum of the group");
        let before = world.works.get(&process).copied().unwrap_or(0);
        world.tell(Event::WorkWanted { process });
        for _ in 0..400 {
            world.calm(1);
            let works = world.works.get(&process).copied().unwrap_or(0);
            if works > before || !world.actors.contains_key(&process) {
                return Ok(());
            }
        }
        prop_assert!(false, "{:?} never worked: {:?}", process, world.actors);
    }

    #[test]
    fn quiet_groups_shrink_to_their_minimum(story in prop::collection::vec(chance(), 1..80)) {
        let mut world = World::new();
        for chance in &story {
            world.step(chance);
        }
        for queue in world.queues.values_mut() {
            queue.clear();
        }
        for actor in world.actors.values_mut() {
            actor.streams = 0;
        }
        world.calm(400);
        for (group, min) in [(0u64, 0usize), (1, 1), (2, 2), (3, 0)] {
            let limits =
                GroupLimits { min_instances: u32::try_from(min).unwrap(), max_instances: 0, confirmed: true, rolling: Rolling::On, resists_errors: true };
            world.tell(Event::GroupChanged { group: GroupId(group), limits });
        }
        world.calm(400);
        for (group, min) in [(0u64, 0usize), (1, 1), (2, 2), (3, 0)] {
            let n = world.actors.values().filter(|a| a.group == GroupId(group)).count();
            prop_assert!(n <= min, "group {} has {} processes, minimum {}", group, n, min);
        }
    }
}
