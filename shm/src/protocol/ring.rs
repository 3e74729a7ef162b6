//! The ring of hints: many workers fill it, the agent empties it. Owns its cells, the position hint of the
//! producers and the overflow flag.
//!
//! ```text
//! ring cell   63      53  52   51                                0
//!            ┌──────────┬────┬──────────────────────────────────┐
//!            │ lap      │full│ hint: kind 4 · index 16 · gen 32 │
//!            └──────────┴────┴──────────────────────────────────┘
//! ```
//!
//! *Reserving is publishing*: one compare-and-swap puts lap, flag and hint into an empty cell. A producer
//! that stops or dies before it has done nothing, after it everything; the position that it did not move
//! on is moved on by the next producer. The lap tells a late producer that its position is old.
//!
//! Hints need no order and are all derivable from the tables, so whatever a hostile worker writes here,
//! an empty cell is good to fill whatever its lap, a full one good to empty, and a full ring is a flag.

use crate::ids::{GroupRef, ProcessRef};
use crate::params::Hint;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const HINT_BITS: u32 = 52;
const HINT: u64 = (1 << HINT_BITS) - 1;
const FULL: u64 = 1 << HINT_BITS;
const LAP_SHIFT: u32 = HINT_BITS + 1;
const LAP: u64 = (1 << (64 - LAP_SHIFT)) - 1;

/// Cells a producer looks at before it says that the ring is full.
const PUSH_TRIES: u32 = 16;

/// A ring over shared words. The number of cells is a power of two.
#[derive(Debug, Clone, Copy)]
pub struct Ring<'a> {
    /// The cells.
    pub cells: &'a [AtomicU64],
    /// Where producers try next. Written by: workers. A hint.
    pub tail: &'a AtomicU64,
    /// Not zero: hints were dropped. Written by: workers, agent.
    pub overflow: &'a AtomicU32,
}

impl Ring<'_> {
    /// Puts a hint in. `false`: no room, and the overflow flag says so.
    pub fn push(&self, hint: Hint) -> bool {
        let pushed = self.try_push(encode(hint));
        if !pushed {
            // SeqCst, PAIR(bell): as good as a hint; stands before the caller's fence.
            self.overflow.store(1, Ordering::SeqCst);
        }
        pushed
    }

    fn try_push(&self, hint: u64) -> bool {
        // Relaxed: a position to try; the cell decides.
        let mut position = self.tail.load(Ordering::Relaxed);
        for _ in 0..PUSH_TRIES {
            let Some(cell) = self.cell(position) else {
                return false;
            };
            let lap = self.lap(position);
            // Relaxed: judged by the compare-and-swap.
            let seen = cell.load(Ordering::Relaxed);
            if seen & FULL == 0 {
                let to = lap << LAP_SHIFT | FULL | hint;
                // SeqCst, PAIR(bell) and PAIR(ring): publishes, and stands before the caller's fence.
                if cell
                    .compare_exchange(seen, to, Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok()
                {
                    self.advance(position);
                    return true;
                }
            } else if seen >> LAP_SHIFT == lap {
                // Filled in this lap by somebody who has not moved the position on yet. Helping is
                // why nobody can hold up the others by stopping right here.
                position = self.advance(position);
            } else {
                // Filled a lap ago and not emptied yet: full, unless our position is old.
                let now = self.tail.load(Ordering::Relaxed);
                if now == position {
                    return false;
                }
                position = now;
            }
        }
        false
    }

    /// A producer that dies or is stopped right after its hint is in: for the models.
    #[cfg(loom)]
    pub fn push_and_stop(&self, hint: Hint) -> bool {
        // Relaxed: as in `try_push`.
        let position = self.tail.load(Ordering::Relaxed);
        let Some(cell) = self.cell(position) else {
            return false;
        };
        let seen = cell.load(Ordering::Relaxed);
        let to = self.lap(position) << LAP_SHIFT | FULL | encode(hint);
        seen & FULL == 0
            && cell
                .compare_exchange(seen, to, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
    }

    /// Moves the position on from `from`, unless somebody has; where it is now.
    fn advance(&self, from: u64) -> u64 {
        let next = from.wrapping_add(1);
        // Relaxed: a hint, see `tail`.
        match self
            .tail
            .compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => next,
            Err(now) => now,
        }
    }

    /// Takes a hint out; `head` is the agent's own memory of where it was. Rubbish is dropped.
    pub fn pop(&self, head: &mut u64) -> Option<Hint> {
        // Bounded by the ring even if a hostile worker fills it as fast as we read.
        for _ in 0..self.cells.len() {
            if let Some(word) = self.empty_cell(*head) {
                *head = head.wrapping_add(1);
                match decode(word & HINT) {
                    Some(hint) => return Some(hint),
                    None => continue,
                }
            }
            // Nothing where it should be: usually the ring is empty. Else (the agent is new, a hole was
            // punched, rubbish was written) whatever is full is looked for.
            let skip = (0..self.cells.len() as u64).find(|&ahead| self.is_full(*head + ahead))?;
            *head = head.wrapping_add(skip);
        }
        None
    }

    /// Whether there is anything to pop. Costs a look at every cell; for the moment before sleeping.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        (0..self.cells.len() as u64).all(|position| !self.is_full(position))
    }

    /// Whether hints were dropped since the last call.
    pub fn overflowed(&self) -> bool {
        // Acquire, PAIR(ring): cleared before the tables are looked at.
        self.overflow.swap(0, Ordering::AcqRel) != 0
    }

    fn is_full(&self, position: u64) -> bool {
        // Relaxed: `empty_cell` acquires.
        self.cell(position)
            .is_some_and(|cell| cell.load(Ordering::Relaxed) & FULL != 0)
    }

    /// Empties the cell at `position` for the next lap; what was in it.
    fn empty_cell(&self, position: u64) -> Option<u64> {
        if !self.is_full(position) {
            return None;
        }
        let next_lap = self.lap(position.wrapping_add(self.cells.len() as u64));
        // AcqRel, PAIR(ring). Workers never change a full cell, so this is the word just seen or, from a
        // hostile one, anything.
        let word = self
            .cell(position)?
            .swap(next_lap << LAP_SHIFT, Ordering::AcqRel);
        (word & FULL != 0).then_some(word)
    }

    #[allow(clippy::cast_possible_truncation)] // Modulo the length.
    fn cell(&self, position: u64) -> Option<&AtomicU64> {
        let mask = self.cells.len().checked_sub(1)?;
        self.cells.get(position as usize & mask)
    }

    fn lap(&self, position: u64) -> u64 {
        position
            .checked_shr(self.cells.len().trailing_zeros())
            .unwrap_or(0)
            & LAP
    }
}

fn encode(hint: Hint) -> u64 {
    let (kind, index, generation) = match hint {
        Hint::CapacityWanted(g) => (1, g.index(), g.generation()),
        Hint::ProcessSuspect(p) => (2, p.slot(), p.generation()),
        Hint::RestartTouched(g) => (3, g.index(), g.generation()),
        Hint::Orphaned(p) => (4, p.slot(), p.generation()),
        Hint::Overdue(p) => (5, p.slot(), p.generation()),
    };
    kind << 48 | u64::from(index & 0xffff) << 32 | u64::from(generation)
}

#[allow(clippy::cast_possible_truncation)] // Cut to the fields.
fn decode(word: u64) -> Option<Hint> {
    let (index, generation) = ((word >> 32) as u32 & 0xffff, word as u32);
    match word >> 48 {
        1 => Some(Hint::CapacityWanted(GroupRef::new(index, generation))),
        2 => Some(Hint::ProcessSuspect(ProcessRef::new(index, generation))),
        3 => Some(Hint::RestartTouched(GroupRef::new(index, generation))),
        4 => Some(Hint::Orphaned(ProcessRef::new(index, generation))),
        5 => Some(Hint::Overdue(ProcessRef::new(index, generation))),
        _ => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Memory(Vec<AtomicU64>, AtomicU64, AtomicU32);

    impl Memory {
        fn new(cells: usize) -> Memory {
            let cells = (0..cells).map(|_| AtomicU64::new(0)).collect();
            Memory(cells, AtomicU64::new(0), AtomicU32::new(0))
        }

        fn ring(&self) -> Ring<'_> {
            Ring {
                cells: &self.0,
                tail: &self.1,
                overflow: &self.2,
            }
        }
    }

    fn hint(n: u32) -> Hint {
        Hint::CapacityWanted(GroupRef::new(n & 0xffff, n))
    }

    #[test]
    fn hints_come_out_in_order_for_many_laps() {
        let memory = Memory::new(4);
        let (ring, mut head) = (memory.ring(), 0);
        for n in 0..100_000 {
            assert!(ring.push(hint(2 * n)) && ring.push(hint(2 * n + 1)));
            assert_eq!(ring.pop(&mut head), Some(hint(2 * n)));
            assert_eq!(ring.pop(&mut head), Some(hint(2 * n + 1)));
            assert_eq!(ring.pop(&mut head), None);
        }
        assert!(!ring.overflowed());
    }

    #[test]
    fn a_full_ring_raises_the_flag_and_keeps_what_it_has() {
        let memory = Memory::new(4);
        let (ring, mut head) = (memory.ring(), 0);
        for n in 0..4 {
            assert!(ring.push(hint(n)));
        }
        assert!(!ring.push(hint(9)));
        assert!(ring.overflowed() && !ring.overflowed());
        let got: Vec<_> = std::iter::from_fn(|| ring.pop(&mut head)).collect();
        assert_eq!(got, [hint(0), hint(1), hint(2), hint(3)]);
        assert!(ring.is_empty() && ring.push(hint(5)));
    }

    #[test]
    fn a_new_agent_a_punched_hole_and_rubbish_do_not_wedge_it() {
        let memory = Memory::new(8);
        let ring = memory.ring();
        let mut head = 0;
        for n in 0..30 {
            ring.push(hint(n));
            ring.pop(&mut head);
        }
        ring.push(hint(31));
        let mut head = 0;
        assert_eq!(
            ring.pop(&mut head),
            Some(hint(31)),
            "a successor starts anywhere"
        );
        let everything = || memory.0.iter().chain([&memory.1]);
        for rubbish in [0, u64::MAX, FULL, 0xdead_beef_0bad_cafe] {
            everything().for_each(|word| word.store(rubbish, Ordering::SeqCst));
            let popped = std::iter::from_fn(|| ring.pop(&mut head)).take(100).count();
            assert!(popped <= 8);
            assert!(ring.is_empty());
            assert!(ring.push(hint(1)));
            assert_eq!(ring.pop(&mut head), Some(hint(1)));
        }
    }

    #[test]
    fn every_kind_survives() {
        for hint in [
            Hint::CapacityWanted(GroupRef::new(0xffff, u32::MAX)),
            Hint::ProcessSuspect(ProcessRef::new(0xffff, 0)),
            Hint::RestartTouched(GroupRef::new(0, 7)),
            Hint::Orphaned(ProcessRef::new(1, 2)),
            Hint::Overdue(ProcessRef::new(1, 2)),
        ] {
            assert_eq!(decode(encode(hint)), Some(hint));
        }
        assert_eq!((decode(0), decode(6 << 48)), (None, None));
    }
}
