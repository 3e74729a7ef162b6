//! A process that is to go: unregistered first, its request finished, then gone; and what the log says of
//! those that went, in order.

use harness::wait::PATIENCE;
use harness::{processes, until, Language, Load, Request, Server, Setup, Site};
use nix::sys::signal::Signal;

/// Two processes, and one of them in the middle of a request; returns both, the busy one first.
fn one_of_two_is_busy(language: Language) -> (Server, harness::Client, [processes::ProcessId; 2]) {
    let name = language.name();
    let size = ["PassengerMinInstances 2", "PassengerMaxInstances 2"];
    let site = Site::probe(language).with(size[0]).with(size[1]);
    let server = Setup::of(site).start();
    assert_eq!(server.get(name, "/").status, 200);
    let both = server.await_processes(name, 2);
    let mut client = server.client(name);
    client
        .send(&Request::get("/hold?long"))
        .expect("send a request");
    server.await_file(name, "long.begun");
    // Whoever answers now is the other one.
    let idle = server.get(name, "/pid").ok().trim().parse().expect("a pid");
    let busy = both.iter().find(|pid| **pid != idle).expect("another one");
    let pair = [*busy, idle];
    (server, client, pair)
}

#[test]
fn a_process_that_leaves_gets_no_more_requests_and_finishes_the_one_it_has() {
    for language in Language::ALL {
        let name = language.name();
        let (server, mut client, [busy, _]) = one_of_two_is_busy(language);
        processes::signal(busy, Signal::SIGUSR1);
        // Its successor comes while it still works.
        until("a successor", PATIENCE, || {
            let now = server.app_pids(name);
            now.len() == 3 && now.contains(&busy)
        });
        for _ in 0..20 {
            let pid: i32 = server.get(name, "/pid").ok().trim().parse().expect("a pid");
            assert_ne!(pid, busy, "{name}: a request for a process that leaves");
        }
        assert!(processes::is_alive(busy), "{name}");
        server.touch(name, "long.go");
        assert_eq!(client.response().expect("the answer").ok(), "long\n");
        until("it to be gone", PATIENCE, || !processes::is_alive(busy));
        server.await_processes(name, 2);
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
    processes::signal(agent, Signal::SIGKILL);
    let story_of_agent = [
        format!("helper agent {agent} killed by SIGKILL; requests go on"),
        "is adopted".to_owned(),
        "is ready after".to_owned(),
    ];
    server.log().expect_in_order(&story_of_agent);
    until("another agent", PATIENCE, || instance.agent() != agent);
    let successor = instance.agent();
    processes::signal(watchdog, Signal::SIGKILL);
    let story_of_watchdog = [
        "the watchdog is gone; this helper agent takes its place".to_owned(),
        format!("process {successor} is the watchdog now"),
        "is adopted".to_owned(),
    ];
    server.log().expect_in_order(&story_of_watchdog);
    // httpd's parent reaps it, and says so in its own words.
    server.log().expect(&format!(
        "PSGR0109: the watchdog pid={watchdog} ended (signal 9)"
    ));
    assert_eq!(load.finish().failures, Vec::<String>::new());
}
