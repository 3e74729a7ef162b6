//! What the views promise of groups, to successors and to tools, over real segments in one process.
#![cfg(not(loom))]

mod common;

use common::{instance, process_params, PARAMS, SMALL};
use passenger_shm::{AgentView, Capacities, GroupKey, GroupRef, Hint, ProcessRef, ProcessState};
use std::os::fd::AsFd;
use std::time::Duration;

/// Ages of waiters that are served in order, the older first.
const OLD: Duration = Duration::from_millis(20);

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
    let mut waiter = client.enqueue_again(old, OLD).unwrap();
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
    let held = client.take_newest(new).unwrap();
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
    let mut waiter = client.enqueue_again(new, OLD).unwrap();
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
