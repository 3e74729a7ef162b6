//! Out-of-band work: an application asks for it in one of several ways, and does it when the agent says so.

mod support;

use support::apps::{fixture, get, Scratch};
use support::process::{AppProcess, Launch};
use support::Language;

#[test]
fn rack_applications_may_ask_for_out_of_band_work() {
    for threads in ["1", "3"] {
        let launch = Launch::new(Language::Ruby, &fixture("rack"));
        let launch = launch.variable("PASSENGER_THREADS", threads);
        let Some(mut process) = launch.start_ready() else {
            return;
        };
        assert_eq!(get(&process, "/each").text(), "abc");
        let response = get(&process, "/oob");
        assert_eq!(response.text(), "later");
        assert_eq!(response.header("x-kept"), ["yes"]);
        let leaked = response.header("!~Request-OOB-Work");
        assert!(leaked.is_empty(), "the order is not for the client");
        assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
        assert_eq!(get(&process, "/each").text(), "abc");
        assert!(
            !process.log().contains("out of band"),
            "not before the agent says so"
        );
        works(&mut process, 1);
        process.expect_log("out of band");
        assert_eq!(get(&process, "/each").text(), "abc");
        // The older name of the header.
        let response = get(&process, "/old-oob");
        let leaked = response.header("X-Passenger-Request-OOB-Work");
        assert!(leaked.is_empty(), "the order is not for the client");
        assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
        works(&mut process, 2);
        process.expect_log("out of band\nout of band");
        // Told once more (by an agent's successor) it has nothing to do.
        works(&mut process, 3);
        assert_eq!(process.log().matches("out of band").count(), 2);
    }
}

/// Has the process do its out-of-band work.
fn works(process: &mut AppProcess, token: u32) {
    process.tell(&format!("work {token}"));
    let done = format!("work-done {token}");
    assert_eq!(process.next_line().as_deref(), Some(done.as_str()));
}

/// An application of another language: `/header` and `/old` ask by a header, `/call` by the API, `/` does not.
fn expect_out_of_band_work(mut process: AppProcess) {
    for (round, path) in (1..).zip(["/header", "/old", "/call"]) {
        assert_eq!(get(&process, "/").status, 200);
        let response = get(&process, path);
        assert_eq!(response.text(), "later");
        assert_eq!(
            process.next_line().as_deref(),
            Some("work-wanted"),
            "{path}"
        );
        assert_eq!(process.log().matches("out of band").count(), round - 1);
        works(&mut process, 1);
        let lines = "out of band\n".repeat(round);
        process.expect_log(&lines);
        works(&mut process, 2);
        assert_eq!(
            process.log().matches("out of band").count(),
            round,
            "twice for {path}"
        );
    }
    assert_eq!(get(&process, "/").status, 200, "the process goes on");
    // Asked once more in the midst of it, by an agent's successor, it answers when the work is done.
    assert_eq!(get(&process, "/call").text(), "later");
    assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
    let before = process.log().matches("out of band").count();
    process.tell("work 3");
    process.tell("work 4");
    assert_eq!(process.next_line().as_deref(), Some("work-done 3"));
    assert_eq!(process.next_line().as_deref(), Some("work-done 4"));
    let lines = "out of band\n".repeat(before + 1);
    process.expect_log(&lines);
}

#[test]
fn wsgi_applications_may_ask_for_out_of_band_work() {
    for threads in ["1", "3"] {
        let launch = Launch::new(Language::Python, &fixture("oob"));
        let Some(process) = launch.variable("PASSENGER_THREADS", threads).start_ready() else {
            return;
        };
        for path in ["/header", "/old"] {
            let response = get(&process, path);
            assert_eq!(response.header("X-Kept"), ["yes"]);
            assert_eq!(response.headers.len(), 1, "{:?}", response.headers);
        }
        drop(process);
        let launch = Launch::new(Language::Python, &fixture("oob"));
        let launch = launch.variable("PASSENGER_THREADS", threads);
        expect_out_of_band_work(launch.start_ready().expect("it started before"));
    }
}

#[test]
fn asgi_applications_may_ask_for_out_of_band_work() {
    if let Some(process) = Launch::new(Language::Asgi, &fixture("oob")).start_ready() {
        expect_out_of_band_work(process);
    }
}

#[test]
fn node_applications_may_ask_for_out_of_band_work() {
    if let Some(process) = Launch::new(Language::Node, &fixture("oob")).start_ready() {
        expect_out_of_band_work(process);
    }
}

#[test]
fn garbage_is_collected_out_of_band() {
    let launch = Launch::new(Language::Ruby, &fixture("rack")).variable("OOB_GC", "1");
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    let collections = |process: &AppProcess| -> u32 {
        let text = get(process, "/collections").text();
        text.parse().expect("a number")
    };
    let before = collections(&process);
    collections(&process);
    collections(&process);
    assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
    works(&mut process, 1);
    process.expect_log("out of band");
    assert!(collections(&process) > before);
}

/// Answers at `/log` with what was called; asks for work and collects by the given line of `config.ru`.
fn collector(line: &str) -> Option<(Scratch, AppProcess)> {
    let config = format!(
        "$said = []\n\
         log = Object.new.tap {{ |o| def o.info(text) = $said << text }}\n\
         PhusionPassenger.require_passenger_lib 'rack/out_of_band_gc'\n\
         {line}\n\
         run ->(env) {{ [200, {{}}, env['PATH_INFO'] == '/log' ? [$said.inspect] : []] }}\n"
    );
    // A stand-in for the gem gctools: what its GC::OOB answers, as its documentation has it.
    let gctools = "module GC\n  module OOB\n    class << self\n      \
                   def setup = $said << :setup\n      \
                   def run = $said << :run\n      \
                   def dry_run = $said.push(:asked).count(:asked) == 2\n    \
                   end\n  end\nend\n";
    let app = Scratch::app(&[("config.ru", &config), ("gctools/oobgc.rb", gctools)]);
    let root = app.path().to_string_lossy().into_owned();
    let launch = Launch::new(Language::Ruby, app.path()).variable("RUBYLIB", &root);
    let process = launch.start_ready()?;
    Some((app, process))
}

/// Every form in which the original takes its arguments.
#[test]
fn garbage_is_collected_every_so_many_requests() {
    for arguments in [
        "3",
        "3, log",
        "{ strategy: :counting, frequency: 3, logger: log }",
        "strategy: :counting, frequency: 3, logger: log",
    ] {
        let line = format!("use PhusionPassenger::Rack::OutOfBandGc, {arguments}");
        let Some((_app, mut process)) = collector(&line) else {
            return;
        };
        for round in 1..3 {
            for _ in 0..3 {
                assert_eq!(get(&process, "/").status, 200);
            }
            assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
            works(&mut process, round);
        }
        let told = get(&process, "/log").text();
        let expected = if arguments.contains("log") { 2 } else { 0 };
        assert_eq!(
            told.matches("Collected garbage").count(),
            expected,
            "{told}"
        );
    }
}

#[test]
fn garbage_is_collected_when_gctools_finds_it_worth_while() {
    for arguments in ["strategy: :gctools_oobgc", "5, :gctools_oobgc"] {
        let line = format!("use PhusionPassenger::Rack::OutOfBandGc, {arguments}");
        let Some((_app, mut process)) = collector(&line) else {
            return;
        };
        get(&process, "/");
        get(&process, "/");
        assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
        works(&mut process, 1);
        let told = get(&process, "/log").text();
        assert_eq!(told, "[:setup, :asked, :asked, :run]", "{arguments}");
    }
}

#[test]
fn a_collector_that_cannot_be_is_a_failed_start() {
    for arguments in ["0", "strategy: :counting", "strategy: :unheard_of"] {
        let line = format!("use PhusionPassenger::Rack::OutOfBandGc, {arguments}");
        let app = Scratch::app(&[(
            "config.ru",
            &format!("require 'phusion_passenger/rack/out_of_band_gc'\n{line}\nrun ->(_) {{}}\n"),
        )]);
        let Some(process) = Launch::new(Language::Ruby, app.path()).start() else {
            return;
        };
        let line = support::apps::last_line(process);
        assert!(line.starts_with("error load "), "{arguments}: {line}");
    }
}
