//! Single decisions of the pool, told as short stories. Random schedules are in
//! `tests/pool_properties.rs`.

use super::*;

const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);

fn pool(max: u32) -> Pool {
    Pool::new(PoolLimits {
        max_processes: max,
        idle_ms: Some(300_000),
        stream_drain_ms: 10_000,
        request_drain_ms: Some(600_000),
    })
}

fn limits(min: u32) -> GroupLimits {
    GroupLimits {
        min_instances: min,
        max_instances: 0,
        confirmed: true,
        rolling: Rolling::On,
        resists_errors: true,
    }
}

fn add(pool: &mut Pool, now: u64, group: GroupId, min: u32) -> Vec<Command> {
    pool.handle(
        Millis(now),
        Event::GroupAdded {
            group,
            limits: limits(min),
        },
    )
}

fn waits(pool: &mut Pool, now: u64, group: GroupId, waiting: u32, oldest_ms: u64) -> Vec<Command> {
    let queues = vec![(group, QueueSeen { waiting, oldest_ms })];
    pool.handle(
        Millis(now),
        Event::Looked(Observation {
            queues,
            loads: vec![],
        }),
    )
}

fn busy(pool: &mut Pool, now: u64, process: ProcessId, in_use: u32, orphans: u32) -> Vec<Command> {
    let loads = vec![(
        process,
        LoadSeen {
            in_use,
            orphans,
            streams: 0,
            takes: 7,
        },
    )];
    pool.handle(
        Millis(now),
        Event::Looked(Observation {
            queues: vec![],
            loads,
        }),
    )
}

fn ready(pool: &mut Pool, now: u64, process: ProcessId) -> Vec<Command> {
    pool.handle(
        Millis(now),
        Event::SpawnReady {
            process,
            concurrency: 1,
            has_loaded: true,
        },
    )
}

fn spawned(commands: &[Command]) -> Vec<ProcessId> {
    let spawned = |c: &Command| match c {
        Command::Spawn { process, .. } => Some(*process),
        _ => None,
    };
    commands.iter().filter_map(spawned).collect()
}

fn one(commands: &[Command]) -> ProcessId {
    match spawned(commands)[..] {
        [process] => process,
        _ => panic!("expected exactly one spawn, got {commands:?}"),
    }
}

#[test]
fn a_group_gets_its_minimum_one_after_the_other() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 2));
    let second = one(&ready(&mut pool, 10, first));
    assert_eq!(ready(&mut pool, 20, second), vec![]);
}

#[test]
fn without_a_minimum_only_demand_starts_a_process() {
    let mut pool = pool(6);
    assert_eq!(add(&mut pool, 0, GROUP, 0), vec![]);
    one(&pool.handle(Millis(1), Event::Demand { group: GROUP }));
    assert_eq!(
        pool.handle(Millis(2), Event::Demand { group: GROUP }),
        vec![]
    );
}

#[test]
fn a_queue_starts_another_process_up_to_the_limit() {
    let mut pool = pool(2);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    waits(&mut pool, 5, GROUP, 9, 500);
    assert_eq!(
        ready(&mut pool, 10, first),
        vec![],
        "the queue is on its way into it"
    );
    assert_eq!(waits(&mut pool, 40, GROUP, 8, 530), vec![]);
    let second = one(&busy(&mut pool, 60, first, 1, 0));
    ready(&mut pool, 70, second);
    assert_eq!(
        waits(&mut pool, 500, GROUP, 1, 90),
        vec![],
        "the pool is full"
    );
}

#[test]
fn short_requests_one_after_the_other_need_no_second_process() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    for now in 1..100 {
        let loads = vec![(
            first,
            LoadSeen {
                in_use: 1,
                orphans: 0,
                streams: 0,
                takes: now,
            },
        )];
        let looked = Event::Looked(Observation {
            queues: vec![],
            loads,
        });
        assert_eq!(
            pool.handle(Millis(now * 1_000), looked),
            vec![],
            "at {now} s"
        );
    }
}

#[test]
fn seats_taken_for_long_start_another_process_before_anybody_waits() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    assert_eq!(busy(&mut pool, 20, first, 1, 0), vec![]);
    assert_eq!(busy(&mut pool, 1_019, first, 1, 0), vec![]);
    one(&busy(&mut pool, 1_020, first, 0, 1));
}

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
fn idle_processes_are_reaped_down_to_the_minimum() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    busy(&mut pool, 15, first, 1, 0);
    let second = one(&busy(&mut pool, 1_020, first, 1, 0));
    ready(&mut pool, 1_030, second);
    busy(&mut pool, 1_040, first, 0, 0);
    assert_eq!(pool.handle(Millis(301_019), Event::Tick), vec![]);
    let drained = pool.handle(Millis(301_020), Event::Tick);
    assert_eq!(
        drained,
        vec![Command::Drain { process: first }],
        "unused for longest"
    );
    assert_eq!(
        pool.handle(Millis(900_000), Event::Tick),
        vec![],
        "the minimum stays"
    );
}

#[test]
fn a_process_used_between_two_looks_is_not_idle() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 0)
        .into_iter()
        .chain(pool.handle(Millis(0), Event::Demand { group: GROUP }))
        .collect::<Vec<_>>());
    ready(&mut pool, 10, first);
    for (now, takes) in [(200_000, 1), (400_000, 2), (600_000, 3)] {
        let loads = vec![(
            first,
            LoadSeen {
                in_use: 0,
                orphans: 0,
                streams: 0,
                takes,
            },
        )];
        let commands = pool.handle(
            Millis(now),
            Event::Looked(Observation {
                queues: vec![],
                loads,
            }),
        );
        assert_eq!(commands, vec![], "at {now}");
    }
}

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
fn adopted_processes_count_and_are_not_started_again() {
    let mut pool = pool(6);
    let process = ProcessId(40);
    pool.handle(
        Millis(0),
        Event::GroupAdded {
            group: GROUP,
            limits: GroupLimits {
                min_instances: 0,
                ..limits(0)
            },
        },
    );
    let adopted = Event::Adopted {
        away: false,
        group: GROUP,
        process,
        concurrency: 1,
        draining: false,
        outdated: false,
    };
    assert_eq!(pool.handle(Millis(0), adopted), vec![]);
    assert_eq!(
        pool.handle(
            Millis(0),
            Event::GroupChanged {
                group: GROUP,
                limits: limits(1)
            }
        ),
        vec![]
    );
    assert!(pool.new_process_id() > process);
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

fn streams(pool: &mut Pool, now: u64, process: ProcessId, streams: u32) -> Vec<Command> {
    let seen = LoadSeen {
        streams,
        takes: 7,
        ..LoadSeen::default()
    };
    let look = Observation {
        queues: vec![],
        loads: vec![(process, seen)],
    };
    pool.handle(Millis(now), Event::Looked(look))
}

#[test]
fn a_process_with_nothing_but_streams_is_not_idle() {
    let mut pool = pool(6);
    add(&mut pool, 0, GROUP, 0);
    let process = one(&pool.handle(Millis(0), Event::Demand { group: GROUP }));
    ready(&mut pool, 10, process);
    for now in [100_000, 400_000, 1_000_000] {
        assert_eq!(streams(&mut pool, now, process, 1), vec![], "at {now}");
    }
    // From the last one's end on it is unused like any other.
    assert_eq!(streams(&mut pool, 1_299_999, process, 0), vec![]);
    let drain = Command::Drain { process };
    assert_eq!(streams(&mut pool, 1_300_000, process, 0), vec![drain]);
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
fn a_process_found_at_its_work_is_not_taken_for_one_that_can_serve() {
    let mut pool = pool(2);
    let limits = limits(0);
    pool.handle(
        Millis(0),
        Event::GroupAdded {
            group: GROUP,
            limits,
        },
    );
    let (away, live) = (pool.new_process_id(), pool.new_process_id());
    let adopted = |process, away| Event::Adopted {
        group: GROUP,
        process,
        concurrency: 1,
        draining: false,
        away,
        outdated: false,
    };
    // Nobody else is known at this moment.
    assert_eq!(pool.handle(Millis(1), adopted(away, true)), vec![]);
    assert_eq!(pool.handle(Millis(1), adopted(live, false)), vec![]);
    assert_eq!(
        busy(&mut pool, 2, away, 0, 0),
        vec![Command::Work { process: away }]
    );
    assert_eq!(
        pool.handle(Millis(3), Event::WorkDone { process: away }),
        vec![Command::Resume { process: away }]
    );
}

#[test]
fn work_without_end_is_ended() {
    let mut pool = pool(2);
    let first = one(&add(&mut pool, 0, GROUP, 2));
    let second = one(&ready(&mut pool, 1, first));
    ready(&mut pool, 2, second);
    let wanted = Event::WorkWanted { process: first };
    assert_eq!(
        pool.handle(Millis(3), wanted),
        vec![Command::Rest { process: first }]
    );
    assert_eq!(
        busy(&mut pool, 4, first, 1, 0),
        vec![],
        "a worker still holds a seat"
    );
    assert_eq!(
        busy(&mut pool, 5, first, 0, 0),
        vec![Command::Work { process: first }]
    );
    assert_eq!(pool.handle(Millis(60_004), Event::Tick), vec![]);
    assert_eq!(
        pool.handle(Millis(60_005), Event::Tick),
        vec![
            Command::WorkOverdue { process: first },
            Command::Drain { process: first }
        ]
    );
}

#[test]
fn a_process_with_an_endless_request_serves_on() {
    let mut pool = pool(2);
    let first = one(&add(&mut pool, 0, GROUP, 2));
    let second = one(&ready(&mut pool, 1, first));
    ready(&mut pool, 2, second);
    pool.handle(Millis(3), Event::WorkWanted { process: first });
    assert_eq!(busy(&mut pool, 10_002, first, 1, 0), vec![]);
    assert_eq!(
        busy(&mut pool, 10_003, first, 1, 0),
        vec![Command::Resume { process: first }]
    );
    assert_eq!(
        busy(&mut pool, 70_002, first, 0, 0),
        vec![],
        "not again so soon"
    );
    assert_eq!(
        busy(&mut pool, 70_003, first, 0, 0),
        vec![Command::Rest { process: first }]
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

#[test]
fn who_waits_while_a_seat_is_free_only_wants_a_processor() {
    let mut pool = pool(6);
    let first = one(&add(&mut pool, 0, GROUP, 1));
    ready(&mut pool, 10, first);
    busy(&mut pool, 100, first, 0, 0);
    for now in [200, 2_000, 20_000] {
        assert_eq!(
            waits(&mut pool, now, GROUP, 3, now - 100),
            vec![],
            "at {now}"
        );
    }
    one(&busy(&mut pool, 20_010, first, 1, 0));
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
