//! How long nobody's connection is accepted around a graceful, with this module and without any.

use crate::apps;
use crate::part::Part;
use harness::{Client, Language, Request, Server, Setup, UnderTest};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Clients that connect again and again.
const CLIENTS: usize = 4;

/// Time around each graceful that is looked at.
const AROUND: Duration = Duration::from_millis(500);

/// Gracefuls of each server.
const TURNS: usize = 20;

/// Measures in turns.
pub(crate) fn measure() -> Part {
    let mut with = server(UnderTest::Ours);
    let mut without = server(UnderTest::Nothing);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        ours.push(longest_gap(&with));
        bare.push(longest_gap(&without));
    }
    for server in [&mut with, &mut without] {
        server.stop_within(harness::wait::PATIENCE);
    }
    let [(ours_median, ours_max), (bare_median, bare_max)] =
        [&mut ours, &mut bare].map(|values| spread(values));
    let text = format!(
        "longest time without an accepted connection around a graceful, {TURNS} times: median {ours_median:.1} ms, \
         longest {ours_max:.1} ms; without the module {bare_median:.1} ms and {bare_max:.1} ms"
    );
    let figures = json!({
        "with": { "median_ms": ours_median, "max_ms": ours_max },
        "without": { "median_ms": bare_median, "max_ms": bare_max },
    });
    Part::new("gap", text, figures, Vec::new())
}

fn server(under_test: UnderTest) -> Server {
    let setup = Language::ALL.into_iter().fold(
        Setup::default().under_test(under_test),
        |setup, language| setup.site(apps::site(language)),
    );
    let server = setup.with("ServerLimit 16").start();
    if under_test == UnderTest::Ours {
        for language in Language::ALL {
            assert_eq!(server.get(language.name(), "/generation").status, 200);
        }
    }
    server
}

/// Milliseconds between two responses to new connections, the longest around one graceful.
fn longest_gap(server: &Server) -> f64 {
    let is_over = Arc::new(AtomicBool::new(false));
    let moments = Arc::new(Mutex::new(Vec::new()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (is_over, moments) = (Arc::clone(&is_over), Arc::clone(&moments));
            let port = server.port();
            thread::spawn(move || {
                let request = Request::get("/static.bin").header("Connection", "close");
                while !is_over.load(Ordering::Relaxed) {
                    let answer =
                        Client::connect(port, "ruby").and_then(|mut c| c.exchange(&request));
                    if answer.is_ok_and(|answer| answer.status == 200) {
                        let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
                        moments.push(Instant::now());
                    }
                }
            })
        })
        .collect();
    thread::sleep(AROUND);
    let began = Instant::now();
    server.graceful();
    thread::sleep(AROUND);
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client panicked");
    }
    let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
    moments.sort_unstable();
    let gaps = moments.windows(2).filter_map(|pair| match pair {
        [from, to] if *to >= began => Some(to.duration_since(*from)),
        _ => None,
    });
    gaps.max().unwrap_or_default().as_secs_f64() * 1000.0
}

/// Median and largest.
fn spread(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    (at(values.len() / 2), at(values.len().saturating_sub(1)))
}
