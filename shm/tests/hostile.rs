//! Whatever a hostile worker writes into `traffic`: the readers of agent and watchdog neither panic nor
//! loop nor leave their bounds, and afterwards they can put everything in order.
#![cfg(not(loom))]

mod common;

use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{instance, Instance, SMALL};
use passenger_shm::{ClientId, GroupRef, Hint, Load, ProcessRef};
use proptest::prelude::*;

/// The file's bytes, written as a hostile worker would: by any means, without the views.
fn write_at(i: &Instance, bytes: &[u8], offset: usize) {
    let offset = libc::off_t::try_from(offset).unwrap();
    // SAFETY: writes the bytes of a live slice into a file.
    let n = unsafe {
        libc::pwrite(
            i.fds.traffic.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            offset,
        )
    };
    assert_eq!(usize::try_from(n).unwrap(), bytes.len());
}

fn length(i: &Instance) -> usize {
    // SAFETY: `stat` is plain data that fstat fills in.
    let stat = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        assert_eq!(libc::fstat(i.fds.traffic.as_raw_fd(), &raw mut stat), 0);
        stat
    };
    usize::try_from(stat.st_size).unwrap()
}

struct World {
    i: Instance,
    groups: Vec<GroupRef>,
    processes: Vec<ProcessRef>,
}

fn world() -> World {
    let i = instance(&SMALL);
    let groups = vec![i.group(), i.group()];
    let processes = vec![
        i.process(groups[0], 1),
        i.process(groups[0], 4),
        i.process(groups[1], 0),
        i.process(groups[1], 2),
    ];
    World {
        i,
        groups,
        processes,
    }
}

/// Everything that root's processes do with `traffic`.
fn exercise(w: &World) {
    let (agent, watchdog) = (&w.i.agent, &w.i.watchdog);
    for process in &w.processes {
        let load = agent.load(*process);
        assert!(load.granted + load.orphans <= u32::from(SMALL.seats));
        for orphan in agent.orphans(*process) {
            agent.free_orphan(*process, &orphan);
        }
    }
    for group in &w.groups {
        assert!(agent.queue(*group).length <= u32::from(SMALL.cells));
        agent.wake_waiters(*group, u32::MAX);
        agent.note_spawn_failure(*group);
    }
    let mut hints = 0;
    while let Some(hint) = agent.pop_hint() {
        hints += 1;
        assert!(hints <= SMALL.ring, "more hints than cells");
        match hint {
            Hint::CapacityWanted(g) | Hint::RestartTouched(g) => {
                assert!(g.index() < u32::from(SMALL.groups));
                let _ = agent.queue(g);
            }
            Hint::ProcessSuspect(p) | Hint::Orphaned(p) | Hint::Overdue(p) => {
                assert!(p.slot() < u32::from(SMALL.processes));
                let _ = agent.load(p);
            }
        }
    }
    agent.hints_overflowed();
    if agent.sleep_begins() {
        agent.sleep_ends();
    }
    agent.revoke_stale_grants(Duration::ZERO);
    for slot in 0..SMALL.clients {
        watchdog.sweep(ClientId::new(slot, 1));
    }
    watchdog.sweep(ClientId::new(u16::MAX, 0xfff));
    let snapshot = w.i.inspect.snapshot();
    assert_eq!(snapshot.processes.len(), 4);
    serde_json::to_string(&snapshot).unwrap();
}

/// A worker of ours meets the same contents: it may find no seat, but it comes back.
fn work(w: &World) {
    let client = w.i.client(3);
    for group in &w.groups {
        if let Ok(seat) = client.take(*group, None) {
            seat.release();
        }
        if let Ok(mut waiter) = client.enqueue(*group) {
            if let Some(seat) = waiter.wait(Duration::ZERO) {
                seat.orphan();
            }
        }
        let _ = client.queue(*group);
    }
    client.hint(Hint::CapacityWanted(w.groups[0]));
}

/// After the slots are used again everything is in order, whatever was in the words.
fn recover(w: &World) {
    for process in &w.processes {
        w.i.agent.free_process(*process);
        let group = w.groups[0];
        let fresh = w.i.process(group, 2);
        assert_eq!(w.i.agent.load(fresh).held, 0);
        assert_eq!(w.i.agent.load(fresh).orphans, 0);
        w.i.agent.free_process(fresh);
    }
}

fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        any::<u64>(),
        // Plausible: small indices, valid states, our clients and generations.
        (0u64..80, 0u64..80, 0u64..10, 0u64..3, 0u64..5).prop_map(
            |(a, b, client, generation, state)| {
                a << 48 | b << 32 | client << 16 | generation << 4 | state
            }
        ),
        (0u64..3, 0u64..5).prop_map(|(generation, count)| generation << 32 | count),
        // Ring cells: full, any lap, plausible hints.
        (0u64..4, 0u64..6, 0u64..80, 0u64..4).prop_map(|(lap, kind, index, generation)| {
            lap << 53 | 1 << 52 | kind << 48 | index << 32 | generation
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_word_random(words in prop::collection::vec(word(), 16..257), shift in 0usize..1000) {
        let w = world();
        let total = length(&w.i);
        let bytes: Vec<u8> = (0..total / 8)
            .flat_map(|n| words[(n + shift + n / 251) % words.len()].to_le_bytes())
            .collect();
        write_at(&w.i, &bytes, 0);
        exercise(&w);
        work(&w);
        // Again: what the first round left is hostile, too.
        exercise(&w);
        recover(&w);
    }

    #[test]
    fn some_words_random_among_good_ones(
        words in prop::collection::vec((0usize..1_000_000, word()), 1..200),
    ) {
        let w = world();
        let client = w.i.client(1);
        let held: Vec<_> =
            (0..3).filter_map(|_| client.take(w.groups[0], None).ok()).collect();
        let waiters: Vec<_> =
            (0..3).filter_map(|_| client.enqueue(w.groups[0]).ok()).collect();
        let total = length(&w.i) / 8;
        for (position, word) in words {
            write_at(&w.i, &word.to_le_bytes(), position % total * 8);
        }
        exercise(&w);
        work(&w);
        drop(waiters);
        held.into_iter().for_each(passenger_shm::Seat::release);
        exercise(&w);
        recover(&w);
    }
}

#[test]
fn all_zero_is_harmless_at_any_moment() {
    let w = world();
    let client = w.i.client(1);
    let group = w.groups[0];
    let seat = client.take(group, None).unwrap();
    let mut waiter = client.enqueue(group).unwrap();
    // A punched hole over everything, as design-review T4 has it.
    write_at(&w.i, &vec![0; length(&w.i)], 0);
    exercise(&w);
    assert!(w
        .processes
        .iter()
        .all(|p| w.i.agent.load(*p) == Load::default()));
    seat.release();
    let seat = waiter.wait(Duration::ZERO).expect("every seat is free");
    seat.release();
    drop(waiter);
    client.hint(Hint::CapacityWanted(group));
    assert_eq!(w.i.agent.pop_hint(), Some(Hint::CapacityWanted(group)));
    recover(&w);
}

#[test]
fn a_wiped_waiter_neither_spins_nor_disturbs_others() {
    let w = world();
    let client = w.i.client(1);
    let group = w.groups[0];
    let held: Vec<_> = std::iter::from_fn(|| client.take(group, None).ok()).collect();
    assert_eq!(held.len(), 5);
    let mut wiped = client.enqueue(group).unwrap();
    let zeros = vec![0; length(&w.i)];
    write_at(&w.i, &zeros, 0);
    // The seats look free now, so take them again: the wiped waiter has to sleep.
    let again: Vec<_> = std::iter::from_fn(|| client.take(group, None).ok()).collect();
    assert_eq!(again.len(), 5);
    assert!(wiped.wait(Duration::ZERO).is_none());
    assert_eq!(w.i.agent.queue(group).length, 1, "it has a cell again");
    held.into_iter().for_each(passenger_shm::Seat::release);
    assert!(wiped.since() < Duration::from_secs(60));
    again.into_iter().for_each(passenger_shm::Seat::release);
    wiped.wait(Duration::ZERO).unwrap().release();
}
