//! `passenger-config` against a running server: restarts, processes that are detached, instances, checks; who may
//! see and steer what, and the exit statuses that scripts rely on.

use crate::one_process;
use crate::tools::{first_process, group_when, ok, run, run_as, status_as, text};
use harness::app::APP_OWNER;
use harness::wait::{until, PATIENCE};
use harness::{processes, stage, App, Language, Setup, Site};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use serde_json::Value;
use std::fs;
use std::process::Command;

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

/// The setting would have everybody wait for code that does not get ready.
#[test]
fn a_restart_that_is_to_roll_makes_nobody_wait_whatever_is_configured() {
    let code = "\
import os, time
code = open('code').read()
while os.path.exists('hold'):
    time.sleep(0.01)

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [code.encode()]
";
    let app = App::inline(Language::Python, code).file("code", "one");
    let site = Site::new("app", app)
        .with("PassengerRollingRestarts off")
        .with("PassengerMaxInstances 2");
    let server = Setup::of(site).start();
    assert_eq!(server.get("app", "/").ok(), "one");
    server.touch("app", "hold");
    let root = server.app_root("app");
    fs::write(root.join("code"), "two").expect("write the code");
    let root = root.to_str().expect("UTF-8");
    let restart = ["restart-app", root, "--rolling-restart"];
    ok(&run(&server, "passenger-config", &restart));
    for _ in 0..10 {
        assert_eq!(server.get("app", "/").ok(), "one");
    }
    fs::remove_file(server.app_root("app").join("hold")).expect("let it start");
    until("the new code", PATIENCE, || {
        server.get("app", "/").ok() == "two"
    });
}

#[test]
fn an_app_is_tried_with_the_directives_of_the_server_that_runs_it() {
    let good = "\
def application(environ, start_response):
    start_response('200 OK', [])
    return [b'good']
";
    let app = App::inline(Language::Python, "import no_such_module\n").file("odd.py", good);
    let site = Site::new("app", app)
        .with("PassengerAppType wsgi")
        .with("PassengerStartupFile odd.py");
    let server = Setup::of(site).start();
    assert_eq!(server.get("app", "/").ok(), "good");
    let root = server.app_root("app");
    let tried = || {
        let arguments = ["validate", "--json", "--app", root.to_str().expect("UTF-8")];
        let output = run(&server, "passenger-config", &arguments);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let checks = report["checks"].as_array().expect("checks").clone();
        checks.last().expect("a check").clone()
    };
    let check = tried();
    assert_eq!(check["level"], "ok", "{check}");
    let details = check["details"].as_str().expect("text").to_owned();
    let name = server.instance().directory().to_owned();
    let name = name
        .extension()
        .and_then(|name| name.to_str())
        .expect("a name");
    assert!(
        details.contains(&format!("instance {name} has for it")),
        "{details}"
    );
    fs::write(root.join("odd.py"), "import still_no_such_module\n").expect("break it");
    let check = tried();
    assert_eq!(check["level"], "error", "{check}");
    assert!(check["details"]
        .as_str()
        .expect("text")
        .contains("still_no_such_module"));
}
