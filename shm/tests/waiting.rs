//! What the views promise to who waits, over real segments in one process.
#![cfg(not(loom))]

mod common;

use common::{instance, until, PARAMS, SMALL};
use passenger_shm::GroupParams;
use std::time::Duration;

const SLICE: Duration = Duration::from_millis(250);
/// Ages of waiters that are served in order, the older first.
const OLD: Duration = Duration::from_millis(20);
const OLDER: Duration = Duration::from_millis(30);

#[test]
fn waiters_are_served_in_order_once_they_are_old() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 1);
    let client = i.client(0);
    let held = client.take(group, None).unwrap();
    let mut first = client.enqueue_again(group, OLDER).unwrap();
    let mut second = client.enqueue_again(group, OLD).unwrap();
    assert_eq!(client.queue(group).length, 2);
    assert!(first.since() >= OLDER && second.since() >= OLD);
    held.release();
    assert_eq!(i.agent.load(process).granted, 1);
    assert!(client.take(group, None).is_err());
    assert!(second.wait(Duration::ZERO).is_none());
    let seat = first.wait(SLICE).expect("the seat was given to it");
    assert!(first.wait(SLICE).is_none(), "one seat for one waiter");
    seat.release();
    // A seat that is free without anybody having handed it over: newcomers still queue behind.
    let seat = second.wait(SLICE).unwrap();
    assert_eq!(i.agent.queue(group).length, 0);
    seat.release();
}

#[test]
fn a_newcomer_that_looks_gives_a_free_seat_to_an_elder() {
    let i = instance(&SMALL);
    let group = i.group();
    let client = i.client(0);
    let mut elder = client.enqueue_again(group, OLD).unwrap();
    i.process(group, 1);
    assert!(
        client.take(group, None).is_err(),
        "an old waiter stands before it"
    );
    let mut newcomer = client.enqueue(group).unwrap();
    assert!(newcomer.wait(Duration::ZERO).is_none());
    elder.wait(Duration::ZERO).unwrap().release();
    newcomer.wait(Duration::ZERO).unwrap().release();
}

#[test]
fn leaving_passes_the_grant_on() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 1);
    let client = i.client(0);
    let held = client.take(group, None).unwrap();
    let first = client.enqueue_again(group, OLDER).unwrap();
    let mut second = client.enqueue_again(group, OLD).unwrap();
    held.release();
    drop(first);
    second
        .wait(Duration::ZERO)
        .expect("the first one's seat")
        .release();
    assert!(i.agent.load(process).is_idle());
}

#[test]
fn sleepers_wake_for_releases_publications_and_failures() {
    let i = instance(&SMALL);
    let group = i.group();
    let client = i.client(0);
    let all = 20;
    std::thread::scope(|scope| {
        for _ in 0..all {
            scope.spawn(|| {
                let mut waiter = client.enqueue(group).unwrap();
                until("a seat", || match waiter.wait(SLICE) {
                    Some(seat) => {
                        seat.release();
                        true
                    }
                    None => false,
                });
            });
        }
        until("all wait", || i.agent.queue(group).length == all);
        i.agent.note_spawn_failure(group);
        i.process(group, 2);
    });
    assert_eq!(i.module.group(group).unwrap().spawn_failures, 1);
    assert_eq!(i.agent.queue(group).length, 0);
}

#[test]
fn the_queue_is_full_at_its_limit_and_never_by_the_dead() {
    let i = instance(&SMALL);
    let group = i.group();
    i.agent.update_group(
        group,
        &GroupParams {
            queue_limit: 2,
            ..PARAMS
        },
    );
    let (one, two) = (i.client(1), i.client(2));
    std::mem::forget(one.enqueue(group).unwrap());
    let _second = two.enqueue(group).unwrap();
    let full = two.enqueue(group).unwrap_err();
    assert_eq!(full.length, 2);
    assert_eq!(i.watchdog.sweep(one.id()).cells, 1);
    drop(two.enqueue(group).unwrap());
    i.agent.update_group(group, &PARAMS);
    let all: Vec<_> = std::iter::from_fn(|| two.enqueue(group).ok()).collect();
    assert_eq!(all.len() + 1, usize::from(SMALL.cells));
}

#[test]
fn sweeping_orphans_the_held_and_passes_on_the_granted() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 2);
    let (dead, alive) = (i.client(1), i.client(2));
    std::mem::forget(dead.take(group, None).unwrap());
    let held = alive.take(group, None).unwrap();
    std::mem::forget(dead.enqueue_again(group, OLDER).unwrap());
    let mut waiter = alive.enqueue_again(group, OLD).unwrap();
    held.release();
    assert!(waiter.wait(Duration::ZERO).is_none(), "the dead one has it");
    let sweep = i.watchdog.sweep(dead.id());
    assert_eq!((sweep.orphaned, sweep.cells), (1, 1));
    waiter.wait(Duration::ZERO).unwrap().release();
    let load = i.agent.load(process);
    assert_eq!((load.held, load.granted, load.orphans), (0, 0, 1));
    assert_eq!(i.watchdog.sweep(dead.id()), passenger_shm::Sweep::default());
}

#[test]
fn grants_that_nobody_picks_up_are_revoked() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 1);
    let (stopped, alive) = (i.client(1), i.client(2));
    let held = alive.take(group, None).unwrap();
    let mut asleep = stopped.enqueue_again(group, OLD).unwrap();
    held.release();
    assert_eq!(
        i.agent.revoke_stale_grants(Duration::from_millis(1)),
        0,
        "first seen now"
    );
    until("the grant to be stale", || {
        i.agent.revoke_stale_grants(Duration::from_millis(1)) == 1
    });
    let seat = alive
        .take(group, None)
        .expect("the sleeper's cell no longer waits");
    // It wakes up: no seat, but its place in the queue.
    assert!(asleep.wait(Duration::ZERO).is_none());
    seat.release();
    asleep.wait(Duration::ZERO).unwrap().release();
    assert!(i.agent.load(process).is_idle());
}

#[test]
fn a_request_that_waited_before_keeps_its_place() {
    let i = instance(&SMALL);
    let group = i.group();
    i.process(group, 1);
    let client = i.client(0);
    let held = client.take(group, None).unwrap();
    let mut first = client.enqueue(group).unwrap();
    let mut again = client.enqueue_again(group, Duration::from_secs(1)).unwrap();
    held.release();
    assert!(first.wait(Duration::ZERO).is_none());
    again.wait(Duration::ZERO).unwrap().release();
    first.wait(Duration::ZERO).unwrap().release();
}

#[test]
fn who_finds_no_room_is_counted_until_the_group_is_gone() {
    let i = instance(&SMALL);
    let group = i.group();
    let params = GroupParams {
        queue_limit: 1,
        ..PARAMS
    };
    i.agent.update_group(group, &params);
    let client = i.client(0);
    assert_eq!(i.agent.rejected(group), 0);
    let first = client.enqueue(group).unwrap();
    assert!(client.enqueue(group).is_err() && client.enqueue(group).is_err());
    assert_eq!(i.agent.rejected(group), 2);
    drop(first);
    client.enqueue(group).unwrap();
    assert_eq!(i.agent.rejected(group), 2, "that one found room");
    i.agent.remove_group(group);
    assert_eq!(i.agent.rejected(group), 0);
    assert_eq!(i.agent.rejected(i.group()), 0, "the slot begins anew");
}
