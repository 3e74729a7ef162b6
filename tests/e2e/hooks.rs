//! Hooks: programs of root's that are run when something happens. What they are told, and which are run at all.

use crate::one_process;
use crate::scripts::{broken, chmod, Scripts};
use harness::wait::PATIENCE;
use harness::{processes, until, Client, Language, Request, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn value<'a>(told: &'a [String], name: &str) -> &'a str {
    let is_it = |line: &&String| line.split('=').next() == Some(name);
    let line = told.iter().find(is_it);
    let line = line.unwrap_or_else(|| panic!("no {name} in {told:?}"));
    &line[name.len() + 1..]
}

fn names(told: &[String]) -> Vec<&str> {
    let name = |line: &'_ String| !line.starts_with("LANG=") && !line.starts_with("LC_ALL=");
    let shown = told.iter().filter(|line| name(line));
    let mut names: Vec<&str> = shown.filter_map(|line| line.split('=').next()).collect();
    names.retain(|name| *name != "TZ");
    names.sort_unstable();
    names
}

#[test]
fn processes_that_come_and_go_are_told_with_pid_and_app_and_nothing_else() {
    let scripts = Scripts::new();
    let record = scripts.recorder();
    let site = one_process(Language::Python).with("SetEnv SECRET swordfish");
    let mut server = Setup::of(site)
        .env("TOKEN", "swordfish")
        .with(&format!("PassengerCtl hook_attached_process {record}"))
        .with(&format!("PassengerCtl hook_detached_process {record}"))
        .start();
    let pid = server.await_processes("python", 1)[0];
    let attached = scripts.await_told("attached_process");
    let root = server.app_root("python").display().to_string();
    for (name, expected) in [
        ("PASSENGER_HOOK_NAME", "attached_process"),
        ("PASSENGER_PROCESS_PID", &pid.to_string()),
        ("PASSENGER_APP_ROOT", &root),
        ("PASSENGER_APP_GROUP_NAME", &format!("{root} (production)")),
    ] {
        assert_eq!(value(&attached, name), expected);
    }
    assert_eq!(
        names(&attached),
        [
            "PASSENGER_APP_GROUP_NAME",
            "PASSENGER_APP_ROOT",
            "PASSENGER_HOOK_NAME",
            "PASSENGER_PROCESS_PID",
            "PATH"
        ]
    );
    // One that is killed is not there any more, and another comes.
    processes::signal(pid, Signal::SIGKILL);
    let gone = scripts.await_told("detached_process");
    assert_eq!(value(&gone, "PASSENGER_PROCESS_PID"), pid.to_string());
    until("another process", PATIENCE, || {
        scripts.told("attached_process").len() == 2
    });
    // One that ends with httpd is told of, too.
    server.stop_within(PATIENCE);
    assert_eq!(scripts.told("detached_process").len(), 2);
    assert_eq!(scripts.told("attached_process").len(), 2, "each once");
    assert!(
        server.survivors_after_a_moment().is_empty(),
        "{}",
        server.evidence()
    );
}

#[test]
fn a_start_that_fails_is_told_with_message_and_id_in_one_line() {
    let scripts = Scripts::new();
    let record = scripts.recorder();
    let server = Setup::of(broken())
        .with(&format!("PassengerCtl hook_spawn_failed {record}"))
        .start();
    assert_eq!(server.get("broken", "/").status, 500);
    let told = scripts.await_told("spawn_failed");
    let id = value(&told, "PASSENGER_ERROR_ID").to_owned();
    assert_eq!(id.len(), 8, "{told:?}");
    server.log().expect(&format!("(error {id})"));
    assert!(!value(&told, "PASSENGER_ERROR_MESSAGE").is_empty());
    let root = server.app_root("broken").display().to_string();
    assert_eq!(value(&told, "PASSENGER_APP_ROOT"), root);
    assert_eq!(
        names(&told),
        [
            "PASSENGER_APP_GROUP_NAME",
            "PASSENGER_APP_ROOT",
            "PASSENGER_ERROR_ID",
            "PASSENGER_ERROR_MESSAGE",
            "PASSENGER_HOOK_NAME",
            "PATH"
        ],
        "{told:?}"
    );
}

#[test]
fn many_refused_requests_are_told_as_numbers() {
    let scripts = Scripts::new();
    let record = scripts.recorder();
    let site = Site::probe(Language::Python)
        .with("PassengerMaxInstances 1")
        .with("PassengerMaxRequestQueueSize 1");
    let server = Setup::of(site)
        .with(&format!("PassengerCtl hook_queue_full_error {record}"))
        .start();
    let mut first = server.client("python");
    first
        .send(&Request::get("/hold?one"))
        .expect("send the request");
    server.await_file("python", "one.begun");
    // One of these waits, the other is refused: from then on the queue is full.
    let crowd: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = server.client("python");
            client
                .send(&Request::get("/pid"))
                .expect("send the request");
            client
        })
        .collect();
    server.log().expect("PSGR0206");
    for _ in 0..40 {
        assert_eq!(server.get("python", "/pid").status, 503);
    }
    // And the one of the two.
    let refused = 41;
    let told = || -> usize {
        let told = scripts.told("queue_full_error");
        let numbers = told
            .iter()
            .map(|it| value(it, "PASSENGER_REJECTED_REQUESTS"));
        numbers.map(|n| n.parse::<usize>().expect("a number")).sum()
    };
    until("all of them to be told", PATIENCE, || told() >= refused);
    assert_eq!(told(), refused);
    assert!(scripts.told("queue_full_error").len() < refused, "together");
    let root = server.app_root("python").display().to_string();
    let one = scripts.await_told("queue_full_error");
    assert_eq!(value(&one, "PASSENGER_APP_ROOT"), root);
    server.touch("python", "one.go");
    assert_eq!(first.response().expect("the answer").ok(), "one\n");
    drop(crowd);
}

#[test]
fn a_process_lives_until_the_hook_has_looked_at_its_long_request() {
    let scripts = Scripts::new();
    let look = scripts.script(
        "look",
        "cat /proc/$PASSENGER_PROCESS_PID/stat >$D/seen\nwhile [ ! -e $D/go ]; do sleep 0.1; done",
    );
    let site = Site::probe(Language::Python)
        .with("PassengerMinInstances 1")
        .with("PassengerMaxRequestTime 1");
    let server = Setup::of(site)
        .with(&format!(
            "PassengerCtl hook_max_request_time_reached {look}"
        ))
        .start();
    let pid = server.await_processes("python", 1)[0];
    let mut client = server.client("python");
    client
        .send(&Request::get("/hold?one"))
        .expect("send the request");
    until("the hook", PATIENCE, || scripts.has("seen"));
    let beginning = format!("{pid} ");
    until("what it saw", PATIENCE, || {
        scripts.read("seen").starts_with(&beginning)
    });
    // Meanwhile nobody else comes to it.
    let another = server.get("python", "/pid").ok();
    assert_ne!(another.trim(), pid.to_string());
    fs::write(scripts.0.join("go"), "").expect("let it end");
    until("the process to be killed", PATIENCE, || {
        !processes::is_alive(pid)
    });
    server.log().expect("(PassengerMaxRequestTime)");
}

#[test]
fn a_program_that_others_could_change_keeps_httpd_from_starting() {
    let scripts = Scripts::new();
    let good = scripts.script("good", "exit 0");
    let bad = scripts.script("bad", "exit 0");
    chmod(Path::new(&bad), 0o757);
    let check = |line: &str| {
        let file = scripts.0.join("httpd.conf");
        let prefix = harness::stage::prefix();
        let (root, prefix) = (scripts.0.display(), prefix.display());
        let text = format!(
            "ServerRoot \"{root}\"\nServerName localhost\nListen 127.0.0.1:1\nPidFile \"{root}/pid\"\n\
             ErrorLog \"{root}/error.log\"\n\
             LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
             LoadModule passenger_module \"{prefix}/modules/mod_passenger.so\"\n{line}\n"
        );
        fs::write(&file, text).expect("write a configuration");
        let output = Command::new("/usr/sbin/apache2")
            .args(["-t", "-f"])
            .arg(&file)
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .expect("run /usr/sbin/apache2 -t");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let (is_accepted, said) = check(&format!("PassengerCtl hook_spawn_failed {good}"));
    assert!(is_accepted, "{said}");
    for (line, words) in [
        (
            format!("\"{good};{bad}\""),
            format!("{bad} can be changed by others"),
        ),
        (bad.clone(), "httpd.conf:8)".to_owned()),
        (format!("{good}.not"), "cannot look at".to_owned()),
        ("good".to_owned(), "is not the absolute path".to_owned()),
    ] {
        let (is_accepted, said) = check(&format!("PassengerCtl hook_spawn_failed {line}"));
        assert!(!is_accepted && said.contains(&words), "{line}: {said}");
        assert!(said.contains("hook_spawn_failed"), "{line}: {said}");
    }
}

#[test]
fn a_program_that_others_can_change_meanwhile_is_not_run() {
    let scripts = Scripts::new();
    let first = scripts.script("first", "touch $D/first.ran");
    let second = scripts.script("second", "touch $D/second.ran");
    let server = Setup::of(broken())
        .with(&format!("PassengerCtl hook_spawn_failed {first};{second}"))
        .start();
    chmod(Path::new(&second), 0o777);
    assert_eq!(server.get("broken", "/").status, 500);
    let place = format!("{}/httpd.conf:", server.root().display());
    let refused = format!("hook spawn_failed: {second} is not run: {second} can be changed");
    server.log().expect(&refused);
    let text = server.log().text();
    let line = text.lines().find(|line| line.contains(&refused));
    assert!(line.expect("the line").contains(&place), "{text}");
    assert!(scripts.has("first.ran") && !scripts.has("second.ran"));
    // Nor does a restart end httpd for it; it is said again.
    server.graceful();
    server.log().expect(&format!(
        "PassengerCtl hook_spawn_failed: {second} can be changed"
    ));
}

/// Interpreters look for modules where they are, and httpd's user may write where it leaves its core files.
#[test]
fn a_program_does_not_run_where_others_may_write() {
    let scripts = Scripts::new();
    let record = scripts.script("place", "pwd >$D/.pwd\nmv $D/.pwd $D/pwd");
    let cores = scripts.0.join("cores");
    fs::create_dir(&cores).expect("create a directory");
    chmod(&cores, 0o777);
    let _server = Setup::of(one_process(Language::Python))
        .with(&format!("CoreDumpDirectory {}", cores.display()))
        .with(&format!("PassengerCtl hook_attached_process {record}"))
        .start();
    until("the hook", PATIENCE, || scripts.has("pwd"));
    assert_eq!(scripts.read("pwd"), "/\n");
}
