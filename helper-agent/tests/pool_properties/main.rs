//! Random schedules against the pool, played against a simulated world of processes, requests and
//! clocks: whatever happens in which order, the books stay true and nobody starves.

mod chances;
mod steps;
mod world;

use helper_agent::pool::{Event, GroupId, GroupLimits, Rolling};
use proptest::prelude::*;

use chances::{chance, Chance};
use world::{Phase, World};

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
