//! A turn for the client after a response: its next request is then often there before this thread gives the connection
//! back, which costs two system calls and two wakes of other threads (the event MPM's listener, and a worker).
//!
//! ```text
//!  handler: response ─► what httpd still holds is sent ─► sched_yield ─► httpd looks for the next request
//!                                                                         there: the same thread goes on with it
//!                                                                         not:   as without all this
//! ```
//! Clients on the same machine or in its network are that fast: load balancers, caches, other services. To the others
//! it costs a system call that returns at once. A thread that goes on so does not serve others, therefore only while
//! threads are left, and not without end.

use crate::ffi::brigade;
use crate::ffi::request::Request;
use crate::ffi::server;
use std::sync::atomic::{AtomicU32, Ordering};

/// After so many requests a connection goes the usual way once: requests of other modules also want threads, and are not
/// counted here.
const TURNS: i32 = 64;

/// Requests that this process serves now.
static SERVING: AtomicU32 = AtomicU32::new(0);

/// A request being served, from the start of the handler to its end.
pub(crate) struct Serving(());

impl Serving {
    /// Counts it.
    pub(crate) fn begin() -> Self {
        // Relaxed: a number that is compared with another; it guards no memory.
        SERVING.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

/// Sends what httpd still holds of a complete response, as far as the client takes it at once, and gives the client a
/// turn. Returns when whoever waited for this processor had one, too; never waits for the client.
pub(crate) fn invite(r: &mut Request<'_>) {
    // Relaxed: as in `begin`.
    let leaves_threads = leaves_threads(SERVING.load(Ordering::Relaxed), server::threads());
    let is_tired = r.requests_on_connection() % TURNS == 0;
    if !leaves_threads || is_tired || !r.may_be_followed() {
        return;
    }
    // A client that does not take this response yet sends no request, and to one that is gone httpd finds out next.
    if brigade::push_pending(r).is_ok() && !r.has_pending_output() {
        std::thread::yield_now();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Relaxed: as in `begin`.
        SERVING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether that many threads at work leave some to connections that have none: a quarter, at least one. Where a
/// process has one thread only, the connection has it anyway (prefork).
fn leaves_threads(serving: u32, threads: u32) -> bool {
    threads == 1 || serving + (threads / 4).max(1) <= threads
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
    }

    #[test]
    fn the_only_thread_of_a_process_is_its_connections() {
        assert!(leaves_threads(1, 1));
    }
}
