//! Closing descriptors that somebody else chose. A close can be made to last: a TCP socket that lingers, a
//! file of a file system in user space, or a Unix socket with one of these in its queue. Root's programs
//! have one thread each that must go on, so such descriptors are closed by a thread of their own.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Threads that may hang in a close at once. Whoever keeps more busy only makes us keep his descriptors.
const MAX_CLOSING: usize = 32;

/// Closing a descriptor needs next to no stack.
const STACK_BYTES: usize = 64 * 1024;

// Private to this process; `sync.rs` is about words in shared memory.
static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// Closes descriptors without waiting for it. Nothing happens for none.
pub fn discard(fds: Vec<OwnedFd>) {
    if fds.is_empty() {
        return;
    }
    // Relaxed: a count that orders nothing.
    if CLOSING.fetch_add(1, Ordering::Relaxed) >= MAX_CLOSING {
        CLOSING.fetch_sub(1, Ordering::Relaxed);
        log::error!(
            "{} descriptors of a process that is not trusted are kept: {MAX_CLOSING} others do not close",
            fds.len()
        );
        std::mem::forget(fds);
        return;
    }
    let closing = thread::Builder::new()
        .name("discard".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            drop(fds);
            CLOSING.fetch_sub(1, Ordering::Relaxed);
        });
    if let Err(e) = closing {
        // The descriptors were dropped with the closure; there was no other way.
        CLOSING.fetch_sub(1, Ordering::Relaxed);
        log::error!("cannot start a thread to close descriptors: {e}");
    }
}
