//! `Passengerfile.json`: the start command of an app that neither a directive nor a startup file describes.

use harness::app::owner_uid;
use harness::wait::PATIENCE;
use harness::{until, App, Server, Setup, Site};
use std::fs;
use std::os::unix::fs::{chown, symlink, MetadataExt, PermissionsExt};

/// The server of `tests/apps/standalone-server.rs`.
const SERVER: &str = env!("CARGO_BIN_EXE_standalone-server");
const COMMAND: &str = "{\n  \"app_start_command\": \"./server $PORT\",\n  \"port\": 4000\n}\n";

fn site(files: &[(&str, &str)]) -> Site {
    let app = files
        .iter()
        .fold(App::files(), |app, (path, text)| app.file(path, text));
    Site::new("app", app)
}

/// Starts httpd and puts the server where the command expects it.
fn start(site: Site) -> Server {
    let server = Setup::of(site).start();
    let program = server.app_root("app").join("server");
    fs::copy(SERVER, &program).expect("copy the server");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it executable");
    server
}

#[test]
fn its_command_is_an_app_and_runs_as_the_files_owner() {
    let server = start(site(&[("Passengerfile.json", COMMAND)]));
    assert_eq!(server.get("app", "/").ok(), "standalone\n");
    let pid: i32 = server.get("app", "/pid").ok().parse().expect("a pid");
    let process = fs::metadata(format!("/proc/{pid}")).expect("it lives");
    assert_eq!(process.uid(), owner_uid());
}

#[test]
fn directives_count_more_than_the_file_and_the_file_more_than_startup_files() {
    let answers = "module.exports = null; require('http').createServer((q, r) => r.end('node\\n')).listen(0);";
    let files = [("Passengerfile.json", COMMAND), ("app.js", answers)];
    let server = start(site(&files));
    assert_eq!(server.get("app", "/").ok(), "standalone\n");
    let server = start(site(&files).with("PassengerAppType node"));
    assert_eq!(server.get("app", "/").ok(), "node\n");
    // One for Passenger Standalone alone changes nothing.
    let files = [
        ("Passengerfile.json", "{\"port\": 4000}"),
        ("app.js", answers),
    ];
    let server = start(site(&files));
    assert_eq!(server.get("app", "/").ok(), "node\n");
}

#[test]
fn a_file_without_a_command_makes_no_app() {
    let server = start(site(&[
        ("Passengerfile.json", "{\"port\": 4000}"),
        ("public/here.txt", "here\n"),
    ]));
    assert_eq!(server.get("app", "/here.txt").ok(), "here\n");
    assert_eq!(server.get("app", "/elsewhere").status, 404);
}

#[test]
fn a_broken_file_is_an_error_with_the_place_of_the_mistake() {
    let broken = "{\n  \"app_start_command\" \"./server\"\n}\n";
    let site = site(&[("Passengerfile.json", broken)]).with("PassengerFriendlyErrorPages on");
    let server = start(site);
    let response = server.get("app", "/");
    assert_eq!(response.status, 500);
    let page = response.text();
    assert!(
        page.contains("Passengerfile.json is not JSON: the mistake is in line 2, column"),
        "{page}"
    );
    // It is read anew: the next start works.
    fs::write(server.app_root("app").join("Passengerfile.json"), COMMAND).expect("mend it");
    until("the mended file to be read", PATIENCE, || {
        server.get("app", "/").status == 200
    });
}

#[test]
fn another_users_file_is_not_read_through_a_link() {
    if owner_uid() == nix::unistd::geteuid().as_raw() {
        eprintln!("skipped: needs root");
        return;
    }
    let server = start(site(&[("app/other.json", COMMAND)]));
    let root = server.app_root("app");
    let other = root.join("other.json");
    fs::write(&other, COMMAND).expect("write a file");
    chown(&other, Some(0), Some(0)).expect("give it to root");
    let link = root.join("Passengerfile.json");
    symlink(&other, &link).expect("a link");
    std::os::unix::fs::lchown(&link, Some(owner_uid()), None).expect("give it away");
    let response = server.get("app", "/");
    assert_eq!(response.status, 500, "{}", server.log().tail(3));
    server.log().expect("it is a link to another user's file");
}
