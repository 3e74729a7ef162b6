//! Apps and workers that are suspended: what they hold is slow, everything else goes on, and when they are
//! woken nothing is amiss.

use crate::crash::{two_warm_processes, worker_of};
use crate::one_process;
use harness::wait::PATIENCE;
use harness::{processes, until, Language, Mpm, Request, Response, Server, Setup};
use nix::sys::signal::Signal;
use std::thread::JoinHandle;

/// Sends a request in a thread of its own.
fn in_background(server: &Server, site: &str, target: &str) -> JoinHandle<Response> {
    let (mut client, request) = (server.client(site), Request::get(target));
    std::thread::spawn(move || client.exchange(&request).expect("a response"))
}

#[test]
fn a_stopped_app_process_keeps_one_request_and_the_others_go_to_the_next_process() {
    for language in Language::ALL {
        let name = language.name();
        let server = two_warm_processes(language);
        let pids = server.app_pids(name);
        let stopped = pids[0];
        processes::signal(stopped, Signal::SIGSTOP);
        // One of these may get stuck; all others are answered by the process that runs.
        let requests: Vec<_> = (0..8)
            .map(|_| in_background(&server, name, "/pid"))
            .collect();
        until("all but those in the stopped process", PATIENCE, || {
            requests.iter().filter(|r| r.is_finished()).count() >= 4
        });
        processes::signal(stopped, Signal::SIGCONT);
        for request in requests {
            let answer = request.join().expect("a client").ok();
            let pid = answer.trim().parse().expect("a pid");
            assert!(pids.contains(&pid), "{name}");
        }
        assert_eq!(server.app_pids(name), pids, "{name}: nobody was replaced");
    }
}

#[test]
fn a_stopped_app_process_is_killed_when_its_request_takes_too_long() {
    let site = one_process(Language::Python).with("PassengerMaxRequestTime 1");
    let server = Setup::of(site).with("PassengerMaxPoolSize 1").start();
    let pid: i32 = server
        .get("python", "/pid")
        .ok()
        .trim()
        .parse()
        .expect("a pid");
    processes::signal(pid, Signal::SIGSTOP);
    // Repeated by the next process if the first provably has not read it.
    let answer = server.get("python", "/pid");
    assert!(answer.status == 504 || answer.ok().trim() != pid.to_string());
    assert!(!processes::is_alive(pid));
}

#[test]
fn a_stop_ends_suspended_apps_too() {
    let site = one_process(Language::Ruby);
    let mut server = Setup::of(site).with("PassengerShutdownTimeout 2").start();
    assert_eq!(server.get("ruby", "/").status, 200);
    let pids = server.app_pids("ruby");
    processes::signal(pids[0], Signal::SIGSTOP);
    server.stop_within(PATIENCE);
    assert!(
        server.survivors_after_a_moment().is_empty(),
        "{}",
        server.evidence()
    );
}

/// Whether the main thread of a process waits for a futex: a request of ours that stands in a queue.
fn waits_in_the_queue(pid: i32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split(' ').next() == Some(&libc_futex().to_string())
}

/// The number of `futex` on this machine.
const fn libc_futex() -> i64 {
    if cfg!(target_arch = "aarch64") {
        98
    } else {
        202
    }
}

#[test]
fn a_worker_that_is_stopped_in_the_queue_does_not_keep_the_place_it_is_given() {
    let setup = Setup::of(one_process(Language::Python).with("PassengerMaxRequestQueueSize 10"));
    let server = setup
        .mpm(Mpm::Prefork)
        .with("PassengerMaxPoolSize 1")
        .start();
    assert_eq!(server.get("python", "/").status, 200);
    let first = in_background(&server, "python", "/hold?first");
    server.await_file("python", "first.begun");
    let mut second = server.client("python");
    second
        .send(&Request::get("/note?second"))
        .expect("send a request");
    let worker = worker_of(&server, &second);
    until("the second request to wait", PATIENCE, || {
        waits_in_the_queue(worker)
    });
    processes::signal(worker, Signal::SIGSTOP);
    server.touch("python", "first.go");
    assert_eq!(first.join().expect("a client").status, 200);
    // The place was the second's, which cannot take it.
    assert_eq!(server.get("python", "/note?third").status, 200);
    processes::signal(worker, Signal::SIGCONT);
    assert_eq!(second.response().expect("an answer").status, 200);
    assert_eq!(server.get("python", "/note?fourth").status, 200);
}

#[test]
fn a_worker_that_is_stopped_with_a_request_costs_only_that_one() {
    let site = one_process(Language::Python).with("PassengerMaxRequestQueueSize 10");
    let server = Setup::of(site)
        .mpm(Mpm::Prefork)
        .with("PassengerMaxPoolSize 1")
        .start();
    assert_eq!(server.get("python", "/").status, 200);
    let mut held = server.client("python");
    held.send(&Request::get("/hold?held"))
        .expect("send a request");
    server.await_file("python", "held.begun");
    let worker = worker_of(&server, &held);
    processes::signal(worker, Signal::SIGSTOP);
    server.touch("python", "held.go");
    // The only process has answered the stopped worker and waits for its next request; static files go on.
    assert_eq!(server.get("python", "/static.txt").status, 200);
    processes::signal(worker, Signal::SIGCONT);
    assert_eq!(held.response().expect("an answer").status, 200);
    assert_eq!(server.get("python", "/note?next").status, 200);
}
