//! `passenger-status --show=metrics`: that strict readers of both formats take it, and that its counters never go back.

use crate::one_process;
use crate::tools::{first_process, group_when, ok, run};
use harness::wait::{until, until_some, PATIENCE};
use harness::{processes, Language, Server, Setup};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What the formats' own readers say: the text is refused with an exception, or its samples are printed, with the types
/// of their families.
const READER: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.parser import text_string_to_metric_families as plain
text = sys.stdin.read()
strictly = {(s.name, str(sorted(s.labels.items()))): s.value for f in strict(text) for s in f.samples}
plainly = {(s.name, str(sorted(s.labels.items()))): s.value for f in plain(text) for s in f.samples}
assert strictly == plainly, set(strictly) ^ set(plainly)
for family in strict(text):
    assert family.type in ('gauge', 'counter') and family.documentation, family
print(len(strictly))
";

fn metrics(server: &Server) -> String {
    ok(&run(server, "passenger-status", &["--show=metrics"]))
}

/// The value of the sample that is called that and has these words among its labels.
fn value(text: &str, name: &str, labels: &str) -> Option<f64> {
    let of_it = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(labels))
    };
    let line = text.lines().find(of_it)?;
    line.rsplit(' ').next()?.parse().ok()
}

fn requests(server: &Server) -> Option<f64> {
    value(&metrics(server), "passenger_app_requests_total", "")
}

#[test]
fn strict_readers_take_it_and_the_figures_are_right() {
    /// The other app, as the text names it.
    const OTHER: &str = r#"app="a \"shop\" \\ 1""#;
    let server = Setup::of(one_process(Language::Python))
        .site(one_process(Language::Ruby).with(r#"PassengerAppGroupName "a \"shop\" \\ 1""#))
        .start();
    for _ in 0..3 {
        assert_eq!(server.get("python", "/").status, 200);
    }
    assert_eq!(server.get("ruby", "/").status, 200);
    let name = format!(
        "app=\"{} (production)\"",
        server.app_root("python").display()
    );
    let is = |text: &str, name_of: &str, labels: &str, expected: f64| {
        value(text, name_of, labels) == Some(expected)
    };
    let text = until_some("the figures", PATIENCE, || {
        let text = metrics(&server);
        let is_it = is(&text, "passenger_app_requests_total", &name, 3.0)
            && is(&text, "passenger_app_starts_total", &name, 1.0)
            && is(&text, "passenger_app_requests_total", OTHER, 1.0)
            && is(&text, "passenger_app_busy_seats", &name, 0.0);
        is_it.then_some(text)
    });
    let ready = format!("{name},state=\"ready\"");
    let resident = format!("{name},kind=\"resident\"");
    for (family, labels, expected) in [
        ("passenger_app_processes", ready.as_str(), 1.0),
        ("passenger_app_seats", &name, 1.0),
        ("passenger_app_crashes_total", &name, 0.0),
        ("passenger_app_restarts_total", &name, 0.0),
        ("passenger_pool_max_processes", "", 6.0),
        ("passenger_agent_ready", "", 1.0),
    ] {
        assert_eq!(
            value(&text, family, labels),
            Some(expected),
            "{family} {labels}: {text}"
        );
    }
    assert!(
        value(&text, "passenger_app_memory_bytes", &resident) > Some(1e6),
        "{text}"
    );
    assert!(
        value(&text, "passenger_process_cpu_seconds_total", &name) > Some(0.0),
        "{text}"
    );

    if !Path::new("/usr/lib/python3/dist-packages/prometheus_client").exists() {
        eprintln!("skipped: there is no python3-prometheus-client to read it strictly");
        return;
    }
    let mut reader = Command::new("/usr/bin/python3")
        .args(["-c", READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the reader");
    let mut input = reader.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("give it the text");
    drop(input);
    let read = ok(&reader.wait_with_output().expect("wait for the reader"));
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(read.trim(), samples.to_string(), "{text}");
}

/// Sets a flag when it goes, also in a panic: whoever looks at it would look for ever.
struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Looks at the counter until told to end, and returns what it was last.
fn watch(server: &Server, is_over: &AtomicBool) -> f64 {
    let mut last = 0.0;
    while !is_over.load(Ordering::SeqCst) {
        // Nothing before the app is known.
        let now = requests(server).unwrap_or(0.0);
        assert!(now >= last, "{now} after {last}");
        last = now;
    }
    last
}

#[test]
fn requests_are_counted_on_while_processes_and_agents_come_and_go() {
    /// Requests to each process.
    const EACH: u32 = 20;
    let server = Setup::of(one_process(Language::Ruby)).start();
    let is_over = AtomicBool::new(false);
    let asked = AtomicU32::new(0);
    let pid = || -> Option<i32> {
        let response = server.get("ruby", "/pid");
        if response.status != 200 {
            return None;
        }
        asked.fetch_add(1, Ordering::SeqCst);
        response.ok().trim().parse().ok()
    };
    // The process that serves, once it has served some and the agent has noted that it does.
    let served = || -> i32 {
        let pids: Vec<i32> = (0..EACH).filter_map(|_| pid()).collect();
        let is_noted = |p: &Value| {
            p["pid"] == pids[0]
                && p["spawn_ms"].as_u64() > Some(0)
                && p["processed"].as_u64() >= Some(EACH.into())
        };
        group_when(&server, "ruby", |g| is_noted(first_process(g)));
        pids[0]
    };
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&server, &is_over));
        let at_the_end = AtTheEnd(&is_over);
        let restarted = served();
        ok(&run(&server, "passenger-config", &["restart-app", "/"]));
        until("another process", PATIENCE, || {
            pid().is_some_and(|pid| pid != restarted)
        });

        let crashed = served();
        processes::signal(crashed, Signal::SIGKILL);
        until("another process", PATIENCE, || {
            pid().is_some_and(|pid| pid != crashed)
        });

        let unexplained = served();
        let agent = server.instance().agent();
        // It must not see the end of the process.
        processes::signal(agent, Signal::SIGSTOP);
        processes::signal(unexplained, Signal::SIGKILL);
        processes::signal(agent, Signal::SIGKILL);
        until("another process under another agent", PATIENCE, || {
            pid().is_some_and(|pid| pid != unexplained)
        });
        served();
        let group = group_when(&server, "ruby", |g| g["starts_total"] == 4);
        assert!(group["crashes_total"].as_u64() > Some(0), "{group}");
        drop(at_the_end);
        let counted = watching.join().expect("the counter never went back");
        // A seat that is taken and given back, because its process ends, counts as well.
        let asked = asked.load(Ordering::SeqCst);
        let (least, most) = (f64::from(asked), f64::from(asked + EACH));
        assert!(
            counted >= least && counted < most,
            "{counted} of {asked}: {group}"
        );
    });
}
