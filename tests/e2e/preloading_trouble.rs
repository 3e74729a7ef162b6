//! Smart spawning when something dies or does not start: whatever becomes of the process that has loaded an app, or of those who
//! watch it, requests are answered.

use crate::preloading::{await_preloader, facts_of_all, loads, ruby, wsgi, Facts, RUBY};
use harness::processes::{self, ProcessId};
use harness::wait::{until_some, PATIENCE};
use harness::{until, App, Language, Load, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;
use std::time::Duration;

#[test]
fn a_killed_preloader_costs_no_request() {
    for site in [ruby(), wsgi()] {
        let setup = Setup::of(
            site.with("PassengerMinInstances 2")
                .with("PassengerMaxInstances 2"),
        );
        let server = setup.with("PassengerMaxPoolSize 2").start();
        Facts::of(&server);
        let apps = server.await_processes("app", 2);
        let load = Load::start(server.port(), "app", "/", 10);
        until("the load to be under way", PATIENCE, || {
            load.answered() > 200
        });
        let first = await_preloader(&server);
        processes::signal(first, Signal::SIGKILL);
        server
            .log()
            .expect(&format!("preloader {first} killed by SIGKILL"));
        // What replaces a killed process comes from another preloader.
        processes::signal(apps[0], Signal::SIGKILL);
        let second = await_preloader(&server);
        assert_ne!(second, first);
        server.await_processes("app", 2);
        // Both at once: the one that is asked to fork is dead or dies while it does.
        let apps = server.app_pids("app");
        processes::signal(second, Signal::SIGKILL);
        apps.iter()
            .take(1)
            .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
        server.await_processes("app", 2);
        load.await_more(200);
        let tally = load.finish();
        let (failures, ok) = (tally.failures, tally.ok);
        assert_eq!(
            (failures, tally.resent),
            (Vec::new(), 0),
            "with {ok} answered"
        );
    }
}

#[test]
fn a_restart_takes_the_new_code() {
    for (site, file) in [(ruby(), "config.ru"), (wsgi(), "passenger_wsgi.py")] {
        let server = Setup::of(
            site.with("PassengerMinInstances 2")
                .with("PassengerMaxInstances 2"),
        )
        .start();
        let old = Facts::of(&server).pid("loaded_by");
        let path = server.app_root("app").join(file);
        let text = fs::read_to_string(&path).expect("read the app");
        let new = text.replacen("VERSION = ", "VERSION = 'two' or ", 1);
        fs::write(&path, new).expect("change the app");
        fs::create_dir_all(server.app_root("app").join("tmp")).expect("make tmp");
        server.touch("app", "tmp/restart.txt");
        let facts = until_some("the new code", PATIENCE, || {
            Some(Facts::of(&server)).filter(|facts| facts.text("version") == "two")
        });
        assert_ne!(facts.pid("loaded_by"), old);
        until("the end of what had the old code", PATIENCE, || {
            !processes::is_alive(old) && server.app_pids("app").len() == 2
        });
        for facts in facts_of_all(&server, 2) {
            assert_eq!(
                (facts.text("version"), facts.text("forked")),
                ("two", "true")
            );
        }
    }
}

/// A successor of the agent ends the preloader, of which it knows nothing, and goes on with what was forked.
fn await_end_of_preloader_alone(server: &Server, preloader: i32, apps: &[i32]) {
    until("the preloader's end", PATIENCE, || {
        !processes::is_alive(preloader)
    });
    assert_eq!(
        server.app_pids("app"),
        apps,
        "the processes are not the same"
    );
}

#[test]
fn a_killed_agent_keeps_the_processes_and_ends_the_preloader() {
    for site in [ruby(), wsgi()] {
        let setup = Setup::of(
            site.with("PassengerMinInstances 2")
                .with("PassengerMaxInstances 2"),
        );
        let server = setup.with("PassengerMaxPoolSize 2").start();
        let preloader = Facts::of(&server).pid("loaded_by");
        let apps = server.await_processes("app", 2);
        let agent = server.instance().agent();
        let load = Load::start(server.port(), "app", "/", 10);
        until("the load to be under way", PATIENCE, || {
            load.answered() > 200
        });
        processes::signal(agent, Signal::SIGKILL);
        until("another agent", PATIENCE, || {
            server.instance().agent() != agent
        });
        await_end_of_preloader_alone(&server, preloader, &apps);
        // The next one comes from a preloader of the new agent.
        processes::signal(apps[0], Signal::SIGKILL);
        assert_ne!(await_preloader(&server), preloader);
        server.await_processes("app", 2);
        let tally = load.finish();
        assert_eq!(
            tally.failures,
            Vec::<String>::new(),
            "with {} answered",
            tally.ok
        );
        let facts = facts_of_all(&server, 2);
        assert!(
            facts.iter().all(|facts| facts.text("forked") == "true"),
            "{facts:?}"
        );
    }
}

#[test]
fn a_killed_watchdog_keeps_the_processes() {
    let server = Setup::of(
        ruby()
            .with("PassengerMinInstances 2")
            .with("PassengerMaxInstances 2"),
    )
    .start();
    let preloader = Facts::of(&server).pid("loaded_by");
    let apps = server.await_processes("app", 2);
    let watchdog = server.instance().watchdog();
    processes::signal(watchdog, Signal::SIGKILL);
    until("another watchdog", PATIENCE, || {
        server.instance().watchdog() != watchdog
    });
    await_end_of_preloader_alone(&server, preloader, &apps);
    apps.iter()
        .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
    assert_eq!(Facts::of(&server).text("forked"), "true");
}

#[test]
fn stop_leaves_nothing_whether_the_preloader_is_ready_or_loads() {
    for while_loading in ["", "sleep"] {
        let app = App::inline(Language::Ruby, RUBY).file("while_loading.rb", while_loading);
        let site = Site::new("app", app)
            .with("PassengerMinInstances 2")
            .with("PassengerMaxInstances 2");
        let mut server = Setup::of(site).start();
        let waits = std::thread::spawn({
            let mut client = server.client("app");
            move || client.exchange(&harness::Request::get("/"))
        });
        if while_loading.is_empty() {
            server.await_processes("app", 2);
        }
        await_preloader(&server);
        server.stop_within(Duration::from_secs(40));
        assert_eq!(server.survivors_after_a_moment(), Vec::<ProcessId>::new());
        let _ = waits.join();
    }
}

#[test]
fn a_preloader_that_crashes_while_it_loads_is_done_without() {
    let crash = "Process.kill(:KILL, Process.pid) if $0.include?('Preloader')";
    let app = App::inline(Language::Ruby, RUBY).file("while_loading.rb", crash);
    let server = Setup::of(
        Site::new("app", app)
            .with("PassengerMinInstances 2")
            .with("PassengerMaxInstances 2"),
    )
    .start();
    assert_eq!(Facts::of(&server).text("forked"), "false");
    server
        .log()
        .expect("is of no use: killed by SIGKILL; its process is started directly, and so are");
    facts_of_all(&server, 2);
    assert_eq!(loads(&server), 3, "not tried again");
}

#[test]
fn an_app_that_does_not_load_is_loaded_once_and_reported() {
    let app =
        App::inline(Language::Ruby, RUBY).file("while_loading.rb", "raise 'no such database'");
    let server = Setup::of(Site::new("app", app)).start();
    assert!(server.get("app", "/").status >= 500);
    server.log().expect("no such database");
    assert_eq!(loads(&server), 1, "the same code would have failed again");
    fs::remove_file(server.app_root("app").join("while_loading.rb")).expect("mend the app");
    assert_eq!(Facts::of(&server).text("forked"), "true");
}

#[test]
fn an_app_that_does_not_survive_the_fork_is_started_directly() {
    let crash = "Process.kill(:KILL, Process.pid); sleep";
    let app = App::inline(Language::Ruby, RUBY).file("after_fork.rb", crash);
    let server = Setup::of(Site::new("app", app)).start();
    // The first request may be told of the crash.
    let _ = server.get("app", "/");
    assert_eq!(Facts::of(&server).text("forked"), "false");
    server
        .log()
        .expect("crashed after its preloader had forked it");
}

#[test]
fn an_exception_after_the_fork_is_a_failed_start() {
    let app = App::inline(Language::Ruby, RUBY).file("after_fork.rb", "raise 'cannot reconnect'");
    let server = Setup::of(Site::new("app", app)).start();
    assert!(server.get("app", "/").status >= 500);
    server
        .log()
        .expect("leaving its preloader (step fork): RuntimeError");
    fs::remove_file(server.app_root("app").join("after_fork.rb")).expect("mend the app");
    assert_eq!(Facts::of(&server).text("forked"), "true");
    assert_eq!(loads(&server), 1, "the preloader was in order");
}

#[test]
fn a_preloader_that_is_stuck_is_done_without() {
    let server = Setup::of(ruby()).start();
    let facts = Facts::of(&server);
    let preloader = facts.pid("loaded_by");
    processes::signal(preloader, Signal::SIGSTOP);
    processes::signal(facts.pid("pid"), Signal::SIGKILL);
    assert_eq!(Facts::of(&server).text("forked"), "false");
    server.log().expect("has not forked within");
    until("its end", PATIENCE, || !processes::is_alive(preloader));
}
