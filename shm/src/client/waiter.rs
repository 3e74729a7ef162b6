//! A request in the queue of its group. Owns the waiter's half of `protocol/desk.rs`: join, look, sleep,
//! pick up, leave.

use std::time::Duration;

use crate::clock::{self, Ticks};
use crate::ids::GroupRef;
use crate::protocol::cell::{CellState, Granted};
use crate::protocol::desk::{aged, Desk};
use crate::protocol::process::{self, still};
use crate::protocol::queue::{Left, Place, Queue};
use crate::protocol::wait;
use crate::sync::{dekker, Ordering};

use super::{name, Client, Seat, Seized, CHOICES};

/// Longest sleep: a wake-up that a dead or stopped process swallowed costs no more than this.
const MAX_SLICE: Duration = Duration::from_millis(250);

/// A request that waits for a seat. Dropping it leaves the queue, passing on what it was given.
#[derive(Debug)]
pub struct Waiter<'a> {
    client: &'a Client,
    group: GroupRef,
    ticket: Ticks,
    /// `None` once it has its seat, or while its cell is lost.
    place: Option<Place>,
    has_seat: bool,
}

impl<'a> Waiter<'a> {
    pub(super) fn join(
        client: &'a Client,
        group: GroupRef,
        waited: Duration,
    ) -> Option<Waiter<'a>> {
        let ticket = clock::now().wrapping_sub(clock::ticks(waited));
        let place = claim(client, group, ticket)?;
        Some(Waiter {
            client,
            group,
            ticket,
            place: Some(place),
            has_seat: false,
        })
    }

    /// How long it has waited.
    #[must_use]
    pub fn since(&self) -> Duration {
        clock::duration(clock::age(clock::now(), self.ticket))
    }

    /// Looks for a seat; if there is none sleeps until woken, at most `slice` (and 250 ms), and looks once
    /// more. After `Some` the waiter has left the queue and never finds another one. The caller looks
    /// at its client, at the group and at the clock, and calls again.
    pub fn wait(&mut self, slice: Duration) -> Option<Seat<'a>> {
        if self.has_seat {
            return None;
        }
        let client = self.client;
        let queue = client.tables().traffic.queue(self.group.index());
        let slice = slice.min(MAX_SLICE);
        let Some(cell) = self.own_place().and_then(|place| queue.cell(place.index)) else {
            // No cell to be had again, or no group: there is nothing to be woken by.
            std::thread::sleep(slice);
            return None;
        };
        // Before the look: a wake-up between the look and the sleep changes it.
        cell.alarm().arm();
        if let Some(seat) = self.look(&queue) {
            return Some(seat);
        }
        cell.alarm().wait(slice);
        self.look(&queue)
    }

    /// The cell we wait in. Somebody may have wiped ours (only a hostile worker does): then another one,
    /// with the old ticket.
    fn own_place(&mut self) -> Option<Place> {
        if self.place.is_none() {
            self.place = claim(self.client, self.group, self.ticket);
        }
        self.place
    }

    /// One look at the own cell and at the seats.
    fn look(&mut self, queue: &Queue<'_>) -> Option<Seat<'a>> {
        let place = self.place?;
        let cell = queue.cell(place.index)?;
        let word = cell.look();
        match word.state() {
            CellState::Waiting(_) if word == place.word => {}
            CellState::Granted(granted) if word.owner() == self.client.id => {
                if let Some(seat) = self.pick_up(granted) {
                    self.has_seat = true;
                    self.leave(queue);
                    return Some(seat);
                }
                // Revoked, or of a process that stopped serving: back to the old place.
                self.place = cell
                    .rearm(word, self.ticket)
                    .map(|word| Place { word, ..place });
            }
            _ => self.place = None,
        }
        self.own_place()?;
        self.seek(queue)
    }

    /// Takes a free seat, unless an older waiter should have it: then hands it over, and looks further.
    fn seek(&mut self, queue: &Queue<'_>) -> Option<Seat<'a>> {
        // PAIR(wait): our bit is set; whoever frees a seat that we do not see now sees it.
        dekker();
        for _ in 0..CHOICES.saturating_mul(4) {
            let client = self.client;
            let choice = client.choose(self.group, None)?;
            if let (Some((index, seen)), Some(_)) = (choice.seat, self.elder(queue)) {
                let name = name(choice.member.index, index);
                let desk = client.tables().desk(name, self.group.index())?;
                match desk.hand_over(seen, clock::now()) {
                    Ok(_) => continue,
                    Err(unwanted) if unwanted == seen => {}
                    Err(granted) => {
                        // Given to a waiter that left under our hands, and nobody else is that old.
                        client.tables().give_back(name, self.group.index(), granted);
                        continue;
                    }
                }
            }
            match client.seize(self.group, &choice) {
                Seized::Seat(seat) => {
                    self.has_seat = true;
                    self.leave(queue);
                    return Some(seat);
                }
                Seized::Lost => {}
                Seized::NoGroup => return None,
            }
        }
        None
    }

    /// Whether somebody who must be served before newcomers is older than we are.
    fn elder(&self, queue: &Queue<'_>) -> Option<()> {
        let oldest = aged(queue, clock::now())?;
        let CellState::Waiting(ticket) = oldest.place.word.state() else {
            return None;
        };
        let older = clock::age(self.ticket, ticket) > 0;
        (older && Some(oldest.place.index) != self.place.map(|p| p.index)).then_some(())
    }

    /// Turns the grant in our cell into a seat, if it is worth anything.
    fn pick_up(&self, granted: Granted) -> Option<Seat<'a>> {
        let client = self.client;
        let tables = client.tables();
        let slot = tables.routes.processes.get(usize::from(granted.process))?;
        let word = process::look(&slot.word);
        let desk: Desk<'_> = tables.desk(granted, self.group.index())?;
        let seat = desk.pick_up(client.id)?;
        let seat = Seat::with_seat(
            client,
            usize::from(granted.process),
            word,
            granted.seat,
            seat,
        );
        // PAIR(retire), and the cells of a group's slot outlive the group: is it still ours?
        if word.serves(self.group.index())
            && still(&slot.word, word)
            && tables.routes.is_current(self.group)
        {
            client.note_use(self.group, usize::from(granted.process));
            return Some(seat);
        }
        seat.release();
        None
    }

    /// Leaves the cell; a grant that came meanwhile is passed on, and so is a wake-up.
    fn leave(&mut self, queue: &Queue<'_>) {
        let Some(place) = self.place.take() else {
            return;
        };
        if let Left::With(granted) = queue.leave(place) {
            if let Some(seat) = self.pick_up(granted) {
                seat.release();
            }
        }
        self.client.tables().nudge(self.group);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let traffic = &self.client.tables().traffic;
        if let Some(waits) = traffic.waits(self.group.index()) {
            wait::add(waits, self.since());
        }
        let queue = traffic.queue(self.group.index());
        self.leave(&queue);
    }
}

fn claim(client: &Client, group: GroupRef, ticket: Ticks) -> Option<Place> {
    let tables = client.tables();
    // Relaxed: a setting.
    let limit = tables
        .routes
        .group(group)?
        .queue_limit
        .load(Ordering::Relaxed);
    let queue = tables.traffic.queue(group.index());
    queue.claim(limit as usize, client.id, ticket)
}
