//! Models of the ring and the bell: every hint comes out once or the flag is up, whoever stops where.
//! Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use passenger_shm::protocol::ring::Ring;
use passenger_shm::sync::{dekker, AtomicU32, AtomicU64, Ordering};
use passenger_shm::{GroupRef, Hint};

struct Memory {
    cells: Vec<AtomicU64>,
    tail: AtomicU64,
    overflow: AtomicU32,
    sleeping: AtomicU32,
    bell: AtomicU32,
}

impl Memory {
    fn new(cells: usize) -> Arc<Memory> {
        Arc::new(Memory {
            cells: (0..cells).map(|_| AtomicU64::new(0)).collect(),
            tail: AtomicU64::new(0),
            overflow: AtomicU32::new(0),
            sleeping: AtomicU32::new(0),
            bell: AtomicU32::new(0),
        })
    }

    fn ring(&self) -> Ring<'_> {
        Ring {
            cells: &self.cells,
            tail: &self.tail,
            overflow: &self.overflow,
        }
    }
}

fn hint(n: u32) -> Hint {
    Hint::CapacityWanted(GroupRef::new(n, 2))
}

#[test]
fn every_hint_comes_out_once_or_the_flag_is_up() {
    for first_stops in [false, true] {
        loom::model(move || {
            let memory = Memory::new(2);
            let producers: Vec<_> = (1..=2u32)
                .map(|n| {
                    let memory = Arc::clone(&memory);
                    thread::spawn(move || {
                        let ring = memory.ring();
                        if n == 1 && first_stops {
                            return u32::from(ring.push_and_stop(hint(1)));
                        }
                        u32::from(ring.push(hint(n))) + u32::from(ring.push(hint(n + 10)))
                    })
                })
                .collect();
            let (ring, mut head, mut got) = (memory.ring(), 0, Vec::new());
            got.extend(ring.pop(&mut head));
            let pushed: u32 = producers.into_iter().map(|p| p.join().unwrap()).sum();
            got.extend(std::iter::from_fn(|| ring.pop(&mut head)));
            assert_eq!(got.len(), pushed as usize);
            let wanted = if first_stops { pushed < 2 } else { pushed < 4 };
            assert!(!wanted || ring.overflowed() || first_stops);
            got.sort_by_key(|h| format!("{h:?}"));
            got.dedup();
            assert_eq!(got.len(), pushed as usize, "once each");
            assert!(ring.is_empty());
            // Nobody has wedged it.
            assert!(ring.push(hint(30)) && ring.push(hint(31)));
        });
    }
}

#[test]
fn no_ring_of_the_bell_is_lost() {
    loom::model(|| {
        let memory = Memory::new(2);
        let worker = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                memory.ring().push(hint(1));
                dekker();
                if memory.sleeping.load(Ordering::Relaxed) != 0 {
                    memory.bell.store(1, Ordering::Relaxed);
                }
            })
        };
        // `AgentView::sleep_begins`.
        memory.sleeping.store(1, Ordering::Relaxed);
        dekker();
        let sleeps = memory.ring().is_empty();
        worker.join().unwrap();
        assert!(!sleeps || memory.bell.load(Ordering::Relaxed) == 1);
    });
}
