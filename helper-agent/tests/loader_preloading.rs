//! Loaders as preloaders: one suite for the languages that can fork. The test is the agent.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::{getsid, Pid};

use support::client::{Body, Request};
use support::process::{AppProcess, Launch};
use support::{suite, wait_until, Language};

suite! {
    forking:
        loads_once_and_forks_workers_that_serve
        a_worker_waits_until_it_is_known
        a_worker_outlives_its_preloader
        the_preloader_keeps_nothing_of_a_workers
        the_end_of_the_control_socket_ends_the_preloader
        stop_and_sigterm_end_the_preloader
        what_a_worker_prints_is_its_own
        an_exception_while_loading_is_reported
        connections_opened_while_loading_are_named
    ;
}

fn preloader(language: Language, app: &str) -> Option<AppProcess> {
    let launch = Launch::new(language, &language.app(app));
    loaded(launch)
}

fn loaded(launch: Launch) -> Option<AppProcess> {
    let mut process = launch.variable("PASSENGER_PRELOAD", "1").start()?;
    let lines: Vec<_> = (0..2).filter_map(|_| process.next_line()).collect();
    assert_eq!(lines, ["step load", "preloaded"], "{}", process.log());
    Some(process)
}

fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

fn loads_once_and_forks_workers_that_serve(language: Language) {
    let Some(mut process) = preloader(language, "echo") else {
        return;
    };
    let ready = match language {
        Language::Asgi => "ready concurrency=0 protocol=binary",
        _ => "ready concurrency=1 protocol=binary",
    };
    let mut pids = Vec::new();
    for _ in 0..3 {
        let mut worker = process.fork();
        assert_eq!(worker.go(), ["step listen", ready]);
        assert_ne!(i64::from(worker.pid), i64::from(process.pid()));
        let own = Some(Pid::from_raw(worker.pid));
        assert_eq!(getsid(own).ok(), own, "a session of its own");
        let answer = worker
            .connect()
            .call(&Request::post("/", Body::Sized(b"hello".to_vec())));
        let environment = answer.json()["process_env"].take();
        assert!(
            environment.get("PASSENGER_PRELOAD").is_none(),
            "{environment}"
        );
        pids.push(worker.pid);
        worker.tell("stop");
        assert_eq!(worker.next_line(), None);
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 3);
}

fn a_worker_waits_until_it_is_known(language: Language) {
    let Some(mut process) = preloader(language, "hello") else {
        return;
    };
    let worker = process.fork();
    let pid = worker.pid;
    assert!(is_running(pid));
    drop(worker);
    wait_until(|| !is_running(pid));
    assert_eq!(process.fork().go().len(), 2, "the preloader goes on");
}

fn a_worker_outlives_its_preloader(language: Language) {
    let Some(mut process) = preloader(language, "hello") else {
        return;
    };
    let mut worker = process.fork();
    worker.go();
    process.signal(Signal::SIGKILL);
    process.wait();
    assert_eq!(worker.connect().call(&Request::get("/")).status, 200);
}

fn the_preloader_keeps_nothing_of_a_workers(language: Language) {
    let Some(mut process) = preloader(language, "hello") else {
        return;
    };
    let sockets = process.open_sockets();
    let workers: Vec<_> = (0..3).map(|_| process.fork()).collect();
    assert_eq!(process.open_sockets(), sockets);
    let is_control = |worker: &support::worker::Worker| {
        let links = support::process::sockets_of(worker.pid);
        assert_eq!(
            links.len(),
            2,
            "its control socket and its listener: {links:?}"
        );
        sockets.iter().any(|socket| links.contains(socket))
    };
    assert!(
        !workers.iter().any(is_control),
        "a worker can speak for its preloader"
    );
}

fn the_end_of_the_control_socket_ends_the_preloader(language: Language) {
    let Some(mut process) = preloader(language, "hello") else {
        return;
    };
    process.hang_up();
    assert_eq!(process.wait().code(), Some(0));
}

fn stop_and_sigterm_end_the_preloader(language: Language) {
    let Some(mut process) = preloader(language, "hello") else {
        return;
    };
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
    let Some(mut process) = preloader(language, "hello") else {
        return;
    };
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().code(), Some(0));
}

fn what_a_worker_prints_is_its_own(language: Language) {
    let Some(mut process) = preloader(language, "echo") else {
        return;
    };
    let mut workers = [process.fork(), process.fork()];
    for worker in &mut workers {
        worker.go();
    }
    workers[0].connect().call(&Request::get("/?log=first"));
    workers[1].connect().call(&Request::get("/?log=second"));
    workers[0].expect_log("err: first");
    workers[1].expect_log("err: second");
    assert!(!workers[0].log().contains("second"), "{}", workers[0].log());
    assert!(!workers[1].log().contains("first"), "{}", workers[1].log());
    assert!(!process.log().contains("first"), "{}", process.log());
}

fn an_exception_while_loading_is_reported(language: Language) {
    let app = language.app("broken-raises");
    let launch = Launch::new(language, &app).variable("PASSENGER_PRELOAD", "1");
    let Some(mut process) = launch.start() else {
        return;
    };
    let mut lines = Vec::new();
    while let Some(line) = process.next_line() {
        lines.push(line);
    }
    let last = lines.last().map_or("", String::as_str);
    assert!(last.starts_with("error load "), "{lines:?}");
    assert_ne!(process.wait().code(), Some(0));
}

/// An app of this text beside the startup file's own.
fn app_with(language: Language, name: &str, text: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!(
        "loader-preloading-{}-{name}-{}",
        std::process::id(),
        language.name()
    ));
    fs::create_dir_all(&directory).expect("make an app");
    let hello = language.app("hello").join(language.startup_file());
    let hello = fs::read_to_string(hello).expect("read an app");
    fs::write(
        directory.join(language.startup_file()),
        format!("{text}\n{hello}"),
    )
    .expect("write an app");
    directory
}

fn connections_opened_while_loading_are_named(language: Language) {
    let server = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = server.local_addr().expect("an address").port();
    let text = match language {
        Language::Ruby => {
            format!("require 'socket'; CONNECTION = TCPSocket.new('127.0.0.1', {port})")
        }
        _ => format!("import socket\nconnection = socket.create_connection(('127.0.0.1', {port}))"),
    };
    let app = app_with(language, "connects", &text);
    let process = loaded(Launch::new(language, &app));
    fs::remove_dir_all(&app).expect("remove the app");
    let Some(process) = process else { return };
    process.expect_log(&format!("will share: 127.0.0.1:{port}."));
}

#[test]
fn threads_of_python_are_named() {
    let text = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), name='beats', daemon=True).start()";
    let app = app_with(Language::Python, "threads", text);
    let process = loaded(Launch::new(Language::Python, &app));
    fs::remove_dir_all(&app).expect("remove the app");
    let Some(process) = process else { return };
    process.expect_log("will not have: beats.");
}

#[test]
fn python_tells_its_workers_that_they_were_forked() {
    let text = "import phusion_passenger\n\
                @phusion_passenger.on_event('starting_worker_process')\n\
                def started(forked):\n    print('forked', forked)\n";
    for language in [Language::Python, Language::Asgi] {
        let app = app_with(language, "event", text);
        let process = loaded(Launch::new(language, &app));
        let directly = Launch::new(language, &app).start_ready();
        fs::remove_dir_all(&app).expect("remove the app");
        let Some(mut process) = process else { return };
        let mut worker = process.fork();
        worker.go();
        worker.expect_log("forked True");
        assert!(!process.log().contains("forked"), "{}", process.log());
        directly.expect("as before").expect_log("forked False");
    }
}

#[test]
fn pythons_garbage_is_frozen_before_the_fork() {
    let text = "import gc\nimport os\nos.register_at_fork(after_in_child=lambda: print('frozen', gc.get_freeze_count() > 100))";
    let app = app_with(Language::Python, "frozen", text);
    let process = loaded(Launch::new(Language::Python, &app));
    fs::remove_dir_all(&app).expect("remove the app");
    let Some(mut process) = process else { return };
    let _worker = process.fork();
    process.expect_log("frozen True");
}

#[test]
fn rubys_heap_is_old_before_the_fork() {
    let text = "require 'objspace'\nTABLE = Array.new(1000) { |n| \"entry #{n}\" }\n\
                PhusionPassenger.on_event(:starting_worker_process) do |forked|\n\
                puts \"forked=#{forked} old=#{TABLE.all? { |it| ObjectSpace.dump(it).include?('\"old\":true') }}\"\nend";
    let app = app_with(Language::Ruby, "old", text);
    let process = loaded(Launch::new(Language::Ruby, &app));
    let Some(mut process) = process else { return };
    let mut worker = process.fork();
    worker.go();
    fs::remove_dir_all(&app).expect("remove the app");
    worker.expect_log("forked=true old=true");
}

#[test]
fn connections_of_activerecord_and_sequel_are_closed_before_the_fork() {
    for (minor, arguments) in [(0, "[]"), (1, "[:all]")] {
        let text = format!(
            "module ActiveRecord\n module VERSION; MAJOR = 7; MINOR = {minor}; end\n class Base\n\
             def self.connection_handler = self\n\
             def self.clear_all_connections!(*roles) = puts(\"closed #{{roles}}\")\n end\nend\n\
             module Sequel; DATABASES = [Class.new {{ def disconnect = puts('disconnected') }}.new]; end"
        );
        let app = app_with(Language::Ruby, &format!("databases-{minor}"), &text);
        let process = loaded(Launch::new(Language::Ruby, &app));
        fs::remove_dir_all(&app).expect("remove the app");
        let Some(process) = process else { return };
        process.expect_log(&format!("closed {arguments}\n"));
        process.expect_log("disconnected");
    }
}

#[test]
fn what_an_app_has_redirected_stays_redirected() {
    for (language, text) in [
        (Language::Ruby, "STDOUT.reopen('own.log', 'a')"),
        (
            Language::Python,
            "import os\nos.dup2(os.open('own.log', os.O_CREAT | os.O_WRONLY), 1)",
        ),
    ] {
        let app = app_with(language, "redirected", text);
        let file = app.join("own.log");
        if let Some(mut process) = loaded(Launch::new(language, &app)) {
            let mut worker = process.fork();
            worker.go();
            let links = fs::read_link(format!("/proc/{}/fd/1", worker.pid)).expect("it lives");
            let errors = fs::read_link(format!("/proc/{}/fd/2", worker.pid)).expect("it lives");
            assert_eq!(
                links,
                fs::canonicalize(&file).expect("its log"),
                "{language:?}"
            );
            assert!(
                errors.to_string_lossy().starts_with("pipe:"),
                "{language:?}"
            );
        }
        fs::remove_dir_all(&app).expect("remove the app");
    }
}
