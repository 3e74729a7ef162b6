//! Groups: create, change, remove. A group is built while its generation is odd and published by the store
//! that makes it even.

use crate::error::Error;
use crate::ids::GroupRef;
use crate::layout::GroupSlot;
use crate::params::{GroupParams, MAX_DEFINITION_BYTES};
use crate::protocol::wait;
use crate::routes::is_published;
use crate::sync::{fence, Ordering};

use super::AgentView;

impl AgentView {
    /// Makes a group, at once visible to workers that know its name (none, before `add_key`).
    ///
    /// # Errors
    /// When the definition is longer than [`MAX_DEFINITION_BYTES`] or the table is full.
    pub fn create_group(&self, params: &GroupParams, definition: &[u8]) -> Result<GroupRef, Error> {
        if definition.len() > MAX_DEFINITION_BYTES {
            return Err(Error::TooLarge {
                what: "the definition of a group",
                given: definition.len(),
                limit: MAX_DEFINITION_BYTES,
            });
        }
        let slots = self.tables.routes.groups.all();
        let mut mine = self.mine();
        let start = mine.next_group;
        for step in 0..slots.len() {
            let index = (start + step) % slots.len();
            let Some(slot) = slots.get(index) else {
                continue;
            };
            // Relaxed: we are the only writer.
            let generation = slot.generation.load(Ordering::Relaxed);
            if is_published(generation) {
                continue;
            }
            mine.next_group = index + 1;
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            if let Some(waits) = self.tables.traffic.waits(index) {
                wait::clear(waits);
            }
            let generation = build(slot, generation, params, definition);
            return Ok(GroupRef::new(index, generation));
        }
        Err(Error::Full {
            table: "groups",
            capacity: slots.len(),
        })
    }

    /// Changes the settings of a group, one by one: a worker may see a mixture for a moment.
    pub fn update_group(&self, group: GroupRef, params: &GroupParams) {
        if let Some(slot) = self.tables.routes.group(group) {
            set_params(slot, params);
        }
    }

    /// Ends a group: its keys, its name, its waiters' hopes. Its processes are drained; they are still
    /// listed until they are freed.
    pub fn remove_group(&self, group: GroupRef) {
        self.remove_keys_of(group);
        // First: a process that serves may only be found under the index of its own group.
        self.drain_processes_of(|of| of == group);
        if let Some(slot) = self.tables.routes.group(group) {
            // Release, PAIR(group): unpublished by one store.
            slot.generation
                .store(group.generation() | 1, Ordering::Release);
            self.tables.traffic.queue(group.index()).wake_all();
        }
    }

    /// All groups with settings and definitions.
    #[must_use]
    pub fn groups(&self) -> Vec<(GroupRef, GroupParams, Vec<u8>)> {
        let routes = &self.tables.routes;
        routes
            .all_groups()
            .filter_map(|group| {
                Some((
                    group,
                    routes.group_params(group)?,
                    routes.definition(group)?,
                ))
            })
            .collect()
    }

    /// Counts a failed spawn and wakes every waiter of the group, so that they see it.
    pub fn note_spawn_failure(&self, group: GroupRef) {
        if let Some(slot) = self.tables.routes.group(group) {
            // Release, PAIR(alarm): visible to whoever is woken below.
            slot.spawn_failures.fetch_add(1, Ordering::Release);
            self.tables.traffic.queue(group.index()).wake_all();
        }
    }

    /// Member bits follow from the process slots; a predecessor may have died between the two.
    pub(super) fn adopt_groups(&self) {
        let routes = &self.tables.routes;
        self.drain_processes_of(|group| routes.group(group).is_none());
        let processes = self.processes();
        for (slot, index) in routes.groups.all().iter().zip(0u32..) {
            // Relaxed: we are the only writer.
            let group = GroupRef::new(index, slot.generation.load(Ordering::Relaxed));
            for (bits, first) in slot.members.iter().zip((0u32..).step_by(64)) {
                let right = processes
                    .iter()
                    .filter(|process| process.group == group)
                    .filter_map(|process| process.process.slot().checked_sub(first))
                    .filter(|bit| *bit < 64)
                    .fold(0u64, |bits, bit| bits | 1 << bit);
                // Release, PAIR(publish)
                bits.store(right, Ordering::Release);
            }
        }
    }
}

/// Fills a free slot and publishes it; its new generation.
fn build(slot: &GroupSlot, old: u32, params: &GroupParams, definition: &[u8]) -> u32 {
    let generation = match (old | 1).wrapping_add(1) {
        0 => 2,
        even => even,
    };
    // Odd while it is built, in case it was 0; readers of an older generation notice by PAIR(group).
    slot.generation.store(generation - 1, Ordering::Relaxed);
    fence(Ordering::Release);
    set_params(slot, params);
    // Relaxed, here and below: published by the generation.
    slot.spawn_failures.store(0, Ordering::Relaxed);
    slot.members
        .iter()
        .for_each(|bits| bits.store(0, Ordering::Relaxed));
    let mut padded = [0u8; MAX_DEFINITION_BYTES];
    for (to, from) in padded.iter_mut().zip(definition) {
        *to = *from;
    }
    for (word, bytes) in slot.definition.iter().zip(padded.chunks_exact(8)) {
        let bytes = bytes.try_into().unwrap_or_default();
        word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }
    let length = u32::try_from(definition.len()).unwrap_or(0);
    slot.definition_length.store(length, Ordering::Relaxed);
    // Release, PAIR(group): published by one store.
    slot.generation.store(generation, Ordering::Release);
    generation
}

fn set_params(slot: &GroupSlot, params: &GroupParams) {
    // Relaxed, where nothing else is said: independent settings.
    slot.queue_limit
        .store(params.queue_limit, Ordering::Relaxed);
    slot.queue_time_ms
        .store(params.queue_time_ms, Ordering::Relaxed);
    // Before the generation it is about: who sees the new one also knows whether to wait for it.
    slot.code_wait_ms
        .store(params.code_wait_ms, Ordering::Relaxed);
    // Release, PAIR(restart): seen by whoever sees the generation.
    slot.code_generation
        .store(params.code_generation, Ordering::Release);
    // Release, PAIR(restart): who sees the mark sees the generation that it led to.
    slot.restart_mark
        .store(params.restart_mark, Ordering::Release);
}
