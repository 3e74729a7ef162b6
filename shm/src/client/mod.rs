//! A worker's dealings with the tables: taking a seat, waiting for one, hints. Owns the taking; which process is
//! chosen is `choice.rs`, seats in hand are `seat.rs`, waiting is `waiter.rs`.
//!
//! The fast path (`take`, `Seat::release`) has no lock, no allocation, no system call unless somebody
//! waits, and touches no reference count: seats and waiters borrow the client.

mod choice;
mod glance;
mod route;
mod seat;
mod stream;
mod waiter;

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::doorbell::Doorbell;
use crate::ids::{ClientId, GroupRef, ProcessRef};
use crate::params::{Hint, Queue as QueueSeen};
use crate::protocol::cell::Granted;
use crate::protocol::counter;
use crate::protocol::desk::aged;
use crate::protocol::process::still;
use crate::protocol::recent;
use crate::protocol::seat::{self as seat_word, SeatWord};
use crate::protocol::wait;
use crate::sync::{dekker, load_acquire_u32, AtomicU32, Ordering};
use crate::tables::{Member, Tables};

use choice::Choice;
pub use route::OffRoute;
pub use seat::Seat;
pub use stream::Stream;
pub use waiter::Waiter;

/// Rounds of "choose the best, lose it to somebody faster" before whatever is free is taken.
const CHOICES: u32 = 4;

/// What all clients of a worker process share.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) tables: Tables,
    doorbell: Doorbell,
    /// Numbers for requests to unlimited processes.
    numbers: AtomicU32,
}

impl Worker {
    pub(crate) fn new(tables: Tables, doorbell: Doorbell) -> Worker {
        Worker {
            tables,
            doorbell,
            numbers: AtomicU32::new(0),
        }
    }
}

/// A worker process with its identity.
#[derive(Debug, Clone)]
pub struct Client {
    worker: Arc<Worker>,
    id: ClientId,
}

/// No seat to be had right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// Live processes of the group. 0: somebody must spawn one.
    pub live: u32,
}

/// No place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull {
    /// Requests that wait.
    pub length: u32,
    /// How long the oldest has waited.
    pub oldest: Duration,
}

/// The end of an attempt to take what was chosen.
enum Seized<'a> {
    Seat(Seat<'a>),
    /// Somebody was faster, or the process stopped being one of ours.
    Lost,
    /// The whole group is gone.
    NoGroup,
}

impl Client {
    pub(crate) fn new(worker: Arc<Worker>, id: ClientId) -> Client {
        Client { worker, id }
    }

    /// Who we are in the tables.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.id
    }

    fn tables(&self) -> &Tables {
        &self.worker.tables
    }

    /// Takes a seat at the least busy process with room, never waiting. Preferred are processes of the
    /// group's newest code, then those without orphans; `avoid` comes last of all. Of equally busy ones the
    /// one with fewest streams is taken, and of those the one that was used last: the others fall idle, and can go.
    ///
    /// # Errors
    /// [`Busy`] when every seat is taken, no process lives, or the oldest waiter has waited so long that
    /// newcomers must stand behind it: enqueue.
    pub fn take(&self, group: GroupRef, avoid: Option<ProcessRef>) -> Result<Seat<'_>, Busy> {
        let queue = self.tables().traffic.queue(group.index());
        let must_queue = queue.is_occupied() && aged(&queue, clock::now()).is_some();
        if !must_queue {
            if let Some(seat) = self.seek(group, avoid) {
                return Ok(seat);
            }
        }
        let live = self.tables().members(group).map(|_| 1).sum();
        Err(Busy { live })
    }

    /// Takes a seat at a process of the group's newest code, never waiting, past whoever waits for any seat:
    /// for requests that are not to see older code.
    ///
    /// # Errors
    /// [`Busy`] when no such process has room; `live` counts processes of all generations.
    pub fn take_newest(&self, group: GroupRef) -> Result<Seat<'_>, Busy> {
        for _ in 0..CHOICES {
            let Some(choice) = self
                .choose(group, None)
                .filter(|c| self.is_newest(group, c))
            else {
                break;
            };
            match self.seize(group, &choice) {
                Seized::Seat(seat) => return Ok(seat),
                Seized::Lost => {}
                Seized::NoGroup => break,
            }
        }
        let live = self.tables().members(group).map(|_| 1).sum();
        Err(Busy { live })
    }

    fn is_newest(&self, group: GroupRef, choice: &Choice<'_>) -> bool {
        let slot = self.tables().routes.group(group);
        // Acquire, PAIR(restart): not older than what the caller has read.
        slot.is_some_and(|slot| {
            slot.code_generation.load(Ordering::Acquire) == choice.member.code_generation()
        })
    }

    /// Joins the group's queue. Look at [`Waiter::wait`] next: the first look is there.
    ///
    /// # Errors
    /// [`QueueFull`] when as many wait as the group allows, or as there are cells, or the group is gone.
    pub fn enqueue(&self, group: GroupRef) -> Result<Waiter<'_>, QueueFull> {
        self.enqueue_again(group, Duration::ZERO)
    }

    /// Joins the queue at the place that a request which has `waited` already deserves: one whose process
    /// died before it read anything does not stand behind those who came later.
    ///
    /// # Errors
    /// As [`Client::enqueue`].
    pub fn enqueue_again(
        &self,
        group: GroupRef,
        waited: Duration,
    ) -> Result<Waiter<'_>, QueueFull> {
        Waiter::join(self, group, waited).ok_or_else(|| {
            if let Some(waits) = self.tables().traffic.waits(group.index()) {
                wait::reject(waits);
            }
            let QueueSeen { length, oldest } = self.queue(group);
            QueueFull { length, oldest }
        })
    }

    /// Requests of all workers that wait for that group.
    #[must_use]
    pub fn queue(&self, group: GroupRef) -> QueueSeen {
        let queue = self.tables().traffic.queue(group.index());
        let oldest = queue.oldest(clock::now()).map_or(0, |oldest| oldest.waited);
        QueueSeen {
            length: queue.length(),
            oldest: clock::duration(oldest),
        }
    }

    /// Tells the agent something. Never blocks; a hint that finds no room becomes a look at everything.
    pub fn hint(&self, hint: Hint) {
        self.tables().traffic.ring().push(hint);
        // PAIR(bell): either we see that the agent is about to sleep, or it sees the hint.
        dekker();
        if load_acquire_u32(&self.tables().routes.header().sleeping) != 0 {
            self.worker.doorbell.ring();
        }
    }

    /// Finds and takes a seat. `None` means that every seat was seen taken at some moment during the call.
    fn seek(&self, group: GroupRef, avoid: Option<ProcessRef>) -> Option<Seat<'_>> {
        for _ in 0..CHOICES {
            let choice = self.choose(group, avoid)?;
            match self.seize(group, &choice) {
                Seized::Seat(seat) => return Some(seat),
                Seized::Lost => {}
                Seized::NoGroup => return None,
            }
        }
        self.take_any(group)
    }

    /// Takes what was chosen, and looks once more whether it still is what it was.
    fn seize(&self, group: GroupRef, choice: &Choice<'_>) -> Seized<'_> {
        let taken = match choice.seat {
            Some((index, seen)) => self.take_seat(&choice.member, index, seen),
            None => self.take_count(&choice.member),
        };
        let Some(seat) = taken else {
            return Seized::Lost;
        };
        // PAIR(retire): between choosing and taking the agent may have begun to drain it.
        let same = still(&choice.member.slot.word, choice.member.word);
        let current = self.tables().routes.is_current(group);
        if same && current {
            self.note_use(group, choice.member.index);
            return Seized::Seat(seat);
        }
        seat.release();
        if current {
            Seized::Lost
        } else {
            Seized::NoGroup
        }
    }

    /// Whoever comes next prefers that process among equals.
    fn note_use(&self, group: GroupRef, process: usize) {
        let traffic = &self.tables().traffic;
        // Process tables have at most 1024 slots (`layout::sections`).
        let index = u16::try_from(process).unwrap_or(u16::MAX);
        if let (Some(recent), Some(turn)) = (traffic.recent(group.index()), traffic.turn(process)) {
            recent::note(recent, turn, index);
        }
    }

    fn take_seat(&self, member: &Member<'_>, index: u16, seen: SeatWord) -> Option<Seat<'_>> {
        let seats = self.tables().traffic.all_seats(member.index);
        let word = seat_word::take(seats.get(usize::from(index))?, seen, self.id).ok()?;
        Some(Seat::with_seat(
            self,
            member.index,
            member.word,
            index,
            word,
        ))
    }

    fn take_count(&self, member: &Member<'_>) -> Option<Seat<'_>> {
        let traffic = &self.tables().traffic;
        let counter = traffic.counter(usize::from(self.id.slot()), member.index)?;
        let total = traffic.total(member.index)?;
        if !counter::take(counter, total, member.word.generation()) {
            return None;
        }
        // Relaxed: only different numbers are wanted.
        let number = self.worker.numbers.fetch_add(1, Ordering::Relaxed);
        Some(Seat::with_count(self, member.index, member.word, number))
    }

    /// Takes the first free seat of all: after this, each seat was seen taken, not only unlucky.
    fn take_any(&self, group: GroupRef) -> Option<Seat<'_>> {
        for member in self.tables().members(group) {
            if member.word.is_unlimited() {
                if let Seized::Seat(seat) = self.seize(group, &Choice { member, seat: None }) {
                    return Some(seat);
                }
                continue;
            }
            let seats = self
                .tables()
                .traffic
                .seats(member.index, member.concurrency());
            for (seat, index) in seats.iter().zip(0u16..) {
                let choice = Choice {
                    member,
                    seat: Some((index, seat_word::look(seat))),
                };
                if let Seized::Seat(seat) = self.seize(group, &choice) {
                    return Some(seat);
                }
            }
        }
        None
    }
}

/// Indices in the tables have at most 16 bits.
fn index_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// A seat as cells name it.
fn name(process: usize, seat: u16) -> Granted {
    Granted {
        process: u16::try_from(process).unwrap_or(u16::MAX),
        seat,
    }
}
