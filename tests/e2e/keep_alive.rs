//! Clients that send their next request at once, on the connection they have: httpd's threads go on with those, and
//! still have time for everybody else.

use harness::wait::{until, PATIENCE};
use harness::{App, Client, Language, Load, Mpm, Request, Setup, Site};

const SINGLE: &str = "run ->(env) { [200, {}, [env['PATH_INFO']]] }\n";

/// More of them than threads.
const BUSY_CLIENTS: usize = 8;

fn server(mpm: Mpm) -> Setup {
    let app = App::inline(Language::Ruby, SINGLE).file("public/file.txt", "static\n");
    Setup::of(Site::new("busy", app))
        .mpm(mpm)
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 4\nMaxRequestWorkers 4")
}

#[test]
fn busy_connections_leave_threads_to_new_ones() {
    let server = server(Mpm::Event).start();
    let load = Load::start(server.port(), "busy", "/", BUSY_CLIENTS);
    until("the load to run", PATIENCE, || load.answered() > 500);
    for _ in 0..50 {
        assert_eq!(server.get("busy", "/file.txt").ok(), "static\n");
        assert_eq!(server.get("busy", "/app").ok(), "/app");
    }
    let tally = load.finish();
    assert_eq!(tally.failures, Vec::<String>::new());
}

#[test]
fn each_of_many_requests_in_a_row_gets_its_own_response() {
    for mpm in [Mpm::Event, Mpm::Worker] {
        let server = server(mpm).start();
        let mut client = server.client("busy");
        for number in 0..200 {
            let path = format!("/{number}");
            let response = client.exchange(&Request::get(&path)).expect("a response");
            assert_eq!(response.ok(), path);
        }
        in_one_packet(&mut client);
    }
}

/// Requests that are there before the first is answered.
fn in_one_packet(client: &mut Client) {
    let request = |number: u32| format!("GET /{number} HTTP/1.1\r\nHost: busy\r\n\r\n");
    let all: String = (0..100).map(request).collect();
    client.send_bytes(all.as_bytes()).expect("sent");
    for number in 0..100 {
        assert_eq!(
            client.response().expect("a response").ok(),
            format!("/{number}")
        );
    }
}
