//! Both segments together, and what workers, agent and watchdog do alike: walk a group's processes, free a
//! seat for whoever waits, pass a wake-up on.

use crate::clock;
use crate::error::Error;
use crate::ids::GroupRef;
use crate::layout::ProcessSlot;
use crate::protocol::cell::Granted;
use crate::protocol::desk::Desk;
use crate::protocol::process::{self, ProcessWord};
use crate::protocol::seat::{self, SeatState, SeatWord};
use crate::routes::Routes;
use crate::sync::{dekker, Ordering};
use crate::traffic::{MappedTraffic, Trust};

use std::os::fd::BorrowedFd;

/// The two segments of an instance.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) routes: Routes,
    pub(crate) traffic: MappedTraffic,
}

/// An app process that takes requests of the group that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) index: usize,
    pub(crate) slot: &'a ProcessSlot,
    pub(crate) word: ProcessWord,
}

impl Tables {
    /// Maps both.
    pub(crate) fn open(
        routes: BorrowedFd<'_>,
        routes_writable: bool,
        traffic: BorrowedFd<'_>,
        trust: Trust,
    ) -> Result<Tables, Error> {
        let routes = Routes::open(routes, routes_writable)?;
        let traffic = MappedTraffic::open(traffic, &routes.capacities(), trust)?;
        Ok(Tables { routes, traffic })
    }

    /// The processes that serve a group, in the order of their slots. Empty if the group is gone.
    pub(crate) fn members(&self, group: GroupRef) -> impl Iterator<Item = Member<'_>> + '_ {
        let bits = self
            .routes
            .group(group)
            .map_or(&[][..], |slot| &slot.members);
        let words = self.routes.processes.len().div_ceil(64);
        bits.iter()
            .take(words)
            .enumerate()
            .flat_map(move |(word, bits)| {
                // Relaxed: only where to look; the process word says what is there.
                let mut rest = bits.load(Ordering::Relaxed);
                std::iter::from_fn(move || {
                    let bit = rest.trailing_zeros() as usize;
                    rest &= rest.checked_sub(1)?;
                    Some(word * 64 + bit)
                })
                .filter_map(move |index| self.member(group, index))
            })
    }

    /// The process at `index`, if it serves the group.
    pub(crate) fn member(&self, group: GroupRef, index: usize) -> Option<Member<'_>> {
        let slot = self.routes.processes.get(index)?;
        let word = process::look(&slot.word);
        word.serves(group.index())
            .then_some(Member { index, slot, word })
    }

    /// Whether a request of that group would find a seat.
    pub(crate) fn has_room(&self, group: GroupRef) -> bool {
        self.members(group).any(|member| {
            member.word.is_unlimited()
                || self
                    .traffic
                    .seats(member.index, member.concurrency())
                    .iter()
                    .any(|seat| seat::look(seat).state() == SeatState::Free)
        })
    }

    /// Passes a wake-up on: whoever was woken and does not need it, or leaves, calls this, so that no seat
    /// stays free while somebody sleeps for it.
    pub(crate) fn nudge(&self, group: GroupRef) {
        let queue = self.traffic.queue(group.index());
        // PAIR(wait): the caller's bit is cleared; what was freed before that is seen now, and what is
        // freed later sees that the caller is not there.
        dekker();
        if queue.is_occupied() && self.has_room(group) {
            queue.wake_oldest(clock::now());
        }
    }

    /// The desk of one seat; `None` if there is no such seat.
    pub(crate) fn desk(&self, name: Granted, group: u32) -> Option<Desk<'_>> {
        let seats = self.traffic.all_seats(usize::from(name.process));
        let seat = seats.get(usize::from(name.seat))?;
        Some(Desk {
            seat,
            name,
            queue: self.traffic.queue(group),
        })
    }

    /// Gives a seat back whose whole word we know. `false`: it was not ours any more.
    pub(crate) fn give_back(&self, name: Granted, group: u32, mine: SeatWord) -> bool {
        let Some(desk) = self.desk(name, group) else {
            return false;
        };
        let process = self.routes.processes.get(usize::from(name.process));
        if process.is_some_and(|slot| process::look(&slot.word).serves(group)) {
            desk.give_back(mine, clock::now) != crate::protocol::desk::Outcome::NotOurs
        } else {
            // Nobody may use it: a waiter would only pass it on, and the next one, too.
            seat::free(desk.seat, mine)
        }
    }
}

impl Member<'_> {
    /// Seats in use; meaningless for an unlimited process.
    pub(crate) fn concurrency(&self) -> usize {
        // Relaxed: written before the word that `look` acquired; checked with the word after a take.
        self.slot.concurrency.load(Ordering::Relaxed) as usize
    }

    /// Its PID, for the eye.
    pub(crate) fn pid(&self) -> i32 {
        // Relaxed: as above.
        i32::from_ne_bytes(self.slot.pid.load(Ordering::Relaxed).to_ne_bytes())
    }

    /// Generation of the code it has loaded.
    pub(crate) fn code_generation(&self) -> u32 {
        // Relaxed: as above, and only a preference.
        self.slot.code_generation.load(Ordering::Relaxed)
    }
}
