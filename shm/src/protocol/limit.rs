//! How long the request in a seat may take, as its worker says: the word beside the seat.
//!
//! ```text
//!  63                    32 31          17 16 15             0
//! ┌────────────────────────┬──────────────┬──┬────────────────┐
//! │ take number of the seat│ –            │ 1│ seconds        │
//! └────────────────────────┴──────────────┴──┴────────────────┘
//! ```
//!
//! It belongs to the take that it names, so a word that was left behind says nothing about the next one, and
//! who does not limit his request need not write.

use crate::protocol::seat::SeatWord;
use crate::sync::{AtomicU64, Ordering};

const SAID: u64 = 1 << 16;

/// Says how long the request of this take may last; 0 = as long as it likes.
pub(crate) fn say(limit: &AtomicU64, seat: SeatWord, seconds: u16) {
    let word = u64::from(seat.take_number()) << 32 | SAID | u64::from(seconds);
    // Relaxed: a number about a take that it names; the agent looks again in a second.
    limit.store(word, Ordering::Relaxed);
}

/// What was said about this take, in seconds.
pub(crate) fn of(limit: &AtomicU64, seat: SeatWord) -> Option<u32> {
    // Relaxed: as above.
    let word = limit.load(Ordering::Relaxed);
    let is_said = word & SAID != 0 && word >> 32 == u64::from(seat.take_number());
    is_said.then_some((word & 0xffff) as u32)
}
