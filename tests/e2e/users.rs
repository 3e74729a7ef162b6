//! Who the apps run as. Needs root, as httpd does to switch users.

use crate::one_process;
use harness::app::owner_uid;
use harness::{processes, Language, Server, Setup, Site};
use nix::unistd::{Uid, User};

fn is_root() -> bool {
    let is_root = Uid::effective().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}

fn uid_of_user(name: &str) -> u32 {
    let user = User::from_name(name).expect("read the user database");
    user.unwrap_or_else(|| panic!("no user {name}"))
        .uid
        .as_raw()
}

/// The uid of the only process of a site, after a request to it.
fn uid_after_request(server: &Server, site: &str) -> u32 {
    assert_eq!(server.get(site, "/who").status, 200);
    let pids = server.app_pids(site);
    assert_eq!(pids.len(), 1, "one process expected, there are {pids:?}");
    assert!(
        !processes::has_root_anywhere(pids[0]),
        "process {} of {site} can still be root",
        pids[0]
    );
    processes::uid_of(pids[0]).expect("the process is alive")
}

#[test]
fn an_app_runs_as_the_owner_of_its_startup_file() {
    if !is_root() {
        return;
    }
    for language in Language::ALL {
        let server = Setup::of(one_process(language)).start();
        assert_eq!(uid_after_request(&server, language.name()), owner_uid());
        let who = server.get(language.name(), "/who").ok();
        assert!(who.contains("user=daemon"), "{who}");
        assert!(
            who.contains("home=/usr/sbin"),
            "HOME is not the user's: {who}"
        );
    }
}

#[test]
fn an_app_of_root_runs_as_the_default_user() {
    if !is_root() {
        return;
    }
    // Not started before the file is root's.
    let server = Setup::of(Site::probe(Language::Python)).start();
    let startup_file = server.app_root("python").join("passenger_wsgi.py");
    std::os::unix::fs::chown(startup_file, Some(0), Some(0))
        .expect("give the startup file to root");
    assert_eq!(uid_after_request(&server, "python"), uid_of_user("nobody"));
}

#[test]
fn the_configured_user_wins_over_the_owner() {
    if !is_root() {
        return;
    }
    let site = one_process(Language::Python).with("PassengerUser games");
    let server = Setup::of(site).start();
    assert_eq!(uid_after_request(&server, "python"), uid_of_user("games"));
}

#[test]
fn a_configured_root_is_refused_in_favour_of_the_default_user() {
    if !is_root() {
        return;
    }
    let site = one_process(Language::Python)
        .with("PassengerUser root")
        .with("PassengerGroup root");
    let server = Setup::of(site).start();
    let response = server.get("python", "/who");
    // Refusing to start it at all would be as good; running it as root would not.
    if response.status == 200 {
        assert_eq!(uid_after_request(&server, "python"), uid_of_user("nobody"));
    }
    assert!(server
        .app_pids("python")
        .iter()
        .all(|pid| processes::uid_of(*pid) != Some(0)));
}

#[test]
fn without_user_switching_every_app_runs_as_the_default_user() {
    if !is_root() {
        return;
    }
    let server = Setup::of(one_process(Language::Python))
        .with("PassengerUserSwitching off")
        .start();
    assert_eq!(uid_after_request(&server, "python"), uid_of_user("nobody"));
}

#[test]
fn an_app_inherits_no_descriptor_but_its_own_five() {
    let server = Setup::of(one_process(Language::Python))
        .site(Site::probe(Language::Ruby))
        .start();
    assert_eq!(server.get("ruby", "/").status, 200);
    assert_eq!(server.get("python", "/").status, 200);
    for pid in server.app_pids("python") {
        let foreign: Vec<_> = processes::open_files(pid)
            .into_iter()
            .filter(|path| {
                let path = path.to_string_lossy();
                path.contains("memfd:") || path.contains("error.log") || path.contains("/i/")
            })
            .collect();
        assert!(foreign.is_empty(), "process {pid} has {foreign:?}");
    }
}
