//! `traffic`, mapped: seats, totals, counters, streams, cells, bitmaps, limits, waits, the ring. Owns the mapping
//! and turns indices into words; what the words mean is in `protocol/`. Everything here may have been written by a hostile
//! worker, and every index is checked.

use std::os::fd::BorrowedFd;

use crate::error::Error;
use crate::ids::{ClientId, ProcessRef};
use crate::layout::{Total, TrafficHeader, TrafficLayout, Waits, TRAFFIC_MAGIC};
use crate::params::{Capacities, Load};
use crate::protocol::cell::Cell;
use crate::protocol::counter;
use crate::protocol::queue::Queue;
use crate::protocol::ring::Ring;
use crate::protocol::seat::{self, SeatState};
use crate::raw::{Mapping, One, Section};
use crate::segment::{check_stamp, open_traffic};
use crate::sync::AtomicU64;

/// The segment `traffic`, mapped.
#[derive(Debug)]
pub(crate) struct Traffic {
    header: One<TrafficHeader>,
    ring: Section<AtomicU64>,
    seats: Section<AtomicU64>,
    totals: Section<Total>,
    bitmaps: Section<AtomicU64>,
    cells: Section<Cell>,
    counters: Section<AtomicU64>,
    streams: Section<AtomicU64>,
    limits: Section<AtomicU64>,
    waits: Section<Waits>,
    layout: TrafficLayout,
    seats_per_process: usize,
    cells_per_group: usize,
    processes: usize,
}

/// The mapping stands apart so that `Traffic`'s fields can be named without it.
#[derive(Debug)]
pub(crate) struct MappedTraffic {
    traffic: Traffic,
    _mapping: Mapping,
}

impl std::ops::Deref for MappedTraffic {
    type Target = Traffic;

    fn deref(&self) -> &Traffic {
        &self.traffic
    }
}

/// Who maps `traffic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// A worker: checks that it fits its build.
    Worker,
    /// Agent and watchdog: `routes` vouches for the pair, and no worker can lock them out.
    Repairer,
    /// A tool: reads only.
    Reader,
}

impl MappedTraffic {
    /// Maps the segment whose shape `routes` gave.
    pub(crate) fn open(
        fd: BorrowedFd<'_>,
        c: &Capacities,
        trust: Trust,
    ) -> Result<MappedTraffic, Error> {
        let (mapping, layout) = open_traffic(fd, c, trust != Trust::Reader)?;
        if trust == Trust::Worker {
            check_stamp(&mapping, TRAFFIC_MAGIC, "traffic")?;
        }
        let [clients, groups, cells, processes, seats] =
            [c.clients, c.groups, c.cells, c.processes, c.seats].map(usize::from);
        let traffic = Traffic {
            // SAFETY: (all ten) the mapping moves into the same struct and is dropped with it.
            header: unsafe { mapping.one(0) }?,
            // SAFETY: as above.
            ring: unsafe { mapping.section(layout.ring, c.ring as usize) }?,
            // SAFETY: as above.
            seats: unsafe { mapping.section(layout.seats, processes * seats) }?,
            // SAFETY: as above.
            totals: unsafe { mapping.section(layout.totals, processes) }?,
            // SAFETY: as above.
            bitmaps: unsafe { mapping.section(layout.bitmaps, groups * layout.bitmap_stride) }?,
            // SAFETY: as above.
            cells: unsafe { mapping.section(layout.cells, groups * cells) }?,
            // SAFETY: as above.
            counters: unsafe { mapping.section(layout.counters, clients * layout.counter_stride) }?,
            // SAFETY: as above.
            streams: unsafe { mapping.section(layout.streams, clients * layout.counter_stride) }?,
            // SAFETY: as above.
            limits: unsafe { mapping.section(layout.limits, processes * seats) }?,
            // SAFETY: as above.
            waits: unsafe { mapping.section(layout.waits, groups) }?,
            layout,
            seats_per_process: seats,
            cells_per_group: cells,
            processes,
        };
        Ok(MappedTraffic {
            traffic,
            _mapping: mapping,
        })
    }
}

impl Traffic {
    /// The first `concurrency` seats of a process; all of them if it has more.
    pub(crate) fn seats(&self, process: usize, concurrency: usize) -> &[AtomicU64] {
        let start = process.saturating_mul(self.seats_per_process);
        self.seats
            .slice(start, concurrency.min(self.seats_per_process))
            .unwrap_or_default()
    }

    /// All seats of a process.
    pub(crate) fn all_seats(&self, process: usize) -> &[AtomicU64] {
        self.seats(process, usize::MAX)
    }

    /// How long the request in each seat of a process may take (`protocol/limit.rs`).
    pub(crate) fn limits(&self, process: usize) -> &[AtomicU64] {
        let start = process.saturating_mul(self.seats_per_process);
        self.limits
            .slice(start, self.seats_per_process)
            .unwrap_or_default()
    }

    /// What has waited for a group.
    pub(crate) fn waits(&self, group: u32) -> Option<&Waits> {
        self.waits.get(group as usize)
    }

    /// The waiting room of a group; without cells if there is no such group.
    pub(crate) fn queue(&self, group: u32) -> Queue<'_> {
        let group = group as usize;
        let cells = self.cells.slice(
            group.saturating_mul(self.cells_per_group),
            self.cells_per_group,
        );
        let bits = self.bitmaps.slice(
            group.saturating_mul(self.layout.bitmap_stride),
            self.layout.bitmap_words,
        );
        Queue::new(cells.unwrap_or_default(), bits.unwrap_or_default())
    }

    /// Who of a group was used last (`protocol/recent.rs`).
    pub(crate) fn recent(&self, group: u32) -> Option<&AtomicU64> {
        let next = (group as usize).checked_add(1)?;
        let end = next.checked_mul(self.layout.bitmap_stride)?;
        self.bitmaps.get(end.checked_sub(1)?)
    }

    /// When a process was used.
    pub(crate) fn turn(&self, process: usize) -> Option<&AtomicU64> {
        self.totals.get(process).map(|total| &total.turn)
    }

    /// The routing hint of an unlimited process.
    pub(crate) fn total(&self, process: usize) -> Option<&AtomicU64> {
        self.totals.get(process).map(|total| &total.word)
    }

    /// The hint how many streams a process has.
    pub(crate) fn stream_total(&self, process: usize) -> Option<&AtomicU64> {
        self.totals.get(process).map(|total| &total.streams)
    }

    /// The truth about one worker's requests at an unlimited process.
    pub(crate) fn counter(&self, client: usize, process: usize) -> Option<&AtomicU64> {
        self.counters.get(self.place(client, process)?)
    }

    /// The counters of every worker at one process.
    pub(crate) fn counters_of_process(&self, process: usize) -> impl Iterator<Item = &AtomicU64> {
        (0..self.clients()).filter_map(move |client| self.counter(client, process))
    }

    /// The counters of one worker, by process.
    pub(crate) fn counters_of_client(&self, client: ClientId) -> impl Iterator<Item = &AtomicU64> {
        let client = usize::from(client.slot());
        (0..self.processes).filter_map(move |process| self.counter(client, process))
    }

    /// The truth about one worker's streams at a process.
    pub(crate) fn stream(&self, client: usize, process: usize) -> Option<&AtomicU64> {
        self.streams.get(self.place(client, process)?)
    }

    /// The stream counters of every worker at one process.
    pub(crate) fn streams_of_process(&self, process: usize) -> impl Iterator<Item = &AtomicU64> {
        (0..self.clients()).filter_map(move |client| self.stream(client, process))
    }

    /// The stream counters of one worker, by process.
    pub(crate) fn streams_of_client(&self, client: ClientId) -> impl Iterator<Item = &AtomicU64> {
        let client = usize::from(client.slot());
        (0..self.processes).filter_map(move |process| self.stream(client, process))
    }

    /// How busy a process is, counted from its words. `is_unlimited`: it counts requests instead of having seats.
    pub(crate) fn load(&self, name: ProcessRef, is_unlimited: bool) -> Load {
        let index = name.slot() as usize;
        let counted = |counts: &mut dyn Iterator<Item = &AtomicU64>| {
            counts.fold(0, |sum: u32, word| {
                sum.saturating_add(counter::count(word, name.generation()))
            })
        };
        let mut load = Load::default();
        for seat in self.all_seats(index) {
            let word = seat::look(seat);
            load.takes += u64::from(word.take_number());
            match word.state() {
                SeatState::Free => {}
                SeatState::Granted => load.granted += 1,
                SeatState::Held | SeatState::Unknown => load.held += 1,
                SeatState::Orphan => load.orphans += 1,
            }
        }
        if is_unlimited {
            let held = counted(&mut self.counters_of_process(index));
            load.held = load.held.saturating_add(held);
            load.takes += self.total(index).map_or(0, counter::takes);
        }
        // After the seats: a seat that turns into a stream is seen as one of both (`Seat::into_stream`).
        load.streams = counted(&mut self.streams_of_process(index));
        load
    }

    fn clients(&self) -> usize {
        self.counters.len() / self.layout.counter_stride.max(1)
    }

    /// Where a worker's counter for a process is in its section.
    fn place(&self, client: usize, process: usize) -> Option<usize> {
        if process >= self.processes {
            return None;
        }
        client
            .checked_mul(self.layout.counter_stride)?
            .checked_add(process)
    }

    /// The ring of hints.
    pub(crate) fn ring(&self) -> Ring<'_> {
        let header = self.header.get();
        Ring {
            cells: self.ring.all(),
            tail: &header.ring_tail,
            overflow: &header.ring_overflow,
        }
    }
}
