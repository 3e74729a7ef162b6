//! `routes` as its readers see it: header, key table, groups, processes. Owns the mapping and the reading
//! protocols; writing is `agent/`'s. The writer may be killed between any two stores: nobody waits for it.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::error::Error;
use crate::ids::{GroupKey, GroupRef, ProcessRef};
use crate::layout::{GroupSlot, KeyEntry, ProcessSlot, RoutesHeader};
use crate::params::{Capacities, GroupInfo, GroupParams, ProcessSnapshot, MAX_DEFINITION_BYTES};
use crate::protocol::process::{self, ProcessWord};
use crate::raw::{Mapping, One, Section};
use crate::segment::open_routes;
use crate::sync::{fence, load_acquire, load_acquire_u32, Ordering};

/// How often a reader starts over when the writer changes what it reads.
const READ_TRIES: u32 = 3;

/// The value word of a key entry: group generation 32 · group index 16 · version 14 · state 2. The version
/// grows with every reuse of the entry, so that two equal values mean that nothing happened between.
pub(crate) mod key_value {
    use crate::ids::GroupRef;

    /// Never used: the end of every probe sequence.
    pub(crate) const EMPTY: u64 = 0;
    /// Names a group.
    pub(crate) const USED: u64 = 1;
    /// Was used: probing goes on behind it.
    pub(crate) const TOMBSTONE: u64 = 2;

    pub(crate) fn state(value: u64) -> u64 {
        value & 3
    }

    pub(crate) fn version(value: u64) -> u64 {
        value >> 2 & 0x3fff
    }

    pub(crate) fn used(group: GroupRef, version: u64) -> u64 {
        u64::from(group.generation()) << 32
            | u64::from(group.index() & 0xffff) << 16
            | (version & 0x3fff) << 2
            | USED
    }

    pub(crate) fn unused(state: u64, version: u64) -> u64 {
        (version & 0x3fff) << 2 | state
    }

    #[allow(clippy::cast_possible_truncation)] // Cut to the fields.
    pub(crate) fn group(value: u64) -> GroupRef {
        GroupRef::new((value >> 16) as u32 & 0xffff, (value >> 32) as u32)
    }
}

/// The segment `routes`, mapped.
#[derive(Debug)]
pub(crate) struct Routes {
    header: One<RoutesHeader>,
    pub(crate) keys: Section<KeyEntry>,
    pub(crate) groups: Section<GroupSlot>,
    pub(crate) processes: Section<ProcessSlot>,
    capacities: Capacities,
    _mapping: Mapping,
}

impl Routes {
    /// Maps and checks the segment.
    pub(crate) fn open(fd: BorrowedFd<'_>, writable: bool) -> Result<Routes, Error> {
        let (mapping, capacities, layout) = open_routes(fd, writable)?;
        Ok(Routes {
            // SAFETY: (all four) the mapping moves into the same struct and is dropped with it.
            header: unsafe { mapping.one(0) }?,
            // SAFETY: as above.
            keys: unsafe { mapping.section(layout.keys, capacities.keys as usize) }?,
            // SAFETY: as above.
            groups: unsafe { mapping.section(layout.groups, usize::from(capacities.groups)) }?,
            // SAFETY: as above.
            processes: unsafe {
                mapping.section(layout.processes, usize::from(capacities.processes))
            }?,
            capacities,
            _mapping: mapping,
        })
    }

    pub(crate) fn header(&self) -> &RoutesHeader {
        self.header.get()
    }

    pub(crate) fn capacities(&self) -> Capacities {
        self.capacities
    }

    /// The key of `GroupKey::of`.
    pub(crate) fn instance_key(&self) -> [u8; 16] {
        // Relaxed: written before the magic, never again.
        let [low, high] = self.header().instance_key.each_ref();
        let high = u128::from(high.load(Ordering::Relaxed)) << 64;
        (high | u128::from(low.load(Ordering::Relaxed))).to_le_bytes()
    }

    /// The group that a registration leads to, if it still exists.
    pub(crate) fn find(&self, key: GroupKey) -> Option<GroupRef> {
        for _ in 0..READ_TRIES {
            match self.probe(key) {
                Probe::Found(group) => return self.group(group).map(|_| group),
                Probe::Absent => return None,
                Probe::Changed => {}
            }
        }
        None
    }

    #[allow(clippy::cast_possible_truncation)] // The hash picks a bucket.
    fn probe(&self, key: GroupKey) -> Probe {
        for step in 0..self.keys.len() {
            let index = (key.lo as usize).wrapping_add(step) & (self.keys.len() - 1);
            let Some(entry) = self.keys.get(index) else {
                break;
            };
            // PAIR(key): the key that belongs to this value is visible.
            let value = load_acquire(&entry.value);
            match key_value::state(value) {
                key_value::EMPTY => return Probe::Absent,
                key_value::USED => {}
                _ => continue,
            }
            // Relaxed: the fence and the second look at the value sort out what changed meanwhile.
            let hi = entry.hi.load(Ordering::Relaxed);
            let lo = entry.lo.load(Ordering::Relaxed);
            // PAIR(key): if a newer key was read, the newer value is visible now.
            fence(Ordering::Acquire);
            if entry.value.load(Ordering::Relaxed) != value {
                return Probe::Changed;
            }
            if (hi, lo) == (key.hi, key.lo) {
                return Probe::Found(key_value::group(value));
            }
        }
        Probe::Absent
    }

    /// The slot of a group, if it still is that group.
    pub(crate) fn group(&self, group: GroupRef) -> Option<&GroupSlot> {
        let slot = self.groups.get(group.index() as usize)?;
        is_published(group.generation()).then_some(())?;
        // PAIR(group): the fields of that generation are visible.
        (load_acquire_u32(&slot.generation) == group.generation()).then_some(slot)
    }

    /// Whether it still is that group: asked last, after what depends on it was read.
    pub(crate) fn is_current(&self, group: GroupRef) -> bool {
        // PAIR(group): if anything of a newer generation was read, this reads the newer generation.
        fence(Ordering::Acquire);
        self.group(group).is_some()
    }

    /// The settings of a group.
    pub(crate) fn group_params(&self, group: GroupRef) -> Option<GroupParams> {
        let slot = self.group(group)?;
        // Relaxed: independent settings; their group is checked before and after.
        let params = GroupParams {
            queue_limit: slot.queue_limit.load(Ordering::Relaxed),
            queue_time_ms: slot.queue_time_ms.load(Ordering::Relaxed),
            // Acquire, PAIR(restart): backwards in the order of the stores.
            restart_mark: slot.restart_mark.load(Ordering::Acquire),
            // Acquire, PAIR(restart)
            code_generation: slot.code_generation.load(Ordering::Acquire),
            code_wait_ms: slot.code_wait_ms.load(Ordering::Relaxed),
        };
        self.is_current(group).then_some(params)
    }

    /// What workers know of a group.
    pub(crate) fn group_info(&self, group: GroupRef) -> Option<GroupInfo> {
        // Relaxed: one counter, compared with itself; the group is checked below.
        let spawn_failures = self.group(group)?.spawn_failures.load(Ordering::Relaxed);
        let params = self.group_params(group)?;
        let queue_time = u64::from(params.queue_time_ms);
        Some(GroupInfo {
            queue_limit: params.queue_limit,
            queue_time: (queue_time != 0).then(|| Duration::from_millis(queue_time)),
            spawn_failures,
            code_generation: params.code_generation,
            code_wait_ms: params.code_wait_ms,
            restart_mark: params.restart_mark,
        })
    }

    /// Every published group.
    pub(crate) fn all_groups(&self) -> impl Iterator<Item = GroupRef> + '_ {
        self.groups
            .all()
            .iter()
            .zip(0u32..)
            .filter_map(|(slot, index)| {
                // PAIR(group)
                let generation = load_acquire_u32(&slot.generation);
                is_published(generation).then(|| GroupRef::new(index, generation))
            })
    }

    /// The agent's own bytes about a group.
    pub(crate) fn definition(&self, group: GroupRef) -> Option<Vec<u8>> {
        let slot = self.group(group)?;
        // Relaxed: see `group_params`.
        let length = slot.definition_length.load(Ordering::Relaxed) as usize;
        let mut bytes = Vec::with_capacity(MAX_DEFINITION_BYTES);
        for word in &slot.definition {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        bytes.truncate(length);
        self.is_current(group).then_some(bytes)
    }

    /// The slot of a process and its word, if it still is that process.
    pub(crate) fn process(&self, name: ProcessRef) -> Option<(&ProcessSlot, ProcessWord)> {
        let slot = self.processes.get(name.slot() as usize)?;
        let word = process::look(&slot.word);
        (word.generation() == name.generation() && word.state().is_some()).then_some((slot, word))
    }

    /// A consistent copy of a process slot, `None` if it is unused or changes all the time.
    pub(crate) fn process_snapshot(&self, index: usize) -> Option<ProcessSnapshot> {
        let slot = self.processes.get(index)?;
        for _ in 0..READ_TRIES {
            let word = process::look(&slot.word);
            // Relaxed: the word is read again below.
            let group_generation = slot.group_generation.load(Ordering::Relaxed);
            let snapshot = ProcessSnapshot {
                process: ProcessRef::new(u32::try_from(index).ok()?, word.generation()),
                group: GroupRef::new(word.group(), group_generation),
                state: word.state()?,
                pid: i32::from_ne_bytes(slot.pid.load(Ordering::Relaxed).to_ne_bytes()),
                uid: slot.uid.load(Ordering::Relaxed),
                concurrency: slot.concurrency.load(Ordering::Relaxed),
                protocol: word.protocol(),
                code_generation: slot.code_generation.load(Ordering::Relaxed),
                started_ms: slot.started_ms.load(Ordering::Relaxed),
                port: u16::try_from(slot.port.load(Ordering::Relaxed)).unwrap_or(0),
            };
            // PAIR(publish): anything newer than the word would show in the word now.
            fence(Ordering::Acquire);
            if process::look(&slot.word) == word {
                return Some(snapshot);
            }
        }
        None
    }

    /// Indices of all process slots in use.
    pub(crate) fn all_processes(&self) -> impl Iterator<Item = (usize, ProcessWord)> + '_ {
        self.processes
            .all()
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| {
                let word = process::look(&slot.word);
                word.state().map(|_| (index, word))
            })
    }
}

/// Whether a group generation names a group: not while its slot is free or being built.
pub(crate) fn is_published(generation: u32) -> bool {
    generation != 0 && generation % 2 == 0
}

enum Probe {
    Found(GroupRef),
    Absent,
    Changed,
}
