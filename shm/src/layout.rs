//! The layout of both segments: every shared struct with its drawing and its assertions, the offsets of the
//! sections for given capacities, and the hash that two builds compare.
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

use std::mem::{align_of, offset_of, size_of};

use crate::error::Error;
use crate::params::{Capacities, MAX_DEFINITION_BYTES};
use crate::protocol::cell::Cell;
use crate::raw::Shared;
use crate::sync::{AtomicU32, AtomicU64};

/// Version of everything in this file and of the bits in `protocol/`. Count it up with every change.
pub(crate) const LAYOUT_VERSION: u32 = 5;

/// Magic numbers: what a segment is.
pub(crate) const ROUTES_MAGIC: u64 = u64::from_le_bytes(*b"PSGRrout");
pub(crate) const TRAFFIC_MAGIC: u64 = u64::from_le_bytes(*b"PSGRtraf");

/// Two cache lines: the unit that x86 prefetches.
const LINE: usize = 128;

/// Most app processes: a group's member bitmap has one bit for each.
pub(crate) const MAX_PROCESSES: usize = 1024;
const MEMBER_WORDS: usize = MAX_PROCESSES / 64;
const DEFINITION_WORDS: usize = MAX_DEFINITION_BYTES / 8;

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

const _: () = assert!(size_of::<Cell>() == 16 && align_of::<Cell>() == 8);
const _: () = assert!(offset_of!(Cell, word) == 0);

// SAFETY: (all of them) atomics, arrays of atomics and `repr(C)` structs of such; any bits are valid.
unsafe impl Shared for AtomicU64 {}
// SAFETY: as above.
unsafe impl Shared for Stamp {}
// SAFETY: as above.
unsafe impl Shared for RoutesHeader {}
// SAFETY: as above.
unsafe impl Shared for KeyEntry {}
// SAFETY: as above.
unsafe impl Shared for GroupSlot {}
// SAFETY: as above.
unsafe impl Shared for ProcessSlot {}
// SAFETY: as above.
unsafe impl Shared for TrafficHeader {}
// SAFETY: as above.
unsafe impl Shared for Total {}
// SAFETY: as above.
unsafe impl Shared for Waits {}
// SAFETY: as above: an AtomicU64, a futex word (transparent over AtomicU32) and an AtomicU32.
unsafe impl Shared for Cell {}

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

/// Where the sections of `routes` begin, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoutesLayout {
    pub(crate) keys: usize,
    pub(crate) groups: usize,
    pub(crate) processes: usize,
    pub(crate) length: usize,
}

/// Where the sections of `traffic` begin, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TrafficLayout {
    pub(crate) ring: usize,
    pub(crate) seats: usize,
    pub(crate) totals: usize,
    pub(crate) bitmaps: usize,
    /// Bitmap words of one group that are in use.
    pub(crate) bitmap_words: usize,
    /// Bitmap words from one group to the next: whole lines, the last word of which says who was used last
    /// (`protocol/recent.rs`), where each take finds it on the way.
    pub(crate) bitmap_stride: usize,
    pub(crate) cells: usize,
    pub(crate) counters: usize,
    /// Counters from one client to the next: whole lines.
    pub(crate) counter_stride: usize,
    /// As the counters, and with their stride.
    pub(crate) streams: usize,
    pub(crate) limits: usize,
    pub(crate) waits: usize,
    pub(crate) length: usize,
}

impl RoutesLayout {
    /// The layout for checked capacities.
    pub(crate) fn of(c: &Capacities) -> Result<RoutesLayout, Error> {
        check(c)?;
        let mut end = size_of::<RoutesHeader>();
        Ok(RoutesLayout {
            keys: place(&mut end, c.keys as usize, size_of::<KeyEntry>()),
            groups: place(&mut end, usize::from(c.groups), size_of::<GroupSlot>()),
            processes: place(&mut end, usize::from(c.processes), size_of::<ProcessSlot>()),
            length: whole_lines(end),
        })
    }
}

impl TrafficLayout {
    /// The layout for checked capacities.
    pub(crate) fn of(c: &Capacities) -> Result<TrafficLayout, Error> {
        check(c)?;
        let [clients, groups, cells, processes, seats] =
            [c.clients, c.groups, c.cells, c.processes, c.seats].map(usize::from);
        let bitmap_words = cells.div_ceil(64);
        let bitmap_stride = whole_lines((bitmap_words + 1) * 8) / 8;
        let counter_stride = whole_lines(processes * 8) / 8;
        let mut end = size_of::<TrafficHeader>();
        Ok(TrafficLayout {
            ring: place(&mut end, c.ring as usize, 8),
            seats: place(&mut end, processes * seats, 8),
            totals: place(&mut end, processes, size_of::<Total>()),
            bitmaps: place(&mut end, groups * bitmap_stride, 8),
            bitmap_words,
            bitmap_stride,
            cells: place(&mut end, groups * cells, size_of::<Cell>()),
            counters: place(&mut end, clients * counter_stride, 8),
            counter_stride,
            streams: place(&mut end, clients * counter_stride, 8),
            limits: place(&mut end, processes * seats, 8),
            waits: place(&mut end, groups, size_of::<Waits>()),
            length: whole_lines(end),
        })
    }
}

/// Puts a section at the end, at the start of a line. The limits of [`check`] exclude overflow: 2³² bytes
/// at most per section, on 64-bit machines.
fn place(end: &mut usize, elements: usize, size: usize) -> usize {
    let start = whole_lines(*end);
    *end = start + elements * size;
    start
}

fn whole_lines(bytes: usize) -> usize {
    bytes.next_multiple_of(LINE)
}

fn check(c: &Capacities) -> Result<(), Error> {
    let limits = [
        ("clients", u32::from(c.clients), 32_768),
        ("groups", u32::from(c.groups), 4096),
        ("cells per group", u32::from(c.cells), 4096),
        ("processes", u32::from(c.processes), 1024),
        ("seats per process", u32::from(c.seats), 4096),
        ("keys", c.keys, 1 << 20),
        ("ring cells", c.ring, 1 << 16),
    ];
    for (what, given, limit) in limits {
        if given == 0 || given > limit {
            let what = format!("{given} {what} (1 to {limit} are possible)");
            return Err(Error::Corrupt {
                segment: "routes",
                what,
            });
        }
    }
    for (what, given) in [("keys", c.keys), ("ring cells", c.ring)] {
        if !given.is_power_of_two() {
            let what = format!("{given} {what}: not a power of two");
            return Err(Error::Corrupt {
                segment: "routes",
                what,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_follow_each_other_on_whole_lines_without_overlap() {
        for c in [
            Capacities::for_httpd(16, 400, 6),
            Capacities::for_httpd(20_000, 40_000, 900),
        ] {
            let r = RoutesLayout::of(&c).unwrap();
            let t = TrafficLayout::of(&c).unwrap();
            let starts = [
                r.keys,
                r.groups,
                r.processes,
                t.ring,
                t.seats,
                t.totals,
                t.bitmaps,
                t.cells,
                t.limits,
                t.waits,
            ];
            assert!(starts.iter().all(|start| start % LINE == 0));
            assert_eq!(r.groups - r.keys, c.keys as usize * 32);
            assert_eq!(
                r.processes - r.groups,
                usize::from(c.groups) * size_of::<GroupSlot>()
            );
            assert!(t.cells >= t.bitmaps + usize::from(c.groups) * t.bitmap_stride * 8);
            assert!(t.bitmap_words * 64 >= usize::from(c.cells));
            assert!(
                t.bitmap_words < t.bitmap_stride,
                "no room for who was used last"
            );
            let counters = usize::from(c.clients) * t.counter_stride * 8;
            assert_eq!(t.streams, t.counters + counters);
            assert_eq!(t.limits, t.streams + counters);
            assert_eq!(t.waits - t.limits, t.totals - t.seats);
            assert_eq!(t.length, t.waits + usize::from(c.groups) * 64);
        }
    }

    #[test]
    fn a_debian_default_is_a_few_megabytes() {
        let c = Capacities::for_httpd(16, 150, 6);
        let bytes = RoutesLayout::of(&c).unwrap().length + TrafficLayout::of(&c).unwrap().length;
        assert!(bytes < 4 << 20, "{bytes}");
    }

    #[test]
    fn impossible_capacities_are_named() {
        let good = Capacities::for_httpd(1, 1, 1);
        for bad in [
            Capacities {
                processes: 1025,
                ..good
            },
            Capacities { clients: 0, ..good },
            Capacities { ring: 1000, ..good },
        ] {
            assert!(RoutesLayout::of(&bad).is_err() && TrafficLayout::of(&bad).is_err());
        }
    }
}
