//! Starts that fail: what the report of one that hangs says, and that failing again and again costs little.

use crate::one_process;
use harness::wait::{until, PATIENCE};
use harness::{App, Language, Server, Setup, Site};
use std::time::{Duration, Instant};

fn site(language: Language, source: &str) -> Site {
    Site::new("app", App::inline(language, source)).with("PassengerStartTimeout 2")
}

fn fails(server: &Server) {
    let response = server.get("app", "/");
    let status = response.status;
    assert!((500..600).contains(&status), "status {status}");
}

#[test]
fn the_report_of_a_start_that_hangs_says_what_it_waits_for() {
    let source = "import time\nprint('going to sleep', flush=True)\ntime.sleep(3600)\n";
    for method in ["direct", "smart"] {
        let method = format!("PassengerSpawnMethod {method}");
        let server = Setup::of(site(Language::Python, source).with(&method)).start();
        fails(&server);
        server.log().expect("loading its code (step load): it was not ready for requests within 2 seconds; its process was waiting in sleep");
        server.log().expect("going to sleep");
    }
}

#[test]
fn the_report_names_the_connection_that_is_not_made() {
    // A listener whose queue is full does not answer: as a firewall that drops packets.
    let source = "import socket\nfull = socket.socket()\nfull.bind(('127.0.0.1', 0))\nfull.listen(0)\n\
                  ends = [socket.socket() for _ in range(4)]\nfor end in ends:\n    end.setblocking(False)\n    \
                  end.connect_ex(full.getsockname())\nprint('port %d.' % full.getsockname()[1], flush=True)\n\
                  del ends[1:]\nsocket.create_connection(full.getsockname())\n";
    let server = Setup::of(site(Language::Python, source)).start();
    fails(&server);
    server.log().expect("connecting to 127.0.0.1:");
    server
        .log()
        .expect("Check that the service it connects to runs");
}

#[test]
fn the_report_names_a_child_that_is_waited_for() {
    let source = "require 'open3'\nsystem('sleep 3600')\n";
    let server =
        Setup::of(site(Language::Ruby, source).with("PassengerAppEnv development")).start();
    let page = server.get("app", "/").text();
    server.log().expect("(sleep), waiting in sleep");
    assert!(page.contains("(sleep), waiting in sleep"), "{page}");
    until("the child to be gone, too", PATIENCE, || {
        !server.evidence().contains("sleep 3600")
    });
}

#[test]
fn an_app_that_never_starts_is_tried_less_and_less_and_leaves_others_alone() {
    let broken = Site::new(
        "app",
        App::inline(Language::Python, "raise RuntimeError('never')\n"),
    );
    let server = Setup::of(broken).site(one_process(Language::Ruby)).start();
    assert_eq!(server.get("ruby", "/").status, 200);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while began.elapsed() < Duration::from_secs(6) {
                    fails(&server);
                }
            });
        }
        while began.elapsed() < Duration::from_secs(6) {
            assert_eq!(server.get("ruby", "/").status, 200);
        }
    });
    // 100 ms, 200, 400, 800, then one a second, however many ask.
    let most =
        5 + usize::try_from(began.elapsed().as_secs()).expect("a test does not run that long");
    let attempts = server.log().count("[passenger] error: The app ");
    assert!(attempts >= 2, "it is tried again at all: {attempts}");
    assert!(
        attempts <= most,
        "{attempts} attempts in {:?}",
        began.elapsed()
    );
}
