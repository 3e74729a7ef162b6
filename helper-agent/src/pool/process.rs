//! One process in the pool's books: its state, what it was last seen doing, and the stages of its
//! end. Owns no decision about *whether* a process ends; see `policy.rs` for that.

use super::event::{GroupId, LoadSeen, Millis};

/// Where a process is in its life. Dead processes are not in the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Asked for; not ready yet.
    Starting,
    /// Takes requests.
    Live,
    /// Gets no new requests for a while, for out-of-band work.
    Away(Absence),
    /// Gets no new requests; on its way out.
    Ending(Stage),
}

/// How firmly an ending process has been asked to go, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Out of routing; workers may still hold seats. `is_seen`: its seats were looked at since
    /// then; what was seen before proves nothing, a worker may have taken a seat in between.
    Draining { since: Millis, is_seen: bool },
    /// `stop` was said.
    Asked { since: Millis },
    /// SIGTERM was sent.
    Terminated { since: Millis },
    /// SIGKILL was sent; only the kernel is awaited.
    Killed,
}

/// How far a process is with its out-of-band work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// Out of routing; workers may still hold seats. `is_seen` as in [`Stage::Draining`]. `was_told`: an earlier
    /// agent may have told it to work.
    Leaving {
        since: Millis,
        is_seen: bool,
        was_told: bool,
    },
    /// It was told to work.
    Working { since: Millis },
}

/// One process.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) group: GroupId,
    pub(super) state: State,
    /// When it entered `Starting`, later when it became `Live`.
    pub(super) since: Millis,
    /// Requests at once; 0 = unlimited.
    pub(super) concurrency: u32,
    pub(super) load: LoadSeen,
    /// Last moment it was seen in use, or became live.
    pub(super) last_used: Millis,
    /// Since when every seat is taken by the same requests as now.
    pub(super) stuck_since: Option<Millis>,
    /// Counts the group's restarts; older than the group's means: to be replaced.
    pub(super) edition: u64,
    /// To be replaced whatever its edition.
    pub(super) is_retiring: bool,
    /// Since when it wants out-of-band work done.
    pub(super) wants_work: Option<Millis>,
    /// Not before this: its requests took too long the last time.
    pub(super) work_not_before: Millis,
    /// Whether it has finished a request.
    pub(super) has_served: bool,
    /// Whether it ends with requests that had all their time: it is not waited for any more.
    pub(super) is_overdue: bool,
}

impl Process {
    pub(super) fn starting(group: GroupId, edition: u64, now: Millis) -> Self {
        Self {
            group,
            state: State::Starting,
            since: now,
            concurrency: 0,
            load: LoadSeen::default(),
            last_used: now,
            stuck_since: None,
            edition,
            is_retiring: false,
            wants_work: None,
            work_not_before: now,
            has_served: false,
            is_overdue: false,
        }
    }

    /// Whether it is to end once another has taken its place.
    pub(super) fn is_replaced(&self, edition: u64) -> bool {
        self.is_retiring || self.edition < edition
    }

    pub(super) fn is_starting(&self) -> bool {
        self.state == State::Starting
    }

    pub(super) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    pub(super) fn is_away(&self) -> bool {
        matches!(self.state, State::Away(_))
    }

    /// Whether it serves, or will again.
    pub(super) fn is_up(&self) -> bool {
        self.is_live() || self.is_away()
    }

    /// Whether it waits for its moment to do out-of-band work.
    pub(super) fn is_due_for_work(&self, now: Millis) -> bool {
        self.is_live()
            && self.wants_work.is_some()
            && now >= self.work_not_before
            && !self.is_retiring
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.state, State::Ending(_))
    }

    /// Requests it executes as far as the tables tell, orphans included.
    pub(super) fn busyness(&self) -> u32 {
        self.load.in_use.saturating_add(self.load.orphans)
    }

    /// Whether nobody has anything of it: no request, and no stream that its end would break.
    pub(super) fn is_idle(&self) -> bool {
        self.busyness() == 0 && self.load.streams == 0
    }

    /// Whether another request would have to wait. An unlimited process is never full.
    pub(super) fn is_full(&self) -> bool {
        self.concurrency != 0 && self.busyness() >= self.concurrency
    }

    pub(super) fn observe(&mut self, seen: LoadSeen, now: Millis) {
        let is_used = seen.in_use > 0 || seen.orphans > 0 || seen.streams > 0;
        if is_used || seen.takes != self.load.takes {
            self.last_used = now;
        }
        self.has_served |= seen.takes > u64::from(seen.in_use.saturating_add(seen.orphans));
        let is_same = seen.takes == self.load.takes;
        self.load = seen;
        self.stuck_since = match self.stuck_since {
            Some(since) if is_same && self.is_full() => Some(since),
            _ => self.is_full().then_some(now),
        };
        if let State::Ending(Stage::Draining { is_seen, .. })
        | State::Away(Absence::Leaving { is_seen, .. }) = &mut self.state
        {
            *is_seen = true;
        }
    }
}
