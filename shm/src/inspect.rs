//! What tools and tests may do: look, with nothing mapped for writing.

use serde::Serialize;
use std::os::fd::BorrowedFd;

use crate::clock;
use crate::error::Error;
use crate::ids::GroupRef;
use crate::params::{Capacities, GroupParams, Load, ProcessSnapshot, Waited};
use crate::protocol::cell::CellState;
use crate::protocol::wait;
use crate::routes::Routes;
use crate::sync::Ordering;
use crate::traffic::{MappedTraffic, Trust};

/// The shared memory of one instance, as a tool sees it.
#[derive(Debug)]
pub struct InspectView {
    routes: Routes,
    traffic: Option<MappedTraffic>,
}

/// A copy of the tables. Each line is consistent in itself; the lines are of slightly different moments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Capacities of the instance.
    pub capacities: Capacities,
    /// Configuration generation in force.
    pub config_generation: u64,
    /// The agent's heartbeat.
    pub heartbeat: u64,
    /// Whether a newer instance serves.
    pub is_superseded: bool,
    /// Groups.
    pub groups: Vec<GroupSnapshot>,
    /// Processes of all groups.
    pub processes: Vec<(ProcessSnapshot, Option<Load>)>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupSnapshot {
    /// Its name.
    pub group: GroupRef,
    /// Its settings.
    pub params: GroupParams,
    /// Spawns that have failed.
    pub spawn_failures: u64,
    /// Requests that wait, without those that have been given a seat.
    pub waiting: Option<u32>,
    /// How long the oldest of them has waited, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// What has waited so far.
    pub waited: Option<Waited>,
}

impl InspectView {
    /// Maps the segments, for reading. Without `traffic` there are no loads and no queues.
    ///
    /// # Errors
    /// When they are not segments, or of another build: the text names both versions.
    pub fn attach(
        routes_read_only: BorrowedFd<'_>,
        traffic: Option<BorrowedFd<'_>>,
    ) -> Result<InspectView, Error> {
        let routes = Routes::open(routes_read_only, false)?;
        let traffic = traffic
            .map(|fd| MappedTraffic::open(fd, &routes.capacities(), Trust::Reader))
            .transpose()?;
        Ok(InspectView { routes, traffic })
    }

    /// A copy of the tables as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let header = self.routes.header();
        // Relaxed: three numbers to show.
        Snapshot {
            capacities: self.routes.capacities(),
            config_generation: header.config_generation.load(Ordering::Relaxed),
            heartbeat: header.heartbeat.load(Ordering::Relaxed),
            is_superseded: header.superseded.load(Ordering::Relaxed) != 0,
            groups: self
                .routes
                .all_groups()
                .filter_map(|group| self.group(group))
                .collect(),
            processes: (0..self.routes.processes.len())
                .filter_map(|index| self.routes.process_snapshot(index))
                .map(|process| {
                    let load = self.load(&process);
                    (process, load)
                })
                .collect(),
        }
    }

    fn group(&self, group: GroupRef) -> Option<GroupSnapshot> {
        let info = self.routes.group_info(group)?;
        let waits = self.traffic.as_ref().map(|traffic| {
            let queue = traffic.queue(group.index());
            let now = clock::now();
            let cells = (0..queue.capacity()).filter_map(|index| queue.cell(index));
            let ages: Vec<_> = cells
                .filter_map(|cell| match cell.look().state() {
                    CellState::Waiting(ticket) => Some(clock::age(now, ticket)),
                    _ => None,
                })
                .collect();
            let oldest = clock::duration(ages.iter().copied().max().unwrap_or(0));
            (
                u32::try_from(ages.len()).unwrap_or(u32::MAX),
                u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX),
            )
        });
        Some(GroupSnapshot {
            group,
            params: self.routes.group_params(group)?,
            spawn_failures: info.spawn_failures,
            waiting: waits.map(|(length, _)| length),
            oldest_ms: waits.map(|(_, oldest)| oldest),
            waited: self
                .traffic
                .as_ref()
                .and_then(|traffic| traffic.waits(group.index()))
                .map(wait::sums),
        })
    }

    fn load(&self, process: &ProcessSnapshot) -> Option<Load> {
        let traffic = self.traffic.as_ref()?;
        Some(traffic.load(process.process, process.concurrency == 0))
    }
}
