//! One word to sleep on, shared between processes. Owns the futex(2) calls; who sleeps when is the
//! business of `protocol/queue.rs`.
//!
//! Protocol (no wake-up is lost): the sleeper (1) reads [`Futex::value`], (2) looks whether there is
//! anything to do, (3) sleeps *if the value is still the same*. The waker (a) makes something to do, (b)
//! changes the value, (c) wakes. If (b) comes before (1), then (a) does, too, and (2) finds it; else (3)
//! finds another value and does not sleep.

use std::time::Duration;

use crate::sync::{AtomicU32, Ordering};

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
    #[must_use]
    pub fn value(&self) -> u32 {
        // Acquire, PAIR(alarm): what the waker did before it changed the value is visible now.
        self.value.load(Ordering::Acquire)
    }

    /// Steps (b) and (c) of waking: wakes the one sleeper, if there is one.
    pub fn wake(&self) {
        // AcqRel, PAIR(alarm): publishes what was done before to whoever reads the new value.
        self.value.fetch_add(1, Ordering::AcqRel);
        self.wake_sleeper();
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

    /// Step 3 of sleeping: until woken, at most `timeout`, and not at all if the value is no longer
    /// `seen`. May return for no reason.
    #[cfg(not(loom))]
    pub fn wait(&self, seen: u32, timeout: Duration) {
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
                seen,
                &raw const timeout,
            )
        };
    }

    /// The twin has no timeout: a wake-up that is lost is a deadlock that loom reports.
    #[cfg(loom)]
    pub fn wait(&self, seen: u32, _timeout: Duration) {
        if self.value.load(Ordering::Acquire) == seen {
            self.sleeper.wait();
        }
    }
}
