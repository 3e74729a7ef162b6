//! When a group gets another process, and when one that nobody uses goes.

use super::*;

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
