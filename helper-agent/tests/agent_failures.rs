//! Apps that do not start: each gets a report that names the step, what the app printed and what to do; the
//! next request tries again.

mod agent_harness;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use agent_harness::{config, is_running, registration, wait_for, Stage, Watchdog};
use passenger_shm::messages::SpawnFailure;
use passenger_shm::GroupRef;

const GOOD: &str = "def application(environ, start_response):\n    \
                    start_response('200 OK', [])\n    return [b'fine']\n";

struct Broken {
    watchdog: Watchdog,
    group: GroupRef,
    root: std::path::PathBuf,
}

impl Broken {
    fn start(test: &str, files: &[(&str, &str)], directives: &[(&str, &str)]) -> Self {
        let stage = Stage::new(test);
        let public = stage.app("a", files);
        let mut all = vec![
            ("PassengerAppEnv", "development"),
            ("PassengerMinInstances", "0"),
        ];
        all.extend(directives);
        let config = config(1, &[], &[(&public, &all)]);
        let root = stage.directory.join("apps/a");
        let mut watchdog = Watchdog::start(stage, config);
        watchdog.worker();
        let group = watchdog.workers[0].register(&registration(1, &[1], &public));
        Self {
            watchdog,
            group,
            root,
        }
    }

    fn failure(&mut self) -> SpawnFailure {
        let worker = &self.watchdog.workers[0];
        assert!(worker.try_seat(self.group).is_none(), "it became ready");
        let failure = worker.why(self.group);
        self.watchdog.stage.wait_for_log(&failure.id);
        assert!(failure.friendly, "details are for development");
        let log = self.watchdog.stage.log();
        assert_eq!(log.matches(&failure.id).count(), 1, "told once:\n{log}");
        failure
    }

    /// The reason is gone: the next request is served.
    fn is_served(&self) {
        wait_for("a served request", || {
            let seat = self.watchdog.workers[0].try_seat(self.group)?;
            seat.release();
            Some(())
        });
    }
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

#[test]
fn a_syntax_error() {
    let mut app = Broken::start("syntax", &[("passenger_wsgi.py", "def broken(:\n")], &[]);
    let failure = app.failure();
    assert_eq!(failure.step, "load");
    contains(&failure.output, &["SyntaxError", "passenger_wsgi.py"]);
    contains(&failure.advice, &["syntax error"]);
    contains(
        &failure.summary,
        &["could not be started", "loading its code (step load)"],
    );
    fs::write(app.root.join("passenger_wsgi.py"), GOOD).unwrap();
    app.is_served();
}

#[test]
fn an_app_that_raises() {
    let mut app = Broken::start(
        "raises",
        &[(
            "passenger_wsgi.py",
            "print('before', flush=True)\nraise RuntimeError('no database')\n",
        )],
        &[],
    );
    let failure = app.failure();
    assert_eq!(failure.step, "load");
    contains(&failure.output, &["before", "no database"]);
}

#[test]
fn an_app_that_prints_and_exits() {
    let text = "import os\nprint('only a script', flush=True)\nos._exit(0)\n";
    let mut app = Broken::start("exits", &[("passenger_wsgi.py", text)], &[]);
    let failure = app.failure();
    assert_eq!(failure.step, "load");
    contains(&failure.summary, &["exited with status 0"]);
    contains(&failure.output, &["only a script"]);
    contains(&failure.advice, &["must not end by itself"]);
}

#[test]
fn an_app_that_hangs_is_killed_with_its_children() {
    let text = "import subprocess, time\nc = subprocess.Popen(['sleep', '1000'])\n\
                print('child', c.pid, flush=True)\ntime.sleep(1000)\n";
    let limit = [("PassengerStartTimeout", "1")];
    let mut app = Broken::start("hangs", &[("passenger_wsgi.py", text)], &limit);
    let failure = app.failure();
    contains(
        &failure.summary,
        &["not ready for requests within 1 seconds", "step load"],
    );
    let child = failure
        .output
        .split("child ")
        .nth(1)
        .expect("its output")
        .lines()
        .next()
        .unwrap();
    let child: i32 = child.parse().unwrap();
    wait_for("the end of its child", || {
        (!is_running(child)).then_some(())
    });
}

#[test]
fn a_wrong_interpreter() {
    let wrong = [("PassengerPython", "/no/such/python")];
    let mut app = Broken::start("interpreter", &[("passenger_wsgi.py", GOOD)], &wrong);
    let failure = app.failure();
    assert_eq!(failure.step, "exec");
    contains(
        &failure.summary,
        &["/no/such/python does not exist", "PassengerPython"],
    );
    contains(&failure.advice, &["full path"]);
    contains(
        &format!("{:?}", failure.facts),
        &["command", "wsgi-loader.py", "app root"],
    );
}

#[test]
fn an_interpreter_that_is_none() {
    let wrong = [("PassengerPython", "/etc/passwd")];
    let mut app = Broken::start("passwd", &[("passenger_wsgi.py", GOOD)], &wrong);
    let failure = app.failure();
    assert_eq!(failure.step, "exec");
    contains(
        &failure.summary,
        &["may not execute the interpreter /etc/passwd"],
    );
}

#[test]
fn a_directory_on_the_way_that_the_user_may_not_enter() {
    if !nix::unistd::geteuid().is_root() {
        // Only an agent that can switch users can meet it.
        return;
    }
    let mut app = Broken::start("closed", &[("passenger_wsgi.py", GOOD)], &[]);
    let apps = app.root.parent().unwrap().to_owned();
    app.is_served();
    let pid = app.watchdog.wait_pids(1)[0];
    fs::set_permissions(&apps, Permissions::from_mode(0o700)).unwrap();
    helper_agent::sys::pidfd::Pidfd::open(pid)
        .unwrap()
        .signal(libc::SIGKILL)
        .unwrap();
    wait_for("its end", || app.watchdog.pids().is_empty().then_some(()));
    let failure = app.failure();
    assert_eq!(failure.step, "directory");
    contains(
        &failure.summary,
        &[
            "user nobody cannot enter the directory",
            apps.to_str().unwrap(),
            "mode 0700",
        ],
    );
    fs::set_permissions(&apps, Permissions::from_mode(0o755)).unwrap();
    app.is_served();
}

#[test]
fn a_default_user_that_does_not_exist() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let stage = Stage::new("nouser");
    let public = stage.app("a", &[("passenger_wsgi.py", GOOD)]);
    let global = [("PassengerDefaultUser", "no-such-user")];
    let mut watchdog = Watchdog::start(stage, config(1, &global, &[(&public, &[])]));
    watchdog.worker();
    let worker = &watchdog.workers[0];
    let group = worker.register(&registration(1, &[1], &public));
    assert!(worker.try_seat(group).is_none());
    let failure = worker.why(group);
    assert_eq!(failure.step, "prepare");
    contains(
        &failure.summary,
        &["PassengerDefaultUser \"no-such-user\" is not a user"],
    );
    assert!(!failure.friendly, "in production nobody outside is told");
}

#[test]
fn a_process_that_breaks_the_protocol() {
    let text = "import os\nos.write(3, b'make me root\\n')\nimport time\ntime.sleep(1000)\n";
    let mut app = Broken::start("misspoken", &[("passenger_wsgi.py", text)], &[]);
    let failure = app.failure();
    contains(
        &failure.summary,
        &["said \"make me root\" on its control socket"],
    );
}
