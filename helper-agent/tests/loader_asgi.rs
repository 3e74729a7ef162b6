//! What only ASGI applications have: lifespan, a body event by event, disconnects, requests at once.
//! That the loader behaves as all others do is in `loader_conformance.rs`. One path per ability in
//! `tests/fixtures/asgi`.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use support::client::{Body, Request, Response};
use support::process::{AppProcess, Launch};
use support::{binary, Language};

/// Another response to the same request follows.
const INTERIM: u32 = 4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn launch() -> Launch {
    Launch::new(Language::Asgi, &fixture("asgi"))
}

fn asgi() -> Option<AppProcess> {
    launch().start_ready()
}

fn get(process: &AppProcess, path: &str) -> Response {
    process.connect().call(&Request::get(path))
}

fn frame(client: &mut support::client::Client) -> String {
    let frame = binary::receive_frame(&mut client.stream).expect("a frame");
    String::from_utf8(frame).expect("text")
}

#[test]
fn the_scope_is_what_the_specification_says() {
    let Some(process) = asgi() else { return };
    let request = Request::get("/caf%C3%A9%2Fau/scope?a=%20b").header("X-Two-Words", "é");
    let scope = process.connect().call(&request).json();
    assert_eq!(scope["type"], "http");
    assert_eq!(scope["asgi"]["version"], "3.0");
    assert_eq!(scope["http_version"], "1.1");
    assert_eq!(scope["scheme"], "http");
    assert_eq!(scope["path"], "/café/au/scope", "decoded, as UTF-8");
    assert_eq!(scope["raw_path"], "/caf%C3%A9%2Fau/scope", "as it was sent");
    assert_eq!(scope["query_string"], "a=%20b");
    assert_eq!(scope["root_path"], "");
    assert_eq!(scope["client"], serde_json::json!(["127.0.0.1", 4711]));
    assert_eq!(scope["server"], serde_json::json!(["localhost", 80]));
    let headers = scope["headers"].as_array().expect("a list");
    assert!(headers.contains(&serde_json::json!(["host", "localhost"])));
    // Bytes, which the fixture shows as Latin-1.
    assert!(headers.contains(&serde_json::json!(["x-two-words", "Ã©"])));
    let variables = &scope["extensions"]["passenger"]["variables"];
    assert_eq!(variables["SERVER_SOFTWARE"], "conformance");
}

/// Workers say the same names first in each request, which the loader reads faster than other heads.
#[test]
fn heads_mean_the_same_in_any_order_and_the_last_word_counts() {
    let Some(process) = asgi() else { return };
    let mut client = process.connect();
    let mut scope_of = |change: fn(&mut Vec<(String, String)>)| {
        let bytes = client.encode(&Request::get("/scope?a=b"));
        client
            .stream
            .write_all(&binary::with_head(&bytes, change))
            .expect("send");
        client.receive("GET").expect("a response").json()
    };
    let expected = scope_of(|_| {});
    assert_eq!(expected["client"], serde_json::json!(["127.0.0.1", 4711]));
    assert_eq!(scope_of(|pairs| pairs.reverse()), expected);
    let overridden = scope_of(|pairs| {
        let last = [
            ("REMOTE_ADDR", "::1"),
            ("HTTPS", "on"),
            ("REMOTE_USER", "me"),
        ];
        pairs.extend(last.map(|(name, value)| (name.to_owned(), value.to_owned())));
    });
    assert_eq!(overridden["client"], serde_json::json!(["::1", 4711]));
    assert_eq!(overridden["scheme"], "https");
    assert_eq!(
        overridden["extensions"]["passenger"]["variables"]["REMOTE_USER"],
        "me"
    );
}

#[test]
fn the_lifespan_surrounds_the_requests() {
    let Some(mut process) = asgi() else { return };
    for _ in 0..2 {
        assert_eq!(
            get(&process, "/state").text(),
            "the start, nothing",
            "each request has its own copy"
        );
    }
    assert!(!process.log().contains("closing"));
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
    process.expect_log("closing the database");
}

#[test]
fn a_failed_startup_is_a_failed_start() {
    let Some(mut process) = launch().variable("ASGI_LIFESPAN", "failed").start() else {
        return;
    };
    assert_eq!(process.next_line().as_deref(), Some("step load"));
    let line = process.next_line().expect("a line");
    assert!(
        line.starts_with("error load ") && line.ends_with("no database"),
        "{line}"
    );
    assert_eq!(process.wait().code(), Some(1));
}

#[test]
fn an_application_need_not_know_the_lifespan() {
    let Some(mut process) = launch().variable("ASGI_LIFESPAN", "unknown").start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/unread").text(), "no interest");
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
    assert_eq!(process.log(), "", "that it does not is no news");
}

#[test]
fn a_body_arrives_as_it_is_sent() {
    let Some(process) = asgi() else { return };
    let mut client = process.connect();
    let pieces = ["first", "second"].map(|piece| piece.as_bytes().to_vec());
    let whole = client.encode(&Request::post("/events", Body::Pieces(pieces.to_vec())));
    let middle = whole.len() - 4 - "second".len() - 4;
    let (begin, rest) = whole.split_at(middle);
    client
        .stream
        .write_all(begin)
        .expect("send the first frame");
    binary::receive_head(&mut client.stream).expect("a head");
    assert_eq!(frame(&mut client), "first", "before the second was sent");
    client.stream.write_all(rest).expect("send the rest");
    assert_eq!(frame(&mut client), "second");
    assert_eq!(frame(&mut client), "");
}

#[test]
fn a_body_nobody_reads_does_not_disturb_the_next_request() {
    let Some(process) = asgi() else { return };
    let mut client = process.connect();
    for length in [1, 3 << 20] {
        let response = client.call(&Request::post("/unread", Body::Sized(vec![b'x'; length])));
        assert_eq!(response.text(), "no interest");
        assert!(!response.is_last);
    }
    let mut endless = process.connect();
    let whole = endless.encode(&Request::post(
        "/unread",
        Body::Pieces(vec![b"begin".to_vec()]),
    ));
    let but_the_end = &whole[..whole.len() - 4];
    endless.stream.write_all(but_the_end).expect("send");
    assert!(endless.receive("POST").expect("a response").is_last);
    let mut rest = Vec::new();
    assert_eq!(endless.stream.read_to_end(&mut rest).expect("closed"), 0);
}

#[test]
fn requests_are_executed_at_the_same_time() {
    let Some(mut process) = asgi() else { return };
    let mut waiting: Vec<_> = (0..40).map(|_| process.connect()).collect();
    for client in &mut waiting {
        client.send(&Request::get("/wait"));
    }
    let numbers = process.ask_busy("1");
    assert_eq!(numbers.len(), waiting.len());
    assert!(numbers.contains(&waiting[0].number()));
    assert_eq!(get(&process, "/open").text(), "opened");
    for client in &mut waiting {
        assert_eq!(client.receive("GET").expect("a response").text(), "open");
    }
    support::wait_until(|| process.ask_busy("2").is_empty());
}

#[test]
fn stop_waits_for_requests_and_the_last_response_says_so() {
    let Some(mut process) = asgi() else { return };
    let mut client = process.connect();
    let whole = client.encode(&Request::post("/read", Body::Sized(b"hello".to_vec())));
    let (begin, end) = whole.split_at(whole.len() - 1);
    client.stream.write_all(begin).expect("send all but a byte");
    process.tell("stop");
    support::wait_until(|| UnixStream::connect(process.socket()).is_err());
    client.stream.write_all(end).expect("send the last byte");
    let response = client.receive("POST").expect("a response");
    assert_eq!((response.text().as_str(), response.is_last), ("5", true));
    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn the_application_hears_that_the_client_is_gone() {
    let Some(process) = asgi() else { return };
    let mut client = process.connect();
    client.send(&Request::get("/disconnect"));
    process.expect_log("waiting for the end");
    drop(client);
    process.expect_log("the client is gone");
    process.expect_log("send says so too");
    assert_eq!(get(&process, "/unread").status, 200);
    assert!(
        !process.log().contains("wrapped"),
        "what comes of it is no news"
    );
}

#[test]
fn work_after_the_response_holds_up_nobody() {
    let Some(process) = asgi() else { return };
    let mut client = process.connect();
    assert_eq!(client.call(&Request::get("/after-the-end")).text(), "done");
    process.expect_log("background work");
    assert_eq!(client.call(&Request::get("/unread")).status, 200);
}

#[test]
fn bodies_keep_what_their_length_promises() {
    let Some(process) = asgi() else { return };
    assert_eq!(get(&process, "/counted").text(), "abc");
    // The announced length is the file's, which httpd sends.
    let sendfile = get(&process, "/sendfile");
    assert_eq!((sendfile.status, sendfile.body.len()), (200, 0));
    for (path, complaint) in [
        ("/short", "shorter than its Content-Length"),
        ("/half", "before its response was complete"),
    ] {
        let mut client = process.connect();
        client.send(&Request::get(path));
        client.receive("GET").expect_err("the response is cut");
        process.expect_log(complaint);
    }
    assert_eq!(
        get(&process, "/long").status,
        500,
        "known before the head left"
    );
    process.expect_log("longer than its Content-Length");
}

#[test]
fn events_out_of_order_are_errors() {
    let Some(process) = asgi() else { return };
    for (path, complaint) in [
        ("/nothing", "before its response was complete"),
        ("/body-first", "before http.response.start"),
        ("/twice", "a second time"),
        ("/nul", "NUL"),
        ("/unknown", "'http.response.confetti' is not an event"),
    ] {
        assert_eq!(get(&process, path).status, 500, "{path}");
        process.expect_log(complaint);
    }
}

#[test]
fn early_hints_come_before_the_response() {
    let Some(process) = asgi() else { return };
    let mut client = process.connect();
    client.send(&Request::get("/hints").protocol("HTTP/2.0"));
    let hints = binary::receive_head(&mut client.stream).expect("a head");
    assert_eq!((hints.flags, hints.number), (INTERIM, client.number()));
    assert_eq!(hints.text, "103\0link\0</a.css>; rel=preload");
    assert_eq!(
        client.receive("GET").expect("the response").text(),
        "hinted"
    );
    assert_eq!(
        get(&process, "/hints").status,
        500,
        "HTTP/1.1 does not announce the extension"
    );
}

#[test]
fn send_waits_for_a_slow_peer() {
    let Some(process) = asgi() else { return };
    let mut slow = process.connect();
    slow.send(&Request::get("/torrent"));
    binary::receive_head(&mut slow.stream).expect("a head");
    let sent: u32 = get(&process, "/sent").text().parse().expect("a number");
    assert!(sent < 63, "all was buffered");
    let mut length = 0;
    loop {
        match frame(&mut slow).len() {
            0 => break,
            piece => length += piece,
        }
    }
    assert_eq!(length, 64 * 65536);
}

#[test]
fn an_asynchronous_callable_is_recognised_in_the_startup_file_of_wsgi() {
    let launch = Launch::new(Language::Python, &fixture("asgi-by-callable"));
    let Some(mut process) = launch.start() else {
        return;
    };
    let mut last = String::new();
    while !last.starts_with("ready") {
        last = process.next_line().expect("it becomes ready");
    }
    assert_eq!(last, "ready concurrency=0 protocol=binary");
    assert_eq!(get(&process, "/").text(), "asynchronous");
}

#[test]
fn the_callable_may_be_called_app() {
    let launch = launch().startup_file("main.py");
    let Some(process) = launch.start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "app of passenger_asgi");
}

/// An application that has a say in its loop.
fn asgi_loop(mode: &str) -> Option<AppProcess> {
    Launch::new(Language::Asgi, &fixture("asgi-loop"))
        .variable("ASGI_LOOP", mode)
        .start_ready()
}

/// uvloop's policy is one, gevent replaces the selectors of Python.
#[test]
fn the_loop_is_what_the_application_made_of_it() {
    for (mode, selector) in [("policy", "SelectSelector"), ("patched", "PollSelector")] {
        let Some(mut process) = asgi_loop(mode) else {
            return;
        };
        let mut client = process.connect();
        for _ in 0..2 {
            assert_eq!(client.call(&Request::get("/selector")).text(), selector);
        }
        process.tell("stop");
        assert_eq!(process.wait().code(), Some(0));
    }
}

/// Reading pauses at this body (of which the kernel takes what is not read), and goes on when the application's own task asks for more.
#[test]
fn what_one_request_keeps_in_its_context_is_unknown_to_the_next() {
    for mode in ["", "policy"] {
        let Some(process) = asgi_loop(mode) else {
            return;
        };
        let mut client = process.connect();
        for _ in 0..2 {
            client.send(&Request::post("/keep", Body::Sized(vec![b'x'; 300 << 10])));
            support::wait_until(|| get(&process, "/sent").text() == "thanks");
            let kept = client.receive("POST").expect("a response").text();
            assert_eq!(kept, "nothing", "{mode:?}");
            assert_eq!(client.call(&Request::get("/tell")).text(), "nothing");
        }
    }
}

/// The second is begun by the task of the first, in the moment of its response.
#[test]
fn nor_to_one_that_was_sent_too_early() {
    let Some(process) = asgi_loop("") else { return };
    expect_nothing_told(&process);
}

fn expect_nothing_told(process: &AppProcess) {
    let mut client = process.connect();
    let mut bytes = client.encode(&Request::get("/tell"));
    let first = client.number();
    bytes.extend(client.encode(&Request::get("/tell")));
    client.stream.write_all(&bytes).expect("send both");
    for number in [first, client.number()] {
        let response = binary::receive(&mut client.stream, number).expect("a response");
        assert_eq!(response.text(), "nothing");
    }
}

/// Its first step is done when the request is read, without the loop's queue.
#[test]
fn a_request_is_a_task_like_any_other() {
    for mode in ["", "policy"] {
        let Some(process) = asgi_loop(mode) else {
            return;
        };
        let mut client = process.connect();
        for _ in 0..3 {
            let said = client.call(&Request::get("/task")).text();
            assert_eq!(said, "y".repeat(12), "{mode:?}: {}", process.log());
            assert_eq!(client.call(&Request::get("/tell")).text(), "nothing");
        }
    }
}

/// The real one, where it is installed (python3-uvloop): it has a loop, tasks and timers of its own.
#[test]
fn an_application_may_choose_uvloop() {
    let has_uvloop = Language::Asgi.interpreter().is_some_and(|python| {
        let mut command = std::process::Command::new(python);
        let output = command.args(["-c", "import uvloop"]).output();
        output.is_ok_and(|output| output.status.success())
    });
    if !has_uvloop {
        eprintln!("skipped: uvloop is not installed (tests/run/deps --frameworks)");
        return;
    }
    let mut process = asgi_loop("uvloop").expect("Python is there");
    let mut client = process.connect();
    assert_eq!(client.call(&Request::get("/loop")).text(), "uvloop");
    for _ in 0..2 {
        let said = client.call(&Request::get("/task")).text();
        assert_eq!(said, "y".repeat(12), "{}", process.log());
        let body = Body::Sized(vec![b'x'; 300 << 10]);
        let read = client.call(&Request::post("/length", body));
        assert_eq!(read.text(), (300 << 10).to_string());
        assert_eq!(client.call(&Request::get("/tell")).text(), "nothing");
    }
    expect_nothing_told(&process);
    assert!(process.ask_busy("1").is_empty(), "none is left");
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0), "{}", process.log());
    assert!(!process.log().contains("Traceback"), "{}", process.log());
}

/// `asyncio.eager_task_factory`, or before Python 3.12 the fixture's own: a request may be over when its task is made.
#[test]
fn tasks_may_be_eager() {
    let Some(mut process) = asgi_loop("eager") else {
        return;
    };
    let mut client = process.connect();
    for _ in 0..2 {
        assert_eq!(client.call(&Request::get("/tell")).text(), "nothing");
        assert_eq!(client.call(&Request::get("/fail")).status, 500);
        for length in [1, 300 << 10] {
            let body = || Body::Sized(vec![b'x'; length]);
            let told = client.call(&Request::post("/tell", body()));
            assert_eq!(told.text(), "nothing", "its body is skipped");
            let read = client.call(&Request::post("/length", body()));
            assert_eq!(read.text(), length.to_string());
        }
    }
    expect_nothing_told(&process);
    assert!(process.ask_busy("1").is_empty(), "none is left");
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
    process.expect_log("ValueError: no answer");
    let log = process.log();
    assert!(!log.contains("KeyError") && !log.contains("AttributeError"));
}
