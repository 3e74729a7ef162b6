//! Another configuration by `graceful` or `restart`: who is replaced, who stays, and what of the old one goes
//! on until its last request is answered.

use crate::one_process;
use harness::wait::PATIENCE;
use harness::{processes, until, App, Language, Load, Request, Server, Setup, Site};

/// `/variable?COLOUR` of the probe.
fn colour(server: &Server, site: &str) -> String {
    server.get(site, "/variable?COLOUR").ok()
}

#[test]
fn an_app_whose_configuration_changed_is_replaced_and_others_are_not() {
    let mut server = Setup::of(Site::probe(Language::Python).with("PassengerMinInstances 2"))
        .site(one_process(Language::Ruby))
        .start();
    for site in ["python", "ruby"] {
        assert_eq!(server.get(site, "/").status, 200);
    }
    let changed = server.await_processes("python", 2);
    let unchanged = server.await_processes("ruby", 1);
    let loads = ["python", "ruby"].map(|site| Load::start(server.port(), site, "/pid", 8));
    server.reconfigure(|setup| {
        setup.with_lines_of("python", &["PassengerMinInstances 2", "SetEnv COLOUR blue"])
    });
    until("the old processes to leave", PATIENCE, || {
        changed.iter().all(|pid| !processes::is_alive(*pid))
    });
    assert_eq!(colour(&server, "python").trim(), "blue");
    for load in loads {
        let tally = load.finish();
        assert_eq!(tally.failures, Vec::<String>::new());
    }
    // Under load others may have come.
    assert!(server.app_pids("ruby").contains(&unchanged[0]));
}

#[test]
fn restart_keeps_watchdog_agent_and_unchanged_apps() {
    let mut server = Setup::of(one_process(Language::Python))
        .site(one_process(Language::Node))
        .start();
    let before = ["python", "node"].map(|site| {
        assert_eq!(server.get(site, "/").status, 200);
        server.await_processes(site, 1)
    });
    let keepers = (server.instance().watchdog(), server.instance().agent());
    server.rewrite(|setup| {
        setup.with_lines_of("python", &["PassengerMinInstances 1", "SetEnv COLOUR blue"])
    });
    server.restart();
    until("the new configuration", PATIENCE, || {
        colour(&server, "python").trim() == "blue"
    });
    assert_eq!(server.get("node", "/").status, 200);
    assert_eq!(server.app_pids("node"), before[1]);
    assert_ne!(server.app_pids("python"), before[0]);
    let now = (server.instance().watchdog(), server.instance().agent());
    assert_eq!(now, keepers);
}

#[test]
fn an_app_that_is_not_configured_any_more_ends() {
    let mut server = Setup::of(one_process(Language::Python))
        .site(one_process(Language::Ruby))
        .start();
    for site in ["python", "ruby"] {
        assert_eq!(server.get(site, "/").status, 200);
        server.await_processes(site, 1);
    }
    let stays = server.app_pids("ruby");
    server.reconfigure(|setup| setup.without_site("python"));
    until("the app to end", PATIENCE, || {
        server.app_pids("python").is_empty()
    });
    assert_eq!(server.get("ruby", "/").status, 200);
    assert_eq!(server.app_pids("ruby"), stays);
    // Back again, it is served as before.
    server.reconfigure(|setup| setup.site(one_process(Language::Python)));
    assert_eq!(server.get("python", "/").status, 200);
}

#[test]
fn a_request_from_before_belongs_to_the_app_of_before() {
    // One slow upload, three configurations later: its worker has never met the app.
    let app = |name: &str| {
        App::inline(
            Language::Python,
            &format!(
                "def application(environ, start_response):\n\
                 \x20   environ['wsgi.input'].read()\n\
                 \x20   start_response('200 OK', [('Content-Length', '{}')])\n\
                 \x20   return [b'{name}']\n",
                name.len()
            ),
        )
    };
    let mut server = Setup::of(Site::new("site", app("old")))
        .site(Site::new("other", app("new")))
        .start();
    let mut client = server.client("site");
    let request = Request::new("POST", "/")
        .header("Content-Length", "4")
        .header("Expect", "100-continue");
    client.send(&request).expect("send the head");
    // Only a worker that has begun to read the body says so.
    assert_eq!(client.line().expect("a line"), "HTTP/1.1 100 Continue");
    assert_eq!(client.line().expect("a line"), "");
    client.send_bytes(b"bo").expect("send half of the body");
    for turn in 0..3 {
        server.reconfigure(|setup| {
            setup.with_lines_of(
                "site",
                &[
                    "DocumentRoot {root}/sites/other/public",
                    &format!("SetEnv TURN {turn}"),
                ],
            )
        });
        // A worker of before may still take a connection until it has heard of the end.
        until("the new configuration", PATIENCE, || {
            server.get("site", "/").ok() == "new"
        });
    }
    client.send_bytes(b"dy").expect("send the rest");
    assert_eq!(client.response().expect("an answer").ok(), "old");
}

#[test]
fn a_client_that_was_connected_before_is_served_right() {
    for language in Language::ALL {
        let mut server = Setup::of(one_process(language)).start();
        let name = language.name();
        let mut client = server.client(name);
        let first = client.exchange(&Request::get("/")).expect("an answer");
        assert_eq!(first.status, 200);
        server.reconfigure(|setup| setup.with_lines_of(name, &["SetEnv COLOUR blue"]));
        // httpd may close what is idle; it may not answer half, or wrongly.
        match client.exchange(&Request::get("/")) {
            Ok(response) => assert_eq!(response.ok(), first.text()),
            Err(e) => assert!(
                matches!(
                    e.kind(),
                    std::io::ErrorKind::ConnectionAborted
                        | std::io::ErrorKind::ConnectionReset
                        | std::io::ErrorKind::BrokenPipe
                ),
                "{e}"
            ),
        }
        until("the new configuration", PATIENCE, || {
            colour(&server, name).trim() == "blue"
        });
    }
}

#[test]
fn gracefuls_leave_no_descriptor_and_no_mapping() {
    let server = Setup::of(one_process(Language::Python)).start();
    assert_eq!(server.get("python", "/").status, 200);
    let holdings = |server: &Server| {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.parent()));
        (
            processes::open_files(server.parent()).len(),
            maps.unwrap_or_default().lines().count(),
        )
    };
    for _ in 0..5 {
        server.graceful();
    }
    let before = holdings(&server);
    for _ in 0..10 {
        server.graceful();
    }
    assert_eq!(holdings(&server), before, "descriptors, mappings");
}
