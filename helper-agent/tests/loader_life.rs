//! The life of a process, the same in all languages: the steps of its start and what is said of a failed one,
//! the agent's commands and signals, its end, and what its children get of it.

mod support;

use std::io::Read;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use support::client::{Body, Request};
use support::process::{AppProcess, Launch};
use support::{suite, Language};

suite! {
    all:
        says_each_step_until_ready
        cleans_the_environment
        an_exit_while_loading_is_reported
        an_exception_while_loading_is_reported
        a_syntax_error_is_reported
        sigterm_while_loading_ends_it
        an_idle_process_is_not_busy
        stop_answers_what_was_sent
        sigterm_answers_what_was_sent
        the_end_of_the_control_socket_ends_the_process
        stop_ends_a_process_with_idle_connections
        sigusr1_asks_to_leave
        a_child_inherits_no_descriptor;
    binary:
        a_forked_child_lets_go_of_all_sockets;
}

/// SHA-256 of `hello`.
const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn echo(language: Language) -> Option<AppProcess> {
    Launch::new(language, &language.app("echo")).start_ready()
}

fn hello(language: Language) -> Option<AppProcess> {
    Launch::new(language, &language.app("hello")).start_ready()
}

// --- start ---

fn says_each_step_until_ready(language: Language) {
    let launch = Launch::new(language, &language.app("hello"));
    let Some(mut process) = launch.start() else {
        return;
    };
    let lines: Vec<_> = (0..3).filter_map(|_| process.next_line()).collect();
    let ready = match language {
        Language::Node => "ready concurrency=0 protocol=http",
        Language::Asgi => "ready concurrency=0 protocol=binary",
        _ => "ready concurrency=1 protocol=binary",
    };
    assert_eq!(lines, ["step load", "step listen", ready]);
}

fn cleans_the_environment(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let environment = process.connect().call(&Request::get("/")).json()["process_env"].take();
    assert_eq!(environment["IN_PASSENGER"], "1");
    assert_eq!(environment["PASSENGER_APP_ENV"], "production");
    for removed in [
        "APP_ROOT",
        "STARTUP_FILE",
        "APP_GROUP_NAME",
        "PEER_UID",
        "THREADS",
    ] {
        let name = format!("PASSENGER_{removed}");
        assert!(environment.get(&name).is_none(), "{name} is still there");
    }
}

/// Starts the application `broken-<kind>`: what it says in `error`, and its output.
fn failed_start(language: Language, kind: &str) -> Option<(String, String)> {
    let mut process = Launch::new(language, &language.app(&format!("broken-{kind}"))).start()?;
    let mut last = String::new();
    while let Some(line) = process.next_line() {
        last = line;
    }
    assert_eq!(
        process.wait().code().map(|code| code != 0),
        Some(true),
        "exits, and not with 0"
    );
    process.expect_log(if kind == "exits" {
        "database"
    } else {
        "broken-"
    });
    let sentence = last.strip_prefix("error load ").map(str::to_owned);
    Some((
        sentence.unwrap_or_else(|| panic!("{last:?} is no error line")),
        process.log(),
    ))
}

fn an_exit_while_loading_is_reported(language: Language) {
    let Some((sentence, log)) = failed_start(language, "exits") else {
        return;
    };
    assert!(
        sentence.contains("exit") && sentence.contains('3'),
        "{sentence}"
    );
    assert!(sentence.contains(language.startup_file()), "{sentence}");
    assert!(log.contains("the database is not there"), "{log}");
}

fn an_exception_while_loading_is_reported(language: Language) {
    let Some((sentence, log)) = failed_start(language, "raises") else {
        return;
    };
    assert!(
        sentence.contains("broken-raises: no such setting"),
        "{sentence}"
    );
    assert!(log.contains("connect"), "no backtrace in {log}");
}

fn a_syntax_error_is_reported(language: Language) {
    let Some((sentence, log)) = failed_start(language, "syntax") else {
        return;
    };
    assert!(sentence.contains("SyntaxError"), "{sentence}");
    assert!(log.contains(language.startup_file()), "{log}");
}

fn sigterm_while_loading_ends_it(language: Language) {
    let launch = Launch::new(language, &language.app("broken-hangs"));
    let Some(mut process) = launch.start() else {
        return;
    };
    process.expect_log("broken-hangs");
    process.signal(Signal::SIGTERM);
    process.wait();
}

// --- the agent's commands ---

fn an_idle_process_is_not_busy(language: Language) {
    let Some(mut process) = hello(language) else {
        return;
    };
    assert!(process.ask_busy("17").is_empty());
    process.connect().call(&Request::get("/"));
    assert!(process.ask_busy("x-y").is_empty());
}

/// Sends a slow request on each of three connections, then what `end` does, and expects three
/// responses and a clean exit. The process may not even have accepted the connections by then.
fn ends_after_answering(language: Language, end: impl FnOnce(&mut AppProcess)) {
    let Some(mut process) = echo(language) else {
        return;
    };
    let mut idle = process.connect();
    idle.call(&Request::get("/"));
    let mut clients: Vec<_> = (0..3).map(|_| process.connect()).collect();
    let slow = Request::post("/?sleep_ms=50", Body::Sized(b"hello".to_vec()));
    clients.iter_mut().for_each(|client| client.send(&slow));
    end(&mut process);
    for client in &mut clients {
        let response = client.receive("POST").expect("a response");
        assert_eq!(response.json()["body"]["sha256"], HELLO_SHA256);
    }
    assert_eq!(process.wait().code(), Some(0));
    UnixStream::connect(process.socket()).expect_err("nobody listens any more");
    assert_eq!(idle.stream.read(&mut [0]).expect("closed in order"), 0);
}

fn stop_answers_what_was_sent(language: Language) {
    ends_after_answering(language, |process| process.tell("stop"));
}

fn sigterm_answers_what_was_sent(language: Language) {
    ends_after_answering(language, |process| process.signal(Signal::SIGTERM));
}

fn the_end_of_the_control_socket_ends_the_process(language: Language) {
    ends_after_answering(language, AppProcess::hang_up);
}

fn stop_ends_a_process_with_idle_connections(language: Language) {
    let Some(mut process) = hello(language) else {
        return;
    };
    let _never_used = process.connect();
    let mut used = process.connect();
    used.call(&Request::get("/"));
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
}

fn sigusr1_asks_to_leave(language: Language) {
    let Some(mut process) = hello(language) else {
        return;
    };
    process.signal(Signal::SIGUSR1);
    assert_eq!(process.next_line().as_deref(), Some("leave"));
    assert_eq!(process.connect().call(&Request::get("/")).status, 200);
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
}

fn a_child_inherits_no_descriptor(language: Language) {
    expect_no_socket_of_ours(language, "/?child_fds=1");
}

fn a_forked_child_lets_go_of_all_sockets(language: Language) {
    expect_no_socket_of_ours(language, "/?fork_fds=1");
}

fn expect_no_socket_of_ours(language: Language, target: &str) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    client.call(&Request::get("/"));
    let ours = process.open_sockets();
    assert!(
        ours.len() >= 3,
        "control, listener and a connection, not {ours:?}"
    );
    let inherited = client.call(&Request::get(target)).text();
    // At least its own standard streams: pipes, or socket pairs as Node makes them.
    assert!(
        inherited.contains("pipe:[") || inherited.contains("socket:["),
        "{inherited:?} is a list of descriptors"
    );
    for socket in ours {
        assert!(!inherited.contains(&socket), "{socket} in {inherited}");
    }
    assert_eq!(
        client.call(&Request::get("/")).status,
        200,
        "the parent kept its own"
    );
}
