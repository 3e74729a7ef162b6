//! What a group is remembered by in `routes`: enough for an agent's successor, or for the next
//! configuration, to find its options again. Record numbers mean nothing in another generation, so each
//! record of the chain is also described by hashes of its values and of its place.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use passenger_shm::messages::{Record, Registration};
use serde::{Deserialize, Serialize};

use super::Application;

/// Longest definition that `routes` takes, in bytes.
pub(crate) const MAX_BYTES: usize = 2048;

/// Which registrations mean the same group: equal for equal app root, name, environment, user, group,
/// type, startup file or start command, and base URI. A hash; only root's values go into it, so nobody can choose collisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity(u64, u64);

impl Identity {
    /// The identity of a group with an application like this.
    #[must_use]
    pub fn of(app: &Application) -> Self {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            let options = &app.options;
            (salt, &app.real_root, &app.group_name, options.app_env()).hash(&mut hasher);
            (&options.user, &options.group, app.owner).hash(&mut hasher);
            (app.kind.name, &options.startup_file, &app.base_uri).hash(&mut hasher);
            options.start_command.hash(&mut hasher);
            hasher.finish()
        };
        Self(half(0), half(1))
    }
}

/// A group's registration and how to recognise its records in another generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// What the worker registered.
    pub registration: Registration,
    /// What it means.
    pub identity: Identity,
    /// For each record of the chain but those of `.htaccess`: its values, its place.
    records: Vec<(u64, u64)>,
}

impl Definition {
    pub(super) fn new(
        registration: &Registration,
        identity: Identity,
        records: &[&Record],
    ) -> Self {
        let mut registration = registration.clone();
        registration.chain.retain(|id| *id != 0);
        let records = records
            .iter()
            .map(|record| (values_of(record), place_of(record)))
            .collect();
        Self {
            registration,
            identity,
            records,
        }
    }

    /// As bytes for `routes`.
    ///
    /// # Errors
    /// When the document root or the chain is too long to be kept.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let bytes = serde_json::to_vec(self).map_err(|e| format!("cannot encode group: {e}"))?;
        if bytes.len() > MAX_BYTES {
            return Err(format!(
                "the configuration of the app under {} takes {} bytes to remember, more than {MAX_BYTES}: \
                 nest fewer sections or shorten its path",
                self.registration.document_root,
                bytes.len()
            ));
        }
        Ok(bytes)
    }

    /// Reads the bytes of a definition.
    ///
    /// # Errors
    /// When they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|e| format!("not the definition of a group: {e}"))
    }

    /// The same registration in numbers of another generation: each record is found by equal values, or
    /// else by its place, among those that `may_hold` for it: hosts often say the same. `None` when one is not
    /// there any more.
    pub(super) fn in_configuration(
        &self,
        generation: u64,
        records: &BTreeMap<u32, Record>,
        may_hold: impl Fn(&Record) -> bool,
    ) -> Option<Registration> {
        if self.registration.generation == generation {
            return Some(self.registration.clone());
        }
        let find = |values: u64, place: u64| {
            let same = |record: &&Record| values_of(record) == values && place_of(record) == place;
            let equal = |record: &&Record| values_of(record) == values;
            let there = |record: &&Record| place_of(record) == place;
            let all = || records.values().filter(|record| may_hold(record));
            let found = all()
                .find(same)
                .or_else(|| all().find(equal))
                .or_else(|| all().find(there));
            found.map(|record| record.id)
        };
        let chain: Option<Vec<u32>> = self
            .records
            .iter()
            .map(|(values, place)| find(*values, *place))
            .collect();
        Some(Registration {
            generation,
            chain: chain?,
            ..self.registration.clone()
        })
    }
}

fn values_of(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.section.hash(&mut hasher);
    for directive in &record.directives {
        (&directive.name, &directive.args).hash(&mut hasher);
    }
    hasher.finish()
}

fn place_of(record: &Record) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.section.hash(&mut hasher);
    record
        .directives
        .first()
        .map(|first| (&first.file, first.line))
        .hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{configuration, records_in};
    use super::*;

    const IDENTITY: Identity = Identity(1, 2);

    fn registration(chain: &[u32]) -> Registration {
        Registration {
            generation: 1,
            chain: chain.to_vec(),
            document_root: "/srv/a/public".into(),
            base_uri: String::new(),
        }
    }

    #[test]
    fn records_are_found_again_by_values_or_by_place() {
        let old = configuration(
            1,
            &["/srv/a/public"],
            &[
                ("", &[("PassengerAppEnv", "x")]),
                ("b", &[("PassengerUser", "u")]),
            ],
        );
        let definition = old.define(&registration(&[1, 0, 2]), IDENTITY).unwrap();
        let definition = Definition::decode(&definition.encode().unwrap()).unwrap();
        let moved = configuration(
            2,
            &["/srv/a/public"],
            &[
                ("new", &[("PassengerAppEnv", "z")]),
                ("b", &[("PassengerUser", "other")]),
                ("", &[("PassengerAppEnv", "x")]),
            ],
        );
        let translated = moved.translate(&definition).unwrap();
        assert_eq!(
            (translated.generation, &translated.chain[..]),
            (2, &[3, 2][..])
        );
        assert_eq!(
            moved.options(&translated.chain).unwrap().user.as_deref(),
            Some("other")
        );
        let gone = configuration(3, &["/srv/a/public"], &[("", &[("PassengerAppEnv", "x")])]);
        assert_eq!(gone.translate(&definition), None);
        assert_eq!(old.translate(&definition).unwrap().chain, [1, 2]);
    }

    #[test]
    fn a_host_that_changed_is_not_taken_for_another_that_says_what_it_said() {
        let roots = ["", "/srv/a/public", "/srv/b/public"];
        let same: &[(&str, &str)] = &[("PassengerMinInstances", "1")];
        let old = records_in(
            configuration(1, &roots, &[]),
            &[(1, "", same), (2, "", same)],
        );
        let definition = old.define(&registration(&[1]), IDENTITY).unwrap();
        let changed: &[(&str, &str)] = &[("PassengerMinInstances", "2")];
        let new = records_in(
            configuration(2, &roots, &[]),
            &[(1, "", changed), (2, "", same)],
        );
        assert_eq!(new.translate(&definition).unwrap().chain, [1]);
    }

    #[test]
    fn an_endless_path_is_refused_not_cut() {
        let config = configuration(1, &["/a"], &[]);
        let mut endless = registration(&[]);
        endless.document_root = "/x".repeat(2_000);
        let definition = config.define(&endless, IDENTITY).unwrap();
        assert!(definition.encode().unwrap_err().contains("more than 2048"));
    }
}
