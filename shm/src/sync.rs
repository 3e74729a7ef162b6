//! The only import of atomics in this crate, with their twins for `loom`, and the two access patterns
//! that are argued once, here, and used everywhere by name.
//!
//! **Atomics between processes.** A Rust atomic of 32 or 64 bits is lock-free and address-free on every
//! target this crate supports (x86-64, aarch64): it is an ordinary aligned word in memory that several
//! instructions may touch, and the memory model speaks of agents and locations, not of processes. The
//! same page mapped twice is the same location.
//!
//! **Read-only mappings.** Rust promises only `Relaxed` loads of up to 8 bytes on memory that is mapped
//! without `PROT_WRITE`. [`load_acquire`] is therefore a relaxed load and a fence.

#[cfg(loom)]
pub use loom::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub use std::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

/// The fence between "I have written mine" and "now I look at yours", where two sides do the same in
/// opposite order. Of two such sides at least one sees the other's write: the fences are totally ordered,
/// and everything written before the first is visible to reads after the second. (Release/acquire alone
/// lost 119 of a million wake-ups here: design-review, T7.) Every caller names its opposite.
pub fn dekker() {
    fence(Ordering::SeqCst);
}

/// Reads a word of a segment that may be mapped read-only. Everything its writer stored before a
/// `Release` store of that value is visible afterwards.
pub fn load_acquire(word: &AtomicU64) -> u64 {
    // Relaxed: the fence below makes it an acquire load, in the form that Rust allows here.
    let value = word.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    value
}

/// [`load_acquire`] for a 32-bit word.
pub fn load_acquire_u32(word: &AtomicU32) -> u32 {
    // Relaxed: as above.
    let value = word.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    value
}
