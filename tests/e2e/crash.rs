//! `kill -9` of each kind of process, at the worst moments.

use crate::one_process;
use harness::wait::{until_some, PATIENCE};
use harness::{processes, until, Language, Load, Mpm, Request, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;

/// A server with two warm processes of an app.
pub(crate) fn two_warm_processes(language: Language) -> Server {
    let site = Site::probe(language).with("PassengerMinInstances 2");
    // A full pool: under load no third one is started.
    let server = Setup::of(site).with("PassengerMaxPoolSize 2").start();
    assert_eq!(server.get(language.name(), "/").status, 200);
    server.await_processes(language.name(), 2);
    server
}

/// Runs `disaster` while 25 clients send requests; none of them may notice.
pub(crate) fn nobody_notices(server: &Server, site: &str, disaster: impl FnOnce()) {
    let load = Load::start(server.port(), site, "/pid", 25);
    until("the load to be under way", PATIENCE, || {
        load.answered() > 500
    });
    disaster();
    load.await_more(2000);
    let tally = load.finish();
    assert_eq!(
        (tally.failures, tally.resent),
        (Vec::new(), 0),
        "with {} answered",
        tally.ok
    );
}

#[test]
fn a_killed_app_process_is_replaced_without_a_failed_request() {
    for language in Language::ALL {
        let name = language.name();
        let server = Setup::of(one_process(language)).start();
        let victim = server.get(name, "/pid").ok();
        processes::signal(victim.trim().parse().expect("a pid"), Signal::SIGKILL);
        // At once, perhaps before the agent has noticed: nothing was sent to the dead process.
        assert_ne!(server.get(name, "/pid").ok(), victim, "{name}");
    }
}

#[test]
fn a_killed_agent_costs_no_request_and_no_process() {
    for language in Language::ALL {
        let name = language.name();
        let server = two_warm_processes(language);
        let (agent, apps) = (server.instance().agent(), server.app_pids(name));
        nobody_notices(&server, name, || {
            processes::signal(agent, Signal::SIGKILL);
            until("another agent", PATIENCE, || {
                server.instance().agent() != agent
            });
        });
        assert_eq!(
            server.app_pids(name),
            apps,
            "{name}: the processes are not the same"
        );
    }
}

#[test]
fn the_next_agent_starts_processes_and_notices_their_death() {
    let server = two_warm_processes(Language::Python);
    let agent = server.instance().agent();
    processes::signal(agent, Signal::SIGKILL);
    until("another agent", PATIENCE, || {
        server.instance().agent() != agent
    });
    // Adopted processes are watched as those it started itself.
    let adopted = server.app_pids("python");
    adopted
        .iter()
        .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
    assert_eq!(server.get("python", "/").status, 200);
    let now = server.await_processes("python", 2);
    assert!(
        now.iter().all(|pid| !adopted.contains(pid)),
        "{now:?} of {adopted:?}"
    );
}

#[test]
fn no_line_an_app_prints_is_lost_when_the_agent_is_killed() {
    const LINES: usize = 300;
    for language in Language::ALL {
        let name = language.name();
        let server = Setup::of(one_process(language)).start();
        assert_eq!(server.get(name, &format!("/chatter?{LINES}")).status, 200);
        for at in [30, 120, 200] {
            server.log().expect(&format!("chatter {at}"));
            processes::signal(server.instance().agent(), Signal::SIGKILL);
        }
        server.log().expect(&format!("chatter {LINES}"));
        let text = server.log().text();
        let printed: Vec<usize> = text
            .lines()
            .filter_map(|line| {
                line.split("chatter ")
                    .nth(1)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        let expected: Vec<usize> = (1..=LINES).collect();
        assert_eq!(
            printed, expected,
            "{name}: lines lost, repeated or out of order"
        );
    }
}

#[test]
fn a_killed_watchdog_costs_no_request_and_no_process() {
    let server = two_warm_processes(Language::Ruby);
    let (watchdog, apps) = (server.instance().watchdog(), server.app_pids("ruby"));
    nobody_notices(&server, "ruby", || {
        processes::signal(watchdog, Signal::SIGKILL);
        until("another watchdog", PATIENCE, || {
            server.instance().watchdog() != watchdog
        });
    });
    assert_eq!(
        server.app_pids("ruby"),
        apps,
        "the processes are not the same"
    );
    // The agent became the watchdog, and has an agent of its own.
    assert_ne!(server.instance().agent(), server.instance().watchdog());
}

#[test]
fn watchdog_and_agent_can_die_again_and_again() {
    let server = two_warm_processes(Language::Python);
    let apps = server.app_pids("python");
    nobody_notices(&server, "python", || {
        for _ in 0..2 {
            let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
            processes::signal(watchdog, Signal::SIGKILL);
            until("another pair", PATIENCE, || {
                server.instance().watchdog() != watchdog && server.instance().agent() != agent
            });
            let agent = server.instance().agent();
            processes::signal(agent, Signal::SIGKILL);
            until("another agent", PATIENCE, || {
                server.instance().agent() != agent
            });
        }
    });
    assert_eq!(server.app_pids("python"), apps);
}

/// The lines of the probe's `requests.log`.
fn requests_seen(server: &Server, site: &str) -> Vec<String> {
    let text = fs::read_to_string(server.app_root(site).join("requests.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn an_app_gets_no_request_while_it_computes_for_a_worker_that_was_killed() {
    for language in [Language::Ruby, Language::Python] {
        let name = language.name();
        let setup = Setup::of(one_process(language).with("PassengerMaxRequestQueueSize 10"));
        // Prefork: the worker that is killed serves nobody else.
        let server = setup
            .mpm(Mpm::Prefork)
            .with("PassengerMaxPoolSize 1")
            .start();
        assert_eq!(server.get(name, "/").status, 200);
        let mut first = server.client(name);
        first
            .send(&Request::get("/hold?first"))
            .expect("send a request");
        server.await_file(name, "first.begun");
        let worker = worker_of(&server, &first);
        processes::signal(worker, Signal::SIGKILL);
        assert!(
            first.response().is_err(),
            "the worker was not the one that served this connection"
        );
        // It waits for the app, which still computes for the dead worker.
        let mut second = server.client(name);
        second
            .send(&Request::get("/note?second"))
            .expect("send a request");
        let queue_is_seen = server.get(name, "/static.txt");
        assert_eq!(queue_is_seen.status, 200);
        assert_eq!(requests_seen(&server, name), ["begin first"], "{name}");
        server.touch(name, "first.go");
        assert_eq!(second.response().expect("an answer").status, 200);
        assert_eq!(
            requests_seen(&server, name),
            ["begin first", "end first", "begin second", "end second"],
            "{name}"
        );
    }
}

/// The httpd worker at the other end of a client's connection.
pub(crate) fn worker_of(server: &Server, client: &harness::Client) -> processes::ProcessId {
    let inode = until_some("httpd's end of the connection", PATIENCE, || {
        processes::peer_socket(server.port(), client.local_port())
    });
    let link = std::collections::HashSet::from([inode]);
    let holders: Vec<_> = server
        .workers()
        .into_iter()
        .filter(|pid| processes::holds_any(*pid, &link))
        .collect();
    assert_eq!(holders.len(), 1, "one worker should have the connection");
    holders[0]
}

#[test]
fn a_killed_worker_under_load_costs_only_its_own_connections() {
    let server = two_warm_processes(Language::Python);
    let apps = server.app_pids("python");
    let load = Load::start(server.port(), "python", "/pid", 10);
    until("the load to be under way", PATIENCE, || {
        load.answered() > 500
    });
    let worker = server.workers()[0];
    processes::signal(worker, Signal::SIGKILL);
    load.await_more(2000);
    let tally = load.finish();
    let lost = tally.failures.len() + tally.resent;
    assert!(
        lost <= 10,
        "each client had one connection to lose, {lost} requests failed: {:?}",
        tally.failures
    );
    assert!(
        tally
            .failures
            .iter()
            .all(|failure| !failure.starts_with("status")),
        "{:?}",
        tally.failures
    );
    assert_eq!(server.app_pids("python"), apps);
    // Every seat came back: as many requests at once as there are processes, all answered.
    for pid in &apps {
        assert!(processes::is_alive(*pid));
    }
    assert_eq!(server.get("python", "/").status, 200);
}

#[test]
fn when_httpd_itself_is_killed_nothing_stays() {
    for mpm in Mpm::ALL {
        let site = Site::probe(Language::Ruby).with("PassengerMinInstances 2");
        let mut server = Setup::of(site)
            .site(Site::probe(Language::Node))
            .mpm(mpm)
            .start();
        assert_eq!(server.get("ruby", "/").status, 200);
        assert_eq!(server.get("node", "/").status, 200);
        server.abandon();
        processes::signal(server.parent(), Signal::SIGKILL);
        until("everything to end", PATIENCE * 2, || {
            server.survivors().iter().all(|pid| *pid == server.parent())
        });
        assert_eq!(
            harness::Instance::directories(&server.registry()),
            Vec::<std::path::PathBuf>::new()
        );
    }
}
