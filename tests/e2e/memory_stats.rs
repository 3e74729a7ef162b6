//! `passenger-memory-stats` against a running server: every process in its table, and honest sums.

use crate::preloading::{await_preloader, wsgi};
use crate::tools::{ok, run, run_as, text};
use harness::app::APP_OWNER;
use harness::wait::{until_some, PATIENCE};
use harness::{processes, Server, Setup};
use nix::unistd::{Uid, User};
use serde_json::Value;
use std::collections::BTreeSet;

fn memory(server: &Server, uid: Option<u32>) -> Value {
    let output = run_as(server, uid, "passenger-memory-stats", &["--json"]);
    serde_json::from_str(&ok(&output)).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
}

fn pids(table: &Value) -> BTreeSet<i64> {
    let rows = table["processes"].as_array();
    let rows = rows.unwrap_or_else(|| panic!("no processes in {table}"));
    rows.iter().filter_map(|row| row["pid"].as_i64()).collect()
}

fn row(table: &Value, pid: i32) -> Value {
    let rows = table["processes"].as_array().expect("rows");
    let found = rows.iter().find(|row| row["pid"] == pid);
    found
        .unwrap_or_else(|| panic!("{pid} is not in {table}"))
        .clone()
}

/// A server with a preloader and a process that it has forked.
fn with_a_preloader() -> Server {
    let server = Setup::of(
        wsgi()
            .with("PassengerMinInstances 1")
            .with("PassengerMaxInstances 1"),
    )
    .start();
    assert_eq!(server.get("app", "/").status, 200);
    server
}

#[test]
fn everybody_is_in_the_table_where_he_belongs() {
    let server = with_a_preloader();
    let preloader = await_preloader(&server);
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    let root = server.app_root("app");
    // Processes may come and go between two looks: what counts is a look that agrees with the one before it.
    let shown = until_some("the tables to agree with what /proc says", PATIENCE, || {
        let apps = server.instance().app_pids(&root);
        let httpd: BTreeSet<i64> = processes::children_of(server.parent())
            .into_iter()
            .filter(|pid| *pid != watchdog)
            .chain([server.parent()])
            .map(i64::from)
            .collect();
        let apps: BTreeSet<i64> = apps
            .into_iter()
            .filter(|pid| *pid != preloader)
            .map(i64::from)
            .collect();
        let shown = memory(&server, None);
        let agrees =
            pids(&shown["apache"]) == httpd && pids(&shown["apps"]) == apps && !apps.is_empty();
        agrees.then_some(shown)
    });
    let own = pids(&shown["passenger"]);
    for pid in [watchdog, agent, preloader] {
        assert!(own.contains(&i64::from(pid)), "{pid} is not in {shown}");
    }
    let preloader = row(&shown["passenger"], preloader);
    assert_eq!(preloader["role"], "preloader");
    assert_eq!(preloader["app"], format!("{} (production)", root.display()));
    for table in ["apache", "passenger", "apps"] {
        let table = &shown[table];
        let rows = table["processes"].as_array().expect("rows");
        assert_eq!(table["process_count"], rows.len(), "{table}");
        let sum: u64 = rows
            .iter()
            .filter_map(|row| row["private_dirty"].as_u64())
            .sum();
        assert_eq!(table["private_dirty"], sum, "{table}");
        for row in rows {
            let size = row["vmsize"].as_u64();
            assert!(size > Some(0) && size >= row["rss"].as_u64(), "{row}");
            assert!(
                !row["name"].as_str().unwrap_or_default().is_empty(),
                "{row}"
            );
        }
    }

    let lines = ok(&run(&server, "passenger-memory-stats", &[]));
    assert!(lines.starts_with("Version: "), "{lines}");
    for title in ["Apache processes", "Passenger processes", "App processes"] {
        assert!(
            lines.contains(&format!("---------- {title} ----------\nPID ")),
            "{lines}"
        );
    }
    assert_eq!(
        lines.matches("\n### Total private dirty RSS: ").count(),
        3,
        "{lines}"
    );
    let apps = ok(&run(
        &server,
        "passenger-memory-stats",
        &["--no-apache", "--no-nginx"],
    ));
    assert!(!apps.contains("Apache processes"), "{apps}");
}

#[test]
fn who_is_not_root_sees_his_own_and_what_is_missing() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let id = |name: &str| User::from_name(name).unwrap().unwrap().uid.as_raw();
    let server = with_a_preloader();
    // Whether a process lets its owner look is the kernel's to say; what it costs, the instance knows.
    let seen = memory(&server, Some(id(APP_OWNER)));
    assert_eq!(seen["own_apps_only"], true);
    assert_eq!(seen["apps"]["process_count"], 1, "{seen}");
    assert_eq!(seen["apps"]["unknown_count"], 0, "{seen}");
    assert!(seen["apps"]["private_dirty"].as_u64() > Some(100), "{seen}");
    assert!(seen["apache"]["unknown_count"].as_u64() > Some(0), "{seen}");

    let stranger = Some(id("man"));
    let seen = memory(&server, stranger);
    assert_eq!(seen["apps"]["process_count"], 0, "{seen}");
    assert!(seen["apache"]["process_count"].as_u64() > Some(1), "{seen}");
    let lines = ok(&run_as(&server, stranger, "passenger-memory-stats", &[]));
    for words in [
        " MB (?)\n",
        "process(es) is not known",
        "Only your apps are shown",
    ] {
        assert!(lines.contains(words), "{words:?} is not in {lines}");
    }
}

#[test]
fn without_an_instance_it_says_where_it_looked() {
    let mut server = with_a_preloader();
    server.stop_within(PATIENCE);
    let output = run(&server, "passenger-memory-stats", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let registry = server.registry().display().to_string();
    assert!(text(&output).contains(&registry), "{}", text(&output));
}
