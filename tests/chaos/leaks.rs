//! Many gracefuls that change nothing: what does httpd's parent have afterwards that it had not before?

use crate::apps;
use crate::books;
use crate::part::Part;
use harness::processes::{self, private_memory_kib, ProcessId};
use harness::wait::PATIENCE;
use harness::{until, Language, Server, Setup, UnderTest};
use serde_json::{json, Value};
use std::fs;
use std::time::{Duration, Instant};

/// Gracefuls before the first look: httpd itself fills its memory pools.
const WARM: u32 = 10;

/// Private memory httpd alone gains in 200 gracefuls (reference: 36 KiB), with room for noise.
const NOISE_KIB: u64 = 300;

/// How long descriptors of workers that left may stay.
const SETTLING: Duration = Duration::from_secs(10);

/// Whose mappings are of the module; the agent's are also those of threads that come and go.
const PARENT: &str = "httpd's parent";

/// What one process has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    mappings: usize,
    private_kib: u64,
}

impl Holdings {
    fn of(pid: ProcessId) -> Holdings {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        Holdings {
            descriptors: processes::open_files(pid).len(),
            mappings: maps.lines().count(),
            private_kib: private_memory_kib(pid).unwrap_or(0),
        }
    }

    /// Whether it has more than before, noise apart.
    fn has_grown(self, who: &str, before: &Holdings) -> bool {
        self.descriptors > before.descriptors
            || (who == PARENT && self.mappings > before.mappings)
            || self.private_kib > before.private_kib + NOISE_KIB
    }

    fn to_json(self) -> Value {
        json!({ "descriptors": self.descriptors, "mappings": self.mappings, "private_kib": self.private_kib })
    }
}

/// What httpd's parent has before and after, without this module.
fn httpd_alone(gracefuls: u32) -> [Holdings; 2] {
    let site = apps::site(Language::Python);
    let mut server = Setup::of(site).under_test(UnderTest::Nothing).start();
    let holdings = [WARM, gracefuls].map(|times| {
        for _ in 0..times {
            server.graceful();
        }
        Holdings::of(server.parent())
    });
    server.stop_within(PATIENCE);
    holdings
}

/// Does so many gracefuls.
pub(crate) fn measure(gracefuls: u32) -> Part {
    let alone = httpd_alone(gracefuls);
    let mut server =
        Setup::of(apps::site(Language::Python).with("PassengerMinInstances 1")).start();
    assert_eq!(server.get("python", "/generation").status, 200);
    let apps = server.await_processes("python", 1);
    again(&server, WARM);
    books::fill_past(&server);
    let before = everybody(&server);
    again(&server, gracefuls);
    let after = after(&server, &before);
    let mut failures = Vec::new();
    for ((who, before), (_, after)) in before.iter().zip(&after) {
        if after.has_grown(who, before) {
            failures.push(format!("{who} had {before:?} and has {after:?}"));
        }
    }
    failures.extend(modules(server.parent()));
    if server.app_pids("python") != apps {
        failures.push("the app's process is another one".to_owned());
    }
    server.stop_within(PATIENCE);
    let text = before
        .iter()
        .zip(&after)
        .map(|((who, before), (_, after))| format!("{who}: {before:?}, then {after:?}"))
        .collect::<Vec<_>>()
        .join("; ");
    let of = |all: &[(&str, Holdings)]| -> Value {
        all.iter()
            .map(|(who, holdings)| ((*who).to_owned(), holdings.to_json()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let figures = json!({
        "gracefuls": gracefuls, "before": of(&before), "after": of(&after),
        "httpd alone": alone.map(Holdings::to_json),
    });
    let text =
        format!("{gracefuls} gracefuls: {text}; httpd's parent without the module: {alone:?}");
    Part::new("reload", text, figures, failures)
}

fn again(server: &Server, times: u32) {
    for _ in 0..times {
        server.graceful();
    }
    // Workers of all but the last generation have left, and nobody has anything of theirs any more.
    assert_eq!(server.get("python", "/generation").status, 200);
    let workers = server.workers();
    server.graceful();
    until("the old workers to leave", PATIENCE * 2, || {
        server.workers().iter().all(|pid| !workers.contains(pid))
    });
}

/// What they have once the last worker is forgotten and the last configuration answered, which may take a
/// moment. The parent's memory is not the same after each graceful; what leaked stays.
fn after(server: &Server, before: &[(&str, Holdings)]) -> Vec<(&'static str, Holdings)> {
    let end = Instant::now() + SETTLING;
    loop {
        let now = everybody(server);
        let grown = now
            .iter()
            .zip(before)
            .any(|((who, now), (_, before))| now.has_grown(who, before));
        if !grown || Instant::now() > end {
            return now;
        }
        server.graceful();
    }
}

fn everybody(server: &Server) -> Vec<(&'static str, Holdings)> {
    let instance = server.instance();
    vec![
        (PARENT, Holdings::of(server.parent())),
        ("watchdog", Holdings::of(instance.watchdog())),
        ("agent", Holdings::of(instance.agent())),
    ]
}

/// The module is mapped once, and from a file that is still there.
fn modules(parent: ProcessId) -> Option<String> {
    let maps = fs::read_to_string(format!("/proc/{parent}/maps")).unwrap_or_default();
    let starts = |line: &&str| line.contains("mod_passenger.so") && line.contains(" 00000000 ");
    let first: Vec<&str> = maps.lines().filter(starts).collect();
    let is_one = matches!(first[..], [line] if !line.ends_with("(deleted)"));
    (!is_one).then(|| format!("httpd's parent maps the module like this: {first:?}"))
}
