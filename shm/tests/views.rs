//! What the views promise, over real segments in one process.
#![cfg(not(loom))]

mod common;

use common::{instance, process_params, until, PARAMS, SMALL};
use passenger_shm::{
    AgentView, Busy, Capacities, ClientId, GroupKey, GroupParams, GroupRef, Hint, OffRoute,
    ProcessRef, ProcessState, Protocol, Seat,
};
use std::os::fd::AsFd;
use std::time::Duration;

const SLICE: Duration = Duration::from_millis(250);

/// Sleeps until waiters are old enough to be served in order. (The age is the subject here, not a way to
/// wait for somebody.)
fn grow_old() {
    std::thread::sleep(Duration::from_millis(12));
}

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

#[test]
fn waiters_are_served_in_order_once_they_are_old() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 1);
    let client = i.client(0);
    let held = client.take(group, None).unwrap();
    let mut first = client.enqueue(group).unwrap();
    std::thread::sleep(Duration::from_millis(1));
    let mut second = client.enqueue(group).unwrap();
    assert_eq!(client.queue(group).length, 2);
    held.release();
    let barged = client
        .take(group, None)
        .expect("nobody has waited for long");
    grow_old();
    assert!(first.since() >= Duration::from_millis(10));
    barged.release();
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
    let mut elder = client.enqueue(group).unwrap();
    grow_old();
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
    let first = client.enqueue(group).unwrap();
    std::thread::sleep(Duration::from_millis(1));
    let mut second = client.enqueue(group).unwrap();
    grow_old();
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
    std::mem::forget(dead.enqueue(group).unwrap());
    std::thread::sleep(Duration::from_millis(1));
    let mut waiter = alive.enqueue(group).unwrap();
    grow_old();
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
    let mut asleep = stopped.enqueue(group).unwrap();
    grow_old();
    held.release();
    assert_eq!(
        i.agent.revoke_stale_grants(Duration::from_millis(1)),
        0,
        "first seen now"
    );
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(i.agent.revoke_stale_grants(Duration::from_millis(1)), 1);
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
fn keys_lead_to_groups_until_these_are_gone() {
    let i = instance(&SMALL);
    let key = |n: u64| GroupKey { hi: n, lo: n % 3 };
    let (a, b) = (i.group(), i.group());
    for n in 0..10 {
        i.agent
            .add_key(key(n), if n % 2 == 0 { a } else { b })
            .unwrap();
    }
    assert_eq!(i.module.find_group(key(4)), Some(a));
    assert_eq!(i.module.find_group(key(5)), Some(b));
    assert_eq!(i.module.find_group(key(11)), None);
    i.agent.add_key(key(4), b).unwrap();
    assert_eq!(i.module.find_group(key(4)), Some(b));
    i.agent.remove_group(a);
    assert_eq!(i.module.find_group(key(2)), None);
    assert!(i.module.group(a).is_none());
    assert_eq!(i.module.find_group(key(5)), Some(b));
    // Tombstones are used again: no leak.
    for round in 0..200 {
        for n in 0..8 {
            i.agent.add_key(key(100 + n), b).unwrap();
        }
        assert_eq!(i.module.find_group(key(107)), Some(b), "{round}");
        i.agent.remove_keys_of(b);
        assert_eq!(i.module.find_group(key(107)), None);
    }
    for n in 0..16 {
        i.agent.add_key(key(n), b).unwrap();
    }
    assert!(i.agent.add_key(key(16), b).is_err());
    assert_eq!(i.module.find_group(key(15)), Some(b));
    assert_eq!(i.module.find_group(key(99)), None);
}

#[test]
fn a_group_of_the_same_slot_is_another_group() {
    let i = instance(&Capacities { groups: 1, ..SMALL });
    let old = i.group();
    let process = i.process(old, 1);
    let client = i.client(0);
    let mut waiter = client.enqueue(old).unwrap();
    i.agent.free_process(process);
    i.agent.remove_group(old);
    assert!(i.agent.create_group(&PARAMS, &[0; 2049]).is_err());
    let new = i.agent.create_group(&PARAMS, b"new").unwrap();
    assert_eq!(
        (new.index(), new.generation()),
        (old.index(), old.generation() + 2)
    );
    assert!(i.agent.create_group(&PARAMS, b"").is_err(), "full");
    i.process(new, 1);
    assert!(client.take(old, None).is_err());
    assert!(waiter.wait(Duration::ZERO).is_none());
    // A seat of the new group's process that is handed to the old group's waiter is passed on.
    let held = client.take(new, None).unwrap();
    grow_old();
    held.release();
    assert!(waiter.wait(Duration::ZERO).is_none());
    drop(waiter);
    client.take(new, None).unwrap().release();
    assert!(client.enqueue(old).is_err());
    assert_eq!(i.agent.groups(), [(new, PARAMS, b"new".to_vec())]);
}

#[test]
fn processes_of_a_removed_group_serve_nobody_not_even_its_successor() {
    let i = instance(&Capacities { groups: 1, ..SMALL });
    let old = i.group();
    let (live, starting) = (i.process(old, 1), i.agent.reserve_process(old).unwrap());
    let client = i.client(0);
    let held = client.take(old, None).unwrap();
    i.agent.remove_group(old);
    i.agent.publish(starting, &process_params(1, 1));
    let new = i.group();
    let mut waiter = client.enqueue(new).unwrap();
    grow_old();
    held.release();
    let bell = passenger_shm::create_doorbell().unwrap();
    let successor = AgentView::attach(i.fds.routes.as_fd(), i.fds.traffic.as_fd(), bell).unwrap();
    successor.adopt();
    assert!(waiter.wait(Duration::ZERO).is_none());
    assert_eq!(client.take(new, None).unwrap_err().live, 0);
    for process in [live, starting] {
        assert_eq!(
            i.module.process_state(process),
            Some(ProcessState::Draining)
        );
        i.agent.dead(process);
        i.agent.drain(process);
        assert!(!i.module.is_live(process), "dead is dead");
    }
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
fn a_successor_finds_everything() {
    let i = instance(&SMALL);
    let (group, gone) = (i.group(), i.group());
    let process = i.process(group, 2);
    let starting = i.agent.reserve_process(group).unwrap();
    i.agent.set_config_generation(9);
    i.agent.remove_group(gone);
    i.agent.add_key(GroupKey { hi: 1, lo: 1 }, group).unwrap();
    i.agent.add_key(GroupKey { hi: 2, lo: 1 }, gone).unwrap();
    let client = i.client(0);
    let held = client.take(group, None).unwrap();
    client.hint(Hint::CapacityWanted(group));
    let bell = passenger_shm::create_doorbell().unwrap();
    let successor = AgentView::attach(i.fds.routes.as_fd(), i.fds.traffic.as_fd(), bell).unwrap();
    successor.adopt();
    let seen = successor.processes();
    assert_eq!(seen.len(), 2);
    let live = seen.iter().find(|p| p.process == process).unwrap();
    assert_eq!(
        (live.group, live.state, live.pid),
        (group, ProcessState::Live, 4711)
    );
    assert!(live.started_ms > 0);
    assert!(seen
        .iter()
        .any(|p| p.process == starting && p.state == ProcessState::Starting));
    assert_eq!(successor.load(process).held, 1);
    assert_eq!(successor.pop_hint(), Some(Hint::CapacityWanted(group)));
    assert_eq!(i.module.find_group(GroupKey { hi: 1, lo: 1 }), Some(group));
    held.release();
    client.take(group, None).unwrap().release();
    assert_eq!(i.module.config_generation(), 9);
}

#[test]
fn the_bell_rings_only_while_the_agent_sleeps() {
    let i = instance(&SMALL);
    let client = i.client(0);
    let rings = || {
        let mut poll = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&i.agent.doorbell()),
            events: 1,
            revents: 0,
        };
        // SAFETY: one pollfd that outlives the call.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    };
    let hint = Hint::ProcessSuspect(ProcessRef::new(3, 1));
    client.hint(hint);
    assert!(!rings());
    assert!(!i.agent.sleep_begins(), "there is a hint");
    assert_eq!(i.agent.pop_hint(), Some(hint));
    assert!(i.agent.sleep_begins());
    client.hint(hint);
    assert!(rings());
    i.agent.sleep_ends();
    assert!(!rings());
    // Nonsense from a hostile worker is dropped.
    client.hint(Hint::ProcessSuspect(ProcessRef::new(60_000, 1)));
    client.hint(Hint::CapacityWanted(GroupRef::new(60_000, 1)));
    assert_eq!(i.agent.pop_hint(), Some(hint));
    assert_eq!(i.agent.pop_hint(), None);
    (0..30).for_each(|_| client.hint(hint));
    assert!(i.agent.hints_overflowed() && !i.agent.hints_overflowed());
    assert_eq!(std::iter::from_fn(|| i.agent.pop_hint()).count(), 16);
    assert!(i.agent.sleep_begins());
}

#[test]
fn flags_and_snapshots() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 2);
    let client = i.client(0);
    let _held = client.take(group, None).unwrap();
    let _waiter = client.enqueue(group).unwrap();
    let before = i.watchdog.heartbeat();
    i.agent.beat();
    assert_ne!(i.watchdog.heartbeat(), before);
    assert!(!i.module.is_superseded());
    i.agent.supersede();
    assert!(i.module.is_superseded());
    assert_eq!(i.module.instance_key(), i.agent.instance_key());
    assert_eq!(i.watchdog.capacities(), SMALL);
    let snapshot = i.inspect.snapshot();
    assert_eq!(snapshot.groups.len(), 1);
    assert_eq!(snapshot.groups[0].waiting, Some(1));
    assert_eq!(snapshot.processes[0].0.process, process);
    assert_eq!(snapshot.processes[0].1.unwrap().held, 1);
    let json = serde_json::to_string(&snapshot).unwrap();
    assert!(json.contains("\"pid\":4711"), "{json}");
    // Publishing again changes the settings, not the process.
    i.agent.publish(process, &process_params(4, 3));
    assert_eq!(i.agent.processes()[0].concurrency, 4);
    assert_eq!(i.agent.load(process).held, 1);
}
