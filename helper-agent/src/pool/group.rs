//! One application in the pool's books: limits, queue as last seen, and how its spawns went.
//! Owns the rule when a failed spawn may be tried again.

use super::event::{CodeWait, GroupLimits, Millis, QueueSeen, Rolling};

/// A new request after a failed spawn tries again after this pause: long enough for the waiters
/// that were told of the failure to have left their cells; doubles each time …
pub(super) const RETRY_FOR_REQUEST_MS: u64 = 100;
/// … up to this: a broken app under load is not to keep the machine busy.
pub(super) const RETRY_FOR_REQUEST_MAX_MS: u64 = 1_000;
/// First pause before a spawn that no new request asked for is tried again; doubles each time.
pub(super) const BACK_OFF_MS: u64 = 1_000;
/// Longest such pause.
pub(super) const BACK_OFF_MAX_MS: u64 = 60_000;
/// So many starts in a row that were killed from outside are made again at once …
const MAX_KILLS: u32 = 10;
/// … and for so long any number of slow ones, which whoever kills meets more often.
const KILLS_MS: u64 = 30_000;
/// A start that lived for less is not slow; without this limit a process that kills itself would be started
/// hundreds of times a second.
const SLOW_START_MS: u64 = 100;
/// A live process that ends sooner than this without having finished a request counts as a failed spawn for
/// the back-off.
pub(super) const EARLY_DEATH_MS: u64 = 5_000;

/// One application.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) limits: GroupLimits,
    pub(super) queue: QueueSeen,
    /// Somebody will wait soon although the tables do not show it yet.
    pub(super) is_demanded: bool,
    /// Failures in a row: spawns that failed and processes that died young.
    failures: u32,
    failed_at: Option<Millis>,
    /// Starts in a row that were killed from outside, and when the first was.
    pub(super) kills: Option<(u32, Millis)>,
    /// How long its last successful spawn took.
    pub(super) spawn_ms: u64,
    /// Since when no configuration names it.
    pub(super) unconfirmed_since: Option<Millis>,
    /// It is certain that none does, until one says otherwise.
    pub(super) is_gone: bool,
    /// Counts restarts; processes of an older edition are replaced.
    pub(super) edition: u64,
    /// Who is served by which code during the last restart.
    pub(super) rolling: Rolling,
    /// The newest edition did not start, and old processes are kept until the next restart.
    pub(super) keeps_old: bool,
    /// How long requests wait for the newest edition, and since when.
    pub(super) code_wait: (CodeWait, Millis),
    /// Whether it was said that its out-of-band work cannot be done.
    pub(super) has_complained_of_work: bool,
}

impl Group {
    pub(super) fn new(limits: GroupLimits, now: Millis) -> Self {
        Self {
            limits,
            queue: QueueSeen::default(),
            is_demanded: false,
            failures: 0,
            failed_at: None,
            kills: None,
            spawn_ms: 0,
            unconfirmed_since: (!limits.confirmed).then_some(now),
            is_gone: false,
            // Not the lowest, so that what a former agent left can be older.
            edition: 1,
            rolling: limits.rolling,
            keeps_old: false,
            code_wait: (CodeWait::No, now),
            has_complained_of_work: false,
        }
    }

    pub(super) fn set_limits(&mut self, limits: GroupLimits, now: Millis) {
        self.limits = limits;
        self.has_complained_of_work = false;
        self.is_gone &= !limits.confirmed;
        self.unconfirmed_since = match (limits.confirmed, self.unconfirmed_since) {
            (true, _) => None,
            (false, known) => known.or(Some(now)),
        };
    }

    pub(super) fn min_instances(&self) -> u32 {
        if self.limits.confirmed {
            self.limits.min_instances
        } else {
            0
        }
    }

    pub(super) fn has_demand(&self) -> bool {
        self.is_demanded || self.queue.waiting > 0
    }

    /// Counts a start that was killed when it had lived for `lived_ms`; whether it is as if it had not been tried.
    pub(super) fn has_patience_with_kills(&mut self, now: Millis, lived_ms: u64) -> bool {
        let (count, since) = self.kills.map_or((1, now), |(n, since)| (n + 1, since));
        self.kills = Some((count, since));
        count <= MAX_KILLS || (lived_ms >= SLOW_START_MS && now.since(since) < KILLS_MS)
    }

    pub(super) fn failed(&mut self, now: Millis) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = Some(now);
        self.is_demanded = false;
    }

    /// The last failure that counts.
    pub(super) fn failed_at(&self) -> Option<Millis> {
        self.failed_at
    }

    /// A process proved that the app works.
    pub(super) fn recovered(&mut self) {
        self.failures = 0;
        self.failed_at = None;
    }

    /// When a spawn for a request of this group may be tried. While waiters that were told of the
    /// failure still sit in their cells (a stopped worker) they are not new demand, and neither is
    /// a queue that live processes are working off.
    pub(super) fn may_serve_request_at(&self, now: Millis, has_live: bool) -> Option<Millis> {
        let failed_at = self.failed_at?;
        let queue_is_old = self.queue.waiting > 0 && self.queue.oldest_ms >= now.since(failed_at);
        let fresh = self.is_demanded || !queue_is_old;
        if fresh && !has_live {
            Some(failed_at.plus(self.pause(RETRY_FOR_REQUEST_MS, RETRY_FOR_REQUEST_MAX_MS)))
        } else {
            self.may_fill_at()
        }
    }

    /// When a spawn that no request asked for (minimum, replacement) may be tried.
    pub(super) fn may_fill_at(&self) -> Option<Millis> {
        let failed_at = self.failed_at?;
        Some(failed_at.plus(self.pause(BACK_OFF_MS, BACK_OFF_MAX_MS)))
    }

    fn pause(&self, first: u64, longest: u64) -> u64 {
        let doublings = self.failures.saturating_sub(1).min(10);
        (first << doublings).min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        let limits = GroupLimits {
            min_instances: 1,
            max_instances: 0,
            confirmed: true,
            rolling: Rolling::Auto,
            resists_errors: true,
        };
        Group::new(limits, Millis(0))
    }

    #[test]
    fn back_off_doubles_and_is_bounded() {
        let mut group = group();
        assert_eq!(group.may_fill_at(), None);
        group.failed(Millis(10));
        assert_eq!(group.may_fill_at(), Some(Millis(10 + BACK_OFF_MS)));
        group.failed(Millis(20));
        assert_eq!(group.may_fill_at(), Some(Millis(20 + 2 * BACK_OFF_MS)));
        for _ in 0..100 {
            group.failed(Millis(30));
        }
        assert_eq!(group.may_fill_at(), Some(Millis(30 + BACK_OFF_MAX_MS)));
        group.recovered();
        assert_eq!(group.may_fill_at(), None);
    }

    #[test]
    fn waiters_who_were_told_of_a_failure_are_not_new_demand() {
        let mut group = group();
        group.failed(Millis(1_000));
        group.queue = QueueSeen {
            waiting: 1,
            oldest_ms: 500,
        };
        assert_eq!(
            group.may_serve_request_at(Millis(1_200), false),
            Some(Millis(1_000 + BACK_OFF_MS))
        );
        group.queue = QueueSeen {
            waiting: 1,
            oldest_ms: 50,
        };
        assert_eq!(
            group.may_serve_request_at(Millis(1_200), false),
            Some(Millis(1_000 + RETRY_FOR_REQUEST_MS))
        );
    }
}
