//! Another build is installed under a running server, then `graceful`.

use crate::crash::worker_of;
use harness::wait::{until_some, PATIENCE};
use harness::{
    processes, until, App, Client, Installation, Instance, Language, Load, Request, Server, Setup,
    Site,
};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn server(installation: &Installation) -> Server {
    let site = Site::probe(Language::Python).with("PassengerMinInstances 2");
    let server = Setup::of(site).installed_in(installation.prefix()).start();
    assert_eq!(server.get("python", "/").status, 200);
    server.await_processes("python", 2);
    server
}

fn directories(server: &Server) -> Vec<PathBuf> {
    Instance::directories(&server.registry())
}

fn under_way(load: &Load, requests: usize) {
    load.await_more(requests);
}

#[test]
fn a_new_instance_takes_over_and_the_old_one_ends_after_its_last_request() {
    let installation = Installation::new();
    let server = server(&installation);
    let old = server.instance();
    let (old_watchdog, old_apps) = (old.watchdog(), server.app_pids("python"));
    let load = Load::start(server.port(), "python", "/pid", 10);
    let mut client = server.client("python");
    client
        .send(&Request::get("/hold?long"))
        .expect("send a request");
    server.await_file("python", "long.begun");
    installation.again();
    server.graceful();
    under_way(&load, 500);
    let new = directories(&server)
        .into_iter()
        .find(|path| path != old.directory())
        .map(|path| Instance::at(&path))
        .expect("a new instance");
    assert_ne!(new.watchdog(), old_watchdog);
    // It still computes for the old one.
    assert!(processes::is_alive(old_watchdog));
    server.touch("python", "long.go");
    assert_eq!(client.response().expect("the answer").ok(), "long\n");
    until("the old instance to end", PATIENCE, || {
        !old.directory().exists() && !processes::is_alive(old_watchdog)
    });
    under_way(&load, 500);
    let tally = load.finish();
    assert_eq!(tally.failures, Vec::<String>::new());
    for pid in old_apps {
        assert!(!processes::is_alive(pid), "process {pid} of the old build");
    }
    // And again: what took over is an instance like any other.
    installation.again();
    server.graceful();
    assert_eq!(server.get("python", "/").status, 200);
    until("the second one to end", PATIENCE, || {
        !new.directory().exists()
    });
}

/// The instance that took over from those, and nobody else.
fn successor_of(server: &Server, before: &[&Instance]) -> Instance {
    until_some("a new instance", PATIENCE, || {
        let is_known = |path: &PathBuf| before.iter().any(|old| old.directory() == path);
        let mut all = directories(server).into_iter();
        all.find(|path| !is_known(path))
            .map(|path| Instance::at(&path))
    })
}

fn has_ended(instance: &Instance) -> bool {
    !instance.directory().exists()
}

/// A request that is being computed until the file `NAME.go` is there.
fn held(server: &Server, name: &str) -> Client {
    let mut client = server.client("python");
    let request = Request::get(&format!("/hold?{name}"));
    client.send(&request).expect("send a request");
    server.await_file("python", &format!("{name}.begun"));
    client
}

/// Two upgrades while a request is executed for the first build, and one for the second: each of the replaced
/// instances waits for its own, for longer than an instance that stops has time.
#[test]
fn several_replaced_instances_end_each_after_its_own_last_request() {
    let installation = Installation::new();
    let site = Site::probe(Language::Python).with("PassengerMinInstances 2");
    let setup = Setup::of(site).with("PassengerShutdownTimeout 1");
    let mut server = setup.installed_in(installation.prefix()).start();
    assert_eq!(server.get("python", "/").status, 200);
    let first = server.instance();
    let mut one = held(&server, "one");
    installation.again();
    server.graceful();
    let second = successor_of(&server, &[&first]);
    assert_eq!(server.get("python", "/").status, 200);
    let mut two = held(&server, "two");
    installation.again();
    server.graceful();
    let third = successor_of(&server, &[&first, &second]);
    // Much longer than the second that it would get at a stop.
    let begun = Instant::now();
    until("some time", PATIENCE, || {
        assert_eq!(server.get("python", "/").status, 200);
        begun.elapsed() > Duration::from_secs(4)
    });
    assert!(!has_ended(&first) && !has_ended(&second));
    server.touch("python", "two.go");
    assert_eq!(two.response().expect("the answer").ok(), "two\n");
    drop(two);
    until("the second instance to end", PATIENCE, || {
        has_ended(&second)
    });
    assert!(!has_ended(&first), "it still computes");
    server.touch("python", "one.go");
    assert_eq!(one.response().expect("the answer").ok(), "one\n");
    drop(one);
    until("the first instance to end", PATIENCE, || has_ended(&first));
    // And at a stop httpd waits for those that still drain.
    let mut last = held(&server, "last");
    installation.again();
    server.graceful();
    let fourth = successor_of(&server, &[&third]);
    server.stop_within(Duration::from_secs(60));
    assert!(last.response().is_err(), "nobody let it go on");
    assert!(has_ended(&third) && has_ended(&fourth));
    assert_eq!(server.survivors_after_a_moment(), [0; 0]);
}

/// An old worker reads an upload for longer than the apps of its build wait, which end; a crash of the watchdog does not
/// make the instance forget that it was replaced. The upload is served all the same, by a process that the old
/// build's loaders start: the new ones do not even work.
#[test]
fn a_late_request_for_a_replaced_build_is_served_with_the_loaders_of_that_build() {
    let installation = Installation::new();
    let server = server(&installation);
    let (old, old_apps) = (server.instance(), server.app_pids("python"));
    let mut upload = server.client("python");
    let half = b"POST /echo HTTP/1.1\r\nHost: python\r\nContent-Length: 8\r\n\r\nhalf";
    upload.send_bytes(half).expect("send half a request");
    // Once more, so that whoever accepts has accepted that one as well.
    assert_eq!(server.get("python", "/").status, 200);
    installation.again();
    server.graceful();
    let new = successor_of(&server, &[&old]);
    installation.break_loaders();
    let (watchdog, agent) = (old.watchdog(), old.agent());
    processes::signal(watchdog, Signal::SIGKILL);
    until("another watchdog of the old instance", PATIENCE, || {
        old.watchdog() == agent && old.agent() != agent
    });
    until(
        "the processes of the old build to end",
        PATIENCE * 2,
        || !old_apps.iter().any(|pid| processes::is_alive(*pid)),
    );
    assert!(!has_ended(&old), "one of its workers has a request");
    upload.send_bytes(b"done").expect("send the rest");
    assert_eq!(upload.response().expect("the answer").ok(), "halfdone");
    drop(upload);
    until("the old instance to end", PATIENCE * 2, || has_ended(&old));
    // Nor does the new one need what is installed: it starts processes with its own.
    let apps = new.app_pids(&server.app_root("python"));
    apps.iter()
        .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
    until("other processes of the new build", PATIENCE, || {
        let now = new.app_pids(&server.app_root("python"));
        now.len() == 2 && !now.iter().any(|pid| apps.contains(pid))
    });
    assert_eq!(server.get("python", "/").status, 200);
}

/// A client that does not read what was computed for it long ago keeps its worker of httpd, but no instance.
#[test]
fn a_worker_that_only_delivers_keeps_no_replaced_instance() {
    let app = "def application(environ, start_response):\n    \
                   start_response('200 OK', [('Content-Length', '16777216')])\n    \
                   return [b'x' * 16777216]\n";
    let installation = Installation::new();
    let site = Site::new("python", App::inline(Language::Python, app));
    let server = Setup::of(site).installed_in(installation.prefix()).start();
    let old = server.instance();
    let mut slow = server.client("python");
    slow.send(&Request::get("/")).expect("send a request");
    assert_eq!(slow.response_head().expect("the head").0, 200);
    let worker = worker_of(&server, &slow);
    installation.again();
    server.graceful();
    let _new = successor_of(&server, &[&old]);
    until("the old instance to end", PATIENCE * 2, || has_ended(&old));
    assert!(processes::is_alive(worker), "it still has a client");
    let mut length = 0;
    loop {
        let piece = slow.body_piece().expect("the whole body");
        if piece.is_empty() {
            break;
        }
        length += piece.len();
    }
    assert_eq!(length, 16 << 20);
}

#[test]
fn a_broken_build_leaves_the_old_one_serving_and_is_named() {
    for program in ["passenger-helper-agent", "passenger-watchdog"] {
        let installation = Installation::new();
        let mut server = server(&installation);
        // The directory of what does not start may be there for a moment, too.
        let instance = server.instance();
        let (watchdog, agent) = (instance.watchdog(), instance.agent());
        let load = Load::start(server.port(), "python", "/pid", 10);
        installation.break_program(program);
        server.reconfigure(|setup| {
            setup.with_lines_of(
                "python",
                &["PassengerMinInstances 2", "SetEnv BUILD broken"],
            )
        });
        server.log().expect("PSGR0116");
        under_way(&load, 500);
        // The new configuration holds all the same.
        until("the new configuration", PATIENCE, || {
            server.get("python", "/variable?BUILD").text().trim() == "broken"
        });
        assert_eq!((instance.watchdog(), instance.agent()), (watchdog, agent));
        installation.again();
        server.graceful();
        until("the repaired build", PATIENCE, || {
            !processes::is_alive(watchdog)
        });
        under_way(&load, 500);
        let tally = load.finish();
        assert_eq!(tally.failures, Vec::<String>::new(), "{program}");
    }
}
