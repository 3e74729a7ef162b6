//! What was killed, and when: what a client saw is excused by it, or by nothing.

use harness::processes::{self, ProcessId};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long before a request began a kill may have been that the request still met: a connection to a
/// process that is dying is made, and the client's clock starts, before the kernel has closed it.
const DYING: Duration = Duration::from_millis(100);

/// Who was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Agent,
    Watchdog,
    Worker,
    App,
}

/// All kills of a run.
#[derive(Debug, Default)]
pub(crate) struct Incidents(Mutex<Vec<(Victim, Instant)>>);

impl Incidents {
    /// `kill -9`, on the record before it happens.
    pub(crate) fn kill(&self, victim: Victim, pid: ProcessId) {
        self.all().push((victim, Instant::now()));
        processes::signal(pid, Signal::SIGKILL);
    }

    /// How many of them were killed while a request that began then was under way.
    pub(crate) fn since(&self, victim: Victim, began: Instant) -> usize {
        let all = self.all();
        all.iter()
            .rev()
            .take_while(|(_, at)| *at + DYING >= began)
            .filter(|(who, _)| *who == victim)
            .count()
    }

    /// How many there were of each.
    pub(crate) fn totals(&self) -> BTreeMap<Victim, usize> {
        let mut totals = BTreeMap::new();
        for (victim, _) in self.all().iter() {
            *totals.entry(*victim).or_default() += 1;
        }
        totals
    }

    fn all(&self) -> MutexGuard<'_, Vec<(Victim, Instant)>> {
        // Whoever panicked had only pushed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
