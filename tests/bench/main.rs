//! `make bench`: the same hello-world apps behind this module and behind Phusion Passenger, and a static
//! file behind neither, each in an httpd of its own, measured in turns within one run; ASGI against uvicorn.
//!
//! Usage: `passenger-bench OUT.json`, `passenger-bench memory` for what a large app's processes cost, or
//! `passenger-bench compare PREFIX PREFIX…` for installed builds of this module against the first of them.
//! `BENCH_ROUNDS` (5) and `BENCH_SECONDS` (4, per measurement) come from the environment. `docs/performance.md` says
//! how to read the tables.

mod asgi;
mod compare;
mod memory;
mod outage;
mod peers;
mod queue;
mod report;
mod wrk;

use harness::setting::setting;
use harness::{App, Language, Server, Setup, Site, UnderTest};
use report::{Cell, Report};
use serde_json::json;
use std::process::ExitCode;
use wrk::Sample;

/// The name under which the static file is measured.
const STATIC: &str = "static";

/// Simultaneous connections.
const CONNECTIONS: [u32; 2] = [25, 1];

/// The shortest app of a language: twelve bytes of text, as long as the static file.
fn hello(language: Language) -> App {
    let source = match language {
        Language::Ruby => {
            "HEADERS = { 'content-type' => 'text/plain', 'content-length' => '12' }.freeze\n\
             run ->(env) { [200, HEADERS.dup, [\"hello world\\n\"]] }\n"
        }
        Language::Python => {
            "def application(environ, start_response):\n\
             \x20   start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '12')])\n\
             \x20   return [b'hello world\\n']\n"
        }
        Language::Node => {
            "require('http').createServer((request, response) => {\n\
             \x20 response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': 12 });\n\
             \x20 response.end('hello world\\n');\n\
             }).listen(3000);\n"
        }
    };
    App::inline(language, source)
}

/// A server of one contestant: three apps with two processes each, which fill the pool.
fn server(under_test: UnderTest) -> Server {
    let mut setup = Setup::default()
        .under_test(under_test)
        .without_htaccess()
        .with("LogLevel warn");
    if under_test == UnderTest::Nothing {
        return setup
            .site(Site::new(
                STATIC,
                App::files().file("public/hello.txt", "hello world\n"),
            ))
            .start();
    }
    setup = setup
        .with("PassengerMaxPoolSize 6")
        .with("PassengerMaxInstancesPerApp 2")
        .with("PassengerStatThrottleRate 10");
    for language in Language::ALL {
        let site = Site::new(language.name(), hello(language)).with("PassengerMinInstances 2");
        setup = setup.site(site);
    }
    setup.start()
}

/// What is measured in one turn.
struct Contestant {
    name: &'static str,
    server: Server,
    targets: Vec<(&'static str, &'static str)>,
}

fn contestants() -> Vec<Contestant> {
    let apps: Vec<_> = Language::ALL
        .iter()
        .map(|language| (language.name(), "/"))
        .collect();
    vec![
        Contestant {
            name: report::OURS,
            server: server(UnderTest::Ours),
            targets: apps.clone(),
        },
        Contestant {
            name: report::THEIRS,
            server: server(UnderTest::Passenger),
            targets: apps,
        },
        Contestant {
            name: report::HTTPD,
            server: server(UnderTest::Nothing),
            targets: vec![(STATIC, "/hello.txt")],
        },
    ]
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["memory"] => {
            memory::run();
            Ok(())
        }
        ["compare", _, _, ..] => compare::run(&arguments[1..]).map(|report| println!("{report}")),
        [out] => run(out),
        _ => {
            eprintln!("usage: passenger-bench OUT.json | memory | compare PREFIX PREFIX…");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(out: &str) -> Result<(), String> {
    let seconds = setting("BENCH_SECONDS", 4);
    let rounds = setting("BENCH_ROUNDS", 5);
    let mut report = measure(rounds, seconds)?;
    asgi::measure(rounds, seconds, &mut report)?;
    let peers = peers::Peers::installed();
    println!("{peers}\n{report}");
    let queue = queue::measure(seconds)?;
    println!("{queue}");
    let outage = outage::measure();
    println!("{outage}");
    let json = json!({
        "peers": peers.to_json(), "cells": report.to_json(), "queue": queue.to_json(), "outage": outage.to_json(),
    });
    std::fs::write(out, format!("{json:#}\n")).map_err(|e| format!("cannot write {out}: {e}"))
}

fn measure(rounds: u32, seconds: u32) -> Result<Report, String> {
    let contestants = contestants();
    let mut report = Report::against(&[report::THEIRS, report::UVICORN]);
    for round in 0..=rounds {
        // Round 0 warms everything up and does not count.
        let seconds = if round == 0 { 1 } else { seconds };
        for connections in CONNECTIONS {
            for turn in 0..Language::ALL.len() {
                for contestant in &contestants {
                    let Some(sample) = contestant.sample(turn, connections, seconds)? else {
                        continue;
                    };
                    if round > 0 {
                        report.add(sample.0, sample.1);
                    }
                }
            }
        }
        eprintln!("round {round} of {rounds}");
    }
    stop(contestants);
    Ok(report)
}

impl Contestant {
    /// Measures the target of that turn, if there is one.
    fn sample(
        &self,
        turn: usize,
        connections: u32,
        seconds: u32,
    ) -> Result<Option<(Cell, Sample)>, String> {
        let Some((site, path)) = self.targets.get(turn) else {
            return Ok(None);
        };
        let sample = wrk::run(self.server.port(), site, path, connections, seconds)
            .map_err(|e| format!("{} {site}: {e}", self.name))?;
        Ok(Some((Cell::new(self.name, site, connections), sample)))
    }
}

/// Phusion Passenger's processes go a while after httpd; what it needs for that is not our test.
fn stop(contestants: Vec<Contestant>) {
    for mut contestant in contestants {
        contestant.server.stop_within(harness::wait::PATIENCE);
        contestant.server.abandon();
    }
}
