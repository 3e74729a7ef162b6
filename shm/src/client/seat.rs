//! A seat in hand: the right to have one request in one app process. Owns how it comes back.

use std::mem::ManuallyDrop;

use crate::ids::ProcessRef;
use crate::params::{Hint, Protocol};
use crate::protocol::process::ProcessWord;
use crate::protocol::seat::{self, SeatWord};
use crate::protocol::{counter, limit};

use super::{index_u32, name, Client, Stream};

/// The right to have one request in an app process. Must be given back by [`Seat::release`]; dropping it
/// otherwise makes it an orphan, because nobody knows then what the app is at.
#[derive(Debug)]
#[must_use = "dropping a seat makes it an orphan"]
pub struct Seat<'a> {
    client: &'a Client,
    process: usize,
    word: ProcessWord,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// One of the process's seats: its index and the word that we wrote.
    Seat(u16, SeatWord),
    /// One count at an unlimited process, with a number for the request.
    Count(u32),
}

impl<'a> Seat<'a> {
    pub(super) fn with_seat(
        client: &'a Client,
        process: usize,
        word: ProcessWord,
        index: u16,
        seat: SeatWord,
    ) -> Seat<'a> {
        Seat {
            client,
            process,
            word,
            kind: Kind::Seat(index, seat),
        }
    }

    pub(super) fn with_count(
        client: &'a Client,
        process: usize,
        word: ProcessWord,
        number: u32,
    ) -> Seat<'a> {
        Seat {
            client,
            process,
            word,
            kind: Kind::Count(number),
        }
    }

    /// The process to talk to.
    #[must_use]
    pub fn process(&self) -> ProcessRef {
        ProcessRef::new(index_u32(self.process), self.word.generation())
    }

    /// What it speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.word.protocol()
    }

    /// A number for the request that no other request in that process has: the seat's index in the upper
    /// half, its take number in the lower. Requests to unlimited processes have the top bit set.
    #[must_use]
    pub fn number(&self) -> u64 {
        match self.kind {
            Kind::Seat(index, word) => u64::from(index) << 32 | u64::from(word.take_number()),
            Kind::Count(number) => {
                1 << 63 | u64::from(self.client.id.slot()) << 32 | u64::from(number)
            }
        }
    }

    /// Says how many seconds the request may take, 0 = as long as it likes; the agent ends its process when it
    /// takes longer. `false`: this process takes requests without limit and has no place to say it; tell the
    /// agent by [`Hint::Overdue`] when the time is over.
    #[must_use]
    pub fn say_limit(&self, seconds: u16) -> bool {
        let Kind::Seat(index, word) = self.kind else {
            return false;
        };
        let limits = self.client.tables().traffic.limits(self.process);
        if let Some(limit) = limits.get(usize::from(index)) {
            limit::say(limit, word, seconds);
        }
        true
    }

    /// Gives the seat back: the response's end was read, the app closed the connection, or nothing
    /// was sent. The oldest waiter gets it or is woken.
    pub fn release(self) {
        let this = ManuallyDrop::new(self);
        let given = match this.kind {
            Kind::Seat(index, word) => {
                this.client
                    .tables()
                    .give_back(name(this.process, index), this.word.group(), word)
            }
            Kind::Count(_) => this.give_count_back(),
        };
        if !given {
            // Normal after the process ended under us; the word tells of somebody else by now.
            log::debug!(
                "seat of process {} had been taken away before it was released",
                this.process()
            );
        }
    }

    /// Gives the seat back and counts a stream in its place: the app accepted an upgrade, and the process is
    /// not idle for as long as the connection lives.
    ///
    /// The stream is counted first, so that no look at the tables misses both (`AgentView::load` reads the
    /// seats first).
    #[must_use = "dropping it ends the stream"]
    pub fn into_stream(self) -> Stream {
        let stream = Stream::open(self.client, self.process, self.word.generation());
        self.release();
        stream
    }

    /// Leaves the seat to the agent: the app may still be computing. At an unlimited process the count is
    /// given back. Tells the agent. Dropping the seat does the same.
    pub fn orphan(self) {
        drop(self);
    }

    fn give_count_back(&self) -> bool {
        let traffic = &self.client.tables().traffic;
        let counter = traffic.counter(usize::from(self.client.id.slot()), self.process);
        match (counter, traffic.total(self.process)) {
            (Some(counter), Some(total)) => {
                counter::give_back(counter, total, self.word.generation())
            }
            _ => false,
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        match self.kind {
            Kind::Seat(index, word) => {
                let seats = self.client.tables().traffic.all_seats(self.process);
                if !seats
                    .get(usize::from(index))
                    .is_some_and(|s| seat::orphan(s, word))
                {
                    return;
                }
            }
            Kind::Count(_) => {
                self.give_count_back();
            }
        }
        self.client.hint(Hint::Orphaned(self.process()));
    }
}
