//! Another build is installed under a running server, then `graceful`.

use harness::wait::PATIENCE;
use harness::{
    processes, until, Installation, Instance, Language, Load, Request, Server, Setup, Site,
};
use std::path::PathBuf;

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
    let before = load.answered();
    until("requests", PATIENCE, || load.answered() > before + requests);
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
