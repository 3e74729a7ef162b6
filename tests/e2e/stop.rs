//! After a stop nothing is left: no process, no file, whatever the apps do against it.

use crate::one_process;
use harness::{processes, Instance, Language, Mpm, Request, Setup, Site};
use std::time::Duration;

/// The deadline for apps (30 s), and time for a machine with two cores to do the rest.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn stop_leaves_no_process_and_no_file() {
    for mpm in Mpm::ALL {
        let mut setup = Setup::default().mpm(mpm);
        for language in Language::ALL {
            setup = setup.site(Site::probe(language).with("PassengerMinInstances 2"));
        }
        let mut server = setup.start();
        for language in Language::ALL {
            assert_eq!(server.get(language.name(), "/").status, 200);
        }
        server.stop_within(STOP_DEADLINE);
        assert_eq!(
            server.survivors_after_a_moment(),
            [0; 0],
            "{mpm:?}: {}",
            server.evidence()
        );
        assert_eq!(
            Instance::directories(&server.registry()).len(),
            0,
            "{mpm:?}: the instance directory stays"
        );
    }
}

/// An app that spins and ignores SIGTERM, and the process that it started in a session of its own.
fn stop_ends_even_the_stubborn(language: Language) {
    let name = language.name();
    let mut server = Setup::of(one_process(language)).start();
    let mut client = server.client(name);
    client
        .send(&Request::get("/stubborn"))
        .expect("send the request");
    server.await_file(name, "stubborn.begun");
    let file = server.app_root(name).join("stubborn.begun");
    let text = std::fs::read_to_string(file).expect("read the background process's pid");
    let background = text.trim().parse().expect("a pid");
    assert!(
        processes::is_alive(background),
        "the background process did not start"
    );
    server.stop_within(STOP_DEADLINE);
    assert_eq!(
        server.survivors_after_a_moment(),
        [0; 0],
        "{name}: {}",
        server.evidence()
    );
    assert!(
        !processes::is_alive(background),
        "{name}: the background process is still there"
    );
}

#[test]
fn stop_ends_a_stubborn_ruby_app_and_what_it_started_in_another_session() {
    stop_ends_even_the_stubborn(Language::Ruby);
}

#[test]
fn stop_ends_a_stubborn_python_app_and_what_it_started_in_another_session() {
    stop_ends_even_the_stubborn(Language::Python);
}

#[test]
fn stop_ends_a_stubborn_node_app_and_what_it_started_in_another_session() {
    stop_ends_even_the_stubborn(Language::Node);
}

#[test]
fn a_stop_right_after_the_start_leaves_nothing() {
    let mut server = Setup::of(one_process(Language::Node)).start();
    server.stop_within(STOP_DEADLINE);
    assert_eq!(
        server.survivors_after_a_moment(),
        [0; 0],
        "{}",
        server.evidence()
    );
}

#[test]
fn a_server_that_never_saw_an_app_stops_and_starts() {
    let server = Setup::default().start();
    assert!(server.get("localhost", "/").status < 500);
}
