//! What has waited for a group so far, and what was not even let in: sums that workers keep for the eye (and for the
//! administrator's hook). Nothing else is decided by them, so a hostile worker gains nothing; they begin anew with
//! each group.

use std::time::Duration;

use crate::layout::Waits;
use crate::params::Waited;
use crate::sync::Ordering;

/// Adds one request that has left the queue.
pub(crate) fn add(waits: &Waits, waited: Duration) {
    let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
    // Relaxed, here and below: numbers to show, each for itself.
    waits.requests.fetch_add(1, Ordering::Relaxed);
    waits.total_us.fetch_add(us, Ordering::Relaxed);
    waits.longest_us.fetch_max(us, Ordering::Relaxed);
}

/// Counts one request that found no room in the queue.
pub(crate) fn reject(waits: &Waits) {
    waits.rejected.fetch_add(1, Ordering::Relaxed);
}

/// How many found none.
pub(crate) fn rejected(waits: &Waits) -> u64 {
    waits.rejected.load(Ordering::Relaxed)
}

/// Begins anew.
pub(crate) fn clear(waits: &Waits) {
    let words = [
        &waits.requests,
        &waits.total_us,
        &waits.longest_us,
        &waits.rejected,
    ];
    for word in words {
        word.store(0, Ordering::Relaxed);
    }
}

/// The sums.
pub(crate) fn sums(waits: &Waits) -> Waited {
    Waited {
        requests: waits.requests.load(Ordering::Relaxed),
        total_ms: waits.total_us.load(Ordering::Relaxed) / 1_000,
        longest_ms: waits.longest_us.load(Ordering::Relaxed) / 1_000,
    }
}
