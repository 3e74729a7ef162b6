//! What the views promise of seats and processes, over real segments in one process.
#![cfg(not(loom))]

mod common;

use common::{instance, process_params, PARAMS, SMALL};
use passenger_shm::{Busy, ClientId, GroupParams, Hint, OffRoute, ProcessState, Protocol, Seat};

#[test]
fn a_request_takes_a_seat_and_gives_it_back() {
    let i = instance(&SMALL);
    let group = i.group();
    let client = i.client(0);
    assert_eq!(client.take(group, None).unwrap_err(), Busy { live: 0 });
    let process = i.process(group, 2);
    let seat = client.take(group, None).unwrap();
    assert_eq!((seat.process(), seat.protocol()), (process, Protocol::Http));
    let other = client.take(group, None).unwrap();
    assert_ne!(seat.number(), other.number());
    assert_eq!(client.take(group, None).unwrap_err(), Busy { live: 1 });
    assert_eq!(i.agent.load(process).held, 2);
    seat.release();
    assert_eq!(i.agent.load(process).held, 1);
    other.release();
    let load = i.agent.load(process);
    assert!(load.is_idle());
    assert_eq!(load.takes, 2);
    let takes = |load: passenger_shm::Load| load.takes;
    client.take(group, None).unwrap().release();
    assert_ne!(takes(i.agent.load(process)), 2);
}

#[test]
fn the_least_busy_newest_clean_and_not_avoided_process_is_taken() {
    let i = instance(&SMALL);
    let group = i.group();
    let (a, b) = (i.process(group, 3), i.process(group, 3));
    let client = i.client(0);
    let first = client.take(group, None).unwrap();
    let second = client.take(group, None).unwrap();
    assert_ne!(first.process(), second.process(), "least busy");
    let third = client.take(group, Some(first.process())).unwrap();
    let fourth = client.take(group, Some(first.process())).unwrap();
    assert!(
        [&third, &fourth]
            .iter()
            .all(|s| s.process() == second.process()),
        "avoided"
    );
    let fifth = client.take(group, Some(first.process())).unwrap();
    assert_eq!(fifth.process(), first.process(), "better than nothing");
    [second, third, fourth, fifth]
        .into_iter()
        .for_each(Seat::release);
    let orphaned = first.process();
    first.orphan();
    let clean = if orphaned == a { b } else { a };
    let seats: Vec<_> = (0..3).map(|_| client.take(group, None).unwrap()).collect();
    assert!(
        seats.iter().all(|seat| seat.process() == clean),
        "orphan holders come last"
    );
    assert_eq!(client.take(group, None).unwrap().process(), orphaned);
    seats.into_iter().for_each(Seat::release);
    i.agent.update_group(
        group,
        &GroupParams {
            code_generation: 2,
            ..PARAMS
        },
    );
    let new = i.process_of(group, 2, 2);
    let new_seats: Vec<_> = (0..2).map(|_| client.take(group, None).unwrap()).collect();
    assert!(
        new_seats.iter().all(|seat| seat.process() == new),
        "new code first"
    );
    assert!(
        client.take_newest(group).is_err(),
        "older code has room, but that is not what was asked for"
    );
    let glance = client.occupancy(group);
    assert_eq!(glance.iter().filter(|o| o.is_newest).count(), 1);
    assert!(glance
        .iter()
        .all(|o| o.process != new || (o.busy, o.concurrency) == (2, 2)));
    assert_eq!(
        client.take(group, None).unwrap().process(),
        clean,
        "any other when it is full"
    );
}

#[test]
fn only_the_agent_frees_orphans() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 1);
    let client = i.client(0);
    let seat = client.take(group, None).unwrap();
    let number = seat.number();
    drop(seat);
    assert_eq!(i.agent.pop_hint(), Some(Hint::Orphaned(process)));
    assert_eq!(i.agent.load(process).orphans, 1);
    assert!(client.take(group, None).is_err());
    let orphans = i.agent.orphans(process);
    assert_eq!(orphans.len(), 1);
    assert_eq!(orphans[0].number, number);
    assert!(i.agent.free_orphan(process, &orphans[0]));
    assert!(
        !i.agent.free_orphan(process, &orphans[0]),
        "it is not that orphan any more"
    );
    client.take(group, None).unwrap().release();
}

#[test]
fn unlimited_processes_are_counted_per_worker() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 0);
    let (one, two) = (i.client(1), i.client(2));
    let seats: Vec<_> = (0..100)
        .map(|n| [&one, &two][n % 2].take(group, None).unwrap())
        .collect();
    let load = i.agent.load(process);
    assert_eq!((load.held, load.takes), (100, 100));
    let numbers: std::collections::HashSet<_> = seats.iter().map(Seat::number).collect();
    assert_eq!(numbers.len(), 100);
    let sweep = i.watchdog.sweep(ClientId::new(2, 1));
    assert_eq!((sweep.counters, sweep.orphaned, sweep.cells), (50, 0, 0));
    assert_eq!(i.agent.load(process).held, 50);
    seats.into_iter().for_each(Seat::release);
    assert!(i.agent.load(process).is_idle());
    one.take(group, None).unwrap().orphan();
    assert!(i.agent.load(process).is_idle());
    assert_eq!(i.agent.pop_hint(), Some(Hint::Orphaned(process)));
}

#[test]
fn a_process_that_is_away_gets_nothing_until_it_resumes() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 2);
    let client = i.client(0);
    let kept = client.take(group, None).unwrap();
    i.agent.rest(process);
    assert_eq!(i.module.process_state(process), Some(ProcessState::Away));
    assert!(i.module.is_live(process), "whoever waits for it goes on");
    assert_eq!(client.take(group, None).unwrap_err(), Busy { live: 0 });
    assert_eq!(i.agent.load(process).held, 1);
    kept.release();
    assert!(i.agent.load(process).is_idle());
    i.agent.resume(process);
    client.take(group, None).unwrap().release();
    // No way back from the end.
    i.agent.rest(process);
    i.agent.drain(process);
    i.agent.resume(process);
    assert_eq!(
        i.module.process_state(process),
        Some(ProcessState::Draining)
    );
    i.agent.rest(process);
    assert_eq!(client.take(group, None).unwrap_err(), Busy { live: 0 });
}

#[test]
fn a_port_is_told_of_the_process_that_has_it_only() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.agent.reserve_process(group).unwrap();
    let params = process_params(1, 0);
    i.agent.publish(
        process,
        &passenger_shm::ProcessParams {
            port: 8421,
            ..params
        },
    );
    let uid = params.uid;
    let port = passenger_shm::Port { number: 8421, uid };
    assert_eq!(i.module.port(process), Some(port));
    i.agent.free_process(process);
    assert_eq!(i.module.port(process), None);
}

#[test]
fn a_route_leads_to_its_process_and_to_no_other() {
    let i = instance(&SMALL);
    let (group, other) = (i.group(), i.group());
    let (a, b) = (i.process(group, 1), i.process(group, 1));
    let (one, two) = (i.client(1), i.client(2));
    let (to_a, to_b) = (one.route_of(a), one.route_of(b));
    assert_ne!(to_a, to_b);
    assert_eq!(two.route_of(a), to_a, "whoever asks");
    for _ in 0..10 {
        let seat = two.take_on_route(group, to_b).unwrap();
        assert_eq!(seat.process(), b);
        assert_eq!(
            one.take_on_route(group, to_b).unwrap_err(),
            OffRoute::Busy { live: 2 }
        );
        seat.release();
    }
    assert_eq!(one.take_on_route(other, to_a).unwrap_err(), OffRoute::Gone);
    assert_eq!(
        one.take_on_route(group, to_a ^ 1).unwrap_err(),
        OffRoute::Gone
    );
    i.agent.drain(a);
    assert_eq!(one.take_on_route(group, to_a).unwrap_err(), OffRoute::Gone);
}

#[test]
fn a_stream_takes_the_place_of_its_seat_and_is_swept_with_its_worker() {
    let i = instance(&SMALL);
    let group = i.group();
    let (limited, unlimited) = (i.process(group, 1), i.process(group, 0));
    let (one, two) = (i.client(1), i.client(2));
    let mut streams = Vec::new();
    for client in [&one, &two] {
        for _ in 0..3 {
            streams.push(client.take(group, None).unwrap().into_stream());
        }
    }
    let (a, b) = (i.agent.load(limited), i.agent.load(unlimited));
    assert!(
        a.is_idle() && b.is_idle(),
        "no request is in them: {a:?} {b:?}"
    );
    assert_eq!((a.streams, b.streams), (3, 3), "evenly spread");
    assert_eq!(i.inspect.snapshot().processes[0].1.unwrap().streams, 3);
    one.take(group, None).unwrap().release();

    let sweep = i.watchdog.sweep(one.id());
    assert_eq!((sweep.streams, sweep.counters, sweep.orphaned), (3, 0, 0));
    assert_eq!(i.watchdog.sweep(one.id()).streams, 0);
    // Those of the swept worker change nothing when they end after all.
    drop(streams);
    assert_eq!(
        i.agent.load(limited).streams + i.agent.load(unlimited).streams,
        0
    );
}

#[test]
fn a_stream_of_a_process_that_is_gone_is_not_the_next_ones() {
    let i = instance(&SMALL);
    let group = i.group();
    let first = i.process(group, 0);
    let client = i.client(0);
    let stream = client.take(group, None).unwrap().into_stream();
    assert_eq!(stream.process(), first);
    i.agent.dead(first);
    i.agent.free_process(first);
    let again = (0..)
        .map(|_| i.process(group, 0))
        .inspect(|p| {
            if p.slot() != first.slot() {
                i.agent.free_process(*p);
            }
        })
        .find(|p| p.slot() == first.slot())
        .unwrap();
    assert_eq!(i.agent.load(again).streams, 0);
    let own = client.take(group, None).unwrap().into_stream();
    drop(stream);
    assert_eq!(i.agent.load(again).streams, 1);
    drop(own);
    assert_eq!(i.agent.load(again).streams, 0);
}

#[test]
fn draining_dead_and_reused_processes_get_nothing() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 2);
    let client = i.client(0);
    let (kept, lost) = (
        client.take(group, None).unwrap(),
        client.take(group, None).unwrap(),
    );
    i.agent.drain(process);
    kept.release();
    assert_eq!(
        i.module.process_state(process),
        Some(ProcessState::Draining)
    );
    assert!(i.module.is_live(process));
    assert_eq!(client.take(group, None).unwrap_err(), Busy { live: 0 });
    i.agent.dead(process);
    assert!(!i.module.is_live(process));
    i.agent.free_process(process);
    assert!(!i.module.is_live(process) && i.module.process_state(process).is_none());
    // Round the table until the slot comes again.
    let again = (0..)
        .map(|_| i.process(group, 2))
        .inspect(|p| {
            if p.slot() != process.slot() {
                i.agent.free_process(*p);
            }
        })
        .find(|p| p.slot() == process.slot())
        .unwrap();
    assert_eq!(again.generation(), process.generation() + 1);
    let fresh = [
        client.take(group, None).unwrap(),
        client.take(group, None).unwrap(),
    ];
    lost.release();
    assert_eq!(
        i.agent.load(again).held,
        2,
        "a stale release frees nobody's seat"
    );
    assert!(!i.module.is_live(process) && i.module.is_live(again));
    fresh.into_iter().for_each(Seat::release);
}
