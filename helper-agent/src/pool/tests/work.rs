//! Out-of-band work.

use super::*;

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
