//! The pool in a simulated machine: apps that boot, fail, hang, crash and serve; requests in bursts; an
//! administrator who deploys, restarts and reconfigures; an agent that dies and is followed by another. A
//! schedule is made from one number, so a number that fails is all that is needed to see it again:
//!
//! ```text
//! POOL_SEED=4711 cargo test -p passenger-helper-agent --test pool_simulation
//! POOL_SCHEDULES=100000 cargo test --release -p passenger-helper-agent --test pool_simulation
//! ```
//!
//! What holds in every schedule: the pool never has more processes than it may, every process is accounted
//! for, no process that executes a request is asked to go, every request is answered, told of a failed
//! start, or died with a process that crashed, and nobody waits without end.

#[path = "simulation/mod.rs"]
mod simulation;

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use simulation::{Shape, World};

/// Schedules of one run unless `POOL_SCHEDULES` says otherwise.
const SCHEDULES: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays the schedules of `shape`, or the one of `POOL_SEED`; a failing one names its number.
fn play(test: &str, shape: impl Fn(u64) -> Shape, schedules: u64) {
    let seeds = match number("POOL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("POOL_SCHEDULES").unwrap_or(schedules),
    };
    for seed in seeds {
        let run = || World::new(seed, shape(seed)).play();
        if let Err(failure) = catch_unwind(AssertUnwindSafe(run)) {
            eprintln!(
                "schedule {seed} failed; see it again with\n    POOL_SEED={seed} cargo test -p \
                 passenger-helper-agent --test pool_simulation {test}"
            );
            resume_unwind(failure);
        }
    }
}

#[test]
fn whatever_happens_every_promise_holds() {
    play(
        "whatever_happens_every_promise_holds",
        Shape::stormy,
        SCHEDULES,
    );
}

#[test]
fn in_fair_weather_nobody_waits_longer_than_his_turn() {
    play(
        "in_fair_weather_nobody_waits_longer_than_his_turn",
        Shape::fair,
        SCHEDULES / 2,
    );
}

#[test]
fn two_hundred_apps_share_a_pool_of_twenty() {
    play(
        "two_hundred_apps_share_a_pool_of_twenty",
        |_| Shape::crowd(),
        5,
    );
}

#[test]
fn a_number_stands_for_one_schedule() {
    for seed in 0..20 {
        let trace = || World::new(seed, Shape::stormy(seed)).play();
        assert_eq!(trace(), trace(), "schedule {seed} is not the same twice");
    }
}
