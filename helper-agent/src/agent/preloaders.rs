//! What the agent knows of its preloaders. They have no place in the tables or in the store, and are no processes of
//! the pool.

use std::collections::BTreeMap;
use std::time::Instant;

use super::processes::Body;
use crate::pool::{GroupId, ProcessId};
use crate::status::board::PreloaderNote;
use crate::sys::process::ExitStatus;

/// A preloader.
#[derive(Debug)]
pub(super) struct Preloader {
    pub(super) group: GroupId,
    /// Which code it has loaded; after a restart it is of no use.
    pub(super) code_generation: u32,
    /// Uid that it runs as, and so will what it forks.
    pub(super) uid: u32,
    pub(super) body: Body,
    pub(super) phase: Phase,
    /// When it forked last, or became ready.
    pub(super) last_used: Instant,
    /// Processes it has forked.
    pub(super) forks: u32,
    /// Why the app cannot be preloaded, if the loader says so.
    pub(super) refusal: Option<String>,
    /// Its status, once it is reaped.
    pub(super) ended: Option<Option<ExitStatus>>,
    /// When that was.
    pub(super) ended_at: Option<Instant>,
    /// Whether its output is read to the end.
    pub(super) is_drained: bool,
    /// Whether its control socket is read to the end.
    pub(super) is_silent: bool,
}

/// Where a preloader is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Loads the app; `start` waits for it, and its deadline is that start's.
    Loading { start: ProcessId },
    /// Waits to be asked to fork.
    Ready,
    /// Killed.
    Ending,
    /// Reaped, and whoever waited for it knows.
    Gone,
}

impl Preloader {
    pub(super) fn is_of_use(&self) -> bool {
        matches!(self.phase, Phase::Loading { .. } | Phase::Ready)
    }
}

/// All of them, under ids that no app process has.
#[derive(Debug, Default)]
pub(super) struct Preloaders {
    entries: BTreeMap<ProcessId, Preloader>,
}

impl Preloaders {
    pub(super) fn insert(&mut self, id: ProcessId, preloader: Preloader) {
        self.entries.insert(id, preloader);
    }

    pub(super) fn remove(&mut self, id: ProcessId) {
        self.entries.remove(&id);
    }

    pub(super) fn get(&self, id: ProcessId) -> Option<&Preloader> {
        self.entries.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ProcessId) -> Option<&mut Preloader> {
        self.entries.get_mut(&id)
    }

    pub(super) fn has(&self, id: ProcessId) -> bool {
        self.entries.contains_key(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ProcessId, &Preloader)> {
        self.entries.iter().map(|(id, preloader)| (*id, preloader))
    }

    pub(super) fn ids(&self, mut which: impl FnMut(&Preloader) -> bool) -> Vec<ProcessId> {
        let found = self.entries.iter().filter(|(_, p)| which(p));
        found.map(|(id, _)| *id).collect()
    }

    pub(super) fn by_pid(&self, pid: i32) -> Option<ProcessId> {
        self.ids(|p| p.body.pid == pid && !p.body.is_reaped).pop()
    }

    /// What is to be seen of a group's.
    pub(super) fn note(&self, group: GroupId) -> Option<PreloaderNote> {
        let is_there = |p: &&Preloader| p.group == group && p.is_of_use();
        let preloader = self.entries.values().find(is_there)?;
        Some(PreloaderNote {
            pid: preloader.body.pid,
            is_loading: preloader.phase != Phase::Ready,
            forks: preloader.forks,
        })
    }

    /// Whether none exists any more.
    pub(super) fn are_gone(&self) -> bool {
        self.entries.values().all(|p| p.ended.is_some())
    }
}
