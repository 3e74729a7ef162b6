//! What the pool promises under load, with figures: many apps in a small pool, deployments, processes that are
//! killed. `make test` plays short versions; the long ones of `docs/reliability.md`:
//!
//! ```text
//! PASSENGER_UNDER_LOAD=long cargo test -p passenger-e2e --test e2e under_load:: -- --nocapture --test-threads=1
//! ```

use crate::traffic::Traffic;
use harness::processes::{self, ProcessId};
use harness::wait::PATIENCE;
use harness::{until, App, Language, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::fs::{self, FileTimes};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

fn is_long() -> bool {
    std::env::var("PASSENGER_UNDER_LOAD").is_ok_and(|length| length == "long")
}

/// A small app whose start takes as long as its file `boot` says, and that answers with its file `code`.
fn app() -> App {
    let text = "\
import time
time.sleep(float(open('boot').read()))
code = open('code').read()
if 'broken' in code:
    raise RuntimeError('this code is broken')

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(code)))])
    return [code.encode()]
";
    App::inline(Language::Python, text)
        .file("code", "one")
        .file("boot", "0")
        .file("tmp/keep", "")
}

/// App processes below a directory that live at the same moment: those counted before and alive after.
fn processes_below(directory: &Path) -> Vec<ProcessId> {
    let is_inside = |pid: &ProcessId| {
        processes::directory_of(*pid).is_some_and(|cwd| cwd.starts_with(directory))
    };
    let all: Vec<ProcessId> = processes::all().into_iter().filter(is_inside).collect();
    all.into_iter().filter(is_inside).collect()
}

#[test]
fn two_hundred_apps_in_a_pool_of_twenty_are_all_served() {
    const APPS: usize = 200;
    const POOL: usize = 20;
    let rounds = if is_long() { 10 } else { 1 };
    let names: Vec<String> = (0..APPS).map(|n| format!("app{n}")).collect();
    let mut setup = Setup::default()
        .with(&format!("PassengerMaxPoolSize {POOL}"))
        .with("PassengerMinInstances 0");
    for name in &names {
        setup = setup.site(Site::new(name, app()));
    }
    let server = setup.start();
    let sites = server
        .app_root("app0")
        .parent()
        .expect("a parent")
        .to_owned();
    // In turns nobody is served twice before everybody was served once.
    let all_started = |server: &Server| {
        let text = server.log().text();
        let started = |name: &&String| {
            let root = server.app_root(name);
            text.contains(&format!("app {} (production): process", root.display()))
        };
        names.iter().filter(started).count() == APPS
    };
    let begun = Instant::now();
    let traffic = Traffic::start(server.port(), &names, "/", 16, Duration::ZERO);
    let mut most = 0;
    until("every app to be asked", PATIENCE * 20, || {
        most = most.max(processes_below(&sites).len());
        traffic.answered() >= APPS * rounds && all_started(&server)
    });
    let seen = traffic.finish();
    let took = begun.elapsed();
    let spawns = server.log().count(" is ready after ");
    eprintln!(
        "{APPS} apps, pool of {POOL}: {}; {spawns} starts in {took:.1?}, at most {most} processes at once",
        seen.all()
    );
    assert_eq!(seen.failures, Vec::<String>::new());
    assert!(most <= POOL, "{most} processes at once");
}

fn deploy(server: &Server, code: &str, boot: &str, nth: u64) {
    let root = server.app_root("app");
    fs::write(root.join("boot"), boot).expect("write the time of the start");
    fs::write(root.join("code"), code).expect("write the code");
    let file = fs::File::create(root.join("tmp/restart.txt")).expect("touch");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + nth);
    file.set_times(FileTimes::new().set_modified(time))
        .expect("set the file's time");
}

/// Waits until so many more requests were answered.
fn await_answers(traffic: &Traffic, more: usize) {
    let before = traffic.answered();
    until("requests to be answered", PATIENCE * 4, || {
        traffic.answered() >= before + more
    });
}

#[test]
fn an_app_with_a_slow_start_is_deployed_under_load_without_a_failed_request() {
    let boot = if is_long() { "3" } else { "1.2" };
    let more = if is_long() { 4_000 } else { 300 };
    let site = Site::new("app", app().file("boot", boot))
        .with("PassengerMinInstances 2")
        .with("PassengerMaxInstances 2");
    let server = Setup::of(site)
        .with("PassengerStatThrottleRate 0")
        .with("PassengerLogLevel 7")
        .start();
    assert_eq!(server.get("app", "/").ok(), "one");
    let old = server.await_processes("app", 2);
    server.log().expect("saw the restart files");
    let sites = ["app".to_owned()];
    let pace = Duration::from_millis(20);
    let traffic = Traffic::start(server.port(), &sites, "/", 4, pace);
    await_answers(&traffic, 100);
    let calm = Instant::now();
    await_answers(&traffic, more);
    let deployed = Instant::now();
    deploy(&server, "two", boot, 1);
    until("the new code everywhere", PATIENCE, || {
        old.iter().all(|pid| !processes::is_alive(*pid))
    });
    assert_eq!(server.get("app", "/").ok(), "two");
    await_answers(&traffic, 100);
    let rolled = Instant::now();
    deploy(&server, "broken", boot, 2);
    server
        .log()
        .expect("the processes of the old code go on serving");
    await_answers(&traffic, more);
    let end = Instant::now();
    assert_eq!(server.get("app", "/").ok(), "two");
    let seen = traffic.finish();
    eprintln!("undisturbed: {}", seen.between(calm, deployed));
    eprintln!(
        "restart, {boot} s start: {}",
        seen.between(deployed, rolled)
    );
    eprintln!("broken new code: {}", seen.between(rolled, end));
    assert_eq!(seen.failures, Vec::<String>::new());
}

#[test]
fn killing_a_process_every_200_ms_fails_no_request_that_may_be_repeated() {
    let time = Duration::from_secs(if is_long() { 60 } else { 6 });
    for language in Language::ALL {
        let name = language.name();
        let site = Site::probe(language)
            .with("PassengerMinInstances 4")
            .with("PassengerMaxRequestQueueSize 0");
        let server = Setup::of(site).start();
        assert_eq!(server.get(name, "/").status, 200);
        server.await_processes(name, 4);
        let sites = [name.to_owned()];
        let pace = Duration::from_millis(5);
        let traffic = Traffic::start(server.port(), &sites, "/pid", 8, pace);
        let (begun, mut killed, mut victims) = (Instant::now(), 0u32, HashSet::new());
        let mut random = 4711u32;
        while begun.elapsed() < time {
            // The pace is the experiment, not a wait for something.
            std::thread::sleep(Duration::from_millis(200));
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Killed while it starts it would be a start that failed, which waiting requests are told of.
            let pids = server.ready_pids(name);
            let nth = (random >> 16) as usize % pids.len().max(1);
            if let Some(victim) = pids.get(nth) {
                processes::signal(*victim, Signal::SIGKILL);
                killed += 1;
                victims.insert(*victim);
            }
        }
        await_answers(&traffic, 50);
        let seen = traffic.finish();
        eprintln!(
            "{name}: {killed} processes killed in {time:?}: {}, {} failed",
            seen.all(),
            seen.failures.len()
        );
        assert_eq!(seen.failures, Vec::<String>::new(), "{language:?}");
        until("as many processes as configured", PATIENCE, || {
            server.app_pids(name).len() >= 4
        });
    }
}
