//! Counters: each worker counts, on its own lines, its requests at app processes without a limit (Node),
//! and its streams (upgraded connections) at any process. The sum is the truth, and a total beside it is a
//! hint for choosing.
//!
//! ```text
//! counter (client, process)  63        32 31       0     total (process)  63        32 31       0
//!                           ┌────────────┬──────────┐                    ┌────────────┬──────────┐
//!                           │ process    │ count    │                    │ takes ever │ busy now │
//!                           │ generation │          │                    │            │ (signed) │
//!                           └────────────┴──────────┘                    └────────────┴──────────┘
//! ```
//!
//! A counter of another generation counts as zero and is simply overwritten: nobody resets the column
//! of a process slot that is used again. The total may be wrong after a worker died between its two
//! words, and for ever after a hostile one; only the choice of a process gets worse by it.

use crate::sync::{AtomicU64, Ordering};

const TAKE: u64 = 1 << 32 | 1;

/// Threads of one worker share a counter; more than this many failures in a row do not happen.
const TRIES: u32 = 1000;

/// Requests that `counter` says are in that generation of the process.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // The lower half.
pub fn count(counter: &AtomicU64, generation: u32) -> u32 {
    // Acquire, PAIR(counter): as with seats.
    let word = counter.load(Ordering::Acquire);
    if (word >> 32) as u32 == generation {
        word as u32
    } else {
        0
    }
}

/// One request more. `false` (never seen) means: not counted, look elsewhere.
#[must_use]
pub fn take(counter: &AtomicU64, total: &AtomicU64, generation: u32) -> bool {
    add(counter, total, generation, TAKE)
}

/// One stream more. `false` (never seen) means: not counted.
#[must_use]
pub fn open(counter: &AtomicU64, total: &AtomicU64, generation: u32) -> bool {
    add(counter, total, generation, 1)
}

fn add(counter: &AtomicU64, total: &AtomicU64, generation: u32, to_total: u64) -> bool {
    let taken = update(counter, |word| {
        if word >> 32 != u64::from(generation) {
            return Some(u64::from(generation) << 32 | 1);
        }
        // A full counter must not spill into the generation.
        (word & 0xffff_ffff != 0xffff_ffff).then(|| word + 1)
    });
    if taken {
        // Relaxed: a hint; nothing is concluded from it.
        total.fetch_add(to_total, Ordering::Relaxed);
    }
    taken
}

/// One request or stream less; nothing if the counter is of another generation by now.
pub fn give_back(counter: &AtomicU64, total: &AtomicU64, generation: u32) -> bool {
    let given = update(counter, |word| {
        let mine = word >> 32 == u64::from(generation) && word & 0xffff_ffff != 0;
        mine.then(|| word - 1)
    });
    if given {
        // Relaxed: as above.
        total.fetch_sub(1, Ordering::Relaxed);
    }
    given
}

/// Takes all requests or streams of a dead worker back; how many.
pub fn sweep(counter: &AtomicU64, total: &AtomicU64, generation: u32) -> u32 {
    let found = count(counter, generation);
    // SeqCst, PAIR(counter): the dead do not count on.
    counter.store(0, Ordering::SeqCst);
    // Relaxed: a hint.
    total.fetch_sub(u64::from(found), Ordering::Relaxed);
    found
}

/// How busy the total says that the process is, never negative.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // The lower half.
pub fn busy_hint(total: &AtomicU64) -> u32 {
    // Relaxed: a hint.
    let busy = total.load(Ordering::Relaxed) as u32;
    if busy > u32::MAX / 2 {
        0
    } else {
        busy
    }
}

/// How often requests were taken; only good for comparing with itself.
#[must_use]
pub fn takes(total: &AtomicU64) -> u64 {
    // Relaxed: a hint.
    total.load(Ordering::Relaxed) >> 32
}

fn update(counter: &AtomicU64, to: impl Fn(u64) -> Option<u64>) -> bool {
    // Acquire, PAIR(counter)
    let mut seen = counter.load(Ordering::Acquire);
    for _ in 0..TRIES {
        let Some(next) = to(seen) else {
            return false;
        };
        // SeqCst, PAIR(counter) and PAIR(retire): stands before `process::still`'s fence.
        match counter.compare_exchange_weak(seen, next, Ordering::SeqCst, Ordering::Acquire) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
    false
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn counts_belong_to_one_generation() {
        let (counter, total) = (AtomicU64::new(0), AtomicU64::new(0));
        assert!(take(&counter, &total, 1) && take(&counter, &total, 1));
        assert_eq!(
            (count(&counter, 1), busy_hint(&total), takes(&total)),
            (2, 2, 2)
        );
        assert_eq!(count(&counter, 2), 0);
        assert!(give_back(&counter, &total, 1));
        assert!(!give_back(&counter, &total, 2));
        assert!(take(&counter, &total, 2));
        assert!(
            !give_back(&counter, &total, 1),
            "that request's process is long gone"
        );
        assert_eq!(sweep(&counter, &total, 2), 1);
        assert!(!give_back(&counter, &total, 2));
    }

    #[test]
    fn hostile_totals_are_no_load() {
        assert_eq!(busy_hint(&AtomicU64::new(u64::MAX)), 0);
        let (counter, total) = (AtomicU64::new(1 << 32 | 0xffff_ffff), AtomicU64::new(0));
        assert!(
            !take(&counter, &total, 1),
            "would spill into the generation"
        );
        assert_eq!(counter.load(Ordering::Relaxed) >> 32, 1);
    }
}
