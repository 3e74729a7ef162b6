//! What a process may have: requests, memory, time; and what becomes of it after that.

use harness::wait::PATIENCE;
use harness::{processes, until, App, Language, Load, Request, Setup, Site};

const HOARD: &str = "\
import os
hoard = []

def application(environ, start_response):
    if environ['PATH_INFO'] == '/grow':
        hoard.append(os.urandom(1) * (60 << 20))
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [str(os.getpid()).encode()]
";

#[test]
fn a_process_is_replaced_after_its_share_of_requests_and_none_is_lost() {
    let site = Site::probe(Language::Python).with("PassengerMaxRequests 100");
    let server = Setup::of(site).start();
    assert_eq!(server.get("python", "/").status, 200);
    let first = server.await_processes("python", 1)[0];
    let load = Load::start(server.port(), "python", "/pid", 10);
    until("the first process to be gone", PATIENCE, || {
        !processes::is_alive(first)
    });
    let tally = load.finish();
    assert_eq!(tally.failures, Vec::<String>::new());
    assert!(tally.ok >= 100, "it ended after {} requests", tally.ok);
}

#[test]
fn a_process_that_grew_too_large_is_replaced() {
    let app = App::inline(Language::Python, HOARD);
    let site = Site::new("app", app).with("PassengerMemoryLimit 50");
    let server = Setup::of(site)
        .with("PassengerAnalyticsCollectionRate 1")
        .start();
    let pid = server.get("app", "/grow").ok();
    server.log().expect("more than 50 (PassengerMemoryLimit)");
    until("another process to serve", PATIENCE, || {
        server.get("app", "/").ok() != pid
    });
}

#[test]
fn a_request_that_takes_too_long_costs_its_process() {
    let site = Site::probe(Language::Python)
        .with("PassengerMaxInstances 1")
        .with("PassengerMaxRequestTime 1");
    let server = Setup::of(site).start();
    let response = server.get("python", "/hold?for-ever");
    assert_eq!(response.status, 504);
    server.log().expect("takes longer than 1 s");
    assert_eq!(server.get("python", "/").status, 200);
}

#[test]
fn a_process_beyond_the_hard_limit_is_killed_whatever_it_is_at() {
    let site = Site::new("app", App::inline(Language::Python, HOARD))
        .with("PassengerHardMemoryLimit 50")
        .with("PassengerMaxInstances 1");
    let server = Setup::of(site)
        .with("PassengerAnalyticsCollectionRate 1")
        .start();
    let pid: i32 = server.get("app", "/").ok().parse().expect("a pid");
    // Its memory may be looked at before it has answered.
    let _ = server.get("app", "/grow");
    let words = format!("process {pid} has ");
    server.log().expect(&words);
    server
        .log()
        .expect("more than 50 (PassengerHardMemoryLimit), and is killed");
    until("it to be gone", PATIENCE, || !processes::is_alive(pid));
    assert_ne!(server.get("app", "/").ok(), pid.to_string());
}

/// Its worker has left with the client, and a loop in JavaScript answers nobody: only the question what it is at,
/// which it does not answer either, tells that.
#[test]
fn a_process_without_limit_that_hangs_in_an_abandoned_request_is_ended_too() {
    let code = "\
require('http').createServer((request, response) => {
  if (request.url === '/hang') {
    require('fs').writeFileSync('hangs', '');
    for (;;) ;
  }
  response.end(String(process.pid));
}).listen(3000)";
    let site = Site::new("app", App::inline(Language::Node, code))
        .with("PassengerMaxInstances 1")
        .with("PassengerMaxRequestTime 2");
    let server = Setup::of(site).start();
    let pid: i32 = server.get("app", "/").ok().parse().expect("a pid");
    let mut client = server.client("app");
    client
        .send(&Request::get("/hang"))
        .expect("send the request");
    server.await_file("app", "hangs");
    client.abort();
    until("it to be gone", PATIENCE, || !processes::is_alive(pid));
    server.log().expect(&format!("process {pid} is killed"));
    assert_ne!(server.get("app", "/").ok(), pid.to_string());
}
