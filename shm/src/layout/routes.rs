//! What lies in `routes`: its head, the key table's entries, groups and processes. The agent writes, all others
//! read.

use std::mem::{align_of, offset_of, size_of};

use super::{Stamp, LINE};
use crate::params::MAX_DEFINITION_BYTES;
use crate::raw::Shared;
use crate::sync::{AtomicU32, AtomicU64};

/// Most app processes: a group's member bitmap has one bit for each.
pub(super) const MAX_PROCESSES: u16 = 1024;
const MEMBER_WORDS: usize = MAX_PROCESSES as usize / 64;
const DEFINITION_WORDS: usize = MAX_DEFINITION_BYTES / 8;

/// Head of `routes`. Written by: creator, then agent. Read by: all.
///
/// ```text
///   0 stamp │ 24 capacities 7 × u32 │ 52 – │ 56 instance key 2 × u64 │ 72 config generation u64
///  80 superseded u32 │ 84 …
/// 128 heartbeat u64 │ …            own line: written all the time
/// 256 sleeping u32 │ …             own line: read by every hint
/// 512
/// ```
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RoutesHeader {
    pub(crate) stamp: Stamp,
    /// clients, groups, cells, processes, seats, keys, ring.
    pub(crate) capacities: [AtomicU32; 7],
    _pad0: AtomicU32,
    pub(crate) instance_key: [AtomicU64; 2],
    pub(crate) config_generation: AtomicU64,
    /// Not zero: a newer instance serves; workers re-attach.
    pub(crate) superseded: AtomicU32,
    _pad1: [AtomicU32; 11],
    /// Counted up by the agent's pool loop.
    pub(crate) heartbeat: AtomicU64,
    _pad2: [AtomicU64; 15],
    /// Not zero: the agent sleeps and wants its doorbell rung.
    pub(crate) sleeping: AtomicU32,
    _pad3: [AtomicU32; 63],
}
const _: () = assert!(size_of::<RoutesHeader>() == 512 && align_of::<RoutesHeader>() == 8);
const _: () = assert!(offset_of!(RoutesHeader, capacities) == 24);
const _: () = assert!(offset_of!(RoutesHeader, instance_key) == 56);
const _: () = assert!(offset_of!(RoutesHeader, config_generation) == 72);
const _: () = assert!(offset_of!(RoutesHeader, superseded) == 80);
const _: () = assert!(offset_of!(RoutesHeader, heartbeat) == LINE);
const _: () = assert!(offset_of!(RoutesHeader, sleeping) == 2 * LINE);
// SAFETY: only atomics, arrays of atomics and `repr(C)` structs of such, as listed above; any bits are valid.
unsafe impl Shared for RoutesHeader {}

/// One entry of the key table. Written by: agent. Read by: workers.
///
/// ```text
/// 0 hi u64 │ 8 lo u64 │ 16 value u64 │ 24 –
/// value: 63 group generation 32 │ 31 group index 16 │ 15 version 2 │ 1 state 0
/// ```
#[derive(Debug)]
#[repr(C)]
pub(crate) struct KeyEntry {
    pub(crate) hi: AtomicU64,
    pub(crate) lo: AtomicU64,
    /// Stored last; a reader takes it before and after the key.
    pub(crate) value: AtomicU64,
    _pad: AtomicU64,
}
const _: () = assert!(size_of::<KeyEntry>() == 32 && align_of::<KeyEntry>() == 8);
const _: () = assert!(offset_of!(KeyEntry, lo) == 8 && offset_of!(KeyEntry, value) == 16);
// SAFETY: only atomics, arrays of atomics and `repr(C)` structs of such, as listed above; any bits are valid.
unsafe impl Shared for KeyEntry {}

/// One application. Written by: agent. Read by: all.
///
/// ```text
///   0 generation u32 │ 4 queue limit u32 │ 8 queue time ms u32 │ 12 code generation u32
///  16 spawn failures u64 │ 24 definition length u32 │ 28 code wait ms u32
///  32 restart mark u64 │ 40 …
/// 128 members 16 × u64         bit = process slot
/// 256 definition 2048 bytes    agent's own, opaque
/// 2304
/// ```
/// The generation is odd (or 0) while the slot is free or being built, even once published.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct GroupSlot {
    pub(crate) generation: AtomicU32,
    pub(crate) queue_limit: AtomicU32,
    pub(crate) queue_time_ms: AtomicU32,
    pub(crate) code_generation: AtomicU32,
    pub(crate) spawn_failures: AtomicU64,
    pub(crate) definition_length: AtomicU32,
    pub(crate) code_wait_ms: AtomicU32,
    pub(crate) restart_mark: AtomicU64,
    _pad: [AtomicU32; 22],
    pub(crate) members: [AtomicU64; MEMBER_WORDS],
    pub(crate) definition: [AtomicU64; DEFINITION_WORDS],
}
const _: () = assert!(size_of::<GroupSlot>() == 18 * LINE && align_of::<GroupSlot>() == 8);
const _: () = assert!(offset_of!(GroupSlot, generation) == 0);
const _: () = assert!(offset_of!(GroupSlot, queue_limit) == 4);
const _: () = assert!(offset_of!(GroupSlot, queue_time_ms) == 8);
const _: () = assert!(offset_of!(GroupSlot, code_generation) == 12);
const _: () = assert!(offset_of!(GroupSlot, spawn_failures) == 16);
const _: () = assert!(offset_of!(GroupSlot, definition_length) == 24);
const _: () = assert!(offset_of!(GroupSlot, code_wait_ms) == 28);
const _: () = assert!(offset_of!(GroupSlot, restart_mark) == 32);
const _: () = assert!(offset_of!(GroupSlot, members) == LINE);
const _: () = assert!(offset_of!(GroupSlot, definition) == 2 * LINE);
// SAFETY: only atomics, arrays of atomics and `repr(C)` structs of such, as listed above; any bits are valid.
unsafe impl Shared for GroupSlot {}

/// One app process. Written by: agent. Read by: all.
///
/// ```text
///  0 word u64 (protocol/process.rs) │ 8 concurrency u32 │ 12 code generation u32
/// 16 pid i32 │ 20 uid u32 │ 24 started ms u64 │ 32 group generation u32 │ 36 port u32 │ 40 …
/// 64
/// ```
#[derive(Debug)]
#[repr(C)]
pub(crate) struct ProcessSlot {
    pub(crate) word: AtomicU64,
    pub(crate) concurrency: AtomicU32,
    pub(crate) code_generation: AtomicU32,
    pub(crate) pid: AtomicU32,
    pub(crate) uid: AtomicU32,
    pub(crate) started_ms: AtomicU64,
    pub(crate) group_generation: AtomicU32,
    pub(crate) port: AtomicU32,
    _pad: [AtomicU32; 6],
}
const _: () = assert!(size_of::<ProcessSlot>() == 64 && align_of::<ProcessSlot>() == 8);
const _: () = assert!(offset_of!(ProcessSlot, concurrency) == 8);
const _: () = assert!(offset_of!(ProcessSlot, code_generation) == 12);
const _: () = assert!(offset_of!(ProcessSlot, pid) == 16);
const _: () = assert!(offset_of!(ProcessSlot, uid) == 20);
const _: () = assert!(offset_of!(ProcessSlot, started_ms) == 24);
const _: () = assert!(offset_of!(ProcessSlot, group_generation) == 32);
const _: () = assert!(offset_of!(ProcessSlot, port) == 36);
// SAFETY: only atomics, arrays of atomics and `repr(C)` structs of such, as listed above; any bits are valid.
unsafe impl Shared for ProcessSlot {}
