//! Models of seats and waiters together: no wake-up is lost, and a seat handed to a waiter that leaves or
//! dies comes back. A lost wake-up is a deadlock, which loom reports. Run with `RUSTFLAGS="--cfg loom"`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use passenger_shm::protocol::cell::{Cell, CellState, Granted};
use passenger_shm::protocol::desk::{Desk, Outcome, HAND_OVER_AGE};
use passenger_shm::protocol::queue::{Left, Queue};
use passenger_shm::protocol::seat::{self, SeatState, SeatWord};
use passenger_shm::sync::{dekker, AtomicU64};
use passenger_shm::ClientId;
use std::time::Duration;

const HOLDER: ClientId = ClientId::new(1, 1);
const WAITER: ClientId = ClientId::new(2, 1);

/// Some seats of one process, and the queue for them.
struct Group {
    seats: Vec<AtomicU64>,
    cells: Vec<Cell>,
    bits: Vec<AtomicU64>,
}

impl Group {
    fn new(seats: usize, cells: usize) -> Arc<Group> {
        Arc::new(Group {
            seats: (0..seats).map(|_| AtomicU64::new(0)).collect(),
            cells: (0..cells).map(|_| Cell::new()).collect(),
            bits: vec![AtomicU64::new(0)],
        })
    }

    fn queue(&self) -> Queue<'_> {
        Queue::new(&self.cells, &self.bits)
    }

    fn desk(&self, seat: usize) -> Desk<'_> {
        let name = Granted {
            process: 0,
            seat: seat as u16,
        };
        Desk {
            seat: &self.seats[seat],
            name,
            queue: self.queue(),
        }
    }

    fn take(&self, seat: usize, client: ClientId) -> Option<SeatWord> {
        let seat = &self.seats[seat];
        seat::take(seat, seat::look(seat), client).ok()
    }

    fn take_any(&self, client: ClientId) -> Option<(usize, SeatWord)> {
        (0..self.seats.len()).find_map(|n| Some((n, self.take(n, client)?)))
    }

    /// The loop of `client/waiter.rs`: join, look, sleep; then leave and pass on what is not needed.
    fn wait(&self, client: ClientId, now: u32) -> (usize, SeatWord) {
        let queue = self.queue();
        let place = queue.claim(0, client, 0).unwrap();
        let alarm = queue.cell(place.index).unwrap().alarm();
        let mine = loop {
            alarm.arm();
            if let CellState::Granted(name) = queue.cell(place.index).unwrap().look().state() {
                let n = usize::from(name.seat);
                break (
                    n,
                    self.desk(n)
                        .pick_up(client)
                        .expect("nobody revokes it here"),
                );
            }
            dekker();
            if let Some(mine) = self.take_any(client) {
                break mine;
            }
            alarm.wait(Duration::ZERO);
        };
        self.leave(place, client, now);
        mine
    }

    fn leave(&self, place: passenger_shm::protocol::queue::Place, client: ClientId, now: u32) {
        if let Left::With(name) = self.queue().leave(place) {
            let desk = self.desk(usize::from(name.seat));
            if let Some(mine) = desk.pick_up(client) {
                desk.give_back(mine, || now);
            }
        }
        self.nudge(now);
    }

    /// `Tables::nudge`.
    fn nudge(&self, now: u32) {
        dekker();
        let room = || {
            self.seats
                .iter()
                .any(|s| seat::look(s).state() == SeatState::Free)
        };
        if self.queue().is_occupied() && room() {
            self.queue().wake_oldest(now);
        }
    }

    fn assert_all_free(&self) {
        for seat in &self.seats {
            assert_eq!(seat::look(seat).state(), SeatState::Free);
        }
        for cell in &self.cells {
            assert_eq!(cell.look().state(), CellState::Free);
        }
        assert!(!self.queue().is_occupied());
    }
}

/// The state space of two waiters is large; three preemptions find what T7 and the second wake-up need.
fn model(preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(body);
}

#[test]
fn a_released_seat_reaches_a_waiter_that_arrives_at_the_same_time() {
    for now in [0, HAND_OVER_AGE] {
        model(None, move || {
            let group = Group::new(1, 1);
            let held = group.take(0, HOLDER).unwrap();
            let waiter = {
                let group = Arc::clone(&group);
                thread::spawn(move || {
                    let (n, mine) = group.wait(WAITER, now);
                    group.desk(n).give_back(mine, || now);
                })
            };
            assert_ne!(group.desk(0).give_back(held, || now), Outcome::NotOurs);
            waiter.join().unwrap();
            group.assert_all_free();
        });
    }
}

#[test]
fn two_seats_released_at_once_reach_two_waiters() {
    // Both releasers may wake the same waiter: the second wake-up must travel on.
    for now in [0, HAND_OVER_AGE] {
        model(Some(2), move || {
            let group = Group::new(2, 2);
            let held = [0, 1].map(|n| group.take(n, HOLDER).unwrap());
            let waiters: Vec<_> = (0..2)
                .map(|n| {
                    let group = Arc::clone(&group);
                    // They keep their seats: one seat cannot serve both.
                    thread::spawn(move || group.wait(ClientId::new(2 + n, 1), now))
                })
                .collect();
            for (n, held) in held.into_iter().enumerate() {
                group.desk(n).give_back(held, || now);
            }
            let got: Vec<_> = waiters.into_iter().map(|w| w.join().unwrap()).collect();
            assert_ne!(got[0].0, got[1].0);
            for (n, mine) in got {
                group.desk(n).give_back(mine, || now);
            }
            group.assert_all_free();
        });
    }
}

#[test]
fn a_seat_handed_to_a_waiter_that_leaves_comes_back() {
    for now in [0, HAND_OVER_AGE] {
        model(None, move || {
            let group = Group::new(1, 1);
            let held = group.take(0, HOLDER).unwrap();
            let place = group.queue().claim(0, WAITER, 0).unwrap();
            let waiter = {
                let group = Arc::clone(&group);
                thread::spawn(move || group.leave(place, WAITER, now))
            };
            group.desk(0).give_back(held, || now);
            waiter.join().unwrap();
            group.assert_all_free();
        });
    }
}

#[test]
fn a_seat_handed_to_a_dead_waiter_comes_back_by_the_sweep() {
    for now in [0, HAND_OVER_AGE] {
        model(None, move || {
            let group = Group::new(1, 1);
            let held = group.take(0, HOLDER).unwrap();
            // It has claimed a cell, and died.
            let _ = group.queue().claim(0, WAITER, 0).unwrap();
            let watchdog = {
                let group = Arc::clone(&group);
                thread::spawn(move || {
                    group.queue().sweep(WAITER, |_| {});
                    let _ = seat::sweep(&group.seats[0], WAITER);
                    group.nudge(now);
                })
            };
            group.desk(0).give_back(held, || now);
            watchdog.join().unwrap();
            group.assert_all_free();
        });
    }
}

#[test]
fn a_releaser_that_dies_while_it_hands_over_leaves_a_seat_that_can_be_revoked() {
    model(None, || {
        let group = Group::new(1, 1);
        let held = group.take(0, HOLDER).unwrap();
        let place = group.queue().claim(0, WAITER, 0).unwrap();
        // Step 1 of handing over, and no step 2.
        let granted = seat::grant(&group.seats[0], held, WAITER).unwrap();
        let agent = {
            let group = Arc::clone(&group);
            thread::spawn(move || {
                assert_ne!(
                    group.desk(0).give_back(granted, || HAND_OVER_AGE),
                    Outcome::NotOurs
                );
            })
        };
        let queue = group.queue();
        let alarm = queue.cell(place.index).unwrap().alarm();
        loop {
            alarm.arm();
            if let CellState::Granted(_) = queue.cell(place.index).unwrap().look().state() {
                break;
            }
            alarm.wait(Duration::ZERO);
        }
        let mine = group.desk(0).pick_up(WAITER).unwrap();
        group.leave(place, WAITER, 0);
        group.desk(0).give_back(mine, || 0);
        agent.join().unwrap();
        group.assert_all_free();
    });
}

#[test]
fn a_revoked_grant_gives_the_seat_to_exactly_one() {
    model(None, || {
        let group = Group::new(1, 1);
        let held = group.take(0, HOLDER).unwrap();
        let place = group.queue().claim(0, WAITER, 0).unwrap();
        group.desk(0).give_back(held, || HAND_OVER_AGE);
        let granted = seat::look(&group.seats[0]);
        let agent = {
            let group = Arc::clone(&group);
            thread::spawn(move || group.desk(0).give_back(granted, || 0))
        };
        // The waiter wakes up late.
        let picked = group.desk(0).pick_up(WAITER);
        let revoked = agent.join().unwrap() != Outcome::NotOurs;
        assert_ne!(picked.is_some(), revoked);
        let _ = group.queue().leave(place);
        if let Some(mine) = picked {
            group.desk(0).give_back(mine, || 0);
        }
        group.assert_all_free();
    });
}
