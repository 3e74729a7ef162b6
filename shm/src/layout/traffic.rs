//! What lies in `traffic` beside bare words (seats, bitmaps, counters, limits): its head, the totals of processes,
//! the waits of groups and the waiter cells. Workers write: agent and watchdog take it as hostile.

use std::mem::{align_of, offset_of, size_of};

use super::{Stamp, LINE};
use crate::protocol::cell::Cell;
use crate::raw::Shared;
use crate::sync::{AtomicU32, AtomicU64};

/// Head of `traffic`. Written by: creator; then workers, agent. Read by: all.
///
/// ```text
///   0 stamp │ 24 …
/// 128 ring tail u64 │ …            own line
/// 256 ring overflow u32 │ …        own line
/// 384
/// ```
#[derive(Debug)]
#[repr(C)]
pub(crate) struct TrafficHeader {
    pub(crate) stamp: Stamp,
    _pad0: [AtomicU64; 13],
    pub(crate) ring_tail: AtomicU64,
    _pad1: [AtomicU64; 15],
    pub(crate) ring_overflow: AtomicU32,
    _pad2: [AtomicU32; 31],
}
const _: () = assert!(size_of::<TrafficHeader>() == 3 * LINE && align_of::<TrafficHeader>() == 8);
const _: () = assert!(offset_of!(TrafficHeader, ring_tail) == LINE);
const _: () = assert!(offset_of!(TrafficHeader, ring_overflow) == 2 * LINE);
// SAFETY: only atomics, arrays of atomics and `repr(C)` structs of such, as listed above; any bits are valid.
unsafe impl Shared for TrafficHeader {}

/// Totals of a process (`protocol/counter.rs`), on a line of their own: requests of an unlimited one, streams of
/// any, and when it was used (`protocol/recent.rs`). Written by: workers, watchdog, agent. Read by: all, as hints.
///
/// ```text
/// 0 requests u64 │ 8 streams u64 │ 16 turn u64 │ 24 …
/// 64
/// ```
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Total {
    pub(crate) word: AtomicU64,
    pub(crate) streams: AtomicU64,
    pub(crate) turn: AtomicU64,
    _pad: [AtomicU64; 5],
}
const _: () = assert!(size_of::<Total>() == 64 && offset_of!(Total, word) == 0);
const _: () = assert!(offset_of!(Total, streams) == 8 && offset_of!(Total, turn) == 16);
// SAFETY: only atomics, arrays of atomics and `repr(C)` structs of such, as listed above; any bits are valid.
unsafe impl Shared for Total {}

/// What has waited in a group's queue since the group came into being, and what found no room in it. Written by:
/// workers that leave the queue or cannot join it and, when a group is made, the agent. Read by: agent, tools. For the
/// eye: nothing is decided by it.
///
/// ```text
/// 0 requests u64 │ 8 microseconds of all u64 │ 16 longest, microseconds u64 │ 24 rejected u64 │ 32 …
/// 64
/// ```
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Waits {
    pub(crate) requests: AtomicU64,
    pub(crate) total_us: AtomicU64,
    pub(crate) longest_us: AtomicU64,
    pub(crate) rejected: AtomicU64,
    _pad: [AtomicU64; 4],
}
const _: () = assert!(size_of::<Waits>() == 64 && align_of::<Waits>() == 8);
const _: () = assert!(offset_of!(Waits, total_us) == 8 && offset_of!(Waits, longest_us) == 16);
const _: () = assert!(offset_of!(Waits, rejected) == 24);
// SAFETY: only atomics, arrays of atomics and `repr(C)` structs of such, as listed above; any bits are valid.
unsafe impl Shared for Waits {}

// One waiter cell: its drawing stands with its word, in `protocol/cell.rs`.
const _: () = assert!(size_of::<Cell>() == 16 && align_of::<Cell>() == 8);
const _: () = assert!(offset_of!(Cell, word) == 0);
// SAFETY: an AtomicU64, a futex word (transparent over AtomicU32) and an AtomicU32; any bits are valid.
unsafe impl Shared for Cell {}
