//! The algorithms of `traffic`, over references to words. Nothing here knows where a word lies: the
//! views hand in mapped memory, the `loom` models a few words on the heap.
//!
//! | file | one word of it | who changes it |
//! |---|---|---|
//! | `seat.rs` | seat: take number · worker · state | workers; agent and watchdog repair |
//! | `cell.rs` | waiter cell: ticket or grant · worker · state | its waiter; whoever grants; watchdog |
//! | `queue.rs` | bitmap: which cells are occupied | as the cells |
//! | `desk.rs` | – the steps in which seats and cells change together | |
//! | `process.rs` | process: generation · group · state · flags | agent only (in `routes`) |
//! | `counter.rs` | requests of one worker at one unlimited process, its streams at any | that worker; watchdog |
//! | `limit.rs` | how long the request of one take may last | who took the seat |
//! | `recent.rs` | group: turn · process at the front; process: its last turn | workers; agent clears |
//! | `wait.rs` | sums of what has waited for a group | workers; agent clears |
//! | `ring.rs` | ring cell: hint · full · lap | workers fill, agent empties |
//!
//! Rules of all of them: a word is read once into a local and judged there; every change is one
//! compare-and-swap of the whole word; every loop has a bound; all-zero is free, empty, nobody's.

pub mod cell;
pub mod counter;
pub mod desk;
#[cfg(not(loom))]
pub(crate) mod limit;
pub mod process;
pub mod queue;
pub mod recent;
pub mod ring;
pub mod seat;
#[cfg(not(loom))]
pub(crate) mod wait;
