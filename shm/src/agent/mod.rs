//! What the agent may do: it alone writes `routes`, and it repairs `traffic`. Owns the mapping of that
//! process; groups are `groups.rs`, keys `keys.rs`, processes `processes.rs`, words of `traffic`
//! `upkeep.rs`.
//!
//! Written so that the agent may be killed between any two stores: what is half built is not reachable,
//! and its successor's [`AgentView::adopt`] frees it. Written for one agent at a time: a successor starts
//! when its predecessor is dead.

mod groups;
mod keys;
mod processes;
mod upkeep;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::doorbell::Doorbell;
use crate::error::Error;
use crate::params::Capacities;
use crate::protocol::seat::SeatWord;
use crate::sync::{dekker, Ordering};
use crate::tables::Tables;
use crate::traffic::Trust;

pub use upkeep::Orphan;

/// The shared memory of one instance, as its agent sees it.
#[derive(Debug)]
pub struct AgentView {
    tables: Tables,
    doorbell: Doorbell,
    mine: Mutex<Mine>,
}

/// What the agent remembers for itself. Nothing is lost with it.
#[derive(Debug, Default)]
struct Mine {
    /// Where the next hint is expected.
    ring_head: u64,
    /// Slots are used in turn, so that a name that is slightly out of date rarely fits another thing.
    next_group: usize,
    next_process: usize,
    /// Grants by process and seat, and since when they have looked like this.
    grants: HashMap<(usize, usize), (SeatWord, Instant)>,
}

impl AgentView {
    /// Maps the segments; `adopt` comes next.
    ///
    /// # Errors
    /// When they are not segments, or of another build: the text names both versions.
    pub fn attach(
        routes: BorrowedFd<'_>,
        traffic: BorrowedFd<'_>,
        doorbell: OwnedFd,
    ) -> Result<AgentView, Error> {
        let tables = Tables::open(routes, true, traffic, Trust::Repairer)?;
        let doorbell = Doorbell::new(doorbell)?;
        Ok(AgentView {
            tables,
            doorbell,
            mine: Mutex::default(),
        })
    }

    /// Puts in order what a predecessor left half done. A fresh instance needs it as little as it hurts.
    pub fn adopt(&self) {
        self.sleep_ends();
        self.adopt_groups();
        self.adopt_keys();
    }

    /// The capacities of the instance.
    #[must_use]
    pub fn capacities(&self) -> Capacities {
        self.tables.routes.capacities()
    }

    /// Key for [`crate::GroupKey::of`].
    #[must_use]
    pub fn instance_key(&self) -> [u8; 16] {
        self.tables.routes.instance_key()
    }

    /// Says that the pool loop runs. The watchdog looks once a second.
    pub fn beat(&self) {
        // Relaxed: a number that is compared with itself.
        self.tables
            .routes
            .header()
            .heartbeat
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Tells workers which configuration is in force.
    pub fn set_config_generation(&self, generation: u64) {
        // Relaxed: a number that is compared, with nothing behind it.
        self.tables
            .routes
            .header()
            .config_generation
            .store(generation, Ordering::Relaxed);
    }

    /// Tells workers that a newer instance serves.
    pub fn supersede(&self) {
        // Relaxed: a flag that is asked again and again.
        self.tables
            .routes
            .header()
            .superseded
            .store(1, Ordering::Relaxed);
    }

    /// The bell, to wait for it to become readable.
    #[must_use]
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    /// Announces that the agent is going to sleep until the bell rings. `false`: a hint is there already,
    /// do not sleep.
    ///
    /// No ring is lost: (1) the flag says asleep, (2) fence, (3) look at the ring; a worker (a) pushes,
    /// (b) fence, (c) looks at the flag. If (c) misses the flag, (3) sees the hint.
    #[must_use]
    pub fn sleep_begins(&self) -> bool {
        let sleeping = &self.tables.routes.header().sleeping;
        // Relaxed: ordered by the fence.
        sleeping.store(1, Ordering::Relaxed);
        // PAIR(bell)
        dekker();
        let ring = self.tables.traffic.ring();
        // Relaxed: ordered by the fence.
        let work = !ring.is_empty() || ring.overflow.load(Ordering::Relaxed) != 0;
        if work {
            sleeping.store(0, Ordering::Relaxed);
        }
        !work
    }

    /// The agent is awake: nobody needs to ring. Silences the bell.
    pub fn sleep_ends(&self) {
        // Relaxed: a ring too many does no harm.
        self.tables
            .routes
            .header()
            .sleeping
            .store(0, Ordering::Relaxed);
        self.doorbell.silence();
    }

    fn mine(&self) -> MutexGuard<'_, Mine> {
        // What a panicking thread may have left half done here is memory of hints.
        self.mine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
