//! Queue fairness: 25 clients on 2 seats, as threads of 5 workers, with apps that sleep or compute. Prints
//! requests per second and how long requests queued. To compare hand-over rules, change
//! `protocol::desk::HAND_OVER_AGE` (0 = always in order, `u32::MAX` = free barging) and run it again.

#![allow(missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::instance;
use passenger_shm::{Capacities, Client, GroupRef};

const CLIENTS: u16 = 25;
const SEATS: u32 = 2;

#[derive(Clone, Copy)]
enum App {
    Sleeps(Duration),
    Computes(Duration),
}

impl App {
    fn run(self) {
        match self {
            App::Sleeps(time) => std::thread::sleep(time),
            App::Computes(time) => {
                let begin = Instant::now();
                while begin.elapsed() < time {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// One client's requests until told to stop; how long each queued.
fn requests(client: &Client, group: GroupRef, app: App, stop: &AtomicBool) -> Vec<Duration> {
    let mut queued = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let seat = client.take(group, None).unwrap_or_else(|_| {
            let mut waiter = client.enqueue(group).expect("25 cells at least");
            loop {
                if let Some(seat) = waiter.wait(Duration::from_millis(250)) {
                    break seat;
                }
            }
        });
        queued.push(begin.elapsed());
        app.run();
        seat.release();
        // What httpd does between two requests of a connection.
        App::Computes(Duration::from_micros(30)).run();
    }
    queued
}

fn measure(name: &str, app: App) {
    let i = instance(&Capacities::for_httpd(16, 400, 6));
    let group = i.group();
    for _ in 0..SEATS {
        i.process(group, 1);
    }
    let clients: Vec<_> = (0..5).map(|slot| i.client(slot)).collect();
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let mut queued: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let (client, stop) = (&clients[usize::from(n % 5)], &stop);
                scope.spawn(move || requests(client, group, app, stop))
            })
            .collect();
        std::thread::sleep(Duration::from_secs(4));
        stop.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    queued.sort_unstable();
    let at = |per_mille: usize| queued[(queued.len() - 1) * per_mille / 1000].as_secs_f64() * 1e3;
    println!(
        "{name:22} {:7.0} req/s   queue ms: p50 {:7.2}  p99 {:7.2}  max {:7.2}",
        f64::from(u32::try_from(queued.len()).unwrap_or(u32::MAX)) / seconds,
        at(500),
        at(990),
        at(1000)
    );
}

fn main() {
    measure("sleeps 2 ms", App::Sleeps(Duration::from_millis(2)));
    measure("computes 500 us", App::Computes(Duration::from_micros(500)));
    measure("computes 20 us", App::Computes(Duration::from_micros(20)));
}
