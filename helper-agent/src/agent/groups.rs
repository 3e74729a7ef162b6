//! The applications of this instance: which group in `routes` each is, what is configured for it, which
//! keys lead to it, and why its last start failed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use passenger_shm::messages::{Registration, SpawnFailure};
use passenger_shm::{GroupParams, GroupRef};

use super::restarts::RestartLook;
use crate::app_log::AppLog;
use crate::config::{AppOptions, Configuration, Definition, Identity};
use crate::pool::{CodeWait, GroupId, GroupLimits};
use crate::status::board::{CrashNote, FailureNote, GroupFacts, Tally};

/// Registrations that one group remembers; a worker that invents more makes it forget, not grow.
const MAX_REGISTRATIONS: usize = 256;

/// One application.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) reference: GroupRef,
    /// For the log.
    pub(super) name: String,
    pub(super) definition: Definition,
    /// What its next process is started from; `None`: nobody knows since an agent died.
    pub(super) registration: Option<Registration>,
    /// Whether the configuration in force names it. Otherwise it is there for workers of the one before.
    pub(super) is_named: bool,
    /// The configuration of that registration.
    pub(super) configuration: Arc<Configuration>,
    pub(super) options: AppOptions,
    /// Counts restarts; processes of the newest are preferred.
    pub(super) code_generation: u32,
    /// How long requests wait for the newest.
    pub(super) code_wait: CodeWait,
    /// The restart file acted upon last.
    pub(super) restart_mark: u64,
    /// Whether its restart files are being looked at, and what asks for another look after that.
    pub(super) restart_look: RestartLook,
    /// Whether it was started in advance and nobody has asked for it since: its configuration is a guess.
    pub(super) is_foreseen: bool,
    pub(super) failure: Option<SpawnFailure>,
    /// The code that cannot be preloaded: its processes are started directly.
    pub(super) not_preloaded: Option<u32>,
    /// When that was, in seconds since 1970.
    pub(super) failed_at: u64,
    /// What the agent before noted of a failure.
    pub(super) former_failure: Option<FailureNote>,
    /// Starts that failed since one succeeded.
    pub(super) failed_starts: u32,
    /// The new code does not start, and old processes serve.
    pub(super) is_resisting: bool,
    /// The last process that ended without having been asked to.
    pub(super) last_crash: Option<CrashNote>,
    /// What has happened so far.
    pub(super) tally: Tally,
    /// A log of its own, if one is configured.
    pub(super) app_log: Arc<AppLog>,
    /// What it is and whose.
    pub(super) facts: GroupFacts,
    /// Since when a helper thread is looking at its files; one that hangs must not be joined by others.
    pub(super) preparing_since: Option<Instant>,
}

impl Group {
    /// What workers read.
    pub(super) fn params(&self) -> GroupParams {
        GroupParams {
            queue_limit: self.options.max_queue(),
            queue_time_ms: u32::try_from(self.options.max_queue_time_ms()).unwrap_or(u32::MAX),
            code_generation: self.code_generation,
            code_wait_ms: match self.code_wait {
                CodeWait::No => 0,
                CodeWait::Briefly(ms) => ms,
                CodeWait::Always => u32::MAX,
            },
            restart_mark: self.restart_mark,
        }
    }

    /// What the pool reads.
    pub(super) fn limits(&self) -> GroupLimits {
        let own = self.options.max_instances;
        let everybodys = self.configuration.global.max_instances_per_app;
        GroupLimits {
            min_instances: self.options.min_instances(),
            max_instances: if own == 0 { everybodys } else { own },
            confirmed: self.is_named,
            rolling: self.options.rolling,
            resists_errors: self.options.resists_errors(),
        }
    }
}

/// All applications.
#[derive(Debug, Default)]
pub(super) struct Groups {
    entries: BTreeMap<GroupId, Group>,
    by_reference: HashMap<GroupRef, GroupId>,
    by_identity: HashMap<Identity, GroupId>,
    by_registration: HashMap<Registration, GroupId>,
    next: u64,
}

impl Groups {
    pub(super) fn insert(&mut self, group: Group) -> GroupId {
        self.next += 1;
        let id = GroupId(self.next);
        self.by_reference.insert(group.reference, id);
        self.by_identity.insert(group.definition.identity, id);
        self.entries.insert(id, group);
        id
    }

    pub(super) fn remove(&mut self, id: GroupId) -> Option<Group> {
        let group = self.entries.remove(&id)?;
        self.by_reference.remove(&group.reference);
        self.by_identity.remove(&group.definition.identity);
        self.by_registration.retain(|_, known| *known != id);
        Some(group)
    }

    pub(super) fn get(&self, id: GroupId) -> Option<&Group> {
        self.entries.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.entries.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.entries.iter().map(|(id, group)| (*id, group))
    }

    pub(super) fn ids(&self) -> Vec<GroupId> {
        self.entries.keys().copied().collect()
    }

    pub(super) fn by_reference(&self, reference: GroupRef) -> Option<GroupId> {
        self.by_reference.get(&reference).copied()
    }

    pub(super) fn by_identity(&self, identity: Identity) -> Option<GroupId> {
        self.by_identity.get(&identity).copied()
    }

    pub(super) fn by_registration(&self, registration: &Registration) -> Option<GroupId> {
        self.by_registration.get(registration).copied()
    }

    /// Remembers that this registration means that group. `false`: too many are remembered, the caller
    /// should call [`Groups::forget_registrations`] for it first.
    pub(super) fn remember(&mut self, registration: &Registration, id: GroupId) -> bool {
        let count = self
            .by_registration
            .values()
            .filter(|known| **known == id)
            .count();
        if count >= MAX_REGISTRATIONS {
            return false;
        }
        self.by_registration.insert(registration.clone(), id);
        true
    }

    /// Forgets registrations of a group: all, or those of generations before `keep_from`. Returns those
    /// that stay.
    pub(super) fn forget_registrations(
        &mut self,
        id: GroupId,
        keep_from: u64,
    ) -> Vec<Registration> {
        self.by_registration
            .retain(|registration, known| *known != id || registration.generation >= keep_from);
        let stay = self
            .by_registration
            .iter()
            .filter(|(_, known)| **known == id);
        stay.map(|(registration, _)| registration.clone()).collect()
    }
}
