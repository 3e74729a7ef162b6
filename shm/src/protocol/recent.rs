//! Who was used last: the order in which a group's processes came to the front. Owns its two words; only the
//! choice of a process depends on them, so a lost update or a hostile worker costs warmth and nothing else.
//!
//! ```text
//! group  63              16 15       0     process  63                                    0
//!       ┌──────────────────┬──────────┐            ┌───────────────────────────────────────┐
//!       │ turn             │ process  │            │ turn in which it came to the front    │
//!       └──────────────────┴──────────┘            └───────────────────────────────────────┘
//! ```
//!
//! A process comes to the front when it gets a request and is not there yet; that begins a turn. So the turns
//! of the processes are the order "most recently used first" without any clock, and requests that come one at a
//! time write nothing at all: they find the same process at the front each time.
//!
//! Two that come to the front in the same moment share a turn. A slot that is used again has turn 0, which is
//! nobody's at the front, whatever the group's word says.

use crate::sync::{AtomicU64, Ordering};

const INDEX_BITS: u32 = 16;
const INDEX: u64 = (1 << INDEX_BITS) - 1;

/// Slot of the process at the front. A claim of whoever wrote it: the caller looks whether that process serves
/// the group.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // Cut to the field.
pub fn front(group: &AtomicU64) -> usize {
    // Relaxed, here and below: a preference; what is chosen by it is checked by other words.
    (group.load(Ordering::Relaxed) & INDEX) as usize
}

/// The turn of a process; greater is more recent.
#[must_use]
pub fn turn(process: &AtomicU64) -> u64 {
    process.load(Ordering::Relaxed)
}

/// Notes that a process got a request.
pub fn note(group: &AtomicU64, process: &AtomicU64, index: u16) {
    let seen = group.load(Ordering::Relaxed);
    let current = seen >> INDEX_BITS;
    if seen & INDEX == u64::from(index) && process.load(Ordering::Relaxed) == current {
        return;
    }
    let next = (seen >> INDEX_BITS).wrapping_add(1) << INDEX_BITS;
    // Once: if somebody else came to the front in this moment, we were there just before it.
    let _ = group.compare_exchange(
        seen,
        next | u64::from(index),
        Ordering::Relaxed,
        Ordering::Relaxed,
    );
    // Not a store: another thread may have noted a later turn of this process meanwhile.
    process.fetch_max(next >> INDEX_BITS, Ordering::Relaxed);
}

/// A slot begins anew: the process in it has not been used.
pub fn clear(process: &AtomicU64) {
    process.store(0, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn who_is_at_the_front_already_writes_nothing() {
        let (group, process) = (AtomicU64::new(0), AtomicU64::new(0));
        note(&group, &process, 3);
        let (word, its_turn) = (group.load(Ordering::Relaxed), turn(&process));
        assert_eq!((front(&group), its_turn), (3, 1));
        note(&group, &process, 3);
        assert_eq!((group.load(Ordering::Relaxed), turn(&process)), (word, 1));
    }

    #[test]
    fn a_new_process_in_the_slot_at_the_front_has_to_be_used_to_be_recent() {
        let (group, old, new) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        note(&group, &old, 1);
        note(&group, &new, 2);
        clear(&new);
        assert!(turn(&old) > turn(&new));
        note(&group, &new, 2);
        assert!(turn(&new) > turn(&old));
    }

    #[test]
    fn any_bits_are_harmless() {
        for bits in [u64::MAX, INDEX, !INDEX, 1 << 63] {
            let (group, process) = (AtomicU64::new(bits), AtomicU64::new(bits));
            note(&group, &process, 7);
            assert!(front(&group) <= usize::from(u16::MAX));
        }
    }

    proptest! {
        /// Against a list in which whoever is used moves to the front.
        #[test]
        fn turns_are_the_order_of_use(uses in prop::collection::vec(0..5u16, 1..60)) {
            let group = AtomicU64::new(0);
            let slots: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(0)).collect();
            let mut list: Vec<u16> = Vec::new();
            for used in uses {
                note(&group, &slots[usize::from(used)], used);
                list.retain(|other| *other != used);
                list.insert(0, used);
                prop_assert_eq!(front(&group), usize::from(used));
            }
            let turns: Vec<u64> = list.iter().map(|i| turn(&slots[usize::from(*i)])).collect();
            prop_assert!(turns.windows(2).all(|pair| pair[0] > pair[1]), "{:?} {:?}", list, turns);
        }
    }
}
