//! Where seats and waiters meet: giving a seat back, giving it to a waiter, picking it up. Owns the steps
//! in which a seat word and a cell word change together, and the rule who comes first.
//!
//! **The rule.** A free seat is anybody's: newcomers may take it before waiters do (barging keeps the
//! processes busy while a waiter wakes up). Once the oldest waiter has waited [`HAND_OVER_AGE`], seats are
//! handed over in order and newcomers join the queue.
//!
//! **No wake-up is lost** (PAIR(wait)). Giving back: (1) the seat word says free, (2) fence, (3) look at
//! the bitmap, wake the oldest. Waiting: (a) the bit is set, (b) fence, (c) look at the seats, (d) sleep on
//! the own futex (whose value was read before (c)). If (3) misses the bit then (c) sees the free seat.
//! Two seats may wake the same waiter: whoever has waited and got a seat, or leaves, looks once more and
//! wakes the next if a seat is free (`Member::nudge` of the views), so the second wake-up travels on.
//!
//! **Handing over** (PAIR(grant)): (1) the seat word goes from held to granted-to-that-worker, (2) *one*
//! compare-and-swap of the waiter's cell from its ticket to the seat's name. If (2) fails the waiter has
//! left, and the seat goes to the next, or is freed. Crash between (1) and (2): the seat is granted and
//! no cell names it: the agent revokes it after a second. A waiter that dies with a grant: the sweep
//! frees cell and seat. Crash of the waiter between picking up (seat held) and leaving its cell: the
//! sweep makes the seat an orphan.

use crate::clock::{Ticks, TICKS_PER_MS};
use crate::ids::ClientId;
use crate::sync::{dekker, AtomicU64};

use super::cell::Granted;
use super::queue::{Oldest, Queue};
use super::seat::{self, SeatWord};

/// Waiters younger than this compete with newcomers; older ones are served in order.
pub const HAND_OVER_AGE: Ticks = 10 * TICKS_PER_MS;

/// Waiters that leave under the hands of one releaser before it gives up and just frees the seat.
const HAND_OVER_TRIES: u32 = 8;

/// A seat, its name in cells, and the queue of its group.
#[derive(Debug, Clone, Copy)]
pub struct Desk<'a> {
    /// The seat's word.
    pub seat: &'a AtomicU64,
    /// What a cell calls it.
    pub name: Granted,
    /// Who waits for such seats.
    pub queue: Queue<'a>,
}

/// What became of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Free for anybody.
    Freed,
    /// Given to the waiter in that cell.
    HandedOver(usize),
    /// The word had changed: it was not ours to give (revoked, process slot freed). Nothing happened.
    NotOurs,
}

impl Desk<'_> {
    /// Gives back a seat whose whole word we know, held or granted: to the oldest waiter if that has waited
    /// long enough, else to nobody, waking the oldest.
    pub fn give_back(&self, mine: SeatWord, now: impl Fn() -> Ticks) -> Outcome {
        let mut word = mine;
        // PAIR(wait) is the fence further down. This early look only keeps the order better.
        if self.queue.is_occupied() {
            match self.hand_over(word, now()) {
                Ok(outcome) => return outcome,
                Err(unwanted) => word = unwanted,
            }
        }
        if !seat::free(self.seat, word) {
            return Outcome::NotOurs;
        }
        self.announce(now);
        Outcome::Freed
    }

    /// Steps 2 and 3 of giving back, after the seat was freed by other means.
    pub fn announce(&self, now: impl Fn() -> Ticks) {
        // PAIR(wait): see the module's page.
        dekker();
        if self.queue.is_occupied() {
            self.queue.wake_oldest(now());
        }
    }

    /// Gives the seat (free, or held or granted by ourselves) to the oldest waiter that has waited long
    /// enough.
    ///
    /// # Errors
    /// The seat's word, still ours to free, if there is no such waiter.
    pub fn hand_over(&self, mine: SeatWord, now: Ticks) -> Result<Outcome, SeatWord> {
        let mut word = mine;
        for _ in 0..HAND_OVER_TRIES {
            let Some(oldest) = aged(&self.queue, now) else {
                return Err(word);
            };
            let Some(cell) = self.queue.cell(oldest.place.index) else {
                return Err(word);
            };
            // PAIR(grant), step 1
            word = match seat::grant(self.seat, word, oldest.place.word.owner()) {
                Ok(granted) => granted,
                Err(_) => return Ok(Outcome::NotOurs),
            };
            // PAIR(grant), step 2
            if cell.grant(oldest.place.word, self.name) {
                cell.alarm().wake();
                return Ok(Outcome::HandedOver(oldest.place.index));
            }
        }
        Err(word)
    }

    /// The waiter picks up the seat that its cell names. `None`: the grant was revoked, or the cell lied.
    #[must_use]
    pub fn pick_up(&self, client: ClientId) -> Option<SeatWord> {
        // PAIR(grant)
        seat::accept(self.seat, client)
    }
}

/// The oldest waiter, if newcomers must stand behind it.
#[must_use]
pub fn aged(queue: &Queue<'_>, now: Ticks) -> Option<Oldest> {
    queue
        .oldest(now)
        .filter(|oldest| oldest.waited >= HAND_OVER_AGE)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::cell::{Cell, CellState};
    use super::super::queue::Left;
    use super::super::seat::{look, SeatState};
    use super::*;

    const A: ClientId = ClientId::new(1, 1);
    const B: ClientId = ClientId::new(2, 1);
    const NAME: Granted = Granted {
        process: 3,
        seat: 0,
    };

    #[test]
    fn young_waiters_are_woken_and_old_ones_are_served_in_order() {
        let word = AtomicU64::new(0);
        let cells: Vec<_> = (0..3).map(|_| Cell::new()).collect();
        let bits = [AtomicU64::new(0)];
        let queue = Queue::new(&cells, &bits);
        let desk = Desk {
            seat: &word,
            name: NAME,
            queue,
        };
        let held = seat::take(&word, look(&word), A).unwrap();
        let second = queue.claim(0, B, 100).unwrap();
        let first = queue.claim(0, B, 90).unwrap();
        assert_eq!(
            desk.give_back(held, || 90 + HAND_OVER_AGE - 1),
            Outcome::Freed
        );
        assert!(cells[first.index].alarm().is_rung());
        assert!(!cells[second.index].alarm().is_rung());
        let held = seat::take(&word, look(&word), A).unwrap();
        let handed = desk.give_back(held, || 90 + HAND_OVER_AGE);
        assert_eq!(handed, Outcome::HandedOver(first.index));
        assert_eq!(desk.give_back(held, || 0), Outcome::NotOurs);
        assert!(desk.pick_up(A).is_none());
        assert_eq!(cells[first.index].look().state(), CellState::Granted(NAME));
        let picked = desk.pick_up(B).unwrap();
        assert_eq!(queue.leave(first), Left::With(NAME));
        assert_eq!(queue.leave(second), Left::Empty);
        assert_eq!(desk.give_back(picked, || 10_000), Outcome::Freed);
        assert_eq!(look(&word).state(), SeatState::Free);
    }
}
