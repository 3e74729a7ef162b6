//! The agent between a watchdog and a worker, both played by the test: from a registration to a served
//! request, what a process starts with, growth, orphans, gracefuls, its own death, the end.

mod agent_harness;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use agent_harness::{
    config, holders_of_inode, is_running, read_answer, registration, send_get, wait_for, Stage,
    Watchdog, Worker,
};
use helper_agent::instance;
use helper_agent::store::{ToAgent, ToWatchdog};
use passenger_shm::GroupRef;

const WSGI: &str = r#"
import os, time
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    path = environ["PATH_INFO"]
    if path == "/env":
        return ["".join(f"{k}={v}\n" for k, v in sorted(os.environ.items())).encode()]
    if path == "/ids":
        ids = f"{os.getresuid()} {os.getresgid()} leader={os.getsid(0) == os.getpid()}"
        return [f"{ids} {os.getcwd()} {oct(os.umask(0o22))}".encode()]
    if path == "/fds":
        return [" ".join(sorted(os.listdir("/proc/self/fd"), key=int)).encode()]
    if path.startswith("/wait/"):
        while not os.path.exists(path[5:]):
            time.sleep(0.005)
    if path == "/print":
        print("hello from the app", flush=True)
    if path == "/exit":
        os._exit(7)
    return [str(os.getpid()).encode()]
"#;

/// One app, one worker, one group.
struct Site {
    watchdog: Watchdog,
    public: String,
    group: GroupRef,
}

impl Site {
    fn start(test: &str, global: &[(&str, &str)], directives: &[(&str, &str)]) -> Self {
        let stage = Stage::new(test);
        let public = stage.app("a", &[("passenger_wsgi.py", WSGI)]);
        let config = config(1, global, &[(&public, directives)]);
        let mut watchdog = Watchdog::start(stage, config);
        watchdog.worker();
        let group = watchdog.workers[0].register(&registration(1, &[1], &public));
        Self {
            watchdog,
            public,
            group,
        }
    }

    fn worker(&self) -> &Worker {
        &self.watchdog.workers[0]
    }

    fn get(&self, path: &str) -> String {
        self.worker().get(self.group, path).1
    }

    fn file(&self, name: &str) -> String {
        let path = self.watchdog.stage.directory.join(name);
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn a_registered_app_is_started_published_and_served() {
    let mut site = Site::start("served", &[], &[]);
    let pid = site.get("/");
    let pids = site.watchdog.wait_pids(1);
    assert_eq!(pid, pids[0].to_string());
    assert_eq!(site.get("/"), pid, "the same process again");
    site.get("/print");
    site.watchdog
        .stage
        .wait_for_log(&format!("App {pid} output: hello from the app"));
}

#[test]
fn a_process_starts_with_what_the_contract_says_and_nothing_else() {
    let site = Site::start("contract", &[], &[("PassengerAppEnv", "staging")]);
    let env = site.get("/env");
    let root = site.file("apps/a");
    for expected in [
        "FROM_SERVER=yes",
        "IN_PASSENGER=1",
        "WSGI_ENV=staging",
        "SERVER_SOFTWARE=Test/1.0",
    ] {
        assert!(
            env.lines().any(|line| line == expected),
            "{expected} not in\n{env}"
        );
    }
    assert!(
        !env.contains("SECRET") && !env.contains("RUST_BACKTRACE"),
        "{env}"
    );
    let ids = site.get("/ids");
    if nix::unistd::geteuid().is_root() {
        // The startup file is root's, so the default user runs it.
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        let (u, g) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        assert!(
            ids.starts_with(&format!("({u}, {u}, {u}) ({g}, {g}, {g})")),
            "{ids}"
        );
    }
    assert!(ids.ends_with(&format!("leader=True {root} 0o22")), "{ids}");
}

#[test]
fn exactly_one_process_holds_the_listener_and_only_apache_may_connect() {
    let mut site = Site::start("listener", &[], &[]);
    let (process, pid) = site.worker().get(site.group, "/");
    let path = instance::app_socket(
        &site.watchdog.instance.path,
        process.slot(),
        process.generation(),
    );
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(meta.uid(), nix::unistd::geteuid().as_raw());
    let listening = fs::read_to_string("/proc/net/unix").unwrap();
    // The one with flag 00010000 is the listening socket; the others are accepted connections.
    let inode = listening
        .lines()
        .filter(|line| line.ends_with(path.to_str().unwrap()) && line.contains(" 00010000 "))
        .filter_map(|line| line.split_whitespace().nth(6))
        .next()
        .expect("a listening socket");
    let holders = holders_of_inode(&format!("socket:[{inode}]"));
    assert_eq!(holders, [pid.parse::<i32>().unwrap()]);
    assert_eq!(site.watchdog.wait_pids(1).len(), 1);
}

#[test]
fn waiting_requests_get_processes_up_to_the_limit() {
    let mut site = Site::start("growth", &[("PassengerMaxPoolSize", "2")], &[]);
    let gate = site.file("gate");
    let held: Vec<_> = (0..2)
        .map(|_| {
            let seat = site.worker().seat(site.group);
            let mut stream = site.worker().connect(seat.process());
            send_get(&mut stream, seat.number(), &format!("/wait/{gate}"));
            (seat, stream)
        })
        .collect();
    assert_ne!(held[0].0.process(), held[1].0.process());
    let mut waiter = site.worker().client.enqueue(site.group).unwrap();
    site.worker()
        .client
        .hint(passenger_shm::Hint::CapacityWanted(site.group));
    fs::write(&gate, "").unwrap();
    for (seat, mut stream) in held {
        read_answer(&mut stream, seat.number());
        seat.release();
    }
    let seat = wait_for("a seat for the third", || {
        waiter.wait(std::time::Duration::from_millis(50))
    });
    seat.release();
    drop(waiter);
    assert_eq!(site.watchdog.pids().len(), 2);
}

#[test]
fn a_process_that_dies_is_replaced_and_its_end_is_told() {
    let mut site = Site::start("replaced", &[], &[]);
    let pid: i32 = site.get("/").parse().unwrap();
    let seat = site.worker().seat(site.group);
    let first = seat.process();
    let mut stream = site.worker().connect(first);
    send_get(&mut stream, seat.number(), "/exit");
    wait_for("the state in routes", || {
        (!site.worker().view.is_live(first)).then_some(())
    });
    seat.release();
    let (second, other) = site.worker().get(site.group, "/");
    assert_ne!(other, pid.to_string());
    assert_ne!(first, second, "a slot's generation is never used twice");
    site.watchdog
        .stage
        .wait_for_log("exited with status 7 without having been asked to");
    let path = instance::app_socket(
        &site.watchdog.instance.path,
        first.slot(),
        first.generation(),
    );
    assert!(!path.exists());
    wait_for("the store to forget it", || {
        (!site.watchdog.pids().contains(&pid)).then_some(())
    });
}

#[test]
fn an_abandoned_request_keeps_its_seat_until_the_app_is_done() {
    let site = Site::start("orphan", &[("PassengerMaxPoolSize", "1")], &[]);
    let gate = site.file("gate");
    let seat = site.worker().seat(site.group);
    let process = seat.process();
    let mut stream = site.worker().connect(process);
    send_get(&mut stream, seat.number(), &format!("/wait/{gate}"));
    drop(stream);
    seat.orphan();
    let load = || {
        let processes = site.watchdog.inspect().snapshot();
        serde_json::to_value(&processes).unwrap()
    };
    let mut waiter = site.worker().client.enqueue(site.group).unwrap();
    site.worker()
        .client
        .hint(passenger_shm::Hint::CapacityWanted(site.group));
    // Asked at least once: the answer cannot come before the app is back in its loop.
    for _ in 0..10 {
        let seat = waiter.wait(std::time::Duration::from_millis(50));
        assert!(seat.is_none(), "the app still computes: {}", load());
    }
    fs::write(&gate, "").unwrap();
    let seat = wait_for("the orphan's seat", || {
        waiter.wait(std::time::Duration::from_millis(50))
    });
    assert_eq!(seat.process(), process);
    seat.release();
}

#[test]
fn a_killed_agent_is_replaced_under_running_apps() {
    let mut site = Site::start("adopted", &[], &[]);
    let pid = site.get("/");
    site.watchdog.wait_pids(1);
    site.watchdog.kill_agent();
    assert_eq!(site.get("/"), pid, "traffic does not need the agent");
    site.watchdog.replace_agent();
    assert_eq!(site.get("/"), pid);
    assert_eq!(site.watchdog.pids(), [pid.parse::<i32>().unwrap()]);
    site.get("/print");
    site.watchdog
        .stage
        .wait_for_log(&format!("App {pid} output: hello from the app"));
    let again = site.worker().register(&registration(1, &[1], &site.public));
    assert_eq!(again, site.group, "the same group, known by its definition");
    // The new agent looks after it as after its own.
    let seat = site.worker().seat(site.group);
    let mut stream = site.worker().connect(seat.process());
    send_get(&mut stream, seat.number(), "/exit");
    let first = seat.process();
    wait_for("the state in routes", || {
        (!site.worker().view.is_live(first)).then_some(())
    });
    seat.release();
    assert_ne!(site.get("/"), pid);
}

#[test]
fn what_was_only_starting_ends_with_its_agent_and_is_started_anew() {
    let stage = Stage::new("halfway");
    let gate = stage.directory.join("gate");
    let text = format!(
        "import os, time\nwhile not os.path.exists({:?}): time.sleep(0.005)\n{WSGI}",
        gate.to_str().unwrap()
    );
    let public = stage.app("a", &[("passenger_wsgi.py", &text)]);
    let mut watchdog = Watchdog::start(stage, config(1, &[], &[(&public, &[])]));
    watchdog.worker();
    let group = watchdog.workers[0].register(&registration(1, &[1], &public));
    let first = watchdog.wait_pids(1)[0];
    watchdog.kill_agent();
    watchdog.replace_agent();
    wait_for("the half-started process to end", || {
        (!is_running(first)).then_some(())
    });
    fs::write(&gate, "").unwrap();
    let (_, pid) = watchdog.workers[0].get(group, "/");
    assert_ne!(pid, first.to_string());
}

#[test]
fn a_graceful_keeps_unchanged_apps_warm_and_replaces_changed_ones() {
    let mut site = Site::start("graceful", &[], &[("PassengerAppEnv", "one")]);
    let pid = site.get("/");
    let public = site.public.clone();
    let same: &[(&str, &str)] = &[("PassengerAppEnv", "one")];
    // The site's record has another number now.
    site.watchdog.send_config(config(
        2,
        &[],
        &[("/elsewhere/public", &[]), (&public, same)],
    ));
    // A child of the new generation may be faster than its configuration.
    let group = site.worker().register(&registration(2, &[2], &public));
    site.watchdog.wait_ready();
    assert_eq!(group, site.group);
    assert_eq!(site.get("/"), pid, "warm");
    let changed: &[(&str, &str)] = &[("PassengerAppEnv", "one"), ("PassengerGroup", "nogroup")];
    let changed_env: &[(&str, &str)] = &[
        ("PassengerAppEnv", "one"),
        ("PassengerPython", "/usr/bin/python3"),
    ];
    let changed = if nix::unistd::geteuid().is_root() {
        changed_env
    } else {
        changed
    };
    site.watchdog.send_config(config(
        3,
        &[],
        &[("/elsewhere/public", &[]), (&public, changed)],
    ));
    site.watchdog.wait_ready();
    wait_for("another process", || (site.get("/") != pid).then_some(()));
    let old: i32 = pid.parse().unwrap();
    wait_for("the old one to end", || (!is_running(old)).then_some(()));
}

#[test]
fn a_refused_configuration_changes_nothing() {
    let mut site = Site::start("refused", &[], &[]);
    let pid = site.get("/");
    let public = site.public.clone();
    site.watchdog.send_config(config(
        2,
        &[("PassengerMaxPoolSize", "none")],
        &[(&public, &[])],
    ));
    site.watchdog.wait_said("refusal", |m| {
        matches!(m, ToWatchdog::ConfigRefused { generation: 2, message } if message.contains("PassengerMaxPoolSize"))
    });
    assert_eq!(site.get("/"), pid);
}

#[test]
fn stop_lets_requests_finish_then_ends_everything_by_force() {
    let stage = Stage::new("stop");
    let stubborn = format!(
        "import signal, subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
         child = subprocess.Popen(['sleep', '1000'])\n{WSGI}\n\
         def application(environ, start_response, plain=application):\n    \
         if environ['PATH_INFO'] == '/loop':\n        \
         while True: pass\n    \
         if environ['PATH_INFO'] == '/child':\n        \
         start_response('200 OK', [])\n        return [str(child.pid).encode()]\n    \
         return plain(environ, start_response)\n"
    );
    let public = stage.app("a", &[("passenger_wsgi.py", &stubborn)]);
    let mut watchdog = Watchdog::start(stage, config(1, &[], &[(&public, &[])]));
    watchdog.worker();
    let group = watchdog.workers[0].register(&registration(1, &[1], &public));
    let (_, child) = watchdog.workers[0].get(group, "/child");
    let child: i32 = child.parse().unwrap();
    let pid = watchdog.wait_pids(1)[0];
    {
        let seat = watchdog.workers[0].seat(group);
        let mut stream = watchdog.workers[0].connect(seat.process());
        send_get(&mut stream, seat.number(), "/loop");
        seat.orphan();
    }
    watchdog
        .channel
        .send(&ToAgent::Stop { deadline_ms: 2_000 }, &[])
        .unwrap();
    watchdog.wait_said("stopped", |m| *m == ToWatchdog::Stopped);
    assert!(!is_running(pid));
    wait_for("the end of its child in the same group", || {
        (!is_running(child)).then_some(())
    });
    let exit = watchdog.agent.pidfd.reap_blocking().unwrap().unwrap();
    assert_eq!(
        exit.status,
        helper_agent::sys::process::ExitStatus::Exited { code: 0 }
    );
}

#[test]
fn a_worker_cannot_register_what_root_did_not_write() {
    let site = Site::start("trust", &[], &[]);
    let refused = |chain: &[u32], root: &str| site.worker().refused(&registration(1, chain, root));
    assert!(refused(&[77], &site.public).contains("no record number 77"));
    let me = if nix::unistd::geteuid().is_root() {
        "belongs to uid 0"
    } else {
        "changed by other"
    };
    let other = site
        .watchdog
        .stage
        .app("other", &[("passenger_wsgi.py", WSGI)]);
    let message = refused(&[], &other);
    assert!(message.contains(me), "{message}");
    assert!(refused(&[], "/etc/../etc/public").contains("absolute path"));
    assert_eq!(
        site.worker()
            .register(&registration(1, &[1, 0], &site.public)),
        site.group
    );
}

#[test]
fn a_worker_that_sends_rubbish_is_not_heard_any_more_and_others_are() {
    let mut site = Site::start("rubbish", &[], &[]);
    let other = site.watchdog.worker();
    site.worker()
        .channel
        .send(&serde_json::json!({"Nonsense": [1, 2, 3]}), &[])
        .unwrap();
    site.watchdog.stage.wait_for_log("is not heard any more");
    let group = site.watchdog.workers[other].register(&registration(1, &[1], &site.public));
    assert_eq!(group, site.group);
}

#[test]
fn the_minimum_is_kept_without_requests() {
    let mut site = Site::start("minimum", &[], &[("PassengerMinInstances", "3")]);
    let pids = site.watchdog.wait_pids(3);
    assert_eq!(pids.len(), 3);
}

#[test]
fn a_process_that_wants_to_leave_is_replaced_and_ends_by_itself() {
    let mut site = Site::start("leave", &[], &[]);
    let pid: i32 = site.get("/").parse().unwrap();
    helper_agent::sys::pidfd::Pidfd::open(pid)
        .unwrap()
        .signal(libc::SIGUSR1)
        .unwrap();
    wait_for("its end", || (!is_running(pid)).then_some(()));
    assert_ne!(site.get("/"), pid.to_string());
    wait_for("the store to forget it", || {
        (!site.watchdog.pids().contains(&pid)).then_some(())
    });
    assert!(!site
        .watchdog
        .stage
        .log()
        .contains("without having been asked to"));
}
