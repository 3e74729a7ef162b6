//! Sticky sessions: a client stays with the process that served it first.

use harness::wait::{until_some, PATIENCE};
use harness::{processes, until, Language, Mpm, Request, Response, Server, Setup, Site};
use nix::sys::signal::Signal;

fn site(language: Language) -> Site {
    Site::probe(language)
        .with("PassengerMinInstances 3")
        .with("PassengerStickySessions on")
}

fn start(site: Site, mpm: Mpm) -> Server {
    Setup::of(site)
        .mpm(mpm)
        .with("PassengerMaxPoolSize 3")
        .start()
}

fn set_cookie(response: &Response) -> String {
    let cookie = response.header("set-cookie");
    cookie.expect("a response sets the cookie").to_owned()
}

/// `name=value` of a response's cookie.
fn cookie(response: &Response) -> String {
    let cookie = set_cookie(response);
    cookie.split(';').next().expect("a pair").to_owned()
}

fn get(server: &Server, site: &str, target: &str, cookie: &str) -> Response {
    let fields = format!("theme=dark; {cookie}; lang=de");
    server.request(site, &Request::get(target).header("Cookie", &fields))
}

/// A client for each process: its pid and cookie.
fn sessions(server: &Server, site: &str) -> Vec<(String, String)> {
    assert_eq!(server.get(site, "/").status, 200);
    server.await_processes(site, 3);
    let mut sessions: Vec<(String, String)> = Vec::new();
    // One that is held is not chosen for the next.
    let mut held = Vec::new();
    while sessions.len() < 3 {
        let answer = server.get(site, "/pid");
        let (pid, cookie) = (answer.ok(), cookie(&answer));
        let file = format!("s{}", sessions.len());
        let mut client = server.client(site);
        let request = Request::get(&format!("/hold?{file}")).header("Cookie", &cookie);
        client.send(&request).expect("send");
        server.await_file(site, &format!("{file}.begun"));
        held.push((client, file));
        assert!(!sessions.iter().any(|(known, _)| *known == pid));
        sessions.push((pid, cookie));
    }
    for (client, file) in &mut held {
        server.touch(site, &format!("{file}.go"));
        client.response().expect("a response");
    }
    sessions
}

#[test]
fn a_session_stays_with_its_process() {
    for language in Language::ALL {
        let name = language.name();
        let server = start(site(language), Mpm::Event);
        if language == Language::Node {
            // Takes requests without limit: none is busy.
            let first = server.get(name, "/pid");
            for _ in 0..20 {
                assert_eq!(get(&server, name, "/pid", &cookie(&first)).ok(), first.ok());
            }
            continue;
        }
        for (pid, cookie) in sessions(&server, name) {
            for _ in 0..10 {
                let answer = get(&server, name, "/pid", &cookie);
                assert_eq!(answer.ok(), pid, "{name}");
                assert_eq!(
                    self::cookie(&answer),
                    cookie,
                    "set again with every response"
                );
            }
        }
    }
}

#[test]
fn a_session_waits_for_its_process_although_others_are_idle() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = start(site(Language::Python), mpm);
        let (pid, cookie) = sessions(&server, "python").remove(1);
        let mut busy = server.client("python");
        let hold = Request::get("/hold?long").header("Cookie", &cookie);
        busy.send(&hold).expect("send");
        server.await_file("python", "long.begun");
        let mut waiting = server.client("python");
        let next = Request::get("/pid").header("Cookie", &cookie);
        waiting.send(&next).expect("send");
        // Others are served at once.
        assert_ne!(server.get("python", "/pid").ok(), pid);
        server.touch("python", "long.go");
        busy.response().expect("a response");
        assert_eq!(waiting.response().expect("a response").ok(), pid);
    }
}

#[test]
fn a_session_whose_process_is_gone_goes_on_with_another() {
    let server = start(site(Language::Ruby), Mpm::Event);
    let (pid, old) = sessions(&server, "ruby").remove(0);
    let pid: i32 = pid.trim().parse().expect("a pid");
    processes::signal(pid, Signal::SIGKILL);
    until("the process to die", PATIENCE, || !processes::is_alive(pid));
    let answer = until_some("an answer of another process", PATIENCE, || {
        let answer = get(&server, "ruby", "/pid", &old);
        (answer.status == 200).then_some(answer)
    });
    let new = cookie(&answer);
    assert_ne!(new, old, "the session has another process now");
    assert_eq!(get(&server, "ruby", "/pid", &new).ok(), answer.ok());
}

#[test]
fn name_and_attributes_of_the_cookie_are_the_configured_ones() {
    let ordinary = start(site(Language::Ruby), Mpm::Event);
    let cookie = set_cookie(&ordinary.get("ruby", "/"));
    assert!(cookie.starts_with("_passenger_route="), "{cookie}");
    assert!(
        cookie.ends_with("; Path=/; SameSite=Lax; Secure"),
        "{cookie}"
    );
    // A page of httpd's own says nothing about processes.
    assert_eq!(
        ordinary.get("ruby", "/static.txt").header("set-cookie"),
        None
    );

    let named = site(Language::Ruby)
        .with("PassengerStickySessionsCookieName seat")
        .with("PassengerStickySessionsCookieAttributes \"Max-Age=60; HttpOnly\"");
    let server = start(named, Mpm::Event);
    let answer = server.get("ruby", "/pid");
    let cookie = set_cookie(&answer);
    assert!(cookie.starts_with("seat="), "{cookie}");
    assert!(
        cookie.ends_with("; Path=/; Max-Age=60; HttpOnly"),
        "{cookie}"
    );
    let pair = self::cookie(&answer);
    assert_eq!(get(&server, "ruby", "/pid", &pair).ok(), answer.ok());
}

#[test]
fn sessions_are_not_sticky_unless_asked_for() {
    let server = Setup::of(Site::probe(Language::Ruby)).start();
    assert_eq!(server.get("ruby", "/").header("set-cookie"), None);
}
