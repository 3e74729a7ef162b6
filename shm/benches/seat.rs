//! Costs of the fast path: take and release of a seat, alone, against another thread, among many processes
//! and with somebody waiting; a hint that finds the agent awake.

#![allow(missing_docs)] // The macro's functions have none.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::instance;
use criterion::{criterion_group, criterion_main, Criterion};
use passenger_shm::{Capacities, Client, GroupRef, Hint};

fn once(client: &Client, group: GroupRef) {
    if let Ok(seat) = client.take(group, None) {
        seat.release();
    }
}

fn seats(c: &mut Criterion) {
    // What an httpd with 400 threads and the default pool has.
    let capacities = Capacities::for_httpd(16, 400, 6);
    let mut benches = c.benchmark_group("take+release");
    for (name, processes, concurrency) in [
        ("1 process", 1, 1),
        ("16 threads", 1, 16),
        ("20 processes", 20, 1),
        ("unlimited", 1, 0),
    ] {
        let i = instance(&capacities);
        let group = i.group();
        for _ in 0..processes {
            i.process(group, concurrency);
        }
        let client = i.client(0);
        benches.bench_function(name, |b| b.iter(|| once(&client, group)));
    }
    for (name, processes) in [("2 threads, 2 processes", 2), ("2 threads, 1 process", 1)] {
        let i = instance(&capacities);
        let group = i.group();
        for _ in 0..processes {
            i.process(group, 1);
        }
        let client = i.client(0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    once(&client, group);
                }
            });
            benches.bench_function(name, |b| b.iter(|| once(&client, group)));
            stop.store(true, Ordering::Relaxed);
        });
    }
    benches.finish();
}

fn hints(c: &mut Criterion) {
    let i = instance(&Capacities::for_httpd(16, 400, 6));
    let group = i.group();
    let client = i.client(0);
    c.bench_function("hint push+pop", |b| {
        b.iter(|| {
            client.hint(Hint::CapacityWanted(group));
            i.agent.pop_hint()
        });
    });
}

criterion_group!(benches, seats, hints);
criterion_main!(benches);
