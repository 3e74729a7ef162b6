//! `passenger-status` against a running server: what it shows, also while the agent is dead. What can be done by
//! `passenger-config` is in `steering.rs`.

use crate::one_process;
use harness::app::owner_uid;
use harness::wait::{until, until_some, PATIENCE};
use harness::{processes, stage, Language, Server, Setup};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// Runs an installed tool for that server, as somebody else if a uid is given.
pub(crate) fn run_as(server: &Server, uid: Option<u32>, tool: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(stage::prefix().join("bin").join(tool));
    command
        .args(arguments)
        .env("PASSENGER_INSTANCE_REGISTRY_DIR", server.registry())
        .current_dir("/");
    if let Some(uid) = uid {
        command.uid(uid);
    }
    command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {tool}: {e}"))
}

pub(crate) fn run(server: &Server, tool: &str, arguments: &[&str]) -> Output {
    run_as(server, None, tool, arguments)
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub(crate) fn ok(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        text(output)
    );
    text(output)
}

fn status(server: &Server) -> Value {
    status_as(server, None)
}

pub(crate) fn status_as(server: &Server, uid: Option<u32>) -> Value {
    let output = ok(&run_as(server, uid, "passenger-status", &["--json"]));
    serde_json::from_str(&output).unwrap_or_else(|e| panic!("{e}: {output}"))
}

/// The group of a site, once it is as it should be.
pub(crate) fn group_when(server: &Server, site: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let root = server.app_root(site);
    let what = format!(
        "the status of {site} to be as expected in {}",
        status(server)
    );
    until_some(&what, PATIENCE, || {
        let report = status(server);
        let groups = report["groups"].as_array()?.clone();
        let found = groups
            .into_iter()
            .find(|g| g["app_root"] == root.to_str().unwrap());
        found.filter(|group| is_it(group))
    })
}

pub(crate) fn first_process(group: &Value) -> &Value {
    &group["processes"][0]
}

#[test]
fn status_shows_processes_and_what_they_did() {
    let server = Setup::of(one_process(Language::Python)).start();
    let pid = server.get("python", "/pid").ok();
    for _ in 0..4 {
        assert_eq!(server.get("python", "/").status, 200);
    }
    let is_noted = |p: &Value| p["processed"] == 5 && p["last_used"].as_u64() > Some(0);
    let group = group_when(&server, "python", |g| is_noted(first_process(g)));
    let process = first_process(&group);
    assert_eq!(process["pid"].to_string(), pid.trim());
    assert_eq!(process["enabled"], "ENABLED");
    assert_eq!(process["sessions"], 0);
    assert!(process["spawn_ms"].as_u64() > Some(0), "{process}");
    assert!(process["rss"].as_u64() > Some(1_000), "{process}");
    assert!(process["private"].as_u64() > Some(500), "{process}");
    assert!(
        process["pss"].as_u64() >= process["private"].as_u64(),
        "{process}"
    );
    assert_eq!(group["get_wait_list_size"], 0);
    assert_eq!(group["code_generation"], 1);
    assert_eq!(group["uid"], owner_uid());

    let shown = ok(&run(&server, "passenger-status", &[]));
    let root = server.app_root("python");
    for line in [
        "Max pool size : 6".to_owned(),
        "App groups    : 1".to_owned(),
        format!("{} (production):", root.display()),
        format!("  App root: {}", root.display()),
        "  Requests in queue: 0".to_owned(),
    ] {
        assert!(
            shown.lines().any(|l| l == line),
            "{line:?} is not in {shown}"
        );
    }
    let pid = pid.trim();
    let first = format!("  * PID: {pid:<7} Sessions: 0       Processed: 5       Uptime: ");
    assert!(shown.contains(&first), "{shown}");
    assert!(shown.starts_with("Version : "), "{shown}");
    let bare = ok(&run(&server, "passenger-status", &["--no-header"]));
    assert!(bare.starts_with("-----------"), "{bare}");
}

#[test]
fn status_shows_a_request_in_work_and_those_that_wait() {
    let server = Setup::of(one_process(Language::Ruby)).start();
    assert_eq!(server.get("ruby", "/").status, 200);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| server.get("ruby", "/sleep?2000").status);
        }
        let is_it = |g: &Value| first_process(g)["sessions"] == 1 && g["get_wait_list_size"] == 2;
        let group = group_when(&server, "ruby", is_it);
        assert!(group["oldest_wait_ms"].is_u64(), "{group}");
    });
}

#[test]
fn status_works_while_the_agent_is_stopped_and_after_it_was_killed() {
    let server = Setup::of(one_process(Language::Node)).start();
    for _ in 0..3 {
        assert_eq!(server.get("node", "/").status, 200);
    }
    group_when(&server, "node", |g| first_process(g)["processed"] == 3);
    let agent = server.instance().agent();
    processes::signal(agent, Signal::SIGSTOP);
    // Nobody but the tables can tell this.
    assert_eq!(server.get("node", "/").status, 200);
    let group = group_when(&server, "node", |g| first_process(g)["processed"] == 4);
    assert_eq!(
        group["name"],
        format!("{} (production)", server.app_root("node").display())
    );
    processes::signal(agent, Signal::SIGKILL);
    until("the successor to be ready", PATIENCE, || {
        let report = status(&server);
        report["agent"]["is_ready"] == true && report["agent"]["restarts"] == 1
    });
    let report = status(&server);
    let end = report["agent"]["last_end"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(end.contains("SIGKILL"), "{report}");
    // What its predecessor had noted is not lost.
    let group = group_when(&server, "node", |g| first_process(g)["processed"] == 4);
    assert_eq!(group["uid"], owner_uid());
    let shown = ok(&run(&server, "passenger-status", &[]));
    assert!(shown.contains("restarted once (the last "), "{shown}");
}

#[test]
fn status_and_restarts_work_after_the_death_of_the_watchdog_and_of_both() {
    let server = Setup::of(one_process(Language::Ruby)).start();
    for _ in 0..3 {
        assert_eq!(server.get("ruby", "/").status, 200);
    }
    group_when(&server, "ruby", |g| first_process(g)["processed"] == 3);
    let root = server.app_root("ruby");
    for (n, with_agent) in [(3, false), (3, true)] {
        let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
        processes::signal(watchdog, Signal::SIGKILL);
        if with_agent {
            processes::signal(agent, Signal::SIGKILL);
        }
        until("others in their place", PATIENCE, || {
            let report = status(&server);
            let pid = report["instance"]["watchdog_pid"].as_i64();
            pid != Some(i64::from(watchdog)) && report["agent"]["is_ready"] == true
        });
        // Names, owners and counts have survived.
        let group = group_when(&server, "ruby", |g| first_process(g)["processed"] == n);
        assert_eq!(group["uid"], owner_uid(), "both: {with_agent}");
    }
    let before = server.get("ruby", "/pid").ok();
    ok(&run(
        &server,
        "passenger-config",
        &["restart-app", root.to_str().unwrap()],
    ));
    until("another process to serve", PATIENCE, || {
        server.get("ruby", "/pid").ok() != before
    });
}

#[test]
fn status_tells_crashes_failed_starts_and_resisted_deployments() {
    let server = Setup::of(one_process(Language::Ruby)).start();
    let pid: i32 = server
        .get("ruby", "/pid")
        .ok()
        .trim()
        .parse()
        .expect("a pid");
    processes::signal(pid, Signal::SIGKILL);
    let group = group_when(&server, "ruby", |g| g["last_crash"]["pid"] == pid);
    let how = group["last_crash"]["how"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(how.contains("SIGKILL"), "{group}");
    assert_eq!(server.get("ruby", "/").status, 200);
    let startup = server.app_root("ruby").join("config.ru");
    std::fs::write(startup, "raise 'the moon is full'\n").expect("break the app");
    let name = format!("{} (production)", server.app_root("ruby").display());
    ok(&run(
        &server,
        "passenger-config",
        &["restart-app", "--name", &name],
    ));
    let group = group_when(&server, "ruby", |g| g["resisting_deployment_error"] == true);
    assert!(group["failed_starts"].as_u64() > Some(0), "{group}");
    assert_eq!(group["last_failure"]["step"], "load");
    let shown = ok(&run(&server, "passenger-status", &[]));
    assert!(shown.contains("resisting a deployment error"), "{shown}");
    assert!(shown.contains("the moon is full"), "{shown}");
    assert!(shown.contains("    Old code\n"), "{shown}");
    assert_eq!(
        server.get("ruby", "/").status,
        200,
        "the old process serves"
    );
}

#[test]
fn whoever_floods_the_status_socket_is_turned_away_and_root_is_not() {
    let server = Setup::of(one_process(Language::Python)).start();
    assert_eq!(server.get("python", "/").status, 200);
    let socket = server.instance().directory().join("status");
    // They never read; a reporter's answer fits into the socket, so these end by themselves.
    let held: Vec<_> = (0..100)
        .map(|_| std::os::unix::net::UnixStream::connect(&socket).expect("connect"))
        .collect();
    ok(&run(&server, "passenger-status", &[]));
    drop(held);
    until("the reporters to be gone", PATIENCE, || {
        let watchdog = server.instance().watchdog();
        let children = processes::children_of(watchdog);
        !children
            .iter()
            .any(|pid| processes::command_of(*pid).contains("--report"))
    });
}
