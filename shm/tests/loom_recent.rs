//! A model of "who was used last": whoever notes a use at the same time, the words agree afterwards.
//! Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use passenger_shm::protocol::recent::{front, note, turn};
use passenger_shm::sync::{AtomicU64, Ordering};

struct Memory {
    group: AtomicU64,
    processes: [AtomicU64; 3],
}

impl Memory {
    fn note(&self, index: u16) {
        note(&self.group, &self.processes[usize::from(index)], index);
    }

    fn turn_of(&self, index: usize) -> u64 {
        turn(&self.processes[index])
    }
}

#[test]
fn the_front_is_a_process_that_was_used_and_nobody_is_more_recent() {
    // Both use the same process, each its own, and one after the other.
    for uses in [
        [&[1][..], &[1]],
        [&[1], &[2]],
        [&[1, 2], &[1]],
        [&[2, 1], &[1, 2]],
    ] {
        loom::model(move || {
            let memory = Arc::new(Memory {
                group: AtomicU64::new(0),
                processes: std::array::from_fn(|_| AtomicU64::new(0)),
            });
            let threads = uses.map(|uses| {
                let memory = Arc::clone(&memory);
                thread::spawn(move || uses.iter().for_each(|index| memory.note(*index)))
            });
            for thread in threads {
                thread.join().unwrap();
            }
            let at_the_front = front(&memory.group);
            assert!([1, 2].contains(&at_the_front));
            let its_turn = memory.turn_of(at_the_front);
            assert_eq!(its_turn, memory.group.load(Ordering::Relaxed) >> 16);
            assert!((0..3).all(|other| memory.turn_of(other) <= its_turn));
            // One that comes alone finds the order mended.
            memory.note(0);
            assert_eq!(front(&memory.group), 0);
            assert!(memory.turn_of(0) > memory.turn_of(1).max(memory.turn_of(2)));
        });
    }
}
