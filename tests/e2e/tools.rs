//! `passenger-status` and `passenger-config` against a running server: what they show, also while the agent is
//! dead, who may see and steer what, and the exit statuses that scripts rely on.

use crate::one_process;
use harness::app::{owner_uid, APP_OWNER};
use harness::wait::{until, until_some, PATIENCE};
use harness::{processes, stage, Language, Server, Setup};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// Runs an installed tool for that server, as somebody else if a uid is given.
fn run_as(server: &Server, uid: Option<u32>, tool: &str, arguments: &[&str]) -> Output {
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

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn ok(output: &Output) -> String {
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

fn status_as(server: &Server, uid: Option<u32>) -> Value {
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

fn first_process(group: &Value) -> &Value {
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
fn restart_app_replaces_the_processes_of_that_app_alone() {
    let server = Setup::of(one_process(Language::Ruby))
        .site(one_process(Language::Python))
        .start();
    let before = (
        server.get("ruby", "/pid").ok(),
        server.get("python", "/pid").ok(),
    );
    let root = server.app_root("ruby");
    let said = ok(&run(
        &server,
        "passenger-config",
        &["restart-app", root.to_str().unwrap()],
    ));
    assert_eq!(
        said,
        format!("Restarting {} (production)\n", root.display())
    );
    until("another process to serve", PATIENCE, || {
        server.get("ruby", "/pid").ok() != before.0
    });
    group_when(&server, "ruby", |g| g["code_generation"] == 2);
    assert_eq!(server.get("python", "/pid").ok(), before.1);
    let nothing = run(
        &server,
        "passenger-config",
        &["restart-app", "/no/such/app"],
    );
    assert_eq!(nothing.status.code(), Some(1), "{}", text(&nothing));
    let arguments = ["restart-app", "/no/such/app", "--ignore-app-not-running"];
    ok(&run(&server, "passenger-config", &arguments));
    // A directory above means every app below.
    let above = root.parent().unwrap().to_str().unwrap();
    let said = ok(&run(&server, "passenger-config", &["restart-app", above]));
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn restart_app_of_a_dead_agent_is_done_by_its_successor() {
    let server = Setup::of(one_process(Language::Python)).start();
    let before = server.get("python", "/pid").ok();
    let agent = server.instance().agent();
    processes::signal(agent, Signal::SIGSTOP);
    let root = server.app_root("python");
    std::thread::scope(|scope| {
        let restart = scope.spawn(|| {
            run(
                &server,
                "passenger-config",
                &["restart-app", root.to_str().unwrap()],
            )
        });
        processes::signal(agent, Signal::SIGKILL);
        ok(&restart.join().expect("the tool was run"));
    });
    until("another process to serve", PATIENCE, || {
        server.get("python", "/pid").ok() != before
    });
}

#[test]
fn detach_process_drains_one_and_only_processes_of_apps() {
    let server = Setup::of(one_process(Language::Python)).start();
    let before = server.get("python", "/pid").ok();
    ok(&run(
        &server,
        "passenger-config",
        &["detach-process", before.trim()],
    ));
    until("the process to leave", PATIENCE, || {
        !processes::is_alive(before.trim().parse().expect("a pid"))
    });
    assert_ne!(server.get("python", "/pid").ok(), before);
    let httpd = server.parent().to_string();
    let refused = run(&server, "passenger-config", &["detach-process", &httpd]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let ignored = ["detach-process", &httpd, "--ignore-nonexistent-pid"];
    ok(&run(&server, "passenger-config", &ignored));
}

#[test]
fn an_owner_sees_and_steers_his_own_apps_and_nobody_elses() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let id = |name: &str| User::from_name(name).unwrap().unwrap().uid.as_raw();
    let (owner, other, stranger) = (id(APP_OWNER), id("games"), id("man"));
    let server = Setup::of(one_process(Language::Python))
        .site(one_process(Language::Ruby).with("PassengerUser games"))
        .start();
    let pids = (
        server.get("python", "/pid").ok(),
        server.get("ruby", "/pid").ok(),
    );
    group_when(&server, "ruby", |g| g["uid"] == other);
    let names = |uid| -> Vec<String> {
        let report = status_as(&server, uid);
        let groups = report["groups"]
            .as_array()
            .unwrap_or_else(|| panic!("{report}"));
        groups
            .iter()
            .map(|g| g["app_root"].as_str().unwrap_or("?").to_owned())
            .collect()
    };
    let root = |site| server.app_root(site).display().to_string();
    assert_eq!(names(None), [root("python"), root("ruby")]);
    assert_eq!(names(Some(owner)), [root("python")]);
    assert_eq!(names(Some(other)), [root("ruby")]);
    assert_eq!(names(Some(stranger)), Vec::<String>::new());
    let seen = status_as(&server, Some(owner));
    assert_eq!(
        (&seen["own_apps_only"], &seen["process_count"]),
        (&true.into(), &1.into())
    );
    assert!(first_process(&seen["groups"][0])["rss"].is_u64(), "{seen}");
    let shown = ok(&run_as(&server, Some(stranger), "passenger-status", &[]));
    assert!(shown.contains("no app of yours"), "{shown}");

    // Others' apps cannot be told from apps that do not exist.
    let name = format!("{} (production)", root("python"));
    for (uid, arguments) in [
        (stranger, ["detach-process", pids.0.trim()]),
        (other, ["detach-process", pids.0.trim()]),
        (stranger, ["restart-app", &root("python")]),
        (owner, ["restart-app", &root("ruby")]),
    ] {
        let refused = run_as(&server, Some(uid), "passenger-config", &arguments);
        assert_eq!(
            refused.status.code(),
            Some(1),
            "{uid} {arguments:?}: {}",
            text(&refused)
        );
    }
    // Nor by a client that does not ask first: the agent itself looks who it is.
    let refused = run_as(
        &server,
        Some(other),
        "passenger-config",
        &["restart-app", "--name", &name],
    );
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert_eq!(
        server.get("python", "/pid").ok(),
        pids.0,
        "nothing of it was done"
    );

    ok(&run_as(
        &server,
        Some(owner),
        "passenger-config",
        &["restart-app", &root("python")],
    ));
    until("another process to serve", PATIENCE, || {
        server.get("python", "/pid").ok() != pids.0
    });
    ok(&run_as(
        &server,
        Some(other),
        "passenger-config",
        &["detach-process", pids.1.trim()],
    ));
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

#[test]
fn instances_are_listed_and_a_stopped_one_is_not() {
    let mut server = Setup::of(one_process(Language::Python)).start();
    let list = ok(&run(
        &server,
        "passenger-config",
        &["list-instances", "--json"],
    ));
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let one = &list[0];
    assert_eq!(one["watchdog_pid"], server.instance().watchdog());
    assert_eq!(one["server_pid"], server.parent());
    assert!(
        one["server_software"]
            .as_str()
            .unwrap_or_default()
            .starts_with("Apache"),
        "{one}"
    );
    let name = one["name"].as_str().expect("a name").to_owned();
    let table = ok(&run(&server, "passenger-config", &["list-instances"]));
    assert!(
        table
            .lines()
            .nth(2)
            .is_some_and(|line| line.starts_with(&name)),
        "{table}"
    );
    ok(&run(&server, "passenger-status", &[&name[..3]]));
    let wrong = run(&server, "passenger-status", &["nosuchname"]);
    assert_eq!(wrong.status.code(), Some(1), "{}", text(&wrong));
    server.stop_within(PATIENCE);
    let none = run(&server, "passenger-status", &[]);
    assert_eq!(none.status.code(), Some(1), "{}", text(&none));
    assert!(text(&none).contains("no Apache httpd with Passenger is running"));
    let list = ok(&run(
        &server,
        "passenger-config",
        &["list-instances", "--json"],
    ));
    assert_eq!(list, "[]\n");
    assert_eq!(
        ok(&run(&server, "passenger-config", &["list-instances", "-q"])),
        ""
    );
}

#[test]
fn validate_finds_a_good_server_good_and_says_what_is_wrong_with_another() {
    let server = Setup::of(one_process(Language::Python)).start();
    let config = server.root().join("httpd.conf");
    let (config, root) = (config.to_str().unwrap(), server.app_root("python"));
    let common = [
        "validate",
        "--httpd",
        "/usr/sbin/apache2",
        "--config",
        config,
    ];
    let json = |more: &[&str]| {
        let arguments = [&common, more, &["--json"]].concat();
        let output = run(&server, "passenger-config", &arguments);
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), value)
    };
    let (code, report) = json(&["--app", root.to_str().unwrap()]);
    assert_eq!(report["errors"], 0, "{report:#}");
    assert!(matches!(code, Some(0 | 2)), "{code:?}");
    let checks = report["checks"].as_array().expect("checks").clone();
    let app = checks.last().expect("a check");
    assert!(
        app["details"]
            .as_str()
            .unwrap_or_default()
            .contains("It was ready after"),
        "{app}"
    );

    std::fs::write(root.join("passenger_wsgi.py"), "import no_such_module\n").expect("break it");
    let (code, report) = json(&["--app", root.to_str().unwrap()]);
    assert_eq!(
        (code, &report["errors"]),
        (Some(1), &1.into()),
        "{report:#}"
    );
    let checks = report["checks"].as_array().expect("checks").clone();
    let details = checks.last().expect("a check")["details"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        details.contains("no_such_module") && details.contains("dependencies"),
        "{details}"
    );

    let broken = server.root().join("broken.conf");
    let text_of = std::fs::read_to_string(config).expect("read httpd.conf");
    let without = text_of.replace(
        "LoadModule passenger_module",
        "# LoadModule passenger_module",
    );
    std::fs::write(&broken, without).expect("write a configuration");
    let arguments = ["validate-install", "--config", broken.to_str().unwrap()];
    let output = run(&server, "passenger-config", &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("✗"), "{}", text(&output));
}

#[test]
fn help_names_every_command() {
    let output = Command::new(stage::prefix().join("bin/passenger-config"))
        .arg("--help")
        .output();
    let help = ok(&output.expect("run passenger-config"));
    for word in [
        "restart-app",
        "detach-process",
        "list-instances",
        "validate",
        "EXIT STATUS",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
