//! The seat word: who may use one unit of an app process's concurrency. Owns its bits and its
//! transitions.
//!
//! ```text
//!  63                    32 31          16 15        4 3     0
//! ┌────────────────────────┬──────────────┬───────────┬───────┐
//! │ take number            │ client slot  │ client    │ state │
//! │                        │              │ generation│       │
//! └────────────────────────┴──────────────┴───────────┴───────┘
//!
//!          take (worker)              release (that worker, this very take)
//!  FREE ───────────────────► HELD ─────────────────────────────► FREE
//!   │                        ▲  │ orphan (that worker), sweep (watchdog)
//!   │ grant (releaser,       │  └──────────► ORPHAN ──────────► FREE   (agent only)
//!   │ waiter that yields)    │ accept (the waiter)
//!   └──────► GRANTED ────────┘
//!            ▲   └─────────► FREE    (undone by the granter, sweep, revoked by the agent)
//!   HELD ────┘ grant (releaser: the seat never looks free)
//! ```
//!
//! Rules: (1) the take number grows with every take and grant and is never reset, so a whole word names
//! one use of the seat, and a compare-and-swap that fails changes nothing; (2) only the agent frees an
//! orphan; (3) a word of unknown state (only a hostile worker writes one) is busy, nobody's, and
//! cleared when the process slot is freed.

use crate::ids::ClientId;
use crate::sync::{AtomicU64, Ordering};

/// One value of a seat word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeatWord(pub u64);

/// What a seat is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeatState {
    /// Nobody's.
    Free,
    /// Given to a waiter that has not picked it up.
    Granted,
    /// In use by a worker.
    Held,
    /// Its worker is gone; the app may still compute.
    Orphan,
    /// No worker of ours wrote this.
    Unknown,
}

const FREE: u64 = 0;
const GRANTED: u64 = 1;
const HELD: u64 = 2;
const ORPHAN: u64 = 3;
const STATE: u64 = 0xf;
const OWNER: u64 = 0xffff_fff0;

/// Bits 4 to 31 of seats and cells: who.
pub(crate) fn owner_bits(client: ClientId) -> u64 {
    u64::from(client.slot()) << 16 | u64::from(client.generation()) << 4
}

/// The client in bits 4 to 31.
#[allow(clippy::cast_possible_truncation)] // Cut to the field.
pub(crate) fn owner_of(word: u64) -> ClientId {
    ClientId::new((word >> 16) as u16, (word >> 4) as u16 & 0x0fff)
}

impl SeatWord {
    /// What the seat is.
    #[must_use]
    pub fn state(self) -> SeatState {
        match self.0 & STATE {
            FREE => SeatState::Free,
            GRANTED => SeatState::Granted,
            HELD => SeatState::Held,
            ORPHAN => SeatState::Orphan,
            _ => SeatState::Unknown,
        }
    }

    /// How often it was taken.
    #[must_use]
    pub fn take_number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whose it is; means nothing if it is free.
    #[must_use]
    pub fn owner(self) -> ClientId {
        owner_of(self.0)
    }

    fn is(self, state: u64, client: ClientId) -> bool {
        self.0 & (STATE | OWNER) == state | owner_bits(client)
    }

    fn next(self, state: u64, client: ClientId) -> SeatWord {
        let number = u64::from(self.take_number().wrapping_add(1));
        SeatWord(number << 32 | owner_bits(client) | state)
    }

    fn with_state(self, state: u64) -> SeatWord {
        SeatWord(self.0 & !STATE | state)
    }

    fn freed(self) -> SeatWord {
        SeatWord(self.0 & !(STATE | OWNER))
    }
}

/// Reads a seat.
#[must_use]
pub fn look(seat: &AtomicU64) -> SeatWord {
    // Acquire, PAIR(seat): sees what the last owner did before it gave the seat back.
    SeatWord(seat.load(Ordering::Acquire))
}

/// The one compare-and-swap of all transitions.
fn change(seat: &AtomicU64, from: SeatWord, to: SeatWord) -> Result<SeatWord, SeatWord> {
    // SeqCst, PAIR(seat) and PAIR(dekker): acquires what the last owner did, releases what we did, and
    // stands before the callers' fences in the one order of all of them. A failure only informs.
    match seat.compare_exchange(from.0, to.0, Ordering::SeqCst, Ordering::Acquire) {
        Ok(_) => Ok(to),
        Err(found) => Err(SeatWord(found)),
    }
}

/// Takes a seat that was seen free.
///
/// # Errors
/// What the seat is now, if somebody was faster or it was not free.
pub fn take(seat: &AtomicU64, seen: SeatWord, client: ClientId) -> Result<SeatWord, SeatWord> {
    if seen.state() != SeatState::Free {
        return Err(seen);
    }
    change(seat, seen, seen.next(HELD, client))
}

/// Frees a seat whose whole word we know: the release of a taken one, the undoing of a grant.
#[must_use]
pub fn free(seat: &AtomicU64, mine: SeatWord) -> bool {
    change(seat, mine, mine.freed()).is_ok()
}

/// Turns a held seat into an orphan.
#[must_use]
pub fn orphan(seat: &AtomicU64, mine: SeatWord) -> bool {
    mine.state() == SeatState::Held && change(seat, mine, mine.with_state(ORPHAN)).is_ok()
}

/// Gives a seat (free, or held or granted by ourselves: its whole word is known) to a waiter.
///
/// # Errors
/// What the seat is now, if it changed meanwhile.
pub fn grant(seat: &AtomicU64, from: SeatWord, to: ClientId) -> Result<SeatWord, SeatWord> {
    change(seat, from, from.next(GRANTED, to))
}

/// The waiter picks up what it was given. `None` if the grant was revoked meanwhile.
#[must_use]
pub fn accept(seat: &AtomicU64, client: ClientId) -> Option<SeatWord> {
    let seen = look(seat);
    if !seen.is(GRANTED, client) {
        return None;
    }
    change(seat, seen, seen.with_state(HELD)).ok()
}

/// What [`sweep`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// The seat is not that client's.
    Other,
    /// It was held and is an orphan now.
    Orphaned,
    /// It was granted, never used, and is free now: somebody else may be waiting for it.
    Freed,
}

/// Takes a seat away from a client that is dead.
#[must_use]
pub fn sweep(seat: &AtomicU64, client: ClientId) -> Swept {
    // The dead do not interfere; the living may at most undo or revoke a grant meanwhile.
    for _ in 0..4 {
        let seen = look(seat);
        if seen.is(HELD, client) {
            if orphan(seat, seen) {
                return Swept::Orphaned;
            }
        } else if seen.is(GRANTED, client) {
            if free(seat, seen) {
                return Swept::Freed;
            }
        } else {
            break;
        }
    }
    Swept::Other
}

/// Frees a seat whatever it is: the process is no more. Workers that still think they have it fail
/// to release it. Says whether it was anything but free.
pub fn clear(seat: &AtomicU64) -> bool {
    let mut seen = look(seat);
    for _ in 0..8 {
        if seen.state() == SeatState::Free {
            return false;
        }
        match change(seat, seen, seen.freed()) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
    // Somebody writes to it all the time, as no worker of ours does. Not looking is safe, too: the word
    // is of a process that nobody finds any more. SeqCst for uniformity with `change`.
    seat.swap(seen.freed().0, Ordering::SeqCst);
    true
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_use_of_a_seat_has_a_name_that_never_comes_back() {
        let seat = AtomicU64::new(0);
        let (a, b) = (ClientId::new(3, 0xabc), ClientId::new(4, 1));
        let first = take(&seat, look(&seat), a).unwrap();
        assert_eq!(
            (first.state(), first.owner(), first.take_number()),
            (SeatState::Held, a, 1)
        );
        assert!(take(&seat, look(&seat), b).is_err());
        assert!(free(&seat, first));
        assert!(!free(&seat, first));
        let second = take(&seat, look(&seat), a).unwrap();
        assert_ne!(first, second);
        // The same worker's stale word must not free the second use.
        assert!(!free(&seat, first) && !orphan(&seat, first));
        assert!(orphan(&seat, second));
        assert!(
            !free(&seat, second),
            "only the agent, who reads the orphan's word, may"
        );
        assert!(clear(&seat) && !clear(&seat));
        assert_eq!(look(&seat), SeatWord(2 << 32));
    }

    #[test]
    fn grants_are_for_one_client_and_sweeping_knows_the_difference() {
        let seat = AtomicU64::new(0);
        let (a, b) = (ClientId::new(1, 1), ClientId::new(1, 2));
        grant(&seat, look(&seat), a).unwrap();
        assert!(accept(&seat, b).is_none());
        assert_eq!(sweep(&seat, b), Swept::Other);
        assert_eq!(sweep(&seat, a), Swept::Freed);
        grant(&seat, look(&seat), a).unwrap();
        accept(&seat, a).unwrap();
        assert_eq!(sweep(&seat, a), Swept::Orphaned);
        assert_eq!(sweep(&seat, a), Swept::Other);
        assert_eq!(look(&seat).take_number(), 2);
    }

    #[test]
    fn unknown_states_are_nobodys() {
        for state in 4..16 {
            let seat = AtomicU64::new(state | 7 << 32);
            assert_eq!(look(&seat).state(), SeatState::Unknown);
            assert!(take(&seat, look(&seat), ClientId::new(0, 0)).is_err());
            assert_eq!(sweep(&seat, ClientId::new(0, 0)), Swept::Other);
            assert!(clear(&seat));
        }
    }
}
