//! The key table: from registrations to groups. Open addressing; an entry's value word is stored last and
//! has a version, so that a reader between two stores notices (`routes.rs`, PAIR(key)).

use crate::error::Error;
use crate::ids::{GroupKey, GroupRef};
use crate::layout::KeyEntry;
use crate::routes::key_value::{self, EMPTY, TOMBSTONE, USED};
use crate::sync::{fence, Ordering};

use super::AgentView;

impl AgentView {
    /// Makes a registration lead to a group; one that leads elsewhere is redirected.
    ///
    /// # Errors
    /// When the table is full.
    #[allow(clippy::cast_possible_truncation)] // The hash picks a bucket.
    pub fn add_key(&self, key: GroupKey, group: GroupRef) -> Result<(), Error> {
        let entries = self.tables.routes.keys.all();
        let mut free: Option<&KeyEntry> = None;
        for step in 0..entries.len() {
            let index = (key.lo as usize).wrapping_add(step) & (entries.len() - 1);
            let Some(entry) = entries.get(index) else {
                break;
            };
            // Relaxed, here and below: we are the only writer.
            let value = entry.value.load(Ordering::Relaxed);
            match key_value::state(value) {
                EMPTY => {
                    free = free.or(Some(entry));
                    break;
                }
                USED if matches(entry, key) => {
                    let version = key_value::version(value) + 1;
                    // Release, PAIR(key)
                    entry
                        .value
                        .store(key_value::used(group, version), Ordering::Release);
                    return Ok(());
                }
                USED => {}
                _ => free = free.or(Some(entry)),
            }
        }
        let entry = free.ok_or(Error::Full {
            table: "keys",
            capacity: entries.len(),
        })?;
        let version = key_value::version(entry.value.load(Ordering::Relaxed)) + 1;
        // A reader that finds the new key with the old value must find another value at its second
        // look: it is changed first. PAIR(key)
        entry
            .value
            .store(key_value::unused(TOMBSTONE, version), Ordering::Relaxed);
        fence(Ordering::Release);
        entry.hi.store(key.hi, Ordering::Relaxed);
        entry.lo.store(key.lo, Ordering::Relaxed);
        // Release, PAIR(key): the key comes with it.
        entry
            .value
            .store(key_value::used(group, version), Ordering::Release);
        Ok(())
    }

    /// Forgets every registration that leads to that group.
    pub fn remove_keys_of(&self, group: GroupRef) {
        self.remove_keys(|found| found == group);
    }

    /// Forgets registrations of groups that are gone, and entries that a predecessor left half written.
    pub(super) fn adopt_keys(&self) {
        self.remove_keys(|group| self.tables.routes.group(group).is_none());
    }

    fn remove_keys(&self, unwanted: impl Fn(GroupRef) -> bool) {
        let entries = self.tables.routes.keys.all();
        for entry in entries {
            // Relaxed: we are the only writer.
            let value = entry.value.load(Ordering::Relaxed);
            if key_value::state(value) == USED && unwanted(key_value::group(value)) {
                let version = key_value::version(value) + 1;
                // Relaxed: nothing is published by it.
                entry
                    .value
                    .store(key_value::unused(TOMBSTONE, version), Ordering::Relaxed);
            }
        }
        // A tombstone before an empty entry ends no probe sequence that does not end there anyway. Twice
        // round, backwards, so that a chain over the end of the table is seen whole.
        let mut next_is_empty = false;
        for entry in entries.iter().rev().chain(entries.iter().rev()) {
            let value = entry.value.load(Ordering::Relaxed);
            let state = key_value::state(value);
            if next_is_empty && state != USED && state != EMPTY {
                // The version stays: an empty entry is filled again like a tombstone.
                let version = key_value::version(value);
                entry
                    .value
                    .store(key_value::unused(EMPTY, version), Ordering::Relaxed);
            }
            next_is_empty = key_value::state(entry.value.load(Ordering::Relaxed)) == EMPTY;
        }
    }
}

fn matches(entry: &KeyEntry, key: GroupKey) -> bool {
    // Relaxed: we are the only writer.
    entry.hi.load(Ordering::Relaxed) == key.hi && entry.lo.load(Ordering::Relaxed) == key.lo
}
