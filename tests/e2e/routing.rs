//! Which of several processes gets a request, and that the others may go.

use harness::wait::until;
use harness::{Client, Language, Request, Server, Setup, Site};
use std::time::Duration;

/// Long enough for the idle time of the test on a machine that has other things to do.
const DEADLINE: Duration = Duration::from_secs(90);

fn pid(server: &Server) -> i32 {
    let text = server.get("python", "/pid").ok();
    text.trim().parse().expect("a pid")
}

fn hold(server: &Server, name: &str) -> Client {
    let mut client = server.client("python");
    let request = Request::get(&format!("/hold?{name}"));
    client.send(&request).expect("send the request");
    client
}

fn let_go(server: &Server, name: &str, mut client: Client) {
    server.touch("python", &format!("{name}.go"));
    assert_eq!(client.response().expect("the answer").status, 200);
}

/// Three processes, of which the one used last is neither the first nor the last of their table. One request at
/// a time keeps that one, and the two others end for want of use.
#[test]
fn one_request_at_a_time_finds_the_process_used_last_and_the_others_retire() {
    let site = Site::probe(Language::Python)
        .with("PassengerMaxInstances 3")
        .with("PassengerMinInstances 1");
    let server = Setup::of(site).with("PassengerPoolIdleTime 8").start();
    let [one, two, three] = ["one", "two", "three"].map(|name| {
        let client = hold(&server, name);
        server.await_file("python", &format!("{name}.begun"));
        client
    });
    server.await_processes("python", 3);
    let_go(&server, "two", two);
    let used_last = pid(&server);
    let_go(&server, "one", one);
    assert_eq!(pid(&server), used_last, "two are idle");
    let_go(&server, "three", three);
    until("the others to retire", DEADLINE, || {
        assert_eq!(pid(&server), used_last, "it is free, and it was used last");
        server.app_pids("python").len() == 1
    });
    assert_eq!(server.app_pids("python"), [used_last]);
}
