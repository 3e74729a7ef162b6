//! Apps that run before anybody asks.

use crate::clients::with_tls;
use harness::wait::PATIENCE;
use harness::{until, Language, Setup, Site};
use std::fs;

#[test]
fn an_app_with_a_minimum_of_its_own_runs_from_the_start_and_is_not_started_again() {
    let site = Site::probe(Language::Python)
        .with("PassengerMinInstances 2")
        .with("<Location /sleep>\nPassengerMaxRequestTime 9\n</Location>");
    // One without a minimum of its own waits for somebody who asks.
    let server = Setup::of(site).site(Site::probe(Language::Ruby)).start();
    let pids = server.await_processes("python", 2);
    assert!(server.app_pids("ruby").is_empty());
    assert_eq!(server.get("python", "/").status, 200);
    assert_eq!(server.get("python", "/sleep?1").status, 200);
    server.graceful();
    assert_eq!(server.get("python", "/").status, 200);
    assert_eq!(server.await_processes("python", 2), pids);
    assert_eq!(server.log().count("is configured twice"), 0);
}

#[test]
fn what_was_foreseen_wrongly_is_corrected_by_the_first_request() {
    // A pattern that only httpd can match: the guess knows nothing of it.
    let site = Site::probe(Language::Python)
        .with("PassengerMinInstances 1")
        .with("<LocationMatch ^/>\nPassengerConcurrencyModel thread\nPassengerThreadCount 2\n</LocationMatch>");
    let server = Setup::of(site).start();
    let guessed = server.await_processes("python", 1);
    assert_eq!(server.get("python", "/").status, 200);
    until("a process as configured", PATIENCE, || {
        let pids = server.app_pids("python");
        pids.len() == 1 && pids != guessed
    });
    server.log().expect("its configuration changed");
}

#[test]
fn the_urls_of_prestart_are_requested_after_the_start() {
    let server = Setup::of(Site::probe(Language::Python))
        .with("PassengerPreStart http://python:{port}/note?warm")
        .with("PassengerPreStart ftp://python/")
        .start();
    server.log().expect("answered \"HTTP/1.1 200 OK\"");
    let notes = fs::read_to_string(server.app_root("python").join("requests.log"));
    assert_eq!(notes.expect("the app's notes"), "begin warm\nend warm\n");
    server.log().expect("is neither an http nor an https URL");
}

#[test]
fn a_url_of_prestart_may_need_tls() {
    let setup = with_tls(
        Setup::default().with("PassengerPreStart https://python:{port}/note?warm"),
        Site::probe(Language::Python),
    );
    let server = setup.start();
    server.log().expect("answered \"HTTP/1.1 200 OK\"");
    server.await_file("python", "requests.log");
}
