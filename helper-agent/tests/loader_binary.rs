//! The conformance suite's second half: what the binary protocol and its two loaders, Ruby and
//! Python, promise beyond `loader_conformance.rs`: numbers, flags, bounded connections, threads.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use support::client::{Body, Request};
use support::process::{AppProcess, Launch};
use support::{binary, suite, wait_until, Language};

const MEBIBYTE: usize = 1 << 20;

suite! {
    all:;
    binary:
        repeats_the_number
        is_busy_no_more_when_it_answers
        the_last_response_says_so
        closes_the_longest_idle_of_too_many_connections
        a_small_unread_body_does_not_disturb_the_next_request
        an_endless_unread_body_ends_the_connection
        a_bodys_early_end_closes_the_connection
        a_foreign_tag_closes_the_connection
        refuses_other_users
        threads_answer_at_the_same_time
        busy_threads_are_reported_by_number
        stop_waits_for_threads
    ;
}

fn echo(language: Language) -> Option<AppProcess> {
    Launch::new(language, &language.app("echo")).start_ready()
}

fn hello(language: Language) -> Option<AppProcess> {
    Launch::new(language, &language.app("hello")).start_ready()
}

// --- the binary protocol ---

fn repeats_the_number(language: Language) {
    let Some(process) = hello(language) else {
        return;
    };
    let mut client = process.connect();
    for _ in 0..2 {
        client.send(&Request::get("/"));
        let head = binary::receive_head(&mut client.stream).expect("a head");
        assert_eq!((head.number, head.flags), (client.number(), 0));
        let mut body = vec![0; usize::try_from(head.body).expect("small")];
        client.stream.read_exact(&mut body).expect("a body");
    }
}

/// A single-threaded process answers when it is back in its loop: nothing sent before the question
/// may then be unanswered.
fn is_busy_no_more_when_it_answers(language: Language) {
    let Some(mut process) = echo(language) else {
        return;
    };
    let mut clients: Vec<_> = (0..3).map(|_| process.connect()).collect();
    clients
        .iter_mut()
        .for_each(|client| client.send(&Request::get("/?sleep_ms=30")));
    assert!(process.ask_busy("1").is_empty());
    for client in &mut clients {
        client
            .stream
            .set_nonblocking(true)
            .expect("set non-blocking");
        assert_eq!(client.receive("GET").expect("already there").status, 200);
    }
}

fn closes_the_longest_idle_of_too_many_connections(language: Language) {
    let Some(process) = hello(language) else {
        return;
    };
    let used = |_| {
        let mut client = process.connect();
        assert_eq!(client.call(&Request::get("/")).status, 200);
        client
    };
    let mut clients: Vec<_> = (0..40).map(used).collect();
    let (closed, kept) = clients.split_at_mut(8);
    for client in closed {
        assert_eq!(client.stream.read(&mut [0]).expect("an orderly end"), 0);
    }
    for client in kept {
        assert_eq!(client.call(&Request::get("/")).status, 200);
    }
}

fn a_small_unread_body_does_not_disturb_the_next_request(language: Language) {
    let Some(process) = hello(language) else {
        return;
    };
    let mut client = process.connect();
    let pieces = vec![vec![b'x'; 1000]; 3];
    for body in [
        Body::Sized(vec![b'x'; 3 * MEBIBYTE]),
        Body::Sized(vec![b'x'; 10]),
    ] {
        assert!(!client.call(&Request::post("/", body)).is_last);
    }
    let response = client.call(&Request::post("/", Body::Pieces(pieces)));
    assert_eq!(response.status, 200);
    if !response.is_last {
        assert_eq!(client.call(&Request::get("/")).status, 200);
    }
}

fn an_endless_unread_body_ends_the_connection(language: Language) {
    let Some(process) = hello(language) else {
        return;
    };
    let mut client = process.connect();
    let whole = client.encode(&Request::post("/", Body::Pieces(vec![b"begin".to_vec()])));
    client
        .stream
        .write_all(&whole[..whole.len() - 4])
        .expect("send all but the end");
    let response = client.receive("POST").expect("a response");
    assert!(response.is_last && response.status == 200);
    assert_eq!(client.stream.read(&mut [0]).expect("closed in order"), 0);
}

fn a_bodys_early_end_closes_the_connection(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    let whole = client.encode(&Request::post("/", Body::Sized(vec![b'x'; 2 * MEBIBYTE])));
    client
        .stream
        .write_all(&whole[..whole.len() - 1])
        .expect("send all but a byte");
    client
        .stream
        .shutdown(std::net::Shutdown::Write)
        .expect("half-close");
    client
        .receive("POST")
        .expect_err("no response to half a request");
    assert_eq!(process.connect().call(&Request::get("/")).status, 200);
}

fn a_foreign_tag_closes_the_connection(language: Language) {
    let Some(process) = hello(language) else {
        return;
    };
    let mut client = process.connect();
    client
        .stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("send");
    client
        .stream
        .shutdown(std::net::Shutdown::Write)
        .expect("half-close");
    let mut answer = Vec::new();
    let _ = client.stream.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{answer:?}");
    assert_eq!(process.connect().call(&Request::get("/")).status, 200);
}

/// The peer's uid is compared once per connection; only root passes besides Apache's user.
fn refuses_other_users(language: Language) {
    const TRY: &str = "import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
try:
    s.sendall(b'x'); sys.stdout.write('closed' if s.recv(1) == b'' else 'open')
except ConnectionError: sys.stdout.write('closed')";
    let is_root = nix::unistd::getuid().is_root();
    let allowed = if is_root { "4242" } else { "0" };
    let launch =
        Launch::new(language, &language.app("hello")).variable("PASSENGER_PEER_UID", allowed);
    let (Some(process), Some(python)) = (launch.start_ready(), Language::Python.interpreter())
    else {
        return;
    };
    open_to_everybody(process.socket());
    let mut attempt = Command::new(python);
    attempt
        .args(["-c", TRY])
        .arg(process.socket())
        .current_dir("/");
    if is_root {
        attempt.uid(4343);
    }
    let output = attempt.output().expect("run the client");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "closed",
        "{output:?}"
    );
    if is_root {
        assert_eq!(
            process.connect().call(&Request::get("/")).status,
            200,
            "root is welcome"
        );
    }
}

/// Leaves the refusal to the process.
fn open_to_everybody(socket: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let directory = socket.parent().expect("a directory");
    for (path, mode) in [(directory, 0o755), (socket, 0o777)] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("change the mode");
    }
}

// --- threads ---

fn threaded(language: Language) -> Option<AppProcess> {
    let launch = Launch::new(language, &language.app("echo"));
    launch.variable("PASSENGER_THREADS", "3").start_ready()
}

fn threads_answer_at_the_same_time(language: Language) {
    let Some(process) = threaded(language) else {
        return;
    };
    let mut clients = [process.connect(), process.connect(), process.connect()];
    clients[0].send(&Request::get("/?sleep_ms=3600000"));
    clients[1].send(&Request::get("/?sleep_ms=3600000"));
    for _ in 0..50 {
        assert_eq!(clients[2].call(&Request::get("/")).status, 200);
    }
}

fn busy_threads_are_reported_by_number(language: Language) {
    let Some(mut process) = threaded(language) else {
        return;
    };
    let mut slow = process.connect();
    slow.send(&Request::get("/?sleep_ms=3600000"));
    assert_eq!(process.ask_busy("1"), [slow.number()]);
    let mut quick = process.connect();
    quick.call(&Request::get("/"));
    quick.call(&Request::get("/"));
    // A thread may still be on its way back from the last byte of its response.
    wait_until(|| process.ask_busy("2") == [slow.number()]);
}

/// With threads the loop hears `stop` while a request is in execution; its response says that the
/// connection ends with it.
fn the_last_response_says_so(language: Language) {
    let Some(mut process) = threaded(language) else {
        return;
    };
    let mut client = process.connect();
    assert!(!client.call(&Request::get("/")).is_last);
    let whole = client.encode(&Request::post("/", Body::Sized(vec![b'x'; 2 * MEBIBYTE])));
    let (begin, end) = whole.split_at(whole.len() - 1);
    client.stream.write_all(begin).expect("send all but a byte");
    process.tell("stop");
    wait_until(|| UnixStream::connect(process.socket()).is_err());
    client.stream.write_all(end).expect("send the last byte");
    assert!(client.receive("POST").expect("a response").is_last);
    assert_eq!(process.wait().code(), Some(0));
}

fn stop_waits_for_threads(language: Language) {
    let Some(mut process) = threaded(language) else {
        return;
    };
    let mut clients: Vec<_> = (0..8).map(|_| process.connect()).collect();
    clients
        .iter_mut()
        .for_each(|client| client.send(&Request::get("/?sleep_ms=30")));
    process.tell("stop");
    for client in &mut clients {
        assert_eq!(client.receive("GET").expect("a response").status, 200);
    }
    assert_eq!(process.wait().code(), Some(0));
}
