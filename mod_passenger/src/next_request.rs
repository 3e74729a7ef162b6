//! A turn for the client after a response: its next request is then often there before this thread gives the connection
//! back, which costs two system calls and two wakes of other threads (the event MPM's listener, and a worker).
//!
//! ```text
//!  handler: response ─► what httpd still holds is sent ─► sched_yield ─► httpd looks for the next request
//!                                                                         there: the same thread goes on with it
//!                                                                         not:   as without all this
//! ```
//! Clients on the same machine or in its network are that fast: load balancers, caches, other services. Where all are
//! far away a turn is in vain, and Linux may count it as processor time that the thread has had; so one turn in
//! [`PROBE_EVERY`] is looked at, and while none of those pays, the others are left out. A thread that goes on with its
//! connection does not serve others, therefore only while threads are left, and not without end.

use crate::exchange::LEFT;
use crate::ffi::brigade;
use crate::ffi::request::Request;
use crate::ffi::server;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::sync::atomic::{AtomicU32, Ordering};

/// After so many requests a connection goes the usual way once: requests of other modules also want threads, and are not
/// counted here.
const MOST_IN_A_ROW: i32 = 64;
/// So many turns come to one of which the outcome is looked at.
const PROBE_EVERY: u32 = 16;
/// Of the last 32 of these so many must have paid.
const WORTHWHILE: u32 = 2;

/// Requests that this process serves now.
static SERVING: AtomicU32 = AtomicU32::new(0);
/// Responses after which the client could have had a turn.
static OCCASIONS: AtomicU32 = AtomicU32::new(0);
/// A bit for each of the last probes, the latest lowest: was the next request there? Begins with the best hopes.
static PROBES: AtomicU32 = AtomicU32::new(u32::MAX);

/// A request being served, from the start of the handler to its end.
pub(crate) struct Serving(());

impl Serving {
    /// Counts it.
    pub(crate) fn begin() -> Self {
        // Relaxed, as everywhere here: numbers that are compared with others; they guard no memory.
        SERVING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        SERVING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends what httpd still holds of a complete response, as far as the client takes it at once, and gives the client a
/// turn if that is promising. Returns when whoever waited for this processor had one, too; never waits for the client.
///
/// Not where connections keep their threads anyway (worker, prefork): nothing is saved there, and a client that has its
/// response early sends another request into a connection that `graceful` is about to close.
pub(crate) fn invite(r: &mut Request<'_>) {
    let leaves_threads = leaves_threads(SERVING.load(Ordering::Relaxed), server::threads());
    let is_tired = r.requests_on_connection() % MOST_IN_A_ROW == 0;
    if !server::shares_threads() || !leaves_threads || is_tired || !r.may_be_followed() {
        return;
    }
    let is_probe = OCCASIONS.fetch_add(1, Ordering::Relaxed) % PROBE_EVERY == 0;
    if !is_probe && !pays(PROBES.load(Ordering::Relaxed)) {
        return;
    }
    // A client that does not take this response yet sends no request, and to one that is gone httpd finds out next.
    if brigade::push_pending(r).is_err() || r.has_pending_output() {
        return;
    }
    std::thread::yield_now();
    if is_probe {
        // Another thread's probe at the same time may be lost.
        let probes = PROBES.load(Ordering::Relaxed);
        let latest = u32::from(has_arrived(r));
        PROBES.store(probes << 1 | latest, Ordering::Relaxed);
    }
}

/// Whether the client has sent something more, and not only hung up.
fn has_arrived(r: &Request<'_>) -> bool {
    let Some(client) = r.client_socket() else {
        return false;
    };
    let mut fds = [PollFd::new(client, PollFlags::POLLIN | LEFT)];
    let seen = poll(&mut fds, PollTimeout::ZERO).ok().and(fds[0].revents());
    seen == Some(PollFlags::POLLIN)
}

/// Whether turns are worth it, by the last probes.
fn pays(probes: u32) -> bool {
    probes.count_ones() >= WORTHWHILE
}

/// Whether that many threads at work leave some to connections that have none: a quarter, at least one.
fn leaves_threads(serving: u32, threads: u32) -> bool {
    serving + (threads / 4).max(1) <= threads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_threads_is_left_to_others() {
        assert!(leaves_threads(19, 25));
        assert!(!leaves_threads(20, 25));
        assert!(leaves_threads(3, 4));
        assert!(!leaves_threads(4, 4));
        assert!(leaves_threads(1, 2));
        assert!(!leaves_threads(2, 2));
        assert!(!leaves_threads(1, 1));
    }

    #[test]
    fn far_away_clients_end_the_turns_and_two_quick_ones_bring_them_back() {
        let after = |probes: u32, outcomes: &[u32]| {
            outcomes
                .iter()
                .fold(probes, |probes, outcome| probes << 1 | outcome)
        };
        let far_away = after(u32::MAX, &[0; 31]);
        assert!(!pays(far_away));
        assert!(!pays(after(far_away, &[1, 0, 0])));
        assert!(pays(after(far_away, &[1, 0, 1])));
    }
}
