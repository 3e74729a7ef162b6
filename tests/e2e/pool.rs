//! The pool at work: restarts by file, full queues, sharing, growing and shrinking.

use harness::wait::PATIENCE;
use harness::{processes, until, App, Language, Load, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs::{self, FileTimes};
use std::time::{Duration, SystemTime};

/// An app that answers with what is in its file `code` since it was started.
fn versioned() -> App {
    let text = "\
code = open('code').read()
if 'broken' in code:
    raise RuntimeError('this code is broken')

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [code.encode()]
";
    App::inline(Language::Python, text)
        .file("code", "one")
        .file("tmp/keep", "")
}

fn site() -> Site {
    Site::new("app", versioned())
}

/// Workers look at each request, so that tests need not wait.
fn start(site: Site) -> Server {
    let server = Setup::of(site)
        .with("PassengerStatThrottleRate 0")
        .with("PassengerLogLevel 7")
        .start();
    assert_eq!(server.get("app", "/").ok(), "one");
    // Until the agent has looked once it does not know what a touch would change.
    until("the agent to have seen the restart files", PATIENCE, || {
        server.log().count("saw the restart files") > 0
    });
    server
}

/// Deploys code and touches `restart.txt` with a time of its own, however fast the test is.
fn deploy(server: &Server, code: &str, nth: u64) {
    fs::write(server.app_root("app").join("code"), code).expect("write the code");
    touch(server, nth);
}

fn touch(server: &Server, nth: u64) {
    let file = fs::File::create(server.app_root("app").join("tmp/restart.txt")).expect("touch");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + nth);
    file.set_times(FileTimes::new().set_modified(time))
        .expect("set the file's time");
}

#[test]
fn who_touches_restart_txt_sees_the_new_code_at_once() {
    let server = start(site());
    for nth in 0..5 {
        let code = format!("code {nth}");
        deploy(&server, &code, nth);
        assert_eq!(server.get("app", "/").ok(), code);
    }
    // Whatever was touched is gone; that is no news.
    fs::remove_file(server.app_root("app").join("tmp/restart.txt")).expect("remove");
    let before = server.await_processes("app", 1);
    assert_eq!(server.get("app", "/").ok(), "code 4");
    assert_eq!(server.await_processes("app", 1), before);
}

#[test]
fn always_restart_txt_restarts_before_each_request() {
    let server = start(site().with("PassengerRestartDir restarts"));
    let directory = server.app_root("app").join("restarts");
    fs::create_dir(&directory).expect("make the directory");
    fs::write(directory.join("always_restart.txt"), "").expect("touch");
    for code in ["two", "three", "four"] {
        fs::write(server.app_root("app").join("code"), code).expect("write the code");
        assert_eq!(server.get("app", "/").ok(), code);
    }
}

#[test]
fn restarts_under_load_fail_no_request_and_end_with_the_new_code() {
    let server = start(site().with("PassengerMinInstances 2"));
    let load = Load::start(server.port(), "app", "/", 25);
    for nth in 0..4 {
        load.await_more(300);
        deploy(&server, &format!("code {nth}"), nth);
    }
    server.log().expect_times("its restart file was touched", 1);
    until("the newest code everywhere", PATIENCE, || {
        server.get("app", "/").ok() == "code 3"
    });
    let tally = load.finish();
    assert_eq!(
        tally.failures,
        Vec::<String>::new(),
        "with {} answered",
        tally.ok
    );
}

#[test]
fn broken_new_code_leaves_the_old_serving_and_is_reported_once() {
    let server = start(site());
    let load = Load::start(server.port(), "app", "/", 5);
    deploy(&server, "broken", 1);
    server
        .log()
        .expect("the processes of the old code go on serving");
    load.await_more(300);
    assert_eq!(server.get("app", "/").ok(), "one");
    let tally = load.finish();
    assert_eq!(tally.failures, Vec::<String>::new());
    assert_eq!(server.log().count("go on serving"), 1);
    deploy(&server, "repaired", 2);
    assert_eq!(server.get("app", "/").ok(), "repaired");
}

#[test]
fn in_development_broken_new_code_shows_its_error() {
    let server = start(site().with("PassengerAppEnv development"));
    deploy(&server, "broken", 1);
    let response = server.get("app", "/");
    assert_eq!(response.status, 500);
    assert!(response.text().contains("this code is broken"));
    deploy(&server, "repaired", 2);
    until("the repaired code", PATIENCE, || {
        server.get("app", "/").status == 200
    });
    assert_eq!(server.get("app", "/").ok(), "repaired");
}

#[test]
fn with_rolling_restarts_nobody_waits_and_without_everybody_does() {
    let slow = "import os, time\nwhile os.path.exists('hold'): time.sleep(0.01)\n";
    for (mode, first) in [("on", "one"), ("off", "two")] {
        let app = versioned().file("passenger_wsgi.py", &format!("{slow}{}", wsgi()));
        let site = Site::new("app", app).with(&format!("PassengerRollingRestarts {mode}"));
        let server = start(site);
        server.touch("app", "hold");
        deploy(&server, "two", 1);
        if mode == "off" {
            let mut client = server.client("app");
            client
                .send(&harness::Request::get("/"))
                .expect("send the request");
            server.log().expect("its restart file was touched");
            fs::remove_file(server.app_root("app").join("hold")).expect("let it start");
            assert_eq!(client.response().expect("the answer").ok(), first);
        } else {
            assert_eq!(server.get("app", "/").ok(), first);
            server.log().expect("its restart file was touched");
            assert_eq!(server.get("app", "/").ok(), first);
            fs::remove_file(server.app_root("app").join("hold")).expect("let it start");
        }
        until("the new code", PATIENCE, || {
            server.get("app", "/").ok() == "two"
        });
    }
}

fn wsgi() -> &'static str {
    "\
code = open('code').read()

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [code.encode()]
"
}

#[test]
fn a_restart_while_no_agent_lives_is_not_lost() {
    let server = start(site());
    let agent = server.instance().agent();
    processes::signal(agent, Signal::SIGKILL);
    deploy(&server, "two", 1);
    until("the new code", PATIENCE, || {
        server.get("app", "/").ok() == "two"
    });
}

/// The probe in one process that takes one request at a time.
fn single() -> Site {
    Site::probe(Language::Python).with("PassengerMaxInstances 1")
}

#[test]
fn a_full_queue_answers_503_and_tells_what_each_process_is_at() {
    let server = Setup::of(single().with("PassengerMaxRequestQueueSize 1")).start();
    let mut first = server.client("python");
    first
        .send(&harness::Request::get("/hold?one"))
        .expect("send the request");
    server.await_file("python", "one.begun");
    let pid = server.await_processes("python", 1)[0];
    let refused = until_refused(&server);
    assert_eq!(refused.header("retry-after"), Some("2"));
    server.log().expect(&format!("process {pid} has 1 of 1"));
    server.log().expect("PSGR0206");
    server.touch("python", "one.go");
    assert_eq!(first.response().expect("the answer").ok(), "one\n");
}

/// Two more requests: one waits, the other finds the queue full. Which is which does not matter.
fn until_refused(server: &Server) -> harness::Response {
    let mut clients = [server.client("python"), server.client("python")];
    for client in &mut clients {
        let request = harness::Request::get("/pid");
        client.send(&request).expect("send the request");
    }
    // The one that waits is answered only after the one in the process.
    let (refused, answered) = std::sync::mpsc::channel();
    for mut client in clients {
        let refused = refused.clone();
        std::thread::spawn(move || {
            if let Ok(response) = client.response() {
                let _ = refused.send(response);
            }
        });
    }
    let response = answered.recv_timeout(PATIENCE).expect("one is refused");
    assert_eq!(response.status, 503);
    response
}

#[test]
fn a_request_waits_no_longer_than_it_may() {
    let server = Setup::of(single().with("PassengerMaxRequestQueueTime 1")).start();
    let mut first = server.client("python");
    first
        .send(&harness::Request::get("/hold?one"))
        .expect("send the request");
    server.await_file("python", "one.begun");
    let response = server.get("python", "/note?late");
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some("2"));
    server.log().expect("PSGR0214");
    server.touch("python", "one.go");
    assert_eq!(first.response().expect("the answer").ok(), "one\n");
    let log = fs::read_to_string(server.app_root("python").join("requests.log"));
    assert!(
        !log.expect("the app's notes").contains("late"),
        "the app got a request that was answered already"
    );
}

#[test]
fn sigusr1_makes_a_process_leave_and_loses_nothing() {
    for language in Language::ALL {
        let site = Site::probe(language).with("PassengerMinInstances 2");
        let server = Setup::of(site).start();
        assert_eq!(server.get(language.name(), "/").status, 200);
        let before = server.await_processes(language.name(), 2);
        let load = Load::start(server.port(), language.name(), "/pid", 10);
        for pid in before {
            let answered = load.answered();
            processes::signal(pid, Signal::SIGUSR1);
            until("the process to be gone", PATIENCE, || {
                !processes::is_alive(pid)
            });
            until("requests afterwards", PATIENCE, || {
                load.answered() > answered + 100
            });
        }
        let tally = load.finish();
        assert_eq!(tally.failures, Vec::<String>::new(), "{language:?}");
    }
}

#[test]
fn many_apps_share_a_small_pool_and_none_starves() {
    let names: Vec<String> = (0..8).map(|n| format!("app{n}")).collect();
    let mut setup = Setup::default()
        .with("PassengerMaxPoolSize 2")
        .with("PassengerMinInstances 0");
    for name in &names {
        setup = setup.site(Site::new(name, versioned()));
    }
    let server = setup.start();
    for _ in 0..2 {
        let clients: Vec<_> = names
            .iter()
            .map(|name| {
                let mut client = server.client(name);
                client
                    .send(&harness::Request::get("/"))
                    .expect("send the request");
                client
            })
            .collect();
        for mut client in clients {
            assert_eq!(client.response().expect("an answer").ok(), "one");
        }
    }
    // A count while processes come and go would see some twice: property tests watch the limit itself.
    until("no more processes than the pool may have", PATIENCE, || {
        let counts = names.iter().map(|name| server.app_pids(name).len());
        counts.sum::<usize>() <= 2
    });
}

#[test]
fn an_app_grows_to_its_limit_and_shrinks_when_idle() {
    let site = Site::probe(Language::Python)
        .with("PassengerMaxInstances 2")
        .with("PassengerMinInstances 1");
    let server = Setup::of(site).with("PassengerPoolIdleTime 1").start();
    let mut clients = Vec::new();
    for name in ["one", "two", "three"] {
        let mut client = server.client("python");
        client
            .send(&harness::Request::get(&format!("/hold?{name}")))
            .expect("send the request");
        clients.push(client);
    }
    let begun = |name: &str| {
        server
            .app_root("python")
            .join(format!("{name}.begun"))
            .exists()
    };
    let count = || {
        ["one", "two", "three"]
            .iter()
            .filter(|name| begun(name))
            .count()
    };
    until("two requests to be executed", PATIENCE, || count() == 2);
    assert_eq!(server.await_processes("python", 2).len(), 2);
    for name in ["one", "two", "three"] {
        server.touch("python", &format!("{name}.go"));
    }
    for mut client in clients {
        assert_eq!(client.response().expect("an answer").status, 200);
    }
    until("the idle process to be gone", PATIENCE, || {
        server.app_pids("python").len() == 1
    });
}

#[test]
fn whether_old_code_stays_is_what_the_administrator_says_whatever_the_environment() {
    for (environment, resists, status) in [("development", "on", 200), ("production", "off", 500)] {
        let site = site()
            .with(&format!("PassengerAppEnv {environment}"))
            .with(&format!("PassengerResistDeploymentErrors {resists}"));
        let server = start(site);
        deploy(&server, "broken", 1);
        // Until the new code has been tried, the old one may answer.
        let tried = "this code is broken";
        until("the new code to be tried", PATIENCE, || {
            let _ = server.get("app", "/");
            server.log().count(tried) > 0
        });
        until("the answer that was asked for", PATIENCE, || {
            server.get("app", "/").status == status
        });
        deploy(&server, "repaired", 2);
        until("the repaired code", PATIENCE, || {
            let response = server.get("app", "/");
            response.status == 200 && response.text() == "repaired"
        });
    }
}

#[test]
fn with_room_for_one_process_a_restart_makes_requests_wait_and_fails_none() {
    let server = Setup::of(site())
        .with("PassengerMaxPoolSize 1")
        .with("PassengerStatThrottleRate 0")
        .with("PassengerLogLevel 7")
        .start();
    assert_eq!(server.get("app", "/").ok(), "one");
    server.log().expect("saw the restart files");
    let load = Load::start(server.port(), "app", "/", 5);
    for nth in 1..4 {
        deploy(&server, &format!("code {nth}"), nth);
        until("the new code", PATIENCE, || {
            server.get("app", "/").ok() == format!("code {nth}")
        });
    }
    let tally = load.finish();
    assert_eq!(tally.failures, Vec::<String>::new());
}
