//! Responses that come in parts, and clients that ask without end: who gets what, and when.

use crate::clients::{with_tls, Program};
use crate::modules::{load, MPMS};
use crate::slow::site;
use harness::{App, Language, Request, Setup, Site};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes many small pieces, or one, and another when `gate` is there.
const APP: &str = "
import os, time

def application(env, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return many() if env['PATH_INFO'] == '/many' else two()

def many():
    for _ in range(2000):
        # Always a little later than its reader.
        end = time.perf_counter() + 0.0003
        while time.perf_counter() < end:
            pass
        yield b'0123456789'

def two():
    yield b'one\\n'
    while not os.path.exists('gate'):
        time.sleep(0.005)
    yield b'two\\n'
";

/// A flush makes mod_deflate end a block, and mod_ratelimit begin a new second: there is one for each pause of the app,
/// and none for each of its writes.
#[test]
fn a_compressed_stream_arrives_while_the_app_pauses_and_is_compressed_as_a_whole() {
    let site = Site::new("app", App::inline(Language::Python, APP)).with("SetOutputFilter DEFLATE");
    let setup = load(Setup::of(site), &["filter", "deflate"]);
    for mpm in MPMS {
        let server = setup.clone().mpm(mpm).start();
        let zipped = Request::get("/many").header("Accept-Encoding", "gzip");
        let zipped = server.request("app", &zipped);
        assert_eq!(zipped.header("content-encoding"), Some("gzip"));
        // A block of its own for each write makes more than 10 000.
        let size = zipped.body.len();
        assert!(size < 6000, "{mpm:?}: {size} bytes of 20 000");
        let mut client = Program::curl(&server, "app", "/two", "--compressed");
        assert_eq!(client.line(), "one", "{mpm:?}");
        server.touch("app", "gate");
        assert_eq!(client.line(), "two", "{mpm:?}");
        assert_eq!(client.rest(), (Vec::new(), true), "{mpm:?}");
    }
}

#[test]
fn a_rate_limited_stream_arrives_while_the_app_pauses() {
    let site = Site::new("app", App::inline(Language::Python, APP))
        .with("SetOutputFilter RATE_LIMIT\nSetEnv rate-limit 400");
    let setup = load(Setup::of(site), &["filter", "ratelimit"]);
    for mpm in MPMS {
        let server = setup.clone().mpm(mpm).start();
        let mut client = Program::curl(&server, "app", "/two", "--http1.1");
        assert_eq!(client.line(), "one", "{mpm:?}");
        server.touch("app", "gate");
        assert_eq!(client.line(), "two", "{mpm:?}");
        assert_eq!(server.get("app", "/many").ok().len(), 20_000, "{mpm:?}");
    }
}

#[test]
fn an_app_learns_that_a_tls_client_is_gone() {
    for mpm in MPMS {
        let server = with_tls(Setup::default().mpm(mpm), site()).start();
        let mut client = Program::tls(&server, "slow");
        client.send(b"GET /compute HTTP/1.1\r\nHost: slow\r\n\r\n");
        server.await_file("slow", "begun");
        drop(client);
        server.await_file("slow", "noticed");
    }
}

/// CVE-2019-16770, CVE-2021-29509 (Puma): a client that never stops asking on one connection keeps a worker of httpd
/// busy, and nobody else waiting for the app.
#[test]
fn clients_that_never_stop_asking_leave_room_for_others() {
    for mpm in MPMS {
        let site = Site::new("app", App::probe(Language::Python));
        let server = Setup::of(site)
            .with("PassengerMaxPoolSize 1")
            .mpm(mpm)
            .start();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let mut greedy = server.client("app");
                let is_over = &is_over;
                scope.spawn(move || {
                    let request = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n".repeat(50);
                    while !is_over.load(Ordering::Relaxed) {
                        greedy.send_bytes(&request).expect("fifty requests at once");
                        for _ in 0..50 {
                            assert_eq!(greedy.response().expect("a response").status, 200);
                        }
                    }
                });
            }
            for _ in 0..100 {
                assert_eq!(
                    server.get("app", "/").ok(),
                    "hello from python\n",
                    "{mpm:?}"
                );
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}

/// What a client sends after a request on a connection that is to be closed is nobody's request.
#[test]
fn what_follows_the_last_request_is_dropped() {
    for mpm in MPMS {
        let server = Setup::of(Site::probe(Language::Python)).mpm(mpm).start();
        let mut client = server.client("python");
        let last = "GET /note?last HTTP/1.1\r\nHost: python\r\nConnection: close\r\n\r\n";
        let more = "GET /note?more HTTP/1.1\r\nHost: python\r\n\r\n";
        client
            .send_bytes(format!("{last}{more}").as_bytes())
            .expect("send both at once");
        assert_eq!(client.response().expect("a response").ok(), "last\n");
        assert!(client.response_head().is_err(), "{mpm:?}: another answer");
        let log = server.app_root("python").join("requests.log");
        let mut text = String::new();
        let mut file = std::fs::File::open(log).expect("open the app's log");
        file.read_to_string(&mut text).expect("read it");
        assert!(!text.contains("more"), "{mpm:?}: {text}");
    }
}
