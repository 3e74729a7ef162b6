//! A group's queue: waiter cells (`cell.rs`) and a bitmap of the occupied ones. Owns claiming, leaving and
//! finding the oldest. Granting is in `desk.rs`.
//!
//! * The length of the queue is the number of occupied cells, and "full" means that no cell below the
//!   limit is free: there is no counter that a dying waiter could leave wrong.
//! * The **bitmap** only says where to look. Set after the cell is claimed, cleared *before* it is
//!   freed, by the owner of the cell alone: a bit without a cell costs a look, and a cell without a bit
//!   belongs to a waiter that is just arriving (it looks for itself next), just leaving, or dead
//!   (swept by the cells, not by the bits).
//! * Crash: a waiter that dies at any point leaves at most its cell and its bit. Both are swept.

use crate::clock::{self, Ticks};
use crate::ids::ClientId;
use crate::sync::{AtomicU64, Ordering};

use super::cell::{Cell, CellState, CellWord, Granted};

/// A waiter's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the cell.
    pub index: usize,
    /// Its word as the waiter wrote it.
    pub word: CellWord,
}

/// The longest-waiting waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oldest {
    /// Where, and the word that a grant must replace.
    pub place: Place,
    /// For how long.
    pub waited: Ticks,
}

/// How a waiter left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// As it came.
    Empty,
    /// It had been given this seat just before, and must pick it up or pass it on.
    With(Granted),
    /// The cell was not its own any more (hostile worker, or punched hole).
    Lost,
}

/// A group's cells and their bitmap, one bit per cell.
#[derive(Debug, Clone, Copy)]
pub struct Queue<'a> {
    cells: &'a [Cell],
    bits: &'a [AtomicU64],
}

impl<'a> Queue<'a> {
    /// Over the cells and the bitmap words of one group; bits beyond the cells are ignored.
    #[must_use]
    pub fn new(cells: &'a [Cell], bits: &'a [AtomicU64]) -> Queue<'a> {
        Queue { cells, bits }
    }

    /// The cell at `index`.
    #[must_use]
    pub fn cell(&self, index: usize) -> Option<&'a Cell> {
        self.cells.get(index)
    }

    /// Number of cells.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.cells.len()
    }

    /// Whether anybody may be waiting.
    #[must_use]
    pub fn is_occupied(&self) -> bool {
        // Relaxed: callers that must not miss a waiter have a fence before (PAIR(wait)).
        self.bits
            .iter()
            .any(|bits| bits.load(Ordering::Relaxed) != 0)
    }

    /// Claims a free cell among the first `limit` (0 = all) and sets its bit. The caller looks at the
    /// seats next, after `sync::dekker` (PAIR(wait)). `None`: the queue is full.
    #[must_use]
    pub fn claim(&self, limit: usize, client: ClientId, ticket: Ticks) -> Option<Place> {
        let limit = if limit == 0 {
            self.cells.len()
        } else {
            limit.min(self.cells.len())
        };
        let to = CellWord::waiting(client, ticket);
        // Where the bitmap shows nobody first; then everywhere, because only cells are the truth.
        for only_clear in [true, false] {
            for (index, cell) in self.cells.iter().enumerate().take(limit) {
                if only_clear && self.bit(index) {
                    continue;
                }
                let seen = cell.look();
                if seen.state() == CellState::Free && cell.change(seen, to).is_ok() {
                    self.set_bit(index);
                    return Some(Place { index, word: to });
                }
            }
        }
        None
    }

    /// Frees the waiter's cell.
    #[must_use]
    pub fn leave(&self, place: Place) -> Left {
        let Some(cell) = self.cell(place.index) else {
            return Left::Lost;
        };
        self.clear_bit(place.index);
        let Err(found) = cell.change(place.word, CellWord::FREE) else {
            return Left::Empty;
        };
        // The only change that others make to it while its owner lives is the grant.
        match found.state() {
            CellState::Granted(seat) if found.owner() == place.word.owner() => {
                match cell.change(found, CellWord::FREE) {
                    Ok(_) => Left::With(seat),
                    Err(_) => Left::Lost,
                }
            }
            _ => Left::Lost,
        }
    }

    /// The waiter with the oldest ticket that has not been given a seat.
    #[must_use]
    pub fn oldest(&self, now: Ticks) -> Option<Oldest> {
        let mut oldest: Option<Oldest> = None;
        for index in self.occupied() {
            let Some(cell) = self.cell(index) else {
                continue;
            };
            let word = cell.look();
            if let CellState::Waiting(ticket) = word.state() {
                let waited = clock::age(now, ticket);
                if oldest.is_none_or(|o| waited > o.waited) {
                    oldest = Some(Oldest {
                        place: Place { index, word },
                        waited,
                    });
                }
            }
        }
        oldest
    }

    /// Wakes the oldest waiter. PAIR(wait): the caller has freed something and passed a fence.
    pub fn wake_oldest(&self, now: Ticks) {
        if let Some(cell) = self.oldest(now).and_then(|o| self.cell(o.place.index)) {
            cell.alarm().wake();
        }
    }

    /// Wakes every waiter, in no order.
    pub fn wake_all(&self) {
        for cell in self.occupied().filter_map(|index| self.cell(index)) {
            cell.alarm().wake();
        }
    }

    /// Occupied cells, counted in the bitmap.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.occupied().map(|_| 1).sum()
    }

    /// Frees every cell of a dead client and calls `granted` for each seat that it had been given. How
    /// many cells.
    pub fn sweep(&self, client: ClientId, mut granted: impl FnMut(Granted)) -> u32 {
        let mut swept = 0;
        for (index, cell) in self.cells.iter().enumerate() {
            // Once more if it is granted under our hands.
            for _ in 0..3 {
                let seen = cell.look();
                if seen.state() == CellState::Free || seen.owner() != client {
                    break;
                }
                self.clear_bit(index);
                if cell.change(seen, CellWord::FREE).is_ok() {
                    swept += 1;
                    if let CellState::Granted(seat) = seen.state() {
                        granted(seat);
                    }
                    break;
                }
            }
        }
        swept
    }

    /// Indices with a set bit, each at most once, never beyond the cells.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = usize> + use<'a> {
        let capacity = self.cells.len();
        self.bits.iter().enumerate().flat_map(move |(word, bits)| {
            // Relaxed: see `is_occupied`; the cell itself is read with Acquire.
            let mut rest = bits.load(Ordering::Relaxed);
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest.checked_sub(1)?;
                Some(word * 64 + bit)
            })
            .take_while(move |&index| index < capacity)
        })
    }

    fn bit(&self, index: usize) -> bool {
        // Relaxed: only where to look first.
        self.bits
            .get(index / 64)
            .is_some_and(|b| b.load(Ordering::Relaxed) >> (index % 64) & 1 == 1)
    }

    fn set_bit(&self, index: usize) {
        if let Some(bits) = self.bits.get(index / 64) {
            // SeqCst, PAIR(wait): stands before the waiter's fence and its look at the seats.
            bits.fetch_or(1 << (index % 64), Ordering::SeqCst);
        }
    }

    fn clear_bit(&self, index: usize) {
        if let Some(bits) = self.bits.get(index / 64) {
            // SeqCst, for uniformity; before the cell is freed, so that it never clears another's bit.
            bits.fetch_and(!(1 << (index % 64)), Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn make(cells: usize) -> (Vec<Cell>, Vec<AtomicU64>) {
        let bits = (0..cells.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        ((0..cells).map(|_| Cell::new()).collect(), bits)
    }

    const A: ClientId = ClientId::new(1, 1);
    const SEAT: Granted = Granted {
        process: 0xabcd,
        seat: 0x1234,
    };

    #[test]
    fn full_means_no_cell_below_the_limit() {
        let (cells, bits) = make(70);
        let queue = Queue::new(&cells, &bits);
        let places: Vec<_> = (0..3).map(|t| queue.claim(3, A, t).unwrap()).collect();
        assert_eq!(queue.length(), 3);
        assert!(queue.claim(3, A, 9).is_none());
        assert_eq!(queue.leave(places[1]), Left::Empty);
        assert_eq!(queue.claim(3, A, 9).unwrap().index, 1);
        for _ in 3..70 {
            queue.claim(0, A, 9).unwrap();
        }
        assert!(queue.claim(0, A, 9).is_none() && queue.claim(1000, A, 9).is_none());
        assert_eq!(queue.length(), 70);
        assert_eq!(queue.sweep(ClientId::new(1, 2), |_| panic!()), 0);
        assert_eq!(queue.sweep(A, |_| panic!()), 70);
        assert!(!queue.is_occupied());
    }

    #[test]
    fn the_oldest_is_the_longest_waiting_even_when_tickets_wrap() {
        let (cells, bits) = make(4);
        let queue = Queue::new(&cells, &bits);
        assert!(queue.oldest(0).is_none());
        queue.claim(0, A, 5).unwrap();
        let first = queue.claim(0, A, u32::MAX - 5).unwrap();
        queue.claim(0, A, 0).unwrap();
        let oldest = queue.oldest(10).unwrap();
        assert_eq!((oldest.place, oldest.waited), (first, 16));
        assert!(cells[first.index].grant(oldest.place.word, SEAT));
        assert_eq!(
            queue.oldest(10).unwrap().waited,
            10,
            "the granted one no longer waits"
        );
        assert_eq!(queue.leave(first), Left::With(SEAT));
        assert!(
            !cells[first.index].grant(oldest.place.word, SEAT),
            "it has left"
        );
    }

    #[test]
    fn a_revoked_grant_returns_to_its_place() {
        let (cells, bits) = make(2);
        let queue = Queue::new(&cells, &bits);
        let place = queue.claim(0, A, 7).unwrap();
        assert!(cells[0].grant(place.word, SEAT));
        let granted = cells[0].look();
        assert_eq!(granted.state(), CellState::Granted(SEAT));
        assert_eq!(cells[0].rearm(granted, 7), Some(place.word));
        assert_eq!(queue.leave(place), Left::Empty);
    }

    #[test]
    fn a_punched_hole_loses_the_place_and_nothing_else() {
        let (cells, bits) = make(2);
        let queue = Queue::new(&cells, &bits);
        let place = queue.claim(0, A, 7).unwrap();
        cells[0].word.store(0, Ordering::SeqCst);
        bits[0].store(0, Ordering::SeqCst);
        assert_eq!(queue.leave(place), Left::Lost);
        // Bits without cells, and bits beyond the cells.
        bits[0].store(u64::MAX, Ordering::SeqCst);
        assert!(queue.oldest(9).is_none());
        assert!(queue.claim(0, A, 8).is_some());
    }
}
