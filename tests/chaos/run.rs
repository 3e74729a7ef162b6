//! The chaos run: visitors, disasters, and the books afterwards.

use crate::books::{Books, PROCESSES};
use crate::disasters::{self, Disasters};
use crate::incidents::Incidents;
use crate::part::Part;
use crate::random::Random;
use crate::visitor::{Tally, Visitor};
use harness::wait::PATIENCE;
use harness::{until, Language, Server};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Simultaneous clients.
const VISITORS: u32 = 24;

/// Runs it for that long.
pub(crate) fn run(length: Duration, seed: u64) -> Part {
    println!("chaos: seed {seed}, {} s", length.as_secs());
    let mut random = Random::new(seed);
    let mut server = disasters::server();
    for language in Language::ALL {
        assert_eq!(server.get(language.name(), "/generation").ok(), "0");
        server.await_processes(language.name(), PROCESSES);
    }
    let before = Books::at_rest(&server);
    let incidents = Arc::new(Incidents::default());
    let is_over = Arc::new(AtomicBool::new(false));
    let visitors = visitors(server.port(), &mut random, &incidents, &is_over);
    let end = Instant::now() + length;
    let mut disasters = Disasters::new(&mut server, &incidents, random);
    while Instant::now() < end {
        thread::sleep(disasters.pause());
        disasters.strike();
    }
    let (generation, counts) = (disasters.generation, disasters.counts());
    let instance = disasters.instance();
    // Relaxed: nothing is published with it.
    is_over.store(true, Ordering::Relaxed);
    let mut tally = Tally::default();
    for visitor in visitors {
        tally.extend(visitor.join().expect("a visitor panicked"));
    }
    for language in Language::ALL {
        let newest = generation.to_string();
        until("the newest configuration everywhere", PATIENCE * 2, || {
            server.get(language.name(), "/generation").ok() == newest
        });
    }
    let mut after = Books::at_rest(&server);
    // The last worker may have left this very moment: its connections are closed in the next.
    let settled = Instant::now() + Duration::from_secs(5);
    while !after.compare(&before, &server).is_empty() && Instant::now() < settled {
        after = Books::now(&server);
    }
    let mut failures = std::mem::take(&mut tally.failures);
    failures.extend(after.compare(&before, &server));
    failures.extend(check_posts(&server, &tally));
    if server.instance().directory() != instance.directory() {
        failures.push("the instance was replaced by another".to_owned());
    }
    failures.extend(server.log().scandals());
    if !failures.is_empty() {
        failures.push(keep_log(&server, seed));
    }
    let latencies = tally.latencies.summary();
    let killed: BTreeMap<String, usize> = incidents
        .totals()
        .into_iter()
        .map(|(victim, count)| (format!("{victim:?}"), count))
        .collect();
    let text = format!(
        "{} requests right, {} sent again on another connection, {} excused by a kill ({:?}); \
         disasters: {counts:?}; {latencies}; descriptors before {:?}, after {:?}",
        tally.total(),
        tally.resent,
        tally.excused.values().sum::<usize>(),
        tally.excused,
        before.totals(),
        after.totals(),
    );
    let figures = json!({
        "seed": seed, "seconds": length.as_secs(), "right": tally.right, "resent": tally.resent,
        "excused": tally.excused, "disasters": counts, "killed": killed, "latencies": latencies.to_json(),
    });
    Part::new("chaos", text, figures, failures)
}

/// Copies the log to where it stays.
fn keep_log(server: &Server, seed: u64) -> String {
    let copy = std::env::temp_dir().join(format!("chaos-{seed}.log"));
    match fs::copy(server.root().join("error.log"), &copy) {
        Ok(_) => format!("the log is kept in {}", copy.display()),
        Err(e) => format!("the log cannot be kept in {}: {e}", copy.display()),
    }
}

fn visitors(
    port: u16,
    random: &mut Random,
    incidents: &Arc<Incidents>,
    is_over: &Arc<AtomicBool>,
) -> Vec<JoinHandle<Tally>> {
    (0..VISITORS)
        .map(|number| {
            let name = format!("v{number}");
            let mut visitor = Visitor::new(&name, port, random.fork(), Arc::clone(incidents));
            let is_over = Arc::clone(is_over);
            thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    visitor.visit();
                }
                visitor.tally
            })
        })
        .collect()
}

/// No POST was executed twice, and every one that was answered was executed.
fn check_posts(server: &Server, tally: &Tally) -> Vec<String> {
    let mut complaints = Vec::new();
    for language in Language::ALL {
        let path = server.app_root(language.name()).join("posts.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut executed: BTreeMap<&str, usize> = BTreeMap::new();
        for name in text.lines() {
            *executed.entry(name).or_default() += 1;
        }
        let twice = executed.iter().filter(|(_, count)| **count > 1);
        complaints
            .extend(twice.map(|(name, count)| format!("POST {name} was executed {count} times")));
        let answered = tally.posts.iter().filter(|(site, _)| *site == language);
        let lost = answered.filter(|(_, name)| !executed.contains_key(name.as_str()));
        complaints.extend(lost.map(|(_, name)| format!("POST {name} was answered, not executed")));
    }
    complaints
}
