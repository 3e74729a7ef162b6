//! Starts that fail, processes that die, and when the next one is tried.

use super::*;

#[test]
fn a_failed_spawn_is_told_and_the_next_request_tries_again() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    waits(&mut pool, 1, GROUP, 1, 1);
    let told = pool.handle(Millis(50), Event::SpawnFailed { process: first });
    assert_eq!(told, vec![Command::NoteFailure { group: GROUP }]);
    assert_eq!(
        waits(&mut pool, 60, GROUP, 0, 0),
        vec![],
        "nobody waits: back off"
    );
    assert_eq!(
        waits(&mut pool, 100, GROUP, 1, 20),
        vec![],
        "may still be an old waiter"
    );
    one(&waits(&mut pool, 160, GROUP, 1, 80));
}

#[test]
fn the_minimum_is_tried_again_with_growing_pauses() {
    let mut pool = pool(6);
    let mut process = one(&add(&mut pool, 0, GROUP, 1));
    let mut now = 0;
    for pause in [1_000, 2_000, 4_000, 8_000] {
        pool.handle(Millis(now), Event::SpawnFailed { process });
        assert_eq!(pool.handle(Millis(now + pause - 1), Event::Tick), vec![]);
        now += pause;
        process = one(&pool.handle(Millis(now), Event::Tick));
    }
}

#[test]
fn an_exited_process_is_replaced_at_once_if_it_was_proven() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    one(&pool.handle(Millis(9_000), Event::Exited { process: first }));
}

#[test]
fn a_process_that_dies_young_is_replaced_after_a_pause_unless_somebody_waits() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    assert_eq!(
        pool.handle(Millis(20), Event::Exited { process: first }),
        vec![]
    );
    assert_eq!(waits(&mut pool, 100, GROUP, 1, 10), vec![]);
    one(&waits(&mut pool, 121, GROUP, 1, 31));
}

#[test]
fn a_start_that_was_killed_is_made_again_and_nobody_is_told_until_it_happens_again_and_again() {
    let mut pool = pool(4);
    let mut starting = one(&add(&mut pool, 0, GROUP, 1));
    for time in 1..=10 {
        let now = Millis(time * 10_000);
        let commands = pool.handle(now, Event::SpawnKilled { process: starting });
        starting = one(&commands);
        assert_eq!(commands.len(), 1, "{commands:?}");
    }
    let commands = pool.handle(Millis(110_000), Event::SpawnKilled { process: starting });
    assert_eq!(commands, [Command::NoteFailure { group: GROUP }]);
}

#[test]
fn a_slow_start_may_be_killed_more_often_in_half_a_minute_than_a_quick_one() {
    let kills = |lived_ms: u64| {
        let mut pool = pool(4);
        let mut starting = one(&add(&mut pool, 0, GROUP, 1));
        (1..100).find(|count| {
            let now = Millis(count * lived_ms);
            let commands = pool.handle(now, Event::SpawnKilled { process: starting });
            if commands == [Command::NoteFailure { group: GROUP }] {
                return true;
            }
            starting = one(&commands);
            false
        })
    };
    assert_eq!(kills(3), Some(11));
    assert_eq!(kills(1_000), Some(31));
}

#[test]
fn a_process_that_served_is_replaced_at_once_however_young_it_dies() {
    let mut pool = pool(4);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    let loads = vec![(
        first,
        LoadSeen {
            in_use: 1,
            orphans: 0,
            streams: 0,
            takes: 2,
        },
    )];
    let queues = vec![];
    pool.handle(Millis(20), Event::Looked(Observation { queues, loads }));
    one(&pool.handle(Millis(30), Event::Exited { process: first }));
}
