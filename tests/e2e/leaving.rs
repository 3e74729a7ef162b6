//! A process that is to go: unregistered first, what it was sent answered, then gone, by force if need be; and
//! what the log says of those that went, in order.

use crate::tools;
use harness::processes::{self, ProcessId};
use harness::wait::PATIENCE;
use harness::{until, App, Language, Load, Request, Server, Setup, Site};
use nix::sys::signal::Signal;

/// How a process comes to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// SIGUSR1 says that it wants to.
    Signal,
    /// `passenger-config detach-process`.
    Command,
    /// It has had its `PassengerMaxRequests`: this one was the last, and the other process is there.
    Retirement,
}

const WAYS: [Way; 3] = [Way::Signal, Way::Command, Way::Retirement];

impl Way {
    /// Has that process leave; one that retires needs no word.
    fn begin(self, server: &Server, pid: ProcessId) {
        match self {
            Way::Signal => processes::signal(pid, Signal::SIGUSR1),
            Way::Command => {
                let answer = tools::run(
                    server,
                    "passenger-config",
                    &["detach-process", &pid.to_string()],
                );
                assert!(answer.status.success(), "{answer:?}");
            }
            Way::Retirement => {}
        }
    }

    /// What the site says about it.
    fn configure(self, site: Site, requests: u32) -> Site {
        match self {
            Way::Signal | Way::Command => site,
            Way::Retirement => site.with(&format!("PassengerMaxRequests {requests}")),
        }
    }
}

/// A process in the middle of a request, which it answers as soon as `long.go` is there.
fn one_is_busy(language: Language, way: Way) -> (Server, harness::Client, ProcessId) {
    let name = language.name();
    let site = Site::probe(language).with("PassengerMinInstances 1");
    // Nobody gets a process beside it before it leaves; its successors are to live for a while.
    let site = way.configure(site, 2).with("PassengerMaxInstances 2");
    let server = Setup::of(site).start();
    let busy = server.get(name, "/pid").ok().trim().parse().expect("a pid");
    let mut client = server.client(name);
    client
        .send(&Request::get("/hold?long"))
        .expect("send a request");
    server.await_file(name, "long.begun");
    (server, client, busy)
}

#[test]
fn a_process_that_leaves_gets_no_more_requests_and_finishes_the_one_it_has() {
    for (language, way) in Language::ALL
        .into_iter()
        .flat_map(|language| WAYS.map(|way| (language, way)))
    {
        let name = language.name();
        let (server, mut client, busy) = one_is_busy(language, way);
        way.begin(&server, busy);
        // Its successor comes while it still works.
        until("a successor", PATIENCE, || {
            let now = server.app_pids(name);
            now.len() > 1 && now.contains(&busy)
        });
        until("requests for the successor", PATIENCE, || {
            let answer = server.get(name, "/pid").ok();
            answer.trim().parse::<ProcessId>().expect("a pid") != busy
        });
        for _ in 0..10 {
            let pid: ProcessId = server.get(name, "/pid").ok().trim().parse().expect("a pid");
            assert_ne!(pid, busy, "{name}, {way:?}: a request for one that leaves");
        }
        assert!(processes::is_alive(busy), "{name}, {way:?}");
        server.touch(name, "long.go");
        assert_eq!(client.response().expect("the answer").ok(), "long\n");
        until("it to be gone", PATIENCE, || !processes::is_alive(busy));
    }
}

/// A request that was sent to a process before it was told to leave, and that it has not even accepted.
#[test]
fn a_request_in_the_backlog_of_a_process_that_leaves_is_answered_by_it() {
    for (language, way) in Language::ALL
        .into_iter()
        .flat_map(|language| WAYS.map(|way| (language, way)))
    {
        let name = language.name();
        let site = Site::probe(language).with("PassengerMinInstances 1");
        let server = Setup::of(way.configure(site, 1)).start();
        let pid = server.await_processes(name, 1)[0];
        processes::signal(pid, Signal::SIGSTOP);
        let mut client = server.client(name);
        client.send(&Request::get("/pid")).expect("send a request");
        let apps = server.instance().directory().join("apps");
        until("the request to lie in the backlog", PATIENCE, || {
            // Nobody has a descriptor of it yet.
            processes::sockets_under(&apps).contains("socket:[0]")
        });
        way.begin(&server, pid);
        processes::signal(pid, Signal::SIGCONT);
        let answer = client.response().expect("the answer").ok();
        assert_eq!(answer.trim(), pid.to_string(), "{name}, {way:?}");
        until("it to be gone", PATIENCE, || !processes::is_alive(pid));
        assert_eq!(server.get(name, "/").status, 200, "{name}, {way:?}");
    }
}

/// An app whose processes end when they are killed and not before.
const STICKY: &str = "\
import atexit, os, signal, time

def stay():
    while True:
        time.sleep(1)

def application(environ, start_response):
    if environ['PATH_INFO'] == '/stick':
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        atexit.register(stay)
    start_response('200 OK', [])
    return [str(os.getpid()).encode()]
";

/// Takes a minute: five seconds after `stop` SIGTERM, 55 later SIGKILL. All three at once.
#[test]
fn processes_that_do_not_leave_are_killed_at_the_deadline_however_they_were_told() {
    let mut setup = Setup::default().with("PassengerMaxPoolSize 12");
    for way in WAYS {
        let site = Site::new(&format!("{way:?}"), App::inline(Language::Python, STICKY));
        setup = setup.site(way.configure(site.with("PassengerMinInstances 1"), 1));
    }
    let server = setup.start();
    let mut stuck = Vec::new();
    for way in WAYS {
        let answer = server.get(&format!("{way:?}"), "/stick").ok();
        let pid: ProcessId = answer.trim().parse().expect("a pid");
        way.begin(&server, pid);
        stuck.push((way, pid));
    }
    for (way, pid) in &stuck {
        let site = format!("{way:?}");
        until("another process to serve", PATIENCE, || {
            server.get(&site, "/").ok() != pid.to_string()
        });
    }
    assert!(
        stuck.iter().all(|(_, pid)| processes::is_alive(*pid)),
        "they only leave when they are killed"
    );
    until("them to be killed", PATIENCE * 4, || {
        !stuck.iter().any(|(_, pid)| processes::is_alive(*pid))
    });
    for (way, pid) in stuck {
        server.log().expect_in_order(&[
            format!("process {pid} was asked to end and has not in time; it is killed"),
            format!("process {pid} killed by SIGKILL"),
        ]);
        assert_eq!(server.get(&format!("{way:?}"), "/").status, 200);
    }
}

#[test]
fn the_log_tells_in_order_what_happened_to_whom() {
    let site = Site::probe(Language::Python).with("PassengerMinInstances 1");
    let server = Setup::of(site).with("PassengerMaxPoolSize 1").start();
    let load = Load::start(server.port(), "python", "/pid", 4);
    until("the load to be under way", PATIENCE, || {
        load.answered() > 200
    });
    let instance = server.instance();
    let (app, agent, watchdog) = (
        server.await_processes("python", 1)[0],
        instance.agent(),
        instance.watchdog(),
    );
    processes::signal(app, Signal::SIGKILL);
    let story_of_app = [
        format!("process {app} killed by SIGKILL without having been asked to"),
        "is ready after".to_owned(),
    ];
    server.log().expect_in_order(&story_of_app);
    let adopted = server.await_processes("python", 1)[0];
    processes::signal(agent, Signal::SIGKILL);
    let story_of_agent = [
        format!("helper agent {agent} killed by SIGKILL; requests go on"),
        format!("process {adopted} goes on under this helper agent"),
        "is ready after".to_owned(),
    ];
    server.log().expect_in_order(&story_of_agent);
    until("another agent", PATIENCE, || instance.agent() != agent);
    let successor = instance.agent();
    processes::signal(watchdog, Signal::SIGKILL);
    let story_of_watchdog = [
        "the watchdog is gone; this helper agent takes its place".to_owned(),
        format!("process {successor} is the watchdog now"),
        format!("process {adopted} goes on under this helper agent"),
    ];
    server.log().expect_in_order(&story_of_watchdog);
    // httpd's parent reaps it, and says so in its own words.
    server.log().expect(&format!(
        "PSGR0109: the watchdog pid={watchdog} killed by SIGKILL"
    ));
    assert_eq!(load.finish().failures, Vec::<String>::new());
}

#[test]
fn a_request_that_does_not_end_holds_a_process_up_no_longer_than_it_may() {
    let site = Site::probe(Language::Python).with("PassengerMinInstances 1");
    let server = Setup::of(site).with("PassengerDrainTime 1").start();
    let mut client = server.client("python");
    client
        .send(&Request::post("/hold?for-ever", b""))
        .expect("send a request");
    server.await_file("python", "for-ever.begun");
    let busy = server.await_processes("python", 1)[0];
    processes::signal(busy, Signal::SIGUSR1);
    let words = format!("process {busy} is to end and still has 1 request(s)");
    server.log().expect(&words);
    until("it to be gone", PATIENCE, || !processes::is_alive(busy));
    // A POST is not made again elsewhere.
    assert_eq!(client.response().expect("an answer").status, 502);
    assert_eq!(server.get("python", "/").status, 200);
}
