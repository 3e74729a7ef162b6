//! Meteor: bundles, which are Node apps, and directories of development, which the `meteor` command runs.
//!
//! Meteor itself is not in Debian and too large to be fetched by a test: the command is a **stand-in**
//! (`fixtures/meteor/meteor`) that does what `meteor run` does as far as whoever starts it can tell, and the bundle has
//! the shape of one that `meteor build` makes.

use harness::stage::repository;
use harness::wait::PATIENCE;
use harness::{processes, until, App, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Answers with what Meteor's server part sees, and greets over a WebSocket-like upgrade.
const SERVER: &str = r"
const http = require('http');
const server = http.createServer((request, response) => {
  const { ROOT_URL, NODE_ENV, METEOR_SETTINGS, MONGO_URL } = process.env;
  const settings = METEOR_SETTINGS ? JSON.parse(METEOR_SETTINGS).word : 'none';
  response.end([request.url, ROOT_URL, NODE_ENV, settings, MONGO_URL, process.pid].join('|'));
});
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('LISTENING ' + server.address().port));
";

fn stand_in() -> String {
    let path = repository().join("tests/e2e/fixtures/meteor/meteor");
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// A project's directory, and the command in `bin`.
fn project() -> Site {
    let app = App::files()
        .file(".meteor/release", "METEOR@2.16\n")
        .file("server/main.js", SERVER)
        .file("settings.json", "{\"word\": \"set\"}\n")
        .file("bin/meteor", &stand_in());
    Site::new("meteor", app)
        .with("SetEnv PATH \"{root}/sites/meteor/bin:/usr/local/bin:/usr/bin:/bin\"")
        .with("SetEnv MONGO_URL mongodb://db.example/app")
        .with("SetEnv ROOT_URL http://meteor.example/")
}

fn start(site: Site) -> Server {
    let server = Setup::of(site).start();
    let command = server.app_root("meteor").join("bin/meteor");
    fs::set_permissions(command, fs::Permissions::from_mode(0o755)).expect("make it executable");
    server
}

#[test]
fn a_projects_directory_is_run_by_the_meteor_command() {
    let server = start(project());
    let answer = server.get("meteor", "/tasks?open=1").ok();
    let parts: Vec<&str> = answer.split('|').collect();
    let expected = [
        "/tasks?open=1",
        "http://meteor.example/",
        "production",
        "none",
        "mongodb://db.example/app",
    ];
    assert_eq!(parts[..5], expected);
    server
        .log()
        .expect(r#"{"host":"127.0.0.1","isProduction":true}"#);
    // Its child ends with it.
    let child: i32 = parts[5].parse().expect("a pid");
    let parent = processes::parent_of(child).expect("the stand-in");
    processes::signal(parent, Signal::SIGKILL);
    until("the child to end with the command", PATIENCE, || {
        !processes::is_alive(child)
    });
    assert_eq!(server.get("meteor", "/").status, 200);
}

#[test]
fn settings_and_environment_reach_meteor() {
    let site = project()
        .with("PassengerMeteorAppSettings settings.json")
        .with("PassengerAppEnv development")
        .with("PassengerAppType meteor");
    let server = start(site);
    let answer = server.get("meteor", "/").ok();
    let parts: Vec<&str> = answer.split('|').collect();
    assert_eq!(parts[2..4], ["development", "set"]);
    server.log().expect(r#""isProduction":false"#);
}

#[test]
fn a_missing_meteor_command_is_reported() {
    let app = App::files().file(".meteor/release", "METEOR@2.16\n");
    let site = Site::new("meteor", app).with("PassengerAppEnv development");
    let server = Setup::of(site).start();
    let page = server.get("meteor", "/");
    assert_eq!(page.status, 500);
    assert!(
        page.text().contains("the program meteor is neither in"),
        "{}",
        page.text()
    );
}

#[test]
fn a_bundle_is_a_node_app() {
    const MAIN: &str = "process.argv.splice(2, 0, 'program.json');\n\
        process.chdir(require('path').join(__dirname, 'programs', 'server'));\n\
        require('./programs/server/boot.js');\n";
    let app = App::files()
        .file("main.js", MAIN)
        .file("star.json", "{\"format\": \"site-archive-pre1\"}\n")
        .file("programs/server/program.json", "{}\n")
        .file(
            "programs/server/boot.js",
            &format!("require('fs').readFileSync(process.argv[2]);\n{SERVER}"),
        );
    let site = Site::new("bundle", app)
        .with("PassengerAppType node")
        .with("PassengerStartupFile main.js")
        .with("SetEnv ROOT_URL http://bundle.example/")
        .with("SetEnv MONGO_URL mongodb://db.example/app")
        .with("SetEnv METEOR_SETTINGS '{\"word\": \"bundled\"}'");
    let server = Setup::of(site).start();
    let answer = server.get("bundle", "/x").ok();
    let expected = "/x|http://bundle.example/|production|bundled|mongodb://db.example/app|";
    assert!(answer.starts_with(expected), "{answer}");
}
