//! What the watchdog may do: read `routes`, and put the words of a dead worker in order.

use serde::Serialize;
use std::os::fd::BorrowedFd;

use crate::error::Error;
use crate::ids::ClientId;
use crate::params::Capacities;
use crate::protocol::counter;
use crate::protocol::process;
use crate::protocol::seat::{self, Swept};
use crate::sync::{AtomicU64, Ordering};
use crate::tables::Tables;
use crate::traffic::Trust;

/// The shared memory of one instance, as its watchdog sees it.
#[derive(Debug)]
pub struct WatchdogView {
    tables: Tables,
}

/// What a dead worker left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sweep {
    /// Seats that it held and that are orphans now: the agent should know.
    pub orphaned: u32,
    /// Waiter cells that it occupied.
    pub cells: u32,
    /// Requests that it had at processes without a limit.
    pub counters: u32,
    /// Upgraded connections that it had.
    pub streams: u32,
}

impl WatchdogView {
    /// Maps the segments.
    ///
    /// # Errors
    /// When they are not segments, or of another build: the text names both versions.
    pub fn attach(
        routes_read_only: BorrowedFd<'_>,
        traffic: BorrowedFd<'_>,
    ) -> Result<WatchdogView, Error> {
        let tables = Tables::open(routes_read_only, false, traffic, Trust::Repairer)?;
        Ok(WatchdogView { tables })
    }

    /// A number that changes while the agent's pool loop runs.
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        // Relaxed: compared with itself.
        self.tables
            .routes
            .header()
            .heartbeat
            .load(Ordering::Relaxed)
    }

    /// The capacities of the instance.
    #[must_use]
    pub fn capacities(&self) -> Capacities {
        self.tables.routes.capacities()
    }

    /// Frees the words of a worker that is dead: its pidfd says so. The identity must not be granted again
    /// before. Calling it twice does no harm.
    ///
    /// Cells first, so that nobody grants it anything any more; a seat granted to it meanwhile, by a
    /// worker that then died itself, is revoked by the agent.
    pub fn sweep(&self, client: ClientId) -> Sweep {
        let mut sweep = Sweep::default();
        let traffic = &self.tables.traffic;
        let groups = 0..u32::from(self.capacities().groups);
        for group in groups.clone() {
            // A grant in a cell is also in the seat, which is swept next.
            sweep.cells += traffic.queue(group).sweep(client, |_| {});
        }
        let mut freed = false;
        for index in 0..self.tables.routes.processes.len() {
            for seat in traffic.all_seats(index) {
                match seat::sweep(seat, client) {
                    Swept::Other => {}
                    Swept::Orphaned => sweep.orphaned += 1,
                    Swept::Freed => freed = true,
                }
            }
        }
        let traffic = &self.tables.traffic;
        let (requests, streams) = (
            traffic.counters_of_client(client),
            traffic.streams_of_client(client),
        );
        sweep.counters = self.sweep_counters(requests, |index| traffic.total(index));
        sweep.streams = self.sweep_counters(streams, |index| traffic.stream_total(index));
        if freed || sweep.cells > 0 {
            // Seats that came free, and wake-ups that went to the dead, go to the next in line.
            for group in self.tables.routes.all_groups() {
                self.tables.nudge(group);
            }
        }
        sweep
    }

    /// Takes back what the dead have counted, process by process; how much.
    fn sweep_counters<'a>(
        &self,
        counters: impl Iterator<Item = &'a AtomicU64>,
        total: impl Fn(usize) -> Option<&'a AtomicU64>,
    ) -> u32 {
        let mut swept = 0u32;
        for (index, counter) in counters.enumerate() {
            let process = self.tables.routes.processes.get(index);
            if let (Some(process), Some(total)) = (process, total(index)) {
                let generation = process::look(&process.word).generation();
                swept = swept.saturating_add(counter::sweep(counter, total, generation));
            }
        }
        swept
    }
}
