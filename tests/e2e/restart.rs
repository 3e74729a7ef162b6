//! Graceful restarts keep apps warm and lose nothing.

use crate::one_process;
use harness::{Language, Load, Mpm, Setup, Site};

#[test]
fn graceful_keeps_watchdog_agent_and_app_processes() {
    for mpm in Mpm::ALL {
        let mut setup = Setup::default().mpm(mpm);
        for language in Language::ALL {
            setup = setup.site(one_process(language));
        }
        let server = setup.start();
        let pids = |language: Language| {
            assert_eq!(server.get(language.name(), "/").status, 200);
            server.await_processes(language.name(), 1)
        };
        let before = Language::ALL.map(pids);
        let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
        for _ in 0..3 {
            server.graceful();
            assert_eq!(Language::ALL.map(pids), before, "{mpm:?}");
        }
        assert_eq!(
            (server.instance().watchdog(), server.instance().agent()),
            (watchdog, agent)
        );
    }
}

#[test]
fn graceful_under_load_fails_no_request() {
    let server = Setup::of(Site::probe(Language::Python).with("PassengerMinInstances 2")).start();
    assert_eq!(server.get("python", "/").status, 200);
    let load = Load::start(server.port(), "python", "/pid", 25);
    for _ in 0..3 {
        load.await_more(500);
        server.graceful();
    }
    load.await_more(500);
    let tally = load.finish();
    assert_eq!(
        tally.failures,
        Vec::<String>::new(),
        "with {} answered",
        tally.ok
    );
}

#[test]
fn a_request_in_the_middle_survives_a_graceful() {
    let server = Setup::of(one_process(Language::Ruby)).start();
    let mut client = server.client("ruby");
    client
        .send(&harness::Request::get("/hold?long"))
        .expect("send the request");
    server.await_file("ruby", "long.begun");
    server.graceful();
    server.touch("ruby", "long.go");
    assert_eq!(client.response().expect("the answer").ok(), "long\n");
}
