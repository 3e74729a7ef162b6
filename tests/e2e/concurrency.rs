//! How many requests a process gets at once, and how long each may take.

use harness::wait::PATIENCE;
use harness::{processes, until, Client, Language, Request, Server, Setup, Site};

fn hold(server: &Server, site: &str, name: &str) -> Client {
    let mut client = server.client(site);
    client
        .send(&Request::get(&format!("/hold?{name}")))
        .expect("send the request");
    client
}

fn begun(server: &Server, site: &str, names: &[&str]) -> usize {
    let exists = |name: &&&str| server.app_root(site).join(format!("{name}.begun")).exists();
    names.iter().filter(exists).count()
}

#[test]
fn threads_execute_as_many_requests_at_once_as_there_are_in_one_process() {
    for language in [Language::Ruby, Language::Python] {
        let name = language.name();
        let site = Site::probe(language)
            .with("PassengerMaxInstances 1")
            .with("PassengerConcurrencyModel thread")
            .with("PassengerThreadCount 3")
            .with("PassengerMaxRequestQueueSize 1");
        let server = Setup::of(site).start();
        assert_eq!(server.get(name, "/").status, 200);
        let names = ["one", "two", "three"];
        let clients = names.map(|request| hold(&server, name, request));
        until("three requests in execution", PATIENCE, || {
            begun(&server, name, &names) == 3
        });
        assert_eq!(server.app_pids(name).len(), 1, "{language:?}");
        // All threads are busy: one more waits, and the one after it is refused.
        let more = [(); 2].map(|()| hold(&server, name, "more"));
        server.log().expect("has 3 of 3 requests");
        assert_eq!(begun(&server, name, &["more"]), 0, "{language:?}");
        for request in ["one", "two", "three", "more"] {
            server.touch(name, &format!("{request}.go"));
        }
        for mut client in clients {
            assert_eq!(client.response().expect("the answer").status, 200);
        }
        let mut status = more.map(|mut client| client.response().expect("an answer").status);
        status.sort_unstable();
        assert_eq!(status, [200, 503], "{language:?}");
    }
}

#[test]
fn without_the_thread_model_the_thread_count_means_nothing() {
    let site = Site::probe(Language::Ruby)
        .with("PassengerMaxInstances 1")
        .with("PassengerThreadCount 3")
        .with("PassengerMaxRequestQueueSize 1");
    let server = Setup::of(site).start();
    let mut first = hold(&server, "ruby", "one");
    server.await_file("ruby", "one.begun");
    let _more = [(); 2].map(|()| hold(&server, "ruby", "one"));
    server.log().expect("has 1 of 1 requests");
    server.touch("ruby", "one.go");
    assert_eq!(first.response().expect("the answer").status, 200);
}

#[test]
fn the_administrator_can_say_how_many_requests_a_process_gets_at_once() {
    // Node.js takes any number by itself.
    let site = Site::probe(Language::Node)
        .with("PassengerMaxInstances 1")
        .with("PassengerForceMaxConcurrentRequestsPerProcess 2")
        .with("PassengerMaxRequestQueueSize 1");
    let server = Setup::of(site).start();
    assert_eq!(server.get("node", "/").status, 200);
    let names = ["one", "two"];
    let clients = names.map(|name| hold(&server, "node", name));
    until("two requests in execution", PATIENCE, || {
        begun(&server, "node", &names) == 2
    });
    let more = [(); 2].map(|()| hold(&server, "node", "more"));
    server.log().expect("has 2 of 2 requests");
    assert_eq!(begun(&server, "node", &["more"]), 0);
    for request in ["one", "two", "more"] {
        server.touch("node", &format!("{request}.go"));
    }
    for mut client in clients {
        assert_eq!(client.response().expect("the answer").status, 200);
    }
    let mut status = more.map(|mut client| client.response().expect("an answer").status);
    status.sort_unstable();
    assert_eq!(status, [200, 503]);
}

#[test]
fn without_a_limit_one_process_gets_everything() {
    let site = Site::probe(Language::Node)
        .with("PassengerMaxRequestQueueSize 1")
        .with("PassengerForceMaxConcurrentRequestsPerProcess 0");
    let server = Setup::of(site).start();
    let names: Vec<String> = (0..12).map(|n| format!("r{n}")).collect();
    assert_eq!(server.get("node", "/").status, 200);
    let clients: Vec<_> = names
        .iter()
        .map(|name| hold(&server, "node", name))
        .collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    until("all requests in execution", PATIENCE, || {
        begun(&server, "node", &all) == all.len()
    });
    assert_eq!(server.app_pids("node").len(), 1);
    for name in &names {
        server.touch("node", &format!("{name}.go"));
    }
    for mut client in clients {
        assert_eq!(client.response().expect("the answer").status, 200);
    }
}

#[test]
pub(crate) fn a_location_has_a_time_limit_of_its_own() {
    for language in Language::ALL {
        let name = language.name();
        let site = Site::probe(language)
            .with("PassengerMaxInstances 1")
            .with("PassengerMaxRequestTime 1")
            .with("<Location /sleep>\nPassengerMaxRequestTime 0\n</Location>");
        let server = Setup::of(site).start();
        assert_eq!(
            server.get(name, "/sleep?2600").ok().trim(),
            "2600",
            "{language:?}"
        );
        let pid = server.app_pids(name)[0];
        assert_eq!(
            server.get(name, "/hold?for-ever").status,
            504,
            "{language:?}"
        );
        server.log().expect("a request takes longer than");
        until("the process to be gone", PATIENCE, || {
            !processes::is_alive(pid)
        });
        assert_eq!(server.get(name, "/").status, 200, "{language:?}");
    }
}

/// A process with one thread does not answer what it executes while it does; that is no reason to end a request that
/// may take as long as it likes.
#[test]
fn a_location_without_time_limit_has_none_when_its_client_has_left_either() {
    let language = Language::Ruby;
    let name = language.name();
    let site = Site::probe(language)
        .with("PassengerMaxInstances 1")
        .with("PassengerMaxRequestTime 1")
        .with("<Location /hold>\nPassengerMaxRequestTime 0\n</Location>");
    let clock = Site::probe(Language::Python);
    let server = Setup::of(site).site(clock).start();
    let pid = server.get(name, "/pid").ok();
    let client = hold(&server, name, "left");
    until("the request to begin", PATIENCE, || {
        begun(&server, name, &["left"]) == 1
    });
    client.abort();
    // Meanwhile the agent looks at the process some five times.
    assert_eq!(server.get("python", "/sleep?5000").status, 200);
    server.touch(name, "left.go");
    assert_eq!(server.get(name, "/pid").ok(), pid);
    assert_eq!(server.log().count("a request takes longer than"), 0);
}

#[test]
pub(crate) fn a_time_limit_of_one_location_does_not_hold_for_the_rest() {
    for language in Language::ALL {
        let name = language.name();
        let site =
            Site::probe(language).with("<Location /hold>\nPassengerMaxRequestTime 1\n</Location>");
        let server = Setup::of(site).start();
        assert_eq!(
            server.get(name, "/sleep?2600").ok().trim(),
            "2600",
            "{language:?}"
        );
        assert_eq!(
            server.get(name, "/hold?for-ever").status,
            504,
            "{language:?}"
        );
        assert_eq!(server.log().count("a request takes longer than"), 1);
    }
}

#[test]
fn one_request_at_a_time_needs_one_process_whoever_asks() {
    // Another thread or worker of httpd must not prefer another process: it would never fall idle.
    let site = Site::probe(Language::Python).with("PassengerMinInstances 3");
    let server = Setup::of(site).start();
    assert_eq!(server.get("python", "/").status, 200);
    server.await_processes("python", 3);
    let mut pids: Vec<String> = (0..40).map(|_| server.get("python", "/pid").ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 1, "{pids:?}");
}
