//! Closing descriptors that somebody else chose. A close can be made to last: a TCP socket that lingers, a
//! file of a file system in user space, or a Unix socket with one of these in its queue. Root's programs
//! have one thread each that must go on, so such descriptors are closed by threads of their own.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// Threads that may hang in a close at once.
const MAX_CLOSING: usize = 32;

/// What may wait for a thread. Whoever makes more hang only makes us keep his descriptors.
const MAX_WAITING: usize = 1024;

/// Closing a descriptor needs next to no stack.
const STACK_BYTES: usize = 64 * 1024;

struct Closing {
    waiting: VecDeque<Vec<OwnedFd>>,
    threads: usize,
}

// Private to this process; `sync.rs` is about words in shared memory. Never held while something is closed.
static CLOSING: Mutex<Closing> = Mutex::new(Closing {
    waiting: VecDeque::new(),
    threads: 0,
});

fn closing() -> MutexGuard<'static, Closing> {
    CLOSING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes descriptors without waiting for it. Nothing happens for none.
pub fn discard(fds: Vec<OwnedFd>) {
    if fds.is_empty() {
        return;
    }
    let mut state = closing();
    if state.waiting.len() >= MAX_WAITING {
        drop(state);
        log::error!(
            "{} descriptors of a process that is not trusted are kept: {MAX_WAITING} others do not close",
            fds.len()
        );
        std::mem::forget(fds);
        return;
    }
    state.waiting.push_back(fds);
    if state.threads >= MAX_CLOSING {
        // Those who do not hang come for it.
        return;
    }
    state.threads += 1;
    drop(state);
    let started = thread::Builder::new()
        .name("discard".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(close_what_waits);
    if let Err(e) = started {
        // They wait for the next call: who lacks threads must not be made to hang as well.
        closing().threads -= 1;
        log::error!(
            "cannot start a thread to close descriptors, which stay open for now: {e}; too many tasks (TasksMax, \
             ulimit -u)?"
        );
    }
}

fn close_what_waits() {
    loop {
        let mut state = closing();
        let Some(fds) = state.waiting.pop_front() else {
            state.threads -= 1;
            return;
        };
        drop(state);
        drop(fds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_burst_is_closed_to_the_last_descriptor() {
        let mut kept = Vec::new();
        for _ in 0..300 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            discard(vec![theirs.into()]);
            kept.push(ours);
        }
        for mut ours in kept {
            // Waits until the other end is closed.
            assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        }
    }
}
