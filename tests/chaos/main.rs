//! `make chaos`: what is promised of restarts and crashes, under load, with figures. README.md says what
//! its parts are and which variables of the environment it obeys.
//!
//! Usage: `passenger-chaos OUT.json`. Ends with status 1 if anything failed.
#![deny(unsafe_code)]

mod ab;
mod apps;
mod books;
mod bouts;
mod disasters;
mod gap;
mod huge;
mod incidents;
mod keepalive;
mod latency;
mod leaks;
mod part;
mod random;
mod run;
mod sigterm;
mod slow;
mod tables;
mod visitor;

use harness::setting::setting;
use part::Part;
use random::Random;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// All parts, in the order they run in.
const PARTS: &str = "slow huge steady graceful bare theirs gap reload sigterm chaos";

fn main() -> ExitCode {
    let Some(out) = std::env::args().nth(1) else {
        eprintln!("usage: passenger-chaos OUT.json");
        return ExitCode::from(2);
    };
    match run(&out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the parts that are wanted; whether nothing failed.
fn run(out: &str) -> Result<bool, String> {
    let wanted = std::env::var("CHAOS_PARTS").unwrap_or_else(|_| PARTS.to_owned());
    let mut parts: Vec<Part> = Vec::new();
    for name in wanted.split_whitespace() {
        let part = part_called(name)?;
        println!("{part}\n");
        parts.push(part);
        // After each: a later one that hangs must not cost the figures of those before.
        let all: Vec<_> = parts.iter().map(Part::to_json).collect();
        std::fs::write(out, format!("{:#}\n", json!(all)))
            .map_err(|e| format!("cannot write {out}: {e}"))?;
    }
    Ok(!parts.iter().any(Part::has_failed))
}

fn part_called(name: &str) -> Result<Part, String> {
    let requests = setting("CHAOS_REQUESTS", 1_000_000);
    match name {
        "steady" => bouts::steady(requests),
        "graceful" => bouts::graceful(requests, setting("CHAOS_GRACEFULS", 50)),
        "bare" => bouts::bare(requests, setting("CHAOS_GRACEFULS", 50)),
        "theirs" => bouts::theirs(requests, setting("CHAOS_GRACEFULS", 50)),
        "gap" => Ok(gap::measure()),
        "reload" => Ok(leaks::measure(setting("CHAOS_RELOADS", 200))),
        "sigterm" => Ok(sigterm::measure()),
        "slow" => Ok(slow::measure(
            setting("CHAOS_SLOW_REQUESTS", 20_000),
            setting("CHAOS_SLOW_BYTES", 100_000_000),
        )),
        "huge" => Ok(huge::measure(setting("CHAOS_HUGE_BYTES", 10_000_000_000))),
        "chaos" => {
            let length = Duration::from_secs(setting("CHAOS_SECONDS", 600));
            Ok(run::run(
                length,
                setting("CHAOS_SEED", Random::fresh_seed()),
            ))
        }
        _ => Err(format!("there is no part {name}: the parts are {PARTS}")),
    }
}
