//! Watchdog and agent that die of other things than `kill -9`, hang, or die both at once.

use crate::crash::{nobody_notices, two_warm_processes};
use harness::wait::PATIENCE;
use harness::{processes, until, Language, Mpm, Request, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::time::Instant;

/// Kills the agent and waits until another one is ready; says how long that took, for the figures.
fn replace_agent(server: &Server, signal: Signal) {
    let agent = server.instance().agent();
    let start = Instant::now();
    until("the agent to die", PATIENCE, || {
        // Again and again: Rust's own handler swallows the first SIGSEGV that is sent by hand.
        processes::signal(agent, signal);
        !processes::is_alive(agent)
    });
    server
        .log()
        .expect(&format!("helper agent {agent} killed by {signal}"));
    until("another agent", PATIENCE, || {
        server.instance().agent() != agent
    });
    let next = server.instance().agent();
    server
        .log()
        .expect(&format!("helper agent {next} is ready"));
    eprintln!("{signal}: another agent after {:?}", start.elapsed());
}

#[test]
fn an_agent_that_dies_of_any_signal_is_replaced_and_the_log_names_the_signal() {
    let server = two_warm_processes(Language::Python);
    let apps = server.app_pids("python");
    nobody_notices(&server, "python", || {
        for signal in [
            Signal::SIGKILL,
            Signal::SIGSEGV,
            Signal::SIGABRT,
            Signal::SIGBUS,
        ] {
            replace_agent(&server, signal);
        }
    });
    assert_eq!(server.app_pids("python"), apps);
}

#[test]
fn agents_that_die_again_and_again_are_started_less_often_and_traffic_goes_on() {
    let server = two_warm_processes(Language::Python);
    let apps = server.app_pids("python");
    nobody_notices(&server, "python", || {
        for pause in ["0", "100", "200", "400", "800", "1600"] {
            let agent = server.instance().agent();
            processes::signal(agent, Signal::SIGKILL);
            server.log().expect(&format!(
                "helper agent {agent} killed by SIGKILL; requests go on with the processes there are, \
                 starting another in {pause} ms"
            ));
            until("another agent", PATIENCE, || {
                server.instance().agent() != agent
            });
        }
    });
    assert_eq!(server.app_pids("python"), apps);
    // The last one is as good as any: it replaces processes.
    apps.iter()
        .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
    assert_eq!(server.get("python", "/").status, 200);
    server.await_processes("python", 2);
}

#[test]
fn a_hung_agent_is_replaced_under_load() {
    let server = two_warm_processes(Language::Python);
    let (agent, apps) = (server.instance().agent(), server.app_pids("python"));
    nobody_notices(&server, "python", || {
        processes::signal(agent, Signal::SIGSTOP);
        until("another agent", PATIENCE, || {
            server.instance().agent() != agent
        });
    });
    server.log().expect("its heart has not beaten for 2 s");
    assert!(!processes::is_alive(agent));
    assert_eq!(server.app_pids("python"), apps);
}

#[test]
fn a_hung_watchdog_is_replaced_under_load() {
    let server = two_warm_processes(Language::Python);
    let (watchdog, apps) = (server.instance().watchdog(), server.app_pids("python"));
    nobody_notices(&server, "python", || {
        processes::signal(watchdog, Signal::SIGSTOP);
        until("another watchdog", PATIENCE, || {
            server.instance().watchdog() != watchdog
        });
    });
    server
        .log()
        .expect(&format!("the watchdog {watchdog} has said nothing for 3 s"));
    assert!(!processes::is_alive(watchdog));
    assert_eq!(server.app_pids("python"), apps);
    // New workers get their identities from the new one.
    server.graceful();
    assert_eq!(server.get("python", "/").status, 200);
}

/// Kills watchdog and agent so that neither can do anything about the death of the other; waits for the pair
/// that httpd's parent puts in their place.
fn replace_both(server: &Server) {
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    let start = Instant::now();
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        processes::signal(watchdog, signal);
        processes::signal(agent, signal);
    }
    until("another pair", PATIENCE, || {
        server.instance().watchdog() != watchdog && server.instance().agent() != agent
    });
    let next = server.instance().agent();
    server
        .log()
        .expect(&format!("helper agent {next} is ready"));
    eprintln!("both: another pair after {:?}", start.elapsed());
}

#[test]
fn watchdog_and_agent_that_die_together_are_replaced_and_nobody_notices() {
    for mpm in Mpm::ALL {
        let site = Site::probe(Language::Ruby).with("PassengerMinInstances 2");
        let server = Setup::of(site)
            .mpm(mpm)
            .with("PassengerMaxPoolSize 2")
            .start();
        assert_eq!(server.get("ruby", "/").status, 200);
        let apps = server.await_processes("ruby", 2);
        assert_eq!(server.get("ruby", "/chatter?2000").status, 200);
        let directory = server.instance().directory().to_owned();
        nobody_notices(&server, "ruby", || {
            replace_both(&server);
            replace_both(&server);
        });
        assert_eq!(server.app_pids("ruby"), apps, "{mpm:?}");
        assert_eq!(server.instance().directory(), directory);
        server.log().expect_times("PSGR0114", 2);
        // Their pipes have a reader, their death is noticed, and configurations arrive.
        server.log().expect("chatter 2000");
        apps.iter()
            .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
        assert_eq!(server.get("ruby", "/").status, 200);
        server.await_processes("ruby", 2);
        server.graceful();
        assert_eq!(server.get("ruby", "/").status, 200);
    }
}

/// The agent that has become the watchdog is nobody's child; httpd's parent looks every ten seconds.
#[test]
fn a_second_watchdog_may_die_with_its_agent_too() {
    let server = two_warm_processes(Language::Python);
    let (watchdog, apps) = (server.instance().watchdog(), server.app_pids("python"));
    nobody_notices(&server, "python", || {
        processes::signal(watchdog, Signal::SIGKILL);
        until("another watchdog", PATIENCE, || {
            server.instance().watchdog() != watchdog
        });
        let next = server.instance().agent();
        server
            .log()
            .expect(&format!("helper agent {next} is ready"));
        replace_both(&server);
    });
    assert_eq!(server.app_pids("python"), apps);
}

/// Suspends both and waits until another agent serves, which only a watchdog that was woken can start.
fn suspend_both(server: &Server) {
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    let mut client = server.client("python");
    let mut get = || client.exchange(&Request::get("/")).expect("a response");
    // The worker at the other end has joined the instance.
    assert_eq!(get().status, 200);
    processes::signal(watchdog, Signal::SIGSTOP);
    processes::signal(agent, Signal::SIGSTOP);
    for _ in 0..5 {
        assert_eq!(get().status, 200);
    }
    // httpd's parent looks every ten seconds, and acts at the second look.
    until("another agent", 3 * PATIENCE, || {
        server.instance().agent() != agent
    });
    assert_eq!(server.instance().watchdog(), watchdog);
    let next = server.instance().agent();
    server
        .log()
        .expect(&format!("helper agent {next} is ready"));
    server.log().expect(&format!(
        "the watchdog pid={watchdog} was suspended (SIGSTOP)"
    ));
}

#[test]
fn watchdog_and_agent_that_are_suspended_together_are_woken_by_httpds_parent() {
    let mut server = two_warm_processes(Language::Python);
    let (watchdog, apps) = (server.instance().watchdog(), server.app_pids("python"));
    suspend_both(&server);
    // Also where the watchdog is one that took over, and nobody's child.
    processes::signal(watchdog, Signal::SIGKILL);
    until("another pair", PATIENCE, || {
        let (next, agent) = (server.instance().watchdog(), server.instance().agent());
        next != watchdog && agent != next
    });
    let next = server.instance().agent();
    server
        .log()
        .expect(&format!("helper agent {next} is ready"));
    suspend_both(&server);
    assert_eq!(server.app_pids("python"), apps);
    server.log().expect_times("PSGR0118", 2);
    // httpd waits for both at a stop, and the harness looks whether anything is left.
    processes::signal(server.instance().watchdog(), Signal::SIGSTOP);
    processes::signal(server.instance().agent(), Signal::SIGSTOP);
    server.stop_within(3 * PATIENCE);
    server.log().expect_times("PSGR0118", 3);
}
