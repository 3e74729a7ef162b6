//! httpd's event MPM shuts the sockets of its threads down at SIGTERM, and was seen to crash when one of
//! them is being freed at that moment. Is that httpd's own doing, or does it need this module?

use crate::apps;
use crate::part::Part;
use harness::wait::PATIENCE;
use harness::{processes, until, Client, Language, Request, Setup, UnderTest};
use nix::sys::signal::Signal;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Stops of each kind.
const ROUNDS: u32 = 40;

/// Clients that connect, ask and hang up.
const CLIENTS: usize = 32;

/// Stops servers in the middle of their work.
pub(crate) fn measure() -> Part {
    let kinds = [
        ("without the module", UnderTest::Nothing, "/static.bin"),
        (
            "static files beside the module",
            UnderTest::Ours,
            "/static.bin",
        ),
        ("an app", UnderTest::Ours, "/bytes?x&20"),
    ];
    let mut counts = [0; 3];
    for _ in 0..ROUNDS {
        for (count, (_, under_test, target)) in counts.iter_mut().zip(kinds) {
            *count += crashes(under_test, target);
        }
    }
    let words: Vec<String> = kinds
        .iter()
        .zip(counts)
        .map(|((what, ..), count)| format!("{what} {count}"))
        .collect();
    let text = format!(
        "crashes of httpd's children in {ROUNDS} stops each: {}",
        words.join(", ")
    );
    let figures = json!({ "stops": ROUNDS, "crashes": counts, "kinds": kinds.map(|kind| kind.0) });
    Part::new("sigterm", text, figures, Vec::new())
}

fn crashes(under_test: UnderTest, target: &'static str) -> usize {
    let site = apps::site(Language::Python);
    let mut server = Setup::of(site).under_test(under_test).start();
    let is_over = Arc::new(AtomicBool::new(false));
    let port = server.port();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || {
                let request = Request::get(target);
                while !is_over.load(Ordering::Relaxed) {
                    // What comes of it while the server stops does not matter.
                    let _ = Client::connect(port, "python").and_then(|mut c| c.exchange(&request));
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(200));
    // Here nothing is promised but that everything ends.
    server.abandon();
    let parent = server.parent();
    processes::signal(parent, Signal::SIGTERM);
    until("httpd to stop", PATIENCE, || !processes::is_alive(parent));
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client panicked");
    }
    server.log().count("exit signal Segmentation")
}
