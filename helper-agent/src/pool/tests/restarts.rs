//! New code, and processes that are replaced.

use super::*;

#[test]
fn a_restart_replaces_every_process_without_a_gap() {
    let mut pool = pool(3);
    let first = one(&add(&mut pool, 0, GROUP, 2));
    let second = one(&ready(&mut pool, 1, first));
    ready(&mut pool, 2, second);
    let third = one(&pool.handle(Millis(10), Event::Restart { group: GROUP }));
    let commands = ready(&mut pool, 20, third);
    assert_eq!(
        commands,
        vec![Command::Drain { process: second }],
        "newest old one first"
    );
    let fourth = one(&pool.handle(Millis(30), Event::Exited { process: second }));
    assert_eq!(
        ready(&mut pool, 40, fourth),
        vec![Command::Drain { process: first }]
    );
    assert_eq!(
        pool.handle(Millis(50), Event::Exited { process: first }),
        vec![]
    );
    assert_eq!(pool.size(), 2);
}

#[test]
fn a_restart_in_a_full_pool_gives_up_a_process_of_its_own() {
    let mut pool = pool(1);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 1, first);
    let commands = pool.handle(Millis(10), Event::Restart { group: GROUP });
    assert_eq!(commands, vec![Command::Drain { process: first }]);
    one(&pool.handle(Millis(20), Event::Exited { process: first }));
}

#[test]
fn a_start_from_before_a_restart_never_joins() {
    let mut pool = pool(3);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    let commands = pool.handle(Millis(10), Event::Restart { group: GROUP });
    assert_eq!(commands[0], Command::Kill { process: first });
    let second = one(&commands);
    assert_eq!(
        pool.handle(Millis(20), Event::SpawnFailed { process: first }),
        vec![],
        "nobody is told of an end that was wanted"
    );
    assert_eq!(ready(&mut pool, 30, second), vec![]);
}

fn restart_with(rolling: Rolling, resists_errors: bool) -> (Pool, ProcessId, Vec<Command>) {
    let mut pool = pool(4);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    let limits = GroupLimits {
        rolling,
        resists_errors,
        ..limits(1)
    };
    let group = GROUP;
    pool.handle(Millis(20), Event::GroupChanged { group, limits });
    let commands = pool.handle(Millis(30), Event::Restart { group });
    (pool, first, commands)
}

#[test]
fn requests_wait_for_the_code_of_a_fast_app_for_a_moment() {
    let group = GROUP;
    let (mut pool, _, commands) = restart_with(Rolling::Auto, true);
    let wait = CodeWait::Briefly(1_000);
    assert_eq!(commands[0], Command::AwaitCode { group, wait });
    let wait = CodeWait::No;
    assert_eq!(pool.handle(Millis(1_029), Event::Tick), vec![]);
    assert_eq!(
        pool.handle(Millis(1_030), Event::Tick),
        vec![Command::AwaitCode { group, wait }]
    );
}

#[test]
fn how_fast_a_process_is_forked_says_nothing_of_how_long_new_code_takes_to_load() {
    let group = GROUP;
    for (has_loaded, waits) in [(false, false), (true, true)] {
        let mut pool = pool(6);
        let limits = GroupLimits {
            rolling: Rolling::Auto,
            ..limits(2)
        };
        let commands = pool.handle(Millis(0), Event::GroupAdded { group, limits });
        let commands = ready(&mut pool, 5_000, one(&commands));
        let forked = Event::SpawnReady {
            process: one(&commands),
            concurrency: 1,
            has_loaded,
        };
        pool.handle(Millis(5_010), forked);
        let commands = pool.handle(Millis(9_000), Event::Restart { group });
        let is_wait = |c: &Command| matches!(c, Command::AwaitCode { .. });
        assert_eq!(commands.iter().any(is_wait), waits);
    }
}

#[test]
fn with_rolling_off_all_old_processes_end_when_the_first_new_one_is_ready() {
    let group = GROUP;
    let (mut pool, first, commands) = restart_with(Rolling::Off, true);
    let wait = CodeWait::Always;
    assert_eq!(commands[0], Command::AwaitCode { group, wait });
    let second = one(&commands);
    let wait = CodeWait::No;
    assert_eq!(
        ready(&mut pool, 9_000, second),
        vec![
            Command::Drain { process: first },
            Command::AwaitCode { group, wait }
        ]
    );
}

#[test]
fn new_code_that_does_not_start_leaves_the_old_serving_and_says_so_once() {
    let group = GROUP;
    let (mut pool, _, commands) = restart_with(Rolling::On, true);
    let failed = Event::SpawnFailed {
        process: one(&commands),
    };
    let commands = pool.handle(Millis(50), failed);
    assert_eq!(
        commands,
        vec![Command::NoteFailure { group }, Command::KeptOld { group }]
    );
    assert_eq!(pool.handle(Millis(900_000), Event::Tick), vec![]);
    one(&pool.handle(Millis(900_001), Event::Restart { group }));
}

#[test]
fn without_resistance_new_code_that_does_not_start_ends_the_old() {
    let group = GROUP;
    let (mut pool, first, commands) = restart_with(Rolling::On, false);
    let failed = Event::SpawnFailed {
        process: one(&commands),
    };
    let commands = pool.handle(Millis(50), failed);
    let process = first;
    assert_eq!(
        commands,
        vec![Command::NoteFailure { group }, Command::Drain { process }]
    );
}

#[test]
fn a_retiring_process_serves_until_another_is_ready() {
    let mut pool = pool(4);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    let second = one(&pool.handle(Millis(20), Event::Retire { process: first }));
    assert_eq!(
        ready(&mut pool, 30, second),
        vec![Command::Drain { process: first }]
    );
}

#[test]
fn a_restart_in_a_full_pool_goes_on_while_requests_wait() {
    let mut pool = pool(1);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    pool.handle(Millis(1_000), Event::Restart { group: GROUP });
    busy(&mut pool, 1_010, first, 1, 0);
    // Found by schedule 2956 of the simulation: wanting to grow must not hide that old code runs.
    let commands = waits(&mut pool, 1_020, GROUP, 5, 500);
    let drains = [Command::Drain { process: first }];
    let is_known = commands.contains(&drains[0]);
    assert!(
        is_known || pool.processes[&first].is_ending(),
        "{commands:?}"
    );
}

#[test]
fn who_asks_for_a_roll_gets_one_whatever_is_configured() {
    let group = GROUP;
    let mut pool = pool(4);
    let first = one(&add(&mut pool, 0, GROUP, 2));
    let second = one(&ready(&mut pool, 10, first));
    ready(&mut pool, 20, second);
    let limits = GroupLimits {
        rolling: Rolling::Off,
        ..limits(2)
    };
    pool.handle(Millis(30), Event::GroupChanged { group, limits });
    let new = one(&pool.handle(Millis(40), Event::Roll { group }));
    let commands = ready(&mut pool, 50, new);
    assert_eq!(commands[0], Command::Drain { process: second });
    assert!(!commands.contains(&Command::Drain { process: first }));
    // The next restart is an ordinary one.
    pool.handle(Millis(60), Event::Exited { process: second });
    let commands = pool.handle(Millis(70), Event::Restart { group });
    let wait = CodeWait::Always;
    assert!(commands.contains(&Command::AwaitCode { group, wait }));
}
