//! Names of things in the tables: an index that alone means nothing, with the generation that makes it
//! one particular group, process or worker. Stale names are refused where they are used.

use serde::Serialize;
use siphasher::sip128::{Hasher128, SipHasher24};
use std::fmt;
use std::hash::Hasher;

use crate::messages::Registration;

/// Largest client generation: it has 12 bits in every word.
pub const MAX_CLIENT_GENERATION: u16 = 0x0fff;

/// One group (application) in `routes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct GroupRef {
    index: u32,
    generation: u32,
}

impl GroupRef {
    /// Names slot `index` as it was when it had `generation`.
    #[must_use]
    pub fn new(index: u32, generation: u32) -> GroupRef {
        GroupRef { index, generation }
    }

    /// Slot in the group table.
    #[must_use]
    pub fn index(self) -> u32 {
        self.index
    }

    /// Generation of that slot; even and not zero for every group that was ever published.
    #[must_use]
    pub fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}.{}", self.index, self.generation)
    }
}

/// One app process in `routes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ProcessRef {
    slot: u32,
    generation: u32,
}

impl ProcessRef {
    /// Names slot `slot` as it was when it had `generation`.
    #[must_use]
    pub fn new(slot: u32, generation: u32) -> ProcessRef {
        ProcessRef { slot, generation }
    }

    /// Slot in the process table.
    #[must_use]
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Generation of that slot, from 1.
    #[must_use]
    pub fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for ProcessRef {
    /// `<slot>.<generation>`, the name of its socket.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// One worker process of httpd, as granted by the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct ClientId {
    slot: u16,
    generation: u16,
}

impl ClientId {
    /// Names client slot `slot` as it was when it had `generation`, of which 12 bits count.
    #[must_use]
    pub const fn new(slot: u16, generation: u16) -> ClientId {
        ClientId {
            slot,
            generation: generation & MAX_CLIENT_GENERATION,
        }
    }

    /// Slot in the client table.
    #[must_use]
    pub fn slot(self) -> u16 {
        self.slot
    }

    /// Generation of that slot, 12 bits.
    #[must_use]
    pub fn generation(self) -> u16 {
        self.generation
    }
}

/// Key of a registration in the key table: a keyed hash, so that nobody outside the instance can
/// choose registrations that collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct GroupKey {
    /// Upper half.
    pub hi: u64,
    /// Lower half.
    pub lo: u64,
}

impl GroupKey {
    /// `SipHash`-2-4 with 128 bits over the canonical bytes of `registration` (docs/protocols.md, 3).
    #[must_use]
    pub fn of(registration: &Registration, instance_key: [u8; 16]) -> GroupKey {
        let mut hash = SipHasher24::new_with_key(&instance_key);
        hash.write(&registration.generation.to_le_bytes());
        // Lengths as u32: a message is at most 64 KiB, so nothing is cut.
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        hash.write(&length(registration.chain.len()));
        for number in &registration.chain {
            hash.write(&number.to_le_bytes());
        }
        for text in [&registration.document_root, &registration.base_uri] {
            hash.write(&length(text.len()));
            hash.write(text.as_bytes());
        }
        let hash = hash.finish128();
        GroupKey {
            hi: hash.h1,
            lo: hash.h2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> Registration {
        Registration {
            generation: 3,
            chain: vec![1, 4],
            document_root: "/srv/a/public".into(),
            base_uri: "/b".into(),
        }
    }

    #[test]
    fn every_part_of_a_registration_changes_its_key() {
        let key = GroupKey::of(&registration(), [7; 16]);
        assert_eq!(key, GroupKey::of(&registration(), [7; 16]));
        let mut others = vec![GroupKey::of(&registration(), [8; 16])];
        let changes: [fn(&mut Registration); 4] = [
            |r| r.generation = 4,
            |r| r.chain = vec![4, 1],
            |r| r.document_root.push('/'),
            |r| {
                // The same bytes, cut elsewhere.
                r.document_root.push('/');
                r.base_uri = "b".into();
            },
        ];
        for change in changes {
            let mut changed = registration();
            change(&mut changed);
            others.push(GroupKey::of(&changed, [7; 16]));
        }
        for other in others {
            assert_ne!(key, other);
        }
    }
}
