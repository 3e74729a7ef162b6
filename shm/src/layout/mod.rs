//! The layout of both segments: version, magic numbers, and the hash that two builds compare. Every shared struct
//! stands with its drawing and its assertions in `routes.rs` or `traffic.rs`, by the segment that it lies in; the
//! offsets of the sections for given capacities are in `sections.rs`.
//!
//! ```text
//! routes (agent writes, all others read)        traffic (workers write; hostile to agent and watchdog)
//! ┌──────────────────────────────┐ 0            ┌──────────────────────────────────────┐ 0
//! │ RoutesHeader            512 B │              │ TrafficHeader                   384 B │
//! ├──────────────────────────────┤              ├──────────────────────────────────────┤
//! │ KeyEntry   × keys       32 B │              │ ring cells  × ring                8 B │
//! ├──────────────────────────────┤              ├──────────────────────────────────────┤
//! │ GroupSlot  × groups   2304 B │              │ seats       × processes × seats   8 B │
//! ├──────────────────────────────┤              ├──────────────────────────────────────┤
//! │ ProcessSlot × processes 64 B │              │ totals      × processes          64 B │
//! └──────────────────────────────┘              ├──────────────────────────────────────┤
//!   every section starts at a                   │ bitmaps     × groups × lines    128 B │
//!   multiple of 128 bytes                       │   last word: who was used last        │
//!                                               ├──────────────────────────────────────┤
//!                                               │ cells       × groups × cells     16 B │
//!                                               ├──────────────────────────────────────┤
//!                                               │ counters    × clients × row       8 B │
//!                                               ├──────────────────────────────────────┤
//!                                               │ streams     × clients × row       8 B │
//!                                               ├──────────────────────────────────────┤
//!                                               │ limits      × processes × seats   8 B │
//!                                               ├──────────────────────────────────────┤
//!                                               │ waits       × groups             64 B │
//!                                               └──────────────────────────────────────┘
//! ```

mod routes;
mod sections;
mod traffic;

use std::mem::{align_of, offset_of, size_of};

use crate::protocol::cell::Cell;
use crate::raw::Shared;
use crate::sync::{AtomicU32, AtomicU64};

pub(crate) use routes::{GroupSlot, KeyEntry, ProcessSlot, RoutesHeader};
pub(crate) use sections::{RoutesLayout, TrafficLayout};
pub(crate) use traffic::{Total, TrafficHeader, Waits};

/// Version of everything in this directory and of the bits in `protocol/`. Count it up with every change.
pub(crate) const LAYOUT_VERSION: u32 = 5;

/// Magic numbers: what a segment is.
pub(crate) const ROUTES_MAGIC: u64 = u64::from_le_bytes(*b"PSGRrout");
pub(crate) const TRAFFIC_MAGIC: u64 = u64::from_le_bytes(*b"PSGRtraf");

/// Two cache lines: the unit that x86 prefetches.
const LINE: usize = 128;

/// What a segment is and who made it. Written by: its creator, `magic` last. Read by: all.
///
/// ```text
/// 0 magic u64 │ 8 hash u64 │ 16 version u32 │ 20 – u32
/// ```
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Stamp {
    pub(crate) magic: AtomicU64,
    pub(crate) hash: AtomicU64,
    pub(crate) version: AtomicU32,
    _pad: AtomicU32,
}
const _: () = assert!(size_of::<Stamp>() == 24 && align_of::<Stamp>() == 8);
const _: () = assert!(offset_of!(Stamp, hash) == 8 && offset_of!(Stamp, version) == 16);
// SAFETY: only atomics, arrays of atomics and `repr(C)` structs of such, as listed above; any bits are valid.
unsafe impl Shared for Stamp {}

// SAFETY: an atomic; any bits are valid.
unsafe impl Shared for AtomicU64 {}

/// Hash of the layout: what two builds must agree on beyond the version, in case somebody forgot it.
#[must_use]
pub fn layout_hash() -> u64 {
    const HASH: u64 = hash(&[
        LAYOUT_VERSION as usize,
        size_of::<RoutesHeader>(),
        size_of::<KeyEntry>(),
        size_of::<GroupSlot>(),
        size_of::<ProcessSlot>(),
        size_of::<TrafficHeader>(),
        size_of::<Total>(),
        size_of::<Cell>(),
        size_of::<Waits>(),
        offset_of!(RoutesHeader, config_generation),
        offset_of!(RoutesHeader, superseded),
        offset_of!(RoutesHeader, heartbeat),
        offset_of!(RoutesHeader, sleeping),
        offset_of!(GroupSlot, queue_limit),
        offset_of!(GroupSlot, queue_time_ms),
        offset_of!(GroupSlot, code_generation),
        offset_of!(GroupSlot, code_wait_ms),
        offset_of!(GroupSlot, restart_mark),
        offset_of!(GroupSlot, spawn_failures),
        offset_of!(GroupSlot, definition_length),
        offset_of!(GroupSlot, members),
        offset_of!(GroupSlot, definition),
        offset_of!(ProcessSlot, concurrency),
        offset_of!(ProcessSlot, code_generation),
        offset_of!(ProcessSlot, pid),
        offset_of!(ProcessSlot, uid),
        offset_of!(ProcessSlot, started_ms),
        offset_of!(ProcessSlot, group_generation),
        offset_of!(ProcessSlot, port),
        offset_of!(TrafficHeader, ring_tail),
        offset_of!(TrafficHeader, ring_overflow),
        offset_of!(Total, streams),
        offset_of!(Total, turn),
        offset_of!(Waits, total_us),
        offset_of!(Waits, longest_us),
        offset_of!(Waits, rejected),
    ]);
    HASH
}

/// FNV-1a over the numbers' bytes (<http://www.isthe.com/chongo/tech/comp/fnv/>).
const fn hash(numbers: &[usize]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < numbers.len() {
        let bytes = numbers[i].to_le_bytes();
        let mut j = 0;
        while j < bytes.len() {
            hash = (hash ^ bytes[j] as u64).wrapping_mul(0x0100_0000_01b3);
            j += 1;
        }
        i += 1;
    }
    hash
}
