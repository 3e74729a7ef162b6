//! What killing the agent under load costs: failed requests, and the time until there is another one.

use harness::wait::{until, PATIENCE};
use harness::{processes, Language, Load, Setup, Site};
use nix::sys::signal::Signal;
use serde_json::{json, Value};
use std::fmt;
use std::time::{Duration, Instant};

/// How often the agent is killed.
const TIMES: usize = 5;

/// What it came to.
#[derive(Debug)]
pub(crate) struct Outage {
    /// Until there was another agent, the first time. Later times include the pause that the watchdog
    /// makes when agents die in a row.
    first: Duration,
    longest: Duration,
    answered: usize,
    failed: usize,
    has_same_processes: bool,
}

/// Kills the agent again and again while 25 clients send requests.
pub(crate) fn measure() -> Outage {
    let site = Site::probe(Language::Ruby).with("PassengerMinInstances 2");
    let server = Setup::of(site).with("PassengerMaxPoolSize 2").start();
    assert_eq!(server.get("ruby", "/").status, 200);
    let apps = server.await_processes("ruby", 2);
    let load = Load::start(server.port(), "ruby", "/", 25);
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let before = load.answered();
        until("the load to be under way", PATIENCE, || {
            load.answered() > before + 1000
        });
        let agent = server.instance().agent();
        let begun = Instant::now();
        processes::signal(agent, Signal::SIGKILL);
        until("another agent", PATIENCE, || {
            server.instance().agent() != agent
        });
        times.push(begun.elapsed());
    }
    let tally = load.finish();
    Outage {
        first: times[0],
        longest: times.into_iter().max().unwrap_or_default(),
        answered: tally.ok,
        failed: tally.failures.len() + tally.resent,
        has_same_processes: server.app_pids("ruby") == apps,
    }
}

impl Outage {
    /// The figures as JSON.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "agent_killed": TIMES, "first_ms": self.first.as_secs_f64() * 1e3, "longest_ms": self.longest.as_secs_f64() * 1e3,
            "answered": self.answered, "failed": self.failed, "same_processes": self.has_same_processes,
        })
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "agent killed {TIMES} times in a row under load: another one after {:.1?}, at the end after {:.0?}; \
             {} requests answered, {} failed, {} app processes",
            self.first,
            self.longest,
            self.answered,
            self.failed,
            if self.has_same_processes { "the same" } else { "NOT the same" }
        )
    }
}
