//! A real browser: server-sent events and WebSockets of each language, from a page that the app's public directory
//! has. Where Chromium is installed (`tests/run/deps --browser`).

use harness::stage::repository;
use harness::wait::PATIENCE;
use harness::{until, App, Server, Setup, Site};
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Chromium and its smaller sister without a window.
const BROWSERS: [&str; 2] = ["/usr/bin/chromium", "/usr/bin/chromium-headless-shell"];

/// A running browser, ended with everything it started.
struct Browser(Child);

impl Browser {
    /// Opens a page of a site; `None` where there is no browser.
    fn open(server: &Server, site: &str) -> Option<Browser> {
        let Some(program) = BROWSERS
            .iter()
            .find(|program| fs::exists(program).is_ok_and(|it| it))
        else {
            eprintln!("skipped: Chromium is not installed (tests/run/deps --browser)");
            return None;
        };
        let child = Command::new(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            // It would call home, and try other protocols.
            .args([
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args([
                "--disable-sync",
                "--disable-quic",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--host-resolver-rules=MAP {site} 127.0.0.1"))
            .arg(format!(
                "--user-data-dir={}",
                server.root().join("browser").display()
            ))
            .arg(format!("http://{site}:{}/", server.port()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("start Chromium");
        Some(Browser(child))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).expect("a pid fits"));
        // The one that we started may be a shell.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.0.wait();
        until("the browser to be gone", PATIENCE, || {
            killpg(group, None).is_err()
        });
    }
}

fn fixture(file: &str) -> String {
    let path = repository().join("tests/e2e/fixtures/browser").join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// What the page has seen is what the app meant.
fn a_browser_gets_events_and_echoes(startup_file: &str) {
    let app = App::files()
        .file(startup_file, &fixture(startup_file))
        .file("public/index.html", &fixture("index.html"));
    let server = Setup::of(Site::new("page.test", app).with("PassengerMinInstances 1")).start();
    let Some(_browser) = Browser::open(&server, "page.test") else {
        return;
    };
    server.await_file("page.test", "result");
    let seen =
        fs::read_to_string(server.app_root("page.test").join("result")).expect("read the result");
    let expected = r#"{"events":["0","1","2"],"echo":"grüße","code":3001,"wasClean":true}"#;
    assert_eq!(seen, expected);
}

#[test]
fn a_browser_gets_events_and_echoes_of_rack() {
    a_browser_gets_events_and_echoes("config.ru");
}

#[test]
fn a_browser_gets_events_and_echoes_of_wsgi() {
    a_browser_gets_events_and_echoes("passenger_wsgi.py");
}

#[test]
fn a_browser_gets_events_and_echoes_of_asgi() {
    a_browser_gets_events_and_echoes("passenger_asgi.py");
}

#[test]
fn a_browser_gets_events_and_echoes_of_node() {
    a_browser_gets_events_and_echoes("app.js");
}
