//! What scripts and exporters for the original call: its XML, its API by `api-call`, its `about`, and commands that there is
//! nothing to do for.

use crate::one_process;
use crate::tools::{first_process, group_when, ok, run, run_as, text};
use harness::wait::{until, PATIENCE};
use harness::{stage, Language, Server, Setup};
use nix::unistd::{Uid, User};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

/// Reads XML and prints what an exporter would look at.
const READER: &str = "
import json, sys, xml.etree.ElementTree as tree
info = tree.fromstring(sys.stdin.buffer.read())
group = info.find('supergroups/supergroup/group')
process = group.find('processes/process')
print(json.dumps({
    'version': info.get('version'), 'max': info.findtext('max'), 'processes': info.findtext('process_count'),
    'name': group.findtext('name'), 'root': group.findtext('options/app_root'), 'queue': group.findtext('get_wait_list_size'),
    'pid': process.findtext('pid'), 'processed': process.findtext('processed'), 'life': process.findtext('life_status'),
    'memory': int(process.findtext('real_memory')), 'command': process.findtext('command'),
    'spawned': int(process.findtext('spawn_end_time')) - int(process.findtext('spawn_start_time')),
}))
";

fn read_xml(document: &str) -> Value {
    let mut reader = Command::new("/usr/bin/python3")
        .args(["-c", READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the reader");
    let mut input = reader.stdin.take().expect("its input");
    input
        .write_all(document.as_bytes())
        .expect("give it the document");
    drop(input);
    let read = ok(&reader.wait_with_output().expect("wait for the reader"));
    serde_json::from_str(&read).unwrap_or_else(|e| panic!("{e}: {read}"))
}

fn config(server: &Server, arguments: &[&str]) -> String {
    ok(&run(server, "passenger-config", arguments))
}

fn api(server: &Server, arguments: &[&str]) -> Value {
    let answer = config(server, &[&["api-call"], arguments].concat());
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

#[test]
fn exporters_of_the_originals_xml_find_what_they_read() {
    let server = Setup::of(one_process(Language::Python)).start();
    for _ in 0..3 {
        assert_eq!(server.get("python", "/").status, 200);
    }
    let is_noted = |g: &Value| {
        first_process(g)["processed"] == 3 && first_process(g)["spawn_ms"].as_u64() > Some(0)
    };
    let group = group_when(&server, "python", is_noted);
    let shown = ok(&run(&server, "passenger-status", &["--show=xml"]));
    let read = read_xml(&shown);
    let root = server.app_root("python").display().to_string();
    for (field, expected) in [
        ("version", "3".to_owned()),
        ("max", "6".to_owned()),
        ("processes", "1".to_owned()),
        ("name", format!("{root} (production)")),
        ("root", root),
        ("queue", "0".to_owned()),
        ("pid", first_process(&group)["pid"].to_string()),
        ("processed", "3".to_owned()),
        ("life", "ALIVE".to_owned()),
    ] {
        assert_eq!(read[field], expected, "{field} in {shown}");
    }
    assert!(read["memory"].as_u64() > Some(100), "{shown}");
    assert!(read["spawned"].as_u64() > Some(0), "{shown}");
    assert!(
        !read["command"].as_str().unwrap_or_default().is_empty(),
        "{shown}"
    );
    let same = config(&server, &["api-call", "GET", "/pool.xml"]);
    assert_eq!(read_xml(&same)["pid"], read["pid"]);
    for show in ["server", "requests", "backtraces", "union_station"] {
        let refused = run(&server, "passenger-status", &["--show", show]);
        assert_eq!(refused.status.code(), Some(2), "{show}: {}", text(&refused));
        assert!(
            !refused.stderr.is_empty() && refused.stdout.is_empty(),
            "{show}"
        );
    }
}

#[test]
fn api_calls_answer_as_the_api_of_the_original_does() {
    let server = Setup::of(one_process(Language::Python)).start();
    let pid = server.get("python", "/pid").ok();
    assert_eq!(api(&server, &["get", "/ping.json"])["status"], "ok");
    let pool = api(&server, &["GET", "/pool.json"]);
    assert_eq!(
        first_process(&pool["groups"][0])["pid"].to_string(),
        pid.trim()
    );
    let version = api(&server, &["GET", "/version.json"]);
    assert_eq!(
        version["passenger_version"],
        pool["instance"]["passenger_version"]
    );
    let shown = config(&server, &["api-call", "GET", "/pool.txt?verbose=true"]);
    assert!(
        shown.contains("  * PID: ") && shown.contains("Socket: apps/"),
        "{shown}"
    );
    let metrics = config(&server, &["api-call", "GET", "/metrics", "--show-headers"]);
    assert!(
        metrics.starts_with("Status: 200\nContent-Type: application/openmetrics-text"),
        "{metrics}"
    );
}

/// Path of the call that restarts an app.
const RESTART: &str = "/pool/restart_app_group.json";

#[test]
fn api_calls_restart_and_detach_what_is_the_callers() {
    let server = Setup::of(one_process(Language::Python)).start();
    let pid = || server.get("python", "/pid").ok().trim().to_owned();
    let first = pid();
    let name = format!("{} (production)", server.app_root("python").display());
    let body = serde_json::json!({ "name": name, "restart_method": "rolling" }).to_string();
    if Uid::effective().is_root() {
        let stranger = User::from_name("man").unwrap().unwrap().uid.as_raw();
        let arguments = ["api-call", "POST", RESTART, "-d", &body];
        let answer = ok(&run_as(
            &server,
            Some(stranger),
            "passenger-config",
            &arguments,
        ));
        assert!(answer.contains("\"restarted\": false"), "{answer}");
        assert_eq!(pid(), first, "nothing was done");
    }
    assert_eq!(
        api(&server, &["POST", RESTART, "-d", &body])["restarted"],
        true
    );
    until("another process", PATIENCE, || pid() != first);

    let second = pid();
    let file = server.root().join("body.json");
    std::fs::write(&file, format!("{{\"pid\":{second}}}")).expect("write the body");
    let detach = [
        "POST",
        "/pool/detach_process.json",
        "-f",
        file.to_str().unwrap(),
    ];
    assert_eq!(api(&server, &detach)["detached"], true);
    until("another process", PATIENCE, || pid() != second);
    assert_eq!(
        api(
            &server,
            &["POST", "/pool/detach_process.json", "-d", "{\"pid\":1}"]
        )["detached"],
        false
    );
}

#[test]
fn api_calls_that_cannot_be_answered_say_why() {
    let server = Setup::of(one_process(Language::Python)).start();
    for (arguments, status) in [
        (&["GET", "/server.json"][..], "404"),
        (&["GET", RESTART], "405"),
        (&["POST", RESTART, "-d", "{}"], "422"),
        (
            &[
                "POST",
                RESTART,
                "-d",
                &" ".repeat(128 * 1024 - 1),
                "--instance",
                "",
            ],
            "422",
        ),
    ] {
        let line = [&["api-call", "--show-headers"], arguments].concat();
        let refused = run(&server, "passenger-config", &line);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(
            text(&refused).starts_with(&format!("Status: {status}\n")),
            "{}",
            text(&refused)
        );
        let line = [&["api-call", "--ignore-response-code"], arguments].concat();
        ok(&run(&server, "passenger-config", &line));
    }
    let long = server.root().join("long.json");
    std::fs::write(&long, " ".repeat(128 * 1024 + 1)).expect("write the body");
    let line = [
        "api-call",
        "POST",
        RESTART,
        "--show-headers",
        "-f",
        long.to_str().unwrap(),
    ];
    let refused = run(&server, "passenger-config", &line);
    assert!(
        text(&refused).starts_with("Status: 413\n"),
        "{}",
        text(&refused)
    );
}

#[test]
fn scripts_for_the_original_get_facts_and_answers() {
    let server = Setup::of(one_process(Language::Python)).start();
    let prefix = format!(
        "{}\n",
        stage::prefix().canonicalize().expect("the stage").display()
    );
    assert_eq!(config(&server, &["about", "root"]), prefix);
    assert_eq!(config(&server, &["--root"]), prefix);
    assert_eq!(config(&server, &["about", "compiled"]), "");
    let version = config(&server, &["about", "version"]);
    let status = ok(&run(&server, "passenger-status", &[]));
    assert!(
        status.starts_with(&format!("Version : {version}")),
        "{status}"
    );
    let ruby = config(&server, &["--ruby-command"]);
    assert!(ruby.contains("To use in Apache: PassengerRuby /"), "{ruby}");
    let httpd = config(&server, &["about", "detect-apache2"]);
    assert!(httpd.contains("Server version: Apache/2."), "{httpd}");
    for nothing_to_do in [
        &["reopen-logs"][..],
        &["build-native-support"],
        &["compile-agent", "--auto"],
        &["install-agent", "--url-root", "x"],
    ] {
        let answer = config(&server, nothing_to_do);
        assert!(answer.starts_with("Nothing to do: "), "{answer}");
    }
    for not_here in [
        &["about", "ruby-libdir"][..],
        &["--nginx-addon-dir"],
        &["compile-nginx-engine", "--brief"],
        &["system-metrics", "--xml"],
    ] {
        let answer = run(&server, "passenger-config", not_here);
        assert_eq!(
            answer.status.code(),
            Some(1),
            "{not_here:?}: {}",
            text(&answer)
        );
        assert!(!answer.stderr.is_empty(), "{not_here:?}");
    }
}
