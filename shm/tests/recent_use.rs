//! Of equally busy processes the one that was used last gets the request: requests one after the other leave
//! all others idle, whichever that one is.
#![cfg(not(loom))]

mod common;

use std::collections::HashSet;

use common::{instance, Instance, SMALL};
use passenger_shm::{Client, GroupRef, ProcessRef, Seat};
use proptest::prelude::*;

fn used(client: &Client, group: GroupRef) -> ProcessRef {
    let seat = client.take(group, None).expect("a free seat");
    let process = seat.process();
    seat.release();
    process
}

/// Takes a seat at each of `count` processes, in the order in which they were made.
fn all_busy(client: &Client, group: GroupRef, count: usize) -> Vec<Seat<'_>> {
    (0..count)
        .map(|_| client.take(group, None).expect("a free seat"))
        .collect()
}

fn processes(i: &Instance, group: GroupRef, count: usize) -> Vec<ProcessRef> {
    (0..count).map(|_| i.process(group, 1)).collect()
}

#[test]
fn whichever_was_used_last_is_used_again_by_every_worker() {
    let i = instance(&SMALL);
    let group = i.group();
    let all = processes(&i, group, 5);
    let (one, other) = (i.client(0), i.client(1));
    for last in [3, 0, 4] {
        // Everybody else holds a seat, so that this one is taken last.
        let seats = all_busy(&one, group, all.len());
        let wanted = all[last];
        let mut held = Vec::new();
        for seat in seats {
            if seat.process() == wanted {
                seat.release();
            } else {
                held.push(seat);
            }
        }
        assert_eq!(used(&one, group), wanted);
        held.into_iter().for_each(Seat::release);
        for client in [&one, &other, &one] {
            assert_eq!(used(client, group), wanted);
        }
    }
}

#[test]
fn while_the_last_one_is_busy_the_one_before_it_is_used() {
    let i = instance(&SMALL);
    let group = i.group();
    let all = processes(&i, group, 4);
    let client = i.client(0);
    all_busy(&client, group, 4)
        .into_iter()
        .for_each(Seat::release);
    let mut held = Vec::new();
    for wanted in all.iter().rev() {
        let seat = client.take(group, None).expect("a free seat");
        assert_eq!(seat.process(), *wanted, "newest use first");
        held.push(seat);
    }
    held.into_iter().for_each(Seat::release);
}

#[test]
fn a_waiter_that_was_given_a_seat_has_used_it() {
    let i = instance(&SMALL);
    let group = i.group();
    processes(&i, group, 3);
    let client = i.client(0);
    let mut seats = all_busy(&client, group, 3);
    let mut waiter = client.enqueue(group).expect("a place");
    let middle = seats.remove(1);
    let wanted = middle.process();
    middle.release();
    let seat = waiter.wait(std::time::Duration::ZERO).expect("it is free");
    assert_eq!(seat.process(), wanted);
    seat.release();
    drop(waiter);
    seats.into_iter().for_each(Seat::release);
    assert_eq!(used(&client, group), wanted);
}

#[test]
fn a_new_process_in_a_used_slot_is_not_taken_for_the_old_one() {
    let i = instance(&SMALL);
    let group = i.group();
    let all = processes(&i, group, 2);
    let client = i.client(0);
    all_busy(&client, group, 2)
        .into_iter()
        .for_each(Seat::release);
    i.agent.dead(all[1]);
    i.agent.free_process(all[1]);
    assert_eq!(used(&client, group), all[0]);
    assert_eq!(used(&client, group), all[0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happened before, and whatever the seats of a process: requests one after the other need one
    /// process, and a few at a time no more than as many.
    #[test]
    fn light_load_leaves_all_other_processes_idle(
        seats in 0..4u32,
        story in prop::collection::vec((0..8usize, any::<bool>()), 0..60),
        at_once in 1..4usize,
    ) {
        let i = instance(&SMALL);
        let group = i.group();
        for _ in 0..6 {
            i.process(group, seats);
        }
        let (one, other) = (i.client(0), i.client(1));
        let mut held = Vec::new();
        for (nth, is_other) in story {
            if nth < held.len() {
                let seat: Seat<'_> = held.swap_remove(nth);
                seat.release();
            } else if let Ok(seat) = if is_other { &other } else { &one }.take(group, None) {
                held.push(seat);
            }
        }
        held.into_iter().for_each(Seat::release);
        let mut seen = HashSet::new();
        for round in 0..20 {
            let taken: Vec<Seat<'_>> = (0..at_once)
                .map(|_| one.take(group, None).expect("a free seat"))
                .collect();
            seen.extend(taken.iter().map(Seat::process));
            for seat in taken {
                seat.release();
            }
            prop_assert!(seen.len() <= at_once, "{:?} in round {}", seen, round);
        }
    }
}
