//! Processes and groups on their way out.

use super::*;

#[test]
fn an_ending_process_is_urged_on_in_steps_and_only_after_its_seats_were_seen_free() {
    let mut pool = pool(6);
    let process = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, process);
    let commands = pool.handle(Millis(20), Event::LeaveAsked { process });
    // It leaves, so the minimum is short by one.
    assert_eq!(commands[0], Command::Drain { process });
    one(&commands);
    assert_eq!(
        busy(&mut pool, 30, process, 1, 0),
        vec![],
        "a worker took a seat in between"
    );
    assert_eq!(
        busy(&mut pool, 40, process, 0, 1),
        vec![Command::AskToStop { process }]
    );
    assert_eq!(pool.handle(Millis(5_039), Event::Tick), vec![]);
    assert_eq!(
        pool.handle(Millis(5_040), Event::Tick),
        vec![Command::Terminate { process }]
    );
    assert_eq!(
        pool.handle(Millis(60_040), Event::Tick),
        vec![Command::Kill { process }]
    );
    assert_eq!(
        pool.handle(Millis(99_000), Event::Exited { process }),
        vec![]
    );
}

#[test]
fn stop_asks_then_kills_then_finishes_once() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 2));
    let starting = one(&ready(&mut pool, 10, first));
    let commands = pool.handle(
        Millis(100),
        Event::Stop {
            deadline_ms: 10_000,
        },
    );
    assert_eq!(
        commands,
        vec![
            Command::Drain { process: first },
            Command::Kill { process: starting }
        ]
    );
    assert_eq!(busy(&mut pool, 110, first, 1, 0), vec![]);
    assert_eq!(
        pool.handle(Millis(5_100), Event::Tick),
        vec![Command::AskToStop { process: first }]
    );
    assert_eq!(
        pool.handle(Millis(5_101), Event::SpawnFailed { process: starting }),
        vec![]
    );
    let terminate = vec![Command::Terminate { process: first }];
    assert_eq!(
        pool.handle(Millis(7_600), Event::Tick),
        terminate,
        "a quarter of the deadline later"
    );
    assert_eq!(
        pool.handle(Millis(9_100), Event::Tick),
        vec![Command::Kill { process: first }]
    );
    let done = pool.handle(Millis(9_200), Event::Exited { process: first });
    assert_eq!(done, vec![Command::Finished]);
    assert_eq!(pool.handle(Millis(9_300), Event::Tick), vec![]);
}

#[test]
fn a_group_that_is_gone_ends_soon_after_its_last_request_whatever_the_idle_time() {
    let mut pool = Pool::new(PoolLimits {
        max_processes: 6,
        idle_ms: None,
        stream_drain_ms: 10_000,
        request_drain_ms: Some(600_000),
    });
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    let limits = GroupLimits {
        confirmed: false,
        ..limits(1)
    };
    let group = GROUP;
    pool.handle(Millis(100), Event::GroupChanged { group, limits });
    pool.handle(Millis(100), Event::GroupGone { group });
    assert_eq!(pool.handle(Millis(4_000), Event::Tick), vec![]);
    let drained = pool.handle(Millis(5_100), Event::Tick);
    assert_eq!(drained, vec![Command::Drain { process: first }]);
    let forgotten = pool.handle(Millis(5_200), Event::Exited { process: first });
    assert_eq!(forgotten, vec![Command::Forget { group }]);
}

#[test]
fn an_unconfirmed_group_serves_on_and_is_forgotten_when_nobody_came_back() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    let limits = GroupLimits {
        confirmed: false,
        ..limits(1)
    };
    pool.handle(
        Millis(100),
        Event::GroupChanged {
            group: GROUP,
            limits,
        },
    );
    let drained = pool.handle(Millis(300_010), Event::Tick);
    assert_eq!(drained, vec![Command::Drain { process: first }]);
    assert_eq!(
        pool.handle(Millis(300_020), Event::Exited { process: first }),
        vec![]
    );
    assert_eq!(
        pool.handle(Millis(300_100), Event::Tick),
        vec![Command::Forget { group: GROUP }]
    );
    assert!(!pool.has_group(GROUP));
}

#[test]
fn a_process_that_ends_keeps_its_streams_until_workers_closed_them_or_had_the_time() {
    for (are_closed_at, asked_at) in [(5_500, 5_500), (u64::MAX, 15_000)] {
        let mut pool = pool(6);
        add(&mut pool, 0, GROUP, 0);
        let process = one(&pool.handle(Millis(0), Event::Demand { group: GROUP }));
        ready(&mut pool, 10, process);
        streams(&mut pool, 20, process, 2);
        pool.handle(Millis(1_000), Event::LeaveAsked { process });
        for now in (1_500..=asked_at).step_by(500) {
            let left = u32::from(now < are_closed_at);
            let expected = match now == asked_at {
                true => vec![Command::AskToStop { process }],
                false => vec![],
            };
            assert_eq!(streams(&mut pool, now, process, left), expected, "at {now}");
        }
    }
}

#[test]
fn requests_of_an_ending_process_have_a_deadline() {
    let mut pool = pool(6);
    add(&mut pool, 0, GROUP, 0);
    let process = one(&pool.handle(Millis(0), Event::Demand { group: GROUP }));
    ready(&mut pool, 10, process);
    pool.handle(Millis(1_000), Event::LeaveAsked { process });
    assert_eq!(busy(&mut pool, 600_999, process, 1, 0), vec![]);
    assert_eq!(
        busy(&mut pool, 601_000, process, 1, 0),
        vec![
            Command::DrainOverdue { process },
            Command::AskToStop { process }
        ]
    );
    let terminate = vec![Command::Terminate { process }];
    assert_eq!(busy(&mut pool, 606_000, process, 1, 0), terminate);
    let kill = vec![Command::Kill { process }];
    assert_eq!(busy(&mut pool, 611_000, process, 1, 0), kill);
}

#[test]
fn requests_of_an_ending_process_have_less_time_while_a_group_without_any_waits_for_its_place() {
    for (starves, at) in [(true, 61_000), (false, 601_000)] {
        let mut pool = pool(1);
        let process = one(&add(&mut pool, 0, GROUP, 1));
        ready(&mut pool, 10, process);
        add(&mut pool, 20, OTHER, 0);
        busy(&mut pool, 30, process, 1, 0);
        pool.handle(Millis(1_000), Event::LeaveAsked { process });
        if starves {
            waits(&mut pool, 1_010, OTHER, 1, 5);
        } else {
            let limits = GroupLimits {
                min_instances: 0,
                ..limits(0)
            };
            pool.handle(
                Millis(1_010),
                Event::GroupChanged {
                    group: GROUP,
                    limits,
                },
            );
        }
        assert_eq!(busy(&mut pool, at - 1, process, 1, 0), vec![]);
        let overdue = busy(&mut pool, at, process, 1, 0);
        assert_eq!(overdue[0], Command::DrainOverdue { process });
    }
}

#[test]
fn a_long_request_does_not_end_for_a_place_that_an_idle_process_gives() {
    let mut pool = pool(3);
    let draining = one(&add(&mut pool, 0, GROUP, 1));
    let limits = GroupLimits {
        max_instances: 1,
        ..limits(1)
    };
    let group = GROUP;
    pool.handle(Millis(5), Event::GroupChanged { group, limits });
    ready(&mut pool, 10, draining);
    busy(&mut pool, 20, draining, 1, 0);
    let process = draining;
    let idle = one(&pool.handle(Millis(30), Event::LeaveAsked { process }));
    ready(&mut pool, 40, idle);
    let third = one(&add(&mut pool, 50, GroupId(3), 1));
    ready(&mut pool, 60, third);
    add(&mut pool, 61_000, OTHER, 0);
    busy(&mut pool, 61_010, third, 1, 0);
    busy(&mut pool, 61_020, draining, 1, 0);
    let commands = waits(&mut pool, 61_030, OTHER, 1, 5);
    assert_eq!(commands, vec![Command::Drain { process: idle }]);
    // It is told to stop, and has not gone yet.
    let process = idle;
    let asked = vec![Command::AskToStop { process }];
    assert_eq!(busy(&mut pool, 61_040, idle, 0, 0), asked);
    assert_eq!(busy(&mut pool, 61_050, draining, 1, 0), vec![]);
}

#[test]
fn one_place_costs_one_long_request_that_of_the_process_that_had_most_time() {
    let mut pool = pool(2);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    busy(&mut pool, 20, first, 1, 0);
    let second = one(&pool.handle(Millis(30), Event::LeaveAsked { process: first }));
    ready(&mut pool, 40, second);
    busy(&mut pool, 50, second, 1, 0);
    pool.handle(Millis(60), Event::LeaveAsked { process: second });
    busy(&mut pool, 70, first, 1, 0);
    busy(&mut pool, 80, second, 1, 0);
    add(&mut pool, 61_000, OTHER, 0);
    let limits = GroupLimits {
        min_instances: 0,
        ..limits(0)
    };
    let group = GROUP;
    pool.handle(Millis(61_000), Event::GroupChanged { group, limits });
    let commands = waits(&mut pool, 61_010, OTHER, 1, 5);
    let process = first;
    let expected = vec![
        Command::DrainOverdue { process },
        Command::AskToStop { process },
    ];
    assert_eq!(commands, expected);
    assert_eq!(busy(&mut pool, 61_020, second, 1, 0), vec![]);
}

/// The last request of a group that is gone takes long; nobody else is expected.
#[test]
fn a_group_that_is_gone_gets_no_process_beside_its_last_request() {
    let group = GROUP;
    let after_a_long_request = |is_gone: bool| {
        let mut pool = pool(6);
        let first = one(&add(&mut pool, 0, group, 1));
        ready(&mut pool, 10, first);
        busy(&mut pool, 20, first, 1, 0);
        if is_gone {
            let limits = GroupLimits {
                confirmed: false,
                ..limits(1)
            };
            pool.handle(Millis(100), Event::GroupChanged { group, limits });
            pool.handle(Millis(100), Event::GroupGone { group });
        }
        busy(&mut pool, 60_000, first, 1, 0)
    };
    assert!(matches!(
        after_a_long_request(false)[..],
        [Command::Spawn { .. }]
    ));
    assert_eq!(after_a_long_request(true), vec![]);
}
