//! A waiter cell: one word that says whose it is and what the waiter has, and the futex that it sleeps on. Owns
//! the word and its transitions; which cell is whose turn is the queue's (`queue.rs`).
//!
//! ```text
//! cell word
//!  63                    32 31          16 15        4 3     0
//! ┌────────────────────────┬──────────────┬───────────┬───────┐
//! │ WAITING: ticket        │ client slot  │ client    │ state │
//! │ GRANTED: process·seat  │              │ generation│       │
//! └────────────────────────┴──────────────┴───────────┴───────┘
//!
//!        claim (waiter)            leave (that waiter), sweep (watchdog)
//!  FREE ───────────────► WAITING ────────────────────────────────────► FREE
//!                          │   ▲ rearm (waiter whose grant was revoked)   ▲
//!                          ▼   │                                          │
//!                         GRANTED ────────────────────────────────────────┘
//!                          leave (waiter, after picking up the seat), sweep
//! ```
//!
//! * The **ticket** is the time of arrival (`clock.rs`): the queue's order and each waiter's age.

use crate::clock::Ticks;
use crate::futex::Futex;
use crate::ids::ClientId;
use crate::sync::{AtomicU64, Ordering};

use super::seat::{owner_bits, owner_of};

const FREE: u64 = 0;
const WAITING: u64 = 1;
const GRANTED: u64 = 2;
const STATE: u64 = 0xf;

/// One value of a cell word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellWord(pub u64);

/// A seat as a cell names it: unchecked indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Process slot.
    pub process: u16,
    /// Seat of that process.
    pub seat: u16,
}

/// What a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellState {
    /// Nobody's.
    Free,
    /// Somebody waits since then.
    Waiting(Ticks),
    /// Somebody has waited and was given that seat.
    Granted(Granted),
    /// No worker of ours wrote this.
    Unknown,
}

impl CellWord {
    /// Nobody's.
    pub(super) const FREE: CellWord = CellWord(FREE);

    pub(super) fn waiting(client: ClientId, ticket: Ticks) -> CellWord {
        CellWord(u64::from(ticket) << 32 | owner_bits(client) | WAITING)
    }

    fn granted(self, seat: Granted) -> CellWord {
        let payload = u64::from(seat.process) << 48 | u64::from(seat.seat) << 32;
        CellWord(payload | self.0 & 0xffff_fff0 | GRANTED)
    }

    /// What the cell is.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // Cut to the fields.
    pub fn state(self) -> CellState {
        match self.0 & STATE {
            FREE => CellState::Free,
            WAITING => CellState::Waiting((self.0 >> 32) as u32),
            GRANTED => CellState::Granted(Granted {
                process: (self.0 >> 48) as u16,
                seat: (self.0 >> 32) as u16,
            }),
            _ => CellState::Unknown,
        }
    }

    /// Whose it is; means nothing if it is free.
    #[must_use]
    pub fn owner(self) -> ClientId {
        owner_of(self.0)
    }
}

/// One waiter cell, 16 bytes. Written by: workers, watchdog. Read by: all.
#[derive(Debug)]
#[repr(C)]
pub struct Cell {
    pub(crate) word: AtomicU64,
    alarm: Futex,
    #[cfg(not(loom))]
    _pad: crate::sync::AtomicU32,
}

impl Cell {
    /// A free cell; in real life they come from zeroed memory.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Cell {
        Cell {
            word: AtomicU64::new(0),
            alarm: Futex::new(),
            #[cfg(not(loom))]
            _pad: crate::sync::AtomicU32::new(0),
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn look(&self) -> CellWord {
        // Acquire, PAIR(cell): sees what was done before the word was written.
        CellWord(self.word.load(Ordering::Acquire))
    }

    /// What its waiter sleeps on.
    #[must_use]
    pub fn alarm(&self) -> &Futex {
        &self.alarm
    }

    /// The one compare-and-swap of all transitions; on failure what the cell is now.
    pub(super) fn change(&self, from: CellWord, to: CellWord) -> Result<CellWord, CellWord> {
        // SeqCst, PAIR(cell) and PAIR(dekker), as for seats.
        match self
            .word
            .compare_exchange(from.0, to.0, Ordering::SeqCst, Ordering::Acquire)
        {
            Ok(_) => Ok(to),
            Err(found) => Err(CellWord(found)),
        }
    }

    /// Gives a waiter its seat: this compare-and-swap *is* the grant. `false`: it has left.
    #[must_use]
    pub fn grant(&self, waiting: CellWord, seat: Granted) -> bool {
        self.change(waiting, waiting.granted(seat)).is_ok()
    }

    /// The waiter whose grant came to nothing waits on, in its old place. `false`: the cell is lost.
    #[must_use]
    pub fn rearm(&self, granted: CellWord, ticket: Ticks) -> Option<CellWord> {
        self.change(granted, CellWord::waiting(granted.owner(), ticket))
            .ok()
    }
}
