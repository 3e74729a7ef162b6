//! Trouble that a test cannot make without harming the machine, pretended by a library that httpd, watchdog and agent
//! are started with (`LD_PRELOAD`): a clock that jumps, a kernel that has no more open files for anybody.

use crate::trouble::{first_of_two, second_app_starts, start_fails_because};
use harness::wait::PATIENCE;
use harness::{processes, until, Language, Load, Request, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory for a library and what it reads; removed when dropped.
struct Stage(PathBuf);

impl Stage {
    /// Builds the library from its source in `fixtures/`.
    fn build(name: &str) -> Stage {
        let own = std::process::id();
        let directory = std::env::temp_dir().join(format!("psgr-{name}-{own}"));
        fs::create_dir_all(&directory).expect("a directory");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("its mode");
        let fixtures = harness::stage::repository().join("tests/e2e/fixtures");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(directory.join("library.so"))
            .arg(fixtures.join(format!("{name}.c")))
            .arg("-ldl")
            .status()
            .expect("run cc");
        assert!(status.success(), "cannot build {name}.c");
        Stage(directory)
    }

    /// A file that the library looks at.
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Starts a server with the library, which finds that file by that variable.
    fn with(&self, setup: Setup, variable: &str, file: &Path) -> Setup {
        setup
            .env("LD_PRELOAD", &self.0.join("library.so").to_string_lossy())
            .env(variable, &file.to_string_lossy())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What cannot be removed is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `ENFILE`, for httpd's workers (but not where they accept connections, which is httpd's matter), watchdog and agent.
#[test]
fn a_kernel_without_open_files_stops_starts_and_nothing_else() {
    let stage = Stage::build("full");
    let full = stage.file("full");
    let setup = first_of_two().without_htaccess();
    let server = stage.with(setup, "PSGR_FULL", &full).start();
    let mut client = server.client("python");
    let request = Request::get("/pid");
    let pid = client.exchange(&request).expect("an answer").ok();
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    fs::write(&full, "").expect("use up the files");
    start_fails_because(&server, "Too many open files in system");
    assert_eq!(server.instance().agent(), agent, "it did not die of it");
    processes::signal(agent, Signal::SIGKILL);
    server.log().expect("cannot start a helper agent");
    let answer = client.exchange(&request).expect("an answer").ok();
    assert_eq!(answer, pid, "without an agent");
    fs::remove_file(&full).expect("free the files");
    until("another agent", PATIENCE, || {
        server.instance().agent() != agent
    });
    second_app_starts(&server);
    assert_eq!(server.get("python", "/pid").ok(), pid);
    assert_eq!(server.instance().watchdog(), watchdog);
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let stage = Stage::build("clock");
    let offset = stage.file("offset");
    fs::write(&offset, "0").expect("set the clock");
    let site = Site::probe(Language::Python)
        .with("PassengerMinInstances 2")
        .with("PassengerMaxRequestQueueTime 20")
        .with("PassengerMaxRequestTime 60");
    let setup = Setup::of(site)
        .with("PassengerMaxPoolSize 2")
        .with("PassengerPoolIdleTime 300");
    let server = stage.with(setup, "PSGR_CLOCK_OFFSET", &offset).start();
    assert_eq!(server.get("python", "/").status, 200);
    let apps = server.await_processes("python", 2);
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    let load = Load::start(server.port(), "python", "/sleep?5", 10);
    for days in [400, -400, 0] {
        fs::write(&offset, (i64::from(days) * 86_400).to_string()).expect("set the clock");
        load.await_more(300);
        assert_eq!(
            server.get("python", &format!("/say?clock{days}")).status,
            200
        );
        server.log().expect(&format!("output: clock{days}"));
    }
    // httpd itself goes by the wall clock: what is idle at a jump it closes, and the client asks again.
    assert_eq!(load.finish().failures, Vec::<String>::new());
    // It did jump for them, and nobody was taken for hung, idle, overdue or outdated.
    let now = Command::new("date").arg("+%Y").output().expect("run date");
    let this_year = String::from_utf8_lossy(&now.stdout).trim().to_owned();
    let text = server.log().text();
    let other_years = text
        .lines()
        .filter(|line| line.contains("output: clock") && !line.contains(&format!(" {this_year}]")));
    assert_eq!(other_years.count(), 2, "{text}");
    assert_eq!(server.app_pids("python"), apps);
    assert_eq!(
        (server.instance().watchdog(), server.instance().agent()),
        (watchdog, agent)
    );
}
