//! What apps of each language may rely on, through httpd: the checkers of their specifications, server-sent
//! events, what only ASGI can do, threads, early hints, interpreters. The apps are in `fixtures/languages`.

use crate::clients::with_h2;
use harness::stage::repository;
use harness::{App, Language, Request, Server, Setup, Site};
use std::path::Path;
use std::process::Command;

/// The files of apps, and the names that make them startup files.
pub(crate) const CONFIG_RU: &str = "config.ru";
pub(crate) const WSGI: &str = "passenger_wsgi.py";
pub(crate) const ASGI: &str = "passenger_asgi.py";
pub(crate) const APP_JS: &str = "app.js";

/// The text of an app.
pub(crate) fn fixture(file: &str) -> String {
    let path = repository().join("tests/e2e/fixtures/languages").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// A site of one process whose startup file is that fixture.
pub(crate) fn site(name: &str, startup_file: &str, fixture_file: &str) -> Site {
    let app = App::files().file(startup_file, &fixture(fixture_file));
    Site::new(name, app).with("PassengerMinInstances 1")
}

// --- the checkers ---

/// What a checker complains about is a 500. The site is called `checked`.
pub(crate) fn checker_is_content(checked: Site) {
    const MEBIBYTE_OF_X: &str = "8f990ba0b577b51cf009ea049368c16bbda1b21e1b93be07a824758bb253c39b";
    const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let server = Setup::of(checked).start();
    let get = |target: &str| server.get("checked", target);
    assert_eq!(get("/").ok(), format!("GET 0 {NOTHING}\n"));
    assert_eq!(get("/?a=%20b&c=%C3%A9").ok(), format!("GET 0 {NOTHING}\n"));
    assert_eq!(get("/chunks").ok(), "0\n1\n2\n");
    assert_eq!(get("/empty").status, 204);
    let body = vec![b'x'; 1 << 20];
    for _ in 0..2 {
        let posted = server.post("checked", "/", &body).ok();
        assert_eq!(posted, format!("POST {} {MEBIBYTE_OF_X}\n", 1 << 20));
    }
    for target in ["/", "/chunks", "/empty"] {
        let head = server.request("checked", &Request::new("HEAD", target));
        assert!(head.status < 300 && head.body.is_empty(), "{head:?}");
    }
    let odd = Request::get("/")
        .header("X-Empty", "")
        .header("X-Latin", "\u{e9}")
        .header("Cookie", "a=1; b=2")
        .header("Content-Type", "text/plain; charset=x");
    assert_eq!(server.request("checked", &odd).status, 200);
}

#[test]
fn rack_lint_is_content() {
    checker_is_content(site("checked", CONFIG_RU, "lint.ru"));
}

#[test]
fn the_wsgi_validator_is_content() {
    checker_is_content(site("checked", WSGI, "validate.py"));
}

#[test]
fn an_asgi_checker_is_content() {
    checker_is_content(site("checked", ASGI, "asgi.py"));
}

// --- what only ASGI can do ---

fn asgi() -> Server {
    Setup::of(site("asgi", ASGI, "asgi.py")).start()
}

#[test]
fn one_asgi_process_executes_requests_at_the_same_time() {
    let server = asgi();
    let pid = server.get("asgi", "/pid").ok();
    let mut clients: Vec<_> = (0..5).map(|_| server.client("asgi")).collect();
    for client in &mut clients {
        client.send(&Request::get("/meet")).expect("send");
    }
    for client in &mut clients {
        assert_eq!(client.response().expect("a response").ok(), "met");
    }
    assert_eq!(server.get("asgi", "/pid").ok(), pid);
    assert_eq!(server.app_pids("asgi").len(), 1);
}

#[test]
pub(crate) fn an_asgi_app_hears_that_the_client_is_gone() {
    let server = asgi();
    let mut client = server.client("asgi");
    client.send(&Request::get("/watch")).expect("send");
    client.response_head().expect("a head");
    assert_eq!(client.body_piece().expect("a piece"), b"watching\n");
    client.abort();
    server.await_file("asgi", "disconnected");
}

#[test]
fn the_lifespan_ends_with_the_server() {
    let mut server = asgi();
    assert_eq!(server.get("asgi", "/empty").status, 204);
    assert_eq!(server.log().count("the lifespan is over"), 0);
    server.stop_within(harness::wait::PATIENCE);
    server.log().expect("the lifespan is over");
}

#[test]
fn an_asgi_app_may_be_named_by_directives() {
    let files = App::files().file("main.py", &fixture("asgi.py"));
    let site = Site::new("asgi", files)
        .with("PassengerAppType asgi")
        .with("PassengerStartupFile main.py");
    let server = Setup::of(site).start();
    assert_eq!(server.get("asgi", "/chunks").ok(), "0\n1\n2\n");
}

// --- server-sent events ---

fn events_arrive_one_by_one(startup_file: &str, fixture_file: &str) {
    let server = Setup::of(site("events", startup_file, fixture_file)).start();
    let mut client = server.client("events");
    let request = Request::get("/?marzipan").header("Accept", "text/event-stream");
    client.send(&request).expect("send");
    let (status, headers) = client.response_head().expect("a head");
    assert_eq!(status, 200);
    let is_stream = |(name, value): &(String, String)| {
        name.eq_ignore_ascii_case("content-type") && value.starts_with("text/event-stream")
    };
    assert!(headers.iter().any(is_stream), "{headers:?}");
    assert_eq!(
        client.body_piece().expect("an event"),
        b"data: marzipan 1\n\n"
    );
    server.touch("events", "gate");
    assert_eq!(
        client.body_piece().expect("another event"),
        b"data: marzipan 2\n\n"
    );
    assert_eq!(client.body_piece().expect("the end"), b"");
}

#[test]
pub(crate) fn events_of_rack_arrive_one_by_one() {
    events_arrive_one_by_one(CONFIG_RU, "sse.ru");
}

#[test]
pub(crate) fn events_of_wsgi_arrive_one_by_one() {
    events_arrive_one_by_one(WSGI, "sse.py");
}

#[test]
pub(crate) fn events_of_asgi_arrive_one_by_one() {
    events_arrive_one_by_one(ASGI, "sse_asgi.py");
}

#[test]
pub(crate) fn events_of_node_arrive_one_by_one() {
    events_arrive_one_by_one(APP_JS, "sse.js");
}

// --- early hints ---

/// What curl prints of a response over HTTP/2, heads included.
fn heads_over_h2(startup_file: &str, fixture_file: &str) -> String {
    let server = with_h2(Setup::of(site("hints", startup_file, fixture_file)))
        .with("H2EarlyHints on")
        .start();
    // Whoever knows only HTTP/1.1 gets the response all the same.
    assert_eq!(server.get("hints", "/").ok(), "hinted");
    let port = server.port();
    let output = Command::new("curl")
        .args(["-si", "--http2-prior-knowledge", "--resolve"])
        .arg(format!("hints:{port}:127.0.0.1"))
        .arg(format!("http://hints:{port}/"))
        .output()
        .expect("run curl (Debian package of that name)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn hints_come_first(startup_file: &str, fixture_file: &str) {
    let text = heads_over_h2(startup_file, fixture_file);
    let (hints, response) = text.split_once("\r\n\r\n").expect("two heads");
    assert!(hints.starts_with("HTTP/2 103"), "{text}");
    assert!(
        hints.contains("link: </a.css>; rel=preload; as=style"),
        "{text}"
    );
    assert!(response.starts_with("HTTP/2 200"), "{text}");
    assert!(response.ends_with("hinted"), "{text}");
}

#[test]
pub(crate) fn early_hints_of_rack_come_first() {
    hints_come_first(CONFIG_RU, "hints.ru");
}

#[test]
pub(crate) fn early_hints_of_asgi_come_first() {
    hints_come_first(ASGI, "hints_asgi.py");
}

#[test]
pub(crate) fn early_hints_of_node_come_first() {
    hints_come_first(APP_JS, "hints.js");
}

// --- threads ---

fn three_requests_meet_in_one_process(startup_file: &str, fixture_file: &str) {
    let site = site("threads", startup_file, fixture_file)
        .with("PassengerConcurrencyModel thread")
        .with("PassengerThreadCount 3");
    let server = Setup::of(site).start();
    for _ in 0..2 {
        let mut clients: Vec<_> = (0..3).map(|_| server.client("threads")).collect();
        for client in &mut clients {
            client.send(&Request::get("/")).expect("send");
        }
        for client in &mut clients {
            assert_eq!(client.response().expect("a response").ok(), "met");
        }
    }
    assert_eq!(server.app_pids("threads").len(), 1);
}

#[test]
fn threads_of_wsgi_answer_at_the_same_time() {
    three_requests_meet_in_one_process(WSGI, "threads.py");
}

#[test]
fn threads_of_rack_answer_at_the_same_time() {
    three_requests_meet_in_one_process(CONFIG_RU, "threads.ru");
}

// --- Node ---

#[test]
fn a_node_app_may_choose_the_server_that_apache_reaches() {
    let server = Setup::of(site("api", APP_JS, "api.js")).start();
    let text = server.get("api", "/").ok();
    assert_eq!(text, "beside a port of its own: true");
}

#[test]
pub(crate) fn pipelined_requests_to_a_node_app_are_answered_in_order() {
    const COUNT: usize = 20;
    let server = Setup::of(Site::probe(Language::Node)).start();
    let mut client = server.client("node");
    let requests: String = (0..COUNT)
        .map(|n| format!("GET /request?{n} HTTP/1.1\r\nHost: node\r\n\r\n"))
        .collect();
    client
        .send_bytes(requests.as_bytes())
        .expect("send all at once");
    for n in 0..COUNT {
        let text = client.response().expect("a response").ok();
        assert_eq!(text, format!("GET|/request?{n}\n"));
    }
}

// --- interpreters ---

const PREFIX: &str = "import sys\n\n\
                      def application(environ, start_response):\n    \
                      start_response('200 OK', [])\n    \
                      return [sys.prefix.encode()]\n";

#[test]
fn python_comes_from_the_virtual_environment_that_the_directive_names() {
    let site = Site::new("venv", App::files().file(WSGI, PREFIX))
        .with("PassengerPython \"{root}/sites/venv/environment\"");
    let server = Setup::of(site).start();
    let environment = server.app_root("venv").join("environment");
    make_virtual_environment(&environment);
    assert_eq!(
        server.get("venv", "/").ok(),
        environment.display().to_string()
    );
}

#[test]
fn python_comes_from_the_virtual_environment_beside_the_app() {
    let site = Site::new("venv", App::files().file(WSGI, PREFIX));
    let server = Setup::of(site).without_interpreters().start();
    let environment = server.app_root("venv").join(".venv");
    make_virtual_environment(&environment);
    assert_eq!(
        server.get("venv", "/").ok(),
        environment.display().to_string()
    );
}

fn make_virtual_environment(directory: &Path) {
    let status = Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(directory)
        .status()
        .expect("run python3");
    assert!(status.success(), "python3 -m venv: {status}");
}
