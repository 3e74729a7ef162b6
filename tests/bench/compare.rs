//! Builds of this module against each other, in turns within one run: what a change is worth, on whatever machine.

use crate::report::{Cell, Report};
use crate::{asgi, hello, wrk, CONNECTIONS};
use harness::setting::setting;
use harness::{Language, Server, Setup, Site};
use std::path::Path;

/// Measures all apps behind each of the staged builds; the ratios are to the first.
pub(crate) fn run(stages: &[String]) -> Result<Report, String> {
    let seconds = setting("BENCH_SECONDS", 4);
    let rounds = setting("BENCH_ROUNDS", 5);
    let servers: Vec<(&String, Server)> =
        stages.iter().map(|stage| (stage, server(stage))).collect();
    let mut report = Report::against(&[&stages[0]]);
    let languages = Language::ALL.map(Language::name);
    for round in 0..=rounds {
        let seconds = if round == 0 { 1 } else { seconds };
        for connections in CONNECTIONS {
            for site in languages.into_iter().chain([asgi::SITE]) {
                for (stage, server) in &servers {
                    let sample = wrk::run(server.port(), site, "/", connections, seconds)
                        .map_err(|e| format!("{stage} {site}: {e}"))?;
                    if round > 0 {
                        report.add(Cell::new(stage, site, connections), sample);
                    }
                }
            }
        }
        eprintln!("round {round} of {rounds}");
    }
    Ok(report)
}

fn server(stage: &str) -> Server {
    let mut setup = Setup::default()
        .installed_in(Path::new(stage))
        .without_htaccess()
        .with("LogLevel warn")
        .with("PassengerMaxPoolSize 8")
        .with("PassengerMaxInstancesPerApp 2")
        .with("PassengerStatThrottleRate 10");
    for language in Language::ALL {
        setup =
            setup.site(Site::new(language.name(), hello(language)).with("PassengerMinInstances 2"));
    }
    setup
        .site(Site::new(asgi::SITE, asgi::app()).with("PassengerMinInstances 2"))
        .start()
}
