//! Groups that want the same places.

use super::*;

#[test]
fn a_starved_group_takes_the_place_of_an_idle_process() {
    let mut pool = pool(1);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    add(&mut pool, 20, OTHER, 1);
    let commands = waits(&mut pool, 30, OTHER, 1, 5);
    assert_eq!(commands, vec![Command::Drain { process: first }]);
    assert_eq!(
        busy(&mut pool, 40, first, 0, 0),
        vec![Command::AskToStop { process: first }]
    );
    let commands = pool.handle(Millis(50), Event::Exited { process: first });
    assert!(
        matches!(commands[..], [Command::Spawn { group: OTHER, .. }]),
        "{commands:?}"
    );
}

#[test]
fn a_starved_group_takes_the_place_of_a_busy_process_after_its_residence() {
    let mut pool = pool(1);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 700, first);
    add(&mut pool, 710, OTHER, 1);
    busy(&mut pool, 720, first, 1, 0);
    assert_eq!(
        waits(&mut pool, 2_000, OTHER, 1, 5),
        vec![],
        "it took 700 ms to start"
    );
    let commands = waits(&mut pool, 2_100, OTHER, 1, 105);
    assert_eq!(commands, vec![Command::Drain { process: first }]);
}

#[test]
fn a_process_stuck_while_it_drains_is_not_counted_upon_to_make_room() {
    let mut pool = pool(2);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    busy(&mut pool, 20, first, 1, 0);
    let second = one(&busy(&mut pool, 1_020, first, 1, 0));
    ready(&mut pool, 1_030, second);
    busy(&mut pool, 1_040, second, 1, 0);
    add(&mut pool, 1_050, OTHER, 1);
    let drained = waits(&mut pool, 1_060, OTHER, 1, 5);
    assert_eq!(drained, vec![Command::Drain { process: first }]);
    assert_eq!(
        waits(&mut pool, 3_000, OTHER, 1, 1_945),
        vec![],
        "it may still finish"
    );
    let drained = waits(&mut pool, 6_100, OTHER, 1, 5_045);
    assert_eq!(drained, vec![Command::Drain { process: second }]);
}

#[test]
fn a_process_that_nobody_needs_gives_way_to_a_group_whose_requests_wait() {
    let mut pool = pool(3);
    let rich = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, rich);
    busy(&mut pool, 20, rich, 1, 0);
    let spare = one(&waits(&mut pool, 100, GROUP, 1, 50));
    ready(&mut pool, 110, spare);
    waits(&mut pool, 120, GROUP, 0, 0);
    for process in [rich, spare] {
        busy(&mut pool, 130, process, 0, 0);
    }
    let poor = one(&add(&mut pool, 200, OTHER, 1));
    ready(&mut pool, 210, poor);
    busy(&mut pool, 300, poor, 1, 0);
    assert_eq!(
        waits(&mut pool, 1_000, OTHER, 3, 500),
        [],
        "it was used a moment ago"
    );
    let commands = waits(&mut pool, 11_000, OTHER, 3, 10_500);
    let ended: Vec<_> = commands
        .iter()
        .filter(|c| matches!(c, Command::Drain { .. }))
        .collect();
    assert_eq!(ended.len(), 1, "{commands:?}");
    let commands = waits(&mut pool, 21_000, OTHER, 3, 20_500);
    let more = |c: &&Command| matches!(c, Command::Drain { .. });
    assert_eq!(commands.iter().filter(more).count(), 0, "the minimum stays");
}
