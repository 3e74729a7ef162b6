//! One word to sleep on, shared between processes. Owns the futex(2) calls; who sleeps when is the
//! business of `protocol/queue.rs`.
//!
//! Protocol (no wake-up is lost): the sleeper (1) arms: the word becomes 0, (2) looks whether there is
//! anything to do, (3) sleeps *if the word is still 0*. The waker (a) makes something to do, (b) sets the
//! word to 1, (c) wakes, but only if it was 0: if it was 1 already, the sleeper was told and has not armed
//! again since, so its next look comes after (a). That saves most system calls under load, when seats come
//! back faster than a woken thread gets a processor. If (b) comes before (1), then so does (a), and (2)
//! finds it; else (3) finds a 1 and does not sleep.

use std::time::Duration;

use crate::sync::{AtomicU32, Ordering};

const QUIET: u32 = 0;
const RUNG: u32 = 1;

/// A word to sleep on. All-zero is a fresh one; every value is valid.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(transparent))]
pub struct Futex {
    value: AtomicU32,
    #[cfg(loom)]
    sleeper: loom::sync::Notify,
}

impl Futex {
    /// A fresh word; in real life they come from zeroed memory.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Futex {
        Futex {
            value: AtomicU32::new(0),
            #[cfg(loom)]
            sleeper: loom::sync::Notify::new(),
        }
    }

    /// Step 1 of sleeping.
    pub fn arm(&self) {
        // SeqCst, PAIR(alarm): acquires what a waker did before it rang; stands before our look.
        self.value.swap(QUIET, Ordering::SeqCst);
    }

    /// Whether it was rung since it was armed.
    #[must_use]
    pub fn is_rung(&self) -> bool {
        // Acquire, PAIR(alarm): what the waker did before it rang is visible now.
        self.value.load(Ordering::Acquire) != QUIET
    }

    /// Steps (b) and (c) of waking: wakes the one sleeper, if there is one that was not told yet.
    pub fn wake(&self) {
        // SeqCst, PAIR(alarm): publishes what was done before to whoever arms or reads after us.
        if self.value.swap(RUNG, Ordering::SeqCst) == QUIET {
            self.wake_sleeper();
        }
    }

    #[cfg(not(loom))]
    fn wake_sleeper(&self) {
        // SAFETY: FUTEX_WAKE uses the address only as a key; `self` is alive for the call.
        unsafe { libc::syscall(libc::SYS_futex, &raw const self.value, libc::FUTEX_WAKE, 1) };
    }

    #[cfg(loom)]
    fn wake_sleeper(&self) {
        self.sleeper.notify();
    }

    /// Step 3 of sleeping: until woken, at most `timeout`, and not at all if it was rung since it was armed.
    /// May return for no reason.
    #[cfg(not(loom))]
    pub fn wait(&self, timeout: Duration) {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the kernel reads one aligned u32 at the address (alive as long as `self`) and the
        // timespec, which outlives the call. Works on read-only mappings, too (design-review, T5).
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                &raw const self.value,
                libc::FUTEX_WAIT,
                QUIET,
                &raw const timeout,
            )
        };
    }

    /// The twin has no timeout: a wake-up that is lost is a deadlock that loom reports.
    #[cfg(loom)]
    pub fn wait(&self, _timeout: Duration) {
        while !self.is_rung() {
            self.sleeper.wait();
        }
    }
}
