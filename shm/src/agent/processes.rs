//! Processes: reserve, publish, drain, end, free. One store of the process word is each step for all
//! workers.

use crate::clock;
use crate::error::Error;
use crate::ids::{GroupRef, ProcessRef};
use crate::layout::ProcessSlot;
use crate::params::{ProcessParams, ProcessSnapshot, ProcessState};
use crate::protocol::process::{self, ProcessWord};
use crate::protocol::recent;
use crate::protocol::seat;
use crate::sync::{dekker, Ordering};

use super::AgentView;

impl AgentView {
    /// Reserves a slot for a process about to be spawned; no worker sees it yet.
    ///
    /// # Errors
    /// When the group is gone or the table is full.
    pub fn reserve_process(&self, group: GroupRef) -> Result<ProcessRef, Error> {
        if self.tables.routes.group(group).is_none() {
            return Err(Error::Gone {
                what: group.to_string(),
            });
        }
        let slots = self.tables.routes.processes.all();
        let mut mine = self.mine();
        let start = mine.next_process;
        for step in 0..slots.len() {
            let index = (start + step) % slots.len();
            let Some(slot) = slots.get(index) else {
                continue;
            };
            let old = process::look(&slot.word);
            if old.state().is_some() {
                continue;
            }
            mine.next_process = index + 1;
            let generation = old.generation().wrapping_add(1).max(1);
            let params = ProcessParams {
                pid: 0,
                uid: 0,
                concurrency: 1,
                protocol: crate::params::Protocol::Binary,
                code_generation: 0,
                port: 0,
            };
            set_params(slot, &params, 0);
            // Relaxed: comes with the word.
            slot.group_generation
                .store(group.generation(), Ordering::Relaxed);
            // Group indices have 16 bits (`layout::sections`).
            let group_index = u16::try_from(group.index()).unwrap_or(u16::MAX);
            let word = ProcessWord::new(generation, group_index, ProcessState::Starting);
            // Whatever a hostile worker put there while the slot was nobody's.
            for seat in self.tables.traffic.all_seats(index) {
                seat::clear(seat);
            }
            process::set(&slot.word, word);
            self.set_member(word, index, true);
            return Ok(ProcessRef::new(
                u32::try_from(index).unwrap_or(u32::MAX),
                generation,
            ));
        }
        Err(Error::Full {
            table: "processes",
            capacity: slots.len(),
        })
    }

    /// Lets requests come: the process is live from here on, and waiters are woken, one per seat. Does
    /// nothing for a process that drains or is dead: there is no way back.
    pub fn publish(&self, name: ProcessRef, params: &ProcessParams) {
        let Some((slot, word)) = self.tables.routes.process(name) else {
            log::error!("[BUG] process {name} is published but its slot is somebody else's");
            return;
        };
        match word.state() {
            Some(ProcessState::Starting) => {}
            // Settings of a live process change under its readers: not while anybody chooses it.
            Some(ProcessState::Live) => {
                process::set(&slot.word, word.with_state(ProcessState::Starting));
            }
            // Its group was removed, or it ended, while it was getting ready.
            _ => return,
        }
        set_params(slot, params, clock::monotonic_ms());
        let (index, traffic) = (name.slot() as usize, &self.tables.traffic);
        for total in [traffic.total(index), traffic.stream_total(index)] {
            // Relaxed: a hint.
            total.inspect(|total| total.store(0, Ordering::Relaxed));
        }
        traffic.turn(index).inspect(|turn| recent::clear(turn));
        let unlimited = params.concurrency == 0;
        let live = word
            .with_state(ProcessState::Live)
            .with_flags(params.protocol, unlimited);
        self.set_member(live, name.slot() as usize, true);
        // PAIR(wait): freed seats, as it were; the fence is in `set`.
        process::set(&slot.word, live);
        let wanted = if unlimited {
            u32::MAX
        } else {
            params.concurrency
        };
        self.wake_oldest(word.group(), wanted);
    }

    /// Stops new requests. Afterwards `load` tells the truth: whoever still comes through gives its seat
    /// back by itself.
    pub fn drain(&self, name: ProcessRef) {
        self.set_state(name, ProcessState::Draining);
    }

    /// Stops new requests for a while: [`AgentView::resume`] lets them come again. Only a live process can be
    /// away. Afterwards `load` tells the truth, as after `drain`.
    pub fn rest(&self, name: ProcessRef) {
        if let Some((slot, word)) = self.tables.routes.process(name) {
            if word.state() == Some(ProcessState::Live) {
                process::set(&slot.word, word.with_state(ProcessState::Away));
            }
        }
    }

    /// Ends the absence of a process, and wakes who waits for its seats. Does nothing for any other.
    pub fn resume(&self, name: ProcessRef) {
        let Some((slot, word)) = self.tables.routes.process(name) else {
            return;
        };
        if word.state() != Some(ProcessState::Away) {
            return;
        }
        // Relaxed: written by ourselves.
        let seats = slot.concurrency.load(Ordering::Relaxed);
        // PAIR(wait): freed seats, as it were; the fence is in `set`.
        process::set(&slot.word, word.with_state(ProcessState::Live));
        let wanted = if word.is_unlimited() { u32::MAX } else { seats };
        self.wake_oldest(word.group(), wanted);
    }

    /// Says that the process has ended: whoever waits for its answer may stop. Seats stay taken until their
    /// workers see it, or `free_process`.
    pub fn dead(&self, name: ProcessRef) {
        self.set_state(name, ProcessState::Dead);
    }

    /// Ends the use of a slot. Seats that anybody still thinks to have are freed by force; their owners'
    /// releases change nothing.
    pub fn free_process(&self, name: ProcessRef) {
        let Some((slot, word)) = self.tables.routes.process(name) else {
            return;
        };
        let index = name.slot() as usize;
        // The fence in `set`, PAIR(retire): whoever takes a seat after we cleared it sees that it must not.
        process::set(&slot.word, ProcessWord::unused(word.generation()));
        self.set_member(word, index, false);
        let forced = self
            .tables
            .traffic
            .all_seats(index)
            .iter()
            .filter(|s| seat::clear(s))
            .count();
        if forced > 0 {
            log::debug!("process {name}: {forced} seats were still taken when its slot was freed");
        }
        self.mine()
            .grants
            .retain(|(process, _), _| *process != index);
    }

    /// All process slots in use.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessSnapshot> {
        let routes = &self.tables.routes;
        routes
            .all_processes()
            .filter_map(|(index, _)| routes.process_snapshot(index))
            .collect()
    }

    fn set_state(&self, name: ProcessRef, state: ProcessState) {
        if let Some((slot, word)) = self.tables.routes.process(name) {
            // Nobody comes back from the dead, not even to drain.
            if word.state() != Some(ProcessState::Dead) {
                process::set(&slot.word, word.with_state(state));
            }
        }
    }

    /// Drains every process whose group is `unwanted`: nothing may serve under a group's index once that
    /// can name another group.
    pub(super) fn drain_processes_of(&self, unwanted: impl Fn(GroupRef) -> bool) {
        for process in self.processes() {
            let serves = matches!(
                process.state,
                ProcessState::Starting | ProcessState::Live | ProcessState::Away
            );
            if serves && unwanted(process.group) {
                self.drain(process.process);
            }
        }
    }

    fn set_member(&self, word: ProcessWord, process: usize, is_member: bool) {
        let Some(group) = self.tables.routes.groups.get(word.group() as usize) else {
            return;
        };
        let Some(bits) = group.members.get(process / 64) else {
            return;
        };
        let bit = 1u64 << (process % 64);
        // Release, PAIR(publish): only a place to look; the word decides.
        if is_member {
            bits.fetch_or(bit, Ordering::Release);
        } else {
            bits.fetch_and(!bit, Ordering::Release);
        }
        // PAIR(wait): a waiter that does not find the process is in the queue that is looked at next.
        dekker();
    }
}

fn set_params(slot: &ProcessSlot, params: &ProcessParams, started_ms: u64) {
    // Relaxed: published by the word.
    slot.pid.store(
        u32::from_ne_bytes(params.pid.to_ne_bytes()),
        Ordering::Relaxed,
    );
    slot.uid.store(params.uid, Ordering::Relaxed);
    slot.concurrency
        .store(params.concurrency, Ordering::Relaxed);
    slot.code_generation
        .store(params.code_generation, Ordering::Relaxed);
    slot.started_ms.store(started_ms, Ordering::Relaxed);
    slot.port.store(u32::from(params.port), Ordering::Relaxed);
}
