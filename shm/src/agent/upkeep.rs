//! Reading and repairing `traffic`, and the hints. Every word here may come from a hostile worker: indices
//! are checked, loops are bounded by capacities, and nothing is believed beyond "that word says so".

use std::time::{Duration, Instant};

use crate::clock;
use crate::ids::{GroupRef, ProcessRef};
use crate::params::{Hint, InExchange, Load, Queue, Waited};
use crate::protocol::cell::{CellState, Granted};
use crate::protocol::seat::{self, SeatState, SeatWord};
use crate::protocol::{limit, wait};
use crate::sync::dekker;

use super::AgentView;

/// An orphan seat: its worker is gone, the app may still compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Orphan {
    /// The number of its request ([`crate::Seat::number`]).
    pub number: u64,
    word: SeatWord,
}

impl AgentView {
    /// How busy a process is, counted from its words.
    #[must_use]
    pub fn load(&self, name: ProcessRef) -> Load {
        let Some((_, word)) = self.tables.routes.process(name) else {
            return Load::default();
        };
        // PAIR(retire): every take that did not see what we last stored in the process word is seen.
        dekker();
        self.tables.traffic.load(name, word.is_unlimited())
    }

    /// The orphans of a process.
    #[must_use]
    pub fn orphans(&self, name: ProcessRef) -> Vec<Orphan> {
        if self.tables.routes.process(name).is_none() {
            return Vec::new();
        }
        let seats = self.tables.traffic.all_seats(name.slot() as usize).iter();
        seats
            .zip(0u64..)
            .map(|(seat, index)| (seat::look(seat), index))
            .filter(|(word, _)| word.state() == SeatState::Orphan)
            .map(|(word, index)| Orphan {
                number: index << 32 | u64::from(word.take_number()),
                word,
            })
            .collect()
    }

    /// The requests that a process has been given and may be executing, orphans included. Those of
    /// an unlimited process have no seats and are not listed.
    #[must_use]
    pub fn requests(&self, name: ProcessRef) -> Vec<InExchange> {
        if self.tables.routes.process(name).is_none() {
            return Vec::new();
        }
        let traffic = &self.tables.traffic;
        let seats = traffic.all_seats(name.slot() as usize).iter();
        seats
            .zip(traffic.limits(name.slot() as usize))
            .zip(0u64..)
            .map(|((seat, limit), index)| (seat::look(seat), limit, index))
            .filter(|(word, ..)| matches!(word.state(), SeatState::Held | SeatState::Orphan))
            .map(|(word, limit, index)| InExchange {
                number: index << 32 | u64::from(word.take_number()),
                limit: limit::of(limit, word),
            })
            .collect()
    }

    /// Frees an orphan, for the app has said that it is done with it; a waiter gets the seat or is woken.
    /// `false`: it is no longer that orphan.
    pub fn free_orphan(&self, name: ProcessRef, orphan: &Orphan) -> bool {
        let Some((_, word)) = self.tables.routes.process(name) else {
            return false;
        };
        let (Ok(process), Ok(seat)) = (
            u16::try_from(name.slot()),
            u16::try_from(orphan.number >> 32),
        ) else {
            return false;
        };
        self.tables
            .give_back(Granted { process, seat }, word.group(), orphan.word)
    }

    /// Takes back seats that were granted at least `older_than` ago and never picked up, as far as this agent
    /// has seen it itself: the granted words carry no time. Call it about once a second. How many.
    pub fn revoke_stale_grants(&self, older_than: Duration) -> u32 {
        let now = Instant::now();
        let mut stale = Vec::new();
        {
            let mut mine = self.mine();
            let mut seen = std::collections::HashMap::new();
            for (process, word) in self.tables.routes.all_processes() {
                for (index, seat) in self.tables.traffic.all_seats(process).iter().enumerate() {
                    let seat = seat::look(seat);
                    if seat.state() != SeatState::Granted {
                        continue;
                    }
                    let since = match mine.grants.get(&(process, index)) {
                        Some((before, since)) if *before == seat => *since,
                        _ => now,
                    };
                    if now.duration_since(since) >= older_than {
                        stale.push((process, index, word.group(), seat));
                    } else {
                        seen.insert((process, index), (seat, since));
                    }
                }
            }
            mine.grants = seen;
        }
        stale
            .into_iter()
            .map(|(process, index, group, word)| {
                let (Ok(process), Ok(seat)) = (u16::try_from(process), u16::try_from(index)) else {
                    return 0;
                };
                u32::from(
                    self.tables
                        .give_back(Granted { process, seat }, group, word),
                )
            })
            .sum()
    }

    /// The queue of a group, counted in its cells.
    #[must_use]
    pub fn queue(&self, group: GroupRef) -> Queue {
        if self.tables.routes.group(group).is_none() {
            return Queue::default();
        }
        let queue = self.tables.traffic.queue(group.index());
        let now = clock::now();
        let (mut length, mut oldest) = (0, 0);
        for cell in (0..queue.capacity()).filter_map(|index| queue.cell(index)) {
            match cell.look().state() {
                CellState::Free | CellState::Unknown => {}
                CellState::Granted(_) => length += 1,
                CellState::Waiting(ticket) => {
                    length += 1;
                    oldest = oldest.max(clock::age(now, ticket));
                }
            }
        }
        Queue {
            length,
            oldest: clock::duration(oldest),
        }
    }

    /// What has waited for a group so far.
    #[must_use]
    pub fn waited(&self, group: GroupRef) -> Waited {
        let is_ours = self.tables.routes.group(group).is_some();
        let waits = self.tables.traffic.waits(group.index());
        waits
            .filter(|_| is_ours)
            .map(wait::sums)
            .unwrap_or_default()
    }

    /// Requests that found the queue of a group full so far. Workers count them: a hostile one as it likes.
    #[must_use]
    pub fn rejected(&self, group: GroupRef) -> u64 {
        let is_ours = self.tables.routes.group(group).is_some();
        let waits = self.tables.traffic.waits(group.index());
        waits.filter(|_| is_ours).map_or(0, wait::rejected)
    }

    /// Wakes up to `n` waiters of a group, oldest first.
    pub fn wake_waiters(&self, group: GroupRef, n: u32) {
        if self.tables.routes.group(group).is_some() {
            self.wake_oldest(group.index(), n);
        }
    }

    pub(super) fn wake_oldest(&self, group: u32, n: u32) {
        // PAIR(wait): what was done for the waiters is done; who arrives now looks for itself.
        dekker();
        let queue = self.tables.traffic.queue(group);
        let now = clock::now();
        let mut waiting: Vec<_> = (0..queue.capacity())
            .filter_map(|index| queue.cell(index))
            .filter_map(|cell| match cell.look().state() {
                CellState::Waiting(ticket) => Some((clock::age(now, ticket), cell)),
                _ => None,
            })
            .collect();
        waiting.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
        for (_, cell) in waiting.iter().take(n as usize) {
            cell.alarm().wake();
        }
    }

    /// The next hint whose index exists; whether its generation still does is for the caller to see.
    pub fn pop_hint(&self) -> Option<Hint> {
        let ring = self.tables.traffic.ring();
        let mut mine = self.mine();
        for _ in 0..ring.cells.len() {
            let hint = ring.pop(&mut mine.ring_head)?;
            let exists = match hint {
                Hint::CapacityWanted(group) | Hint::RestartTouched(group) => {
                    (group.index() as usize) < self.tables.routes.groups.len()
                }
                Hint::ProcessSuspect(process)
                | Hint::Orphaned(process)
                | Hint::Overdue(process) => {
                    (process.slot() as usize) < self.tables.routes.processes.len()
                }
            };
            if exists {
                return Some(hint);
            }
        }
        None
    }

    /// Whether hints were dropped since the last call: look at everything.
    pub fn hints_overflowed(&self) -> bool {
        self.tables.traffic.ring().overflowed()
    }
}
