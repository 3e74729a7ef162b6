//! Requests that wait for a process: what a full queue answers and tells, what an app learns of the wait, and
//! clients that do not wait to the end.

use crate::environment::{self, Told};
use harness::wait::PATIENCE;
use harness::{until, Client, Language, Request, Response, Server, Setup, Site};
use std::fs;
use std::time::SystemTime;

/// The probe in one process that takes one request at a time, with room for one more in its queue.
fn narrow() -> Site {
    Site::probe(Language::Python)
        .with("PassengerMaxInstances 1")
        .with("PassengerMaxRequestQueueSize 1")
}

/// Has the only process execute a request until `NAME.go` is there.
fn occupy(server: &Server, name: &str) -> Client {
    let mut client = server.client("python");
    client
        .send(&Request::get(&format!("/hold?{name}")))
        .expect("send the request");
    server.await_file("python", &format!("{name}.begun"));
    client
}

/// Two more requests: one waits, the other finds the queue full. Which is which does not matter.
fn refused(server: &Server, target: &str) -> Response {
    let (tell, told) = std::sync::mpsc::channel();
    for _ in 0..2 {
        let mut client = server.client("python");
        client
            .send(&Request::get(target))
            .expect("send the request");
        let tell = tell.clone();
        std::thread::spawn(move || {
            if let Ok(response) = client.response() {
                let _ = tell.send(response);
            }
        });
    }
    // The one that waits is answered only after the one in the process.
    told.recv_timeout(PATIENCE).expect("one is refused")
}

#[test]
fn the_line_of_a_full_queue_names_the_app_its_limit_its_age_and_each_process() {
    let server = Setup::of(narrow()).start();
    let mut first = occupy(&server, "one");
    assert_eq!(refused(&server, "/pid").status, 503);
    server.log().expect("PSGR0206");
    let text = server.log().text();
    let line = text
        .lines()
        .find(|line| line.contains("PSGR0206"))
        .expect("the line");
    let root = server.app_root("python");
    let pid = server.app_pids("python")[0];
    for words in [
        format!("app {} (production): ", root.display()),
        "limit 1".to_owned(),
        "the oldest for ".to_owned(),
        format!("process {pid} has 1 of 1 requests"),
    ] {
        assert!(line.contains(&words), "{words:?} is not in {line:?}");
    }
    server.touch("python", "one.go");
    assert_eq!(first.response().expect("the answer").ok(), "one\n");
}

#[test]
fn the_line_of_a_request_that_waited_too_long_tells_the_same() {
    let site = narrow()
        .with("PassengerMaxRequestQueueTime 1")
        .with("PassengerAppGroupName shop");
    let server = Setup::of(site).start();
    let mut first = occupy(&server, "one");
    assert_eq!(server.get("python", "/pid").status, 503);
    server.log().expect("PSGR0214 app shop: ");
    server.log().expect("waiting, the oldest for ");
    server.touch("python", "one.go");
    assert_eq!(first.response().expect("the answer").ok(), "one\n");
}

#[test]
fn status_and_page_of_a_full_queue_are_the_administrators() {
    let site = narrow()
        .with("PassengerRequestQueueOverflowStatusCode 429")
        .with("ErrorDocument 429 /busy.html");
    let server = Setup::of(site).start();
    let public = server.app_root("python").join("public");
    fs::write(public.join("busy.html"), "come back later\n").expect("write the page");
    let mut first = occupy(&server, "one");
    let response = refused(&server, "/pid");
    assert_eq!(response.status, 429);
    assert_eq!(response.text(), "come back later\n");
    assert_eq!(response.header("retry-after"), Some("2"));
    server.touch("python", "one.go");
    assert_eq!(first.response().expect("the answer").ok(), "one\n");
}

#[test]
fn an_app_never_sees_a_request_whose_client_left_the_queue() {
    let site = Site::probe(Language::Python).with("PassengerMaxInstances 1");
    let server = Setup::of(site)
        .with("CustomLog {root}/access.log \"%>s %r\"")
        .start();
    let mut first = occupy(&server, "one");
    let mut gone = server.client("python");
    gone.send(&Request::get("/note?gone"))
        .expect("send the request");
    let mut next = server.client("python");
    next.send(&Request::get("/note?next"))
        .expect("send the request");
    gone.abort();
    until("the request to be given up", PATIENCE, || {
        let log = fs::read_to_string(server.root().join("access.log"));
        log.is_ok_and(|log| log.contains("499 GET /note?gone"))
    });
    server.touch("python", "one.go");
    assert_eq!(first.response().expect("the answer").ok(), "one\n");
    assert_eq!(next.response().expect("the answer").ok(), "next\n");
    let notes = fs::read_to_string(server.app_root("python").join("requests.log"));
    assert_eq!(
        notes.expect("the app's notes"),
        "begin one\nend one\nbegin next\nend next\n"
    );
}

fn microseconds(time: &str) -> u128 {
    let digits = time.strip_prefix("t=").expect("t= and microseconds");
    digits.parse().expect("a number of microseconds")
}

#[test]
fn an_app_is_told_when_its_request_came_and_when_it_joined_the_queue() {
    for language in Language::ALL {
        let server = Setup::of(environment::site(language)).start();
        let [came, joined] = if language == Language::Node {
            ["x-request-start", "x-queue-start"]
        } else {
            ["HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START"]
        };
        let now = || {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since.expect("after 1970").as_micros()
        };
        let before = now();
        let told = server.get("app", "/");
        let times = [came, joined].map(|name| microseconds(&told.told(name).expect(name)));
        assert!(before <= times[0], "{language:?}");
        assert!(times[0] <= times[1] && times[1] <= now(), "{language:?}");
        // What a proxy in front says about its own arrival stands; nobody else says when our queue began.
        let request = Request::get("/")
            .header("X-Request-Start", "t=1234567890123456")
            .header("X-Queue-Start", "t=1");
        let told = server.request("app", &request);
        assert_eq!(told.told(came).as_deref(), Some("t=1234567890123456"));
        assert!(microseconds(&told.told(joined).expect(joined)) >= times[1]);
    }
}
