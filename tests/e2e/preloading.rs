//! Smart spawning: an app is loaded once and its processes are forked, and whatever becomes of the process that has
//! loaded it, requests are answered.

use crate::tools::group_when;
use harness::processes::{self, ProcessId};
use harness::wait::{until_some, PATIENCE};
use harness::{until, App, Language, Load, Server, Setup, Site};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

const RUBY: &str = r##"
LOADED_BY = Process.pid
VERSION = 'one'
File.write('loads', "#{LOADED_BY}\n", mode: 'a')
eval(File.read('while_loading.rb')) if File.exist?('while_loading.rb')
PhusionPassenger.on_event(:starting_worker_process) do |forked|
  FORKED = forked
  eval(File.read('after_fork.rb')) if forked && File.exist?('after_fork.rb')
end
run ->(env) {
  sleep 0.005 until env['QUERY_STRING'].empty? || File.exist?(env['QUERY_STRING'])
  [200, {}, ["loaded_by=#{LOADED_BY} pid=#{Process.pid} forked=#{FORKED} version=#{VERSION} random=#{rand(1 << 60)}"]]
}
"##;

const PYTHON: &str = r#"
import os, random, time
LOADED_BY = os.getpid()
VERSION = "one"
with open("loads", "a") as loads:
    print(LOADED_BY, file=loads)
if os.path.exists("while_loading.py"):
    exec(open("while_loading.py").read())
def facts():
    forked = str(os.getpid() != LOADED_BY).lower()
    return f"loaded_by={LOADED_BY} pid={os.getpid()} forked={forked} version={VERSION} random={random.getrandbits(60)}"
"#;

const WSGI: &str = r#"
def application(environ, start_response):
    query = environ["QUERY_STRING"]
    while query and not os.path.exists(query):
        time.sleep(0.005)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [facts().encode()]
"#;

const ASGI: &str = r#"
import asyncio
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    query = scope["query_string"].decode()
    while query and not os.path.exists(query):
        await asyncio.sleep(0.005)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": facts().encode()})
"#;

fn ruby() -> Site {
    Site::new("app", App::inline(Language::Ruby, RUBY))
}

fn wsgi() -> Site {
    let text = format!("{PYTHON}{WSGI}");
    Site::new("app", App::inline(Language::Python, &text)).with("PassengerSpawnMethod smart")
}

fn asgi() -> Site {
    let text = format!("{PYTHON}{ASGI}");
    Site::new("app", App::files().file("passenger_asgi.py", &text))
        .with("PassengerSpawnMethod smart")
        .with("PassengerForceMaxConcurrentRequestsPerProcess 1")
}

/// What a process says about itself.
#[derive(Debug, Clone)]
struct Facts(BTreeMap<String, String>);

impl Facts {
    fn parse(text: &str) -> Facts {
        let pairs = text
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        Facts(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    fn of(server: &Server) -> Facts {
        Facts::parse(&server.get("app", "/").ok())
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn pid(&self, name: &str) -> ProcessId {
        self.text(name).parse().expect("a pid")
    }
}

/// The facts of `count` processes, by having each hold a request until all have one.
fn facts_of_all(server: &Server, count: usize) -> Vec<Facts> {
    let pids = server.await_processes("app", count);
    let requests: Vec<_> = pids
        .iter()
        .map(|_| {
            let mut client = server.client("app");
            let request = harness::Request::get("/?go");
            client.send(&request).expect("send the request");
            client
        })
        .collect();
    server.touch("app", "go");
    let mut facts: Vec<Facts> = requests
        .into_iter()
        .map(|mut client| Facts::parse(&client.response().expect("an answer").ok()))
        .collect();
    facts.sort_by_key(|facts| facts.pid("pid"));
    facts
}

fn loads(server: &Server) -> usize {
    fs::read_to_string(server.app_root("app").join("loads"))
        .unwrap_or_default()
        .lines()
        .count()
}

/// Processes of the app's owner that are children of the agent and hold no request socket.
fn preloaders(server: &Server) -> Vec<ProcessId> {
    let apps = server.app_pids("app");
    let root = server.app_root("app");
    processes::children_of(server.instance().agent())
        .into_iter()
        .filter(|pid| !apps.contains(pid))
        .filter(|pid| processes::directory_of(*pid).is_some_and(|cwd| cwd == root))
        .collect()
}

fn await_preloader(server: &Server) -> ProcessId {
    until_some("a preloader", PATIENCE, || preloaders(server).pop())
}

#[test]
fn processes_are_forked_from_one_that_has_loaded_the_app() {
    for site in [ruby(), wsgi(), asgi()] {
        let server = Setup::of(
            site.with("PassengerMinInstances 3")
                .with("PassengerMaxInstances 3"),
        )
        .start();
        let first = Facts::of(&server);
        let preloader = first.pid("loaded_by");
        let all = facts_of_all(&server, 3);
        assert_eq!(preloaders(&server), [preloader]);
        let agent = server.instance().agent();
        for facts in &all {
            let pid = facts.pid("pid");
            assert_eq!(facts.pid("loaded_by"), preloader, "{facts:?}");
            assert_eq!(facts.text("forked"), "true", "{facts:?}");
            assert_eq!(processes::parent_of(pid), Some(agent), "whose child it is");
            assert_eq!(processes::uid_of(pid), Some(harness::app::owner_uid()));
            assert_eq!(
                nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).ok(),
                Some(nix::unistd::Pid::from_raw(pid)),
                "a session of its own"
            );
        }
        assert_eq!(loads(&server), 1, "loaded once");
        assert_eq!(
            processes::uid_of(preloader),
            Some(harness::app::owner_uid())
        );
        let sockets = processes::sockets_under(&server.instance().directory().join("apps"));
        assert!(
            !processes::holds_any(preloader, &sockets),
            "a dead app would look alive"
        );
        let holders = |socket: &String| {
            let one = [socket.clone()].into();
            processes::all()
                .into_iter()
                .filter(|pid| processes::holds_any(*pid, &one))
                .count()
        };
        assert!(sockets.iter().all(|socket| holders(socket) == 1));
    }
}

#[test]
fn memory_is_shared_and_the_status_says_how_much_that_saves() {
    const MEGABYTE: u64 = 1 << 10;
    let ruby_table = "TABLE = Array.new(500_000) { |n| \"entry #{n} \" * 4 }";
    let python_table = "TABLE = [f'entry {n} ' * 8 for n in range(500_000)]";
    let python = format!("{PYTHON}{WSGI}\n{python_table}\n");
    let python = App::inline(Language::Python, &python);
    for site in [
        Site::new(
            "app",
            App::inline(Language::Ruby, RUBY).file("while_loading.rb", ruby_table),
        ),
        Site::new("app", python).with("PassengerSpawnMethod smart"),
    ] {
        let site = site
            .with("PassengerMinInstances 2")
            .with("PassengerMaxInstances 2");
        let server = Setup::of(site).start();
        let preloader = Facts::of(&server).pid("loaded_by");
        server.await_processes("app", 2);
        let group = group_when(&server, "app", |group| {
            let is_forked = |p: &Value| p["forked_by"] == preloader && p["enabled"] == "ENABLED";
            let processes = group["processes"].as_array();
            processes.is_some_and(|all| all.len() == 2 && all.iter().all(is_forked))
                && group["preloader"]["pid"] == preloader
        });
        for process in group["processes"].as_array().expect("processes") {
            let of = |key: &str| process[key].as_u64().expect("a size");
            assert!(of("rss") > 40 * MEGABYTE, "{process}");
            assert!(
                of("private") < of("rss") / 4,
                "nearly all of it is shared: {process}"
            );
        }
        // Three have it, once.
        let saved = group["memory_saved"].as_u64().expect("a size");
        assert!(saved > 2 * 40 * MEGABYTE, "{group}");
        assert_eq!(group["preloader"]["forks"], 2, "{group}");
    }
}

#[test]
fn direct_spawning_loads_the_app_in_each_process() {
    let ruby = ruby().with("PassengerSpawnMethod direct");
    let python = Site::new(
        "app",
        App::inline(Language::Python, &format!("{PYTHON}{WSGI}")),
    );
    for site in [ruby, python] {
        let server = Setup::of(
            site.with("PassengerMinInstances 2")
                .with("PassengerMaxInstances 2"),
        )
        .start();
        let facts = Facts::of(&server);
        assert_eq!(facts.text("forked"), "false");
        assert_eq!(facts.text("loaded_by"), facts.text("pid"));
        facts_of_all(&server, 2);
        assert_eq!((loads(&server), preloaders(&server)), (2, vec![]));
    }
}

#[test]
fn forked_processes_have_random_numbers_of_their_own() {
    for site in [ruby(), wsgi()] {
        let server = Setup::of(
            site.with("PassengerMinInstances 3")
                .with("PassengerMaxInstances 3"),
        )
        .start();
        Facts::of(&server);
        let mut random: Vec<_> = facts_of_all(&server, 3)
            .iter()
            .map(|facts| facts.text("random").to_owned())
            .collect();
        random.sort();
        random.dedup();
        assert_eq!(random.len(), 3, "{random:?}");
    }
}

#[test]
fn a_killed_preloader_costs_no_request() {
    for site in [ruby(), wsgi()] {
        let setup = Setup::of(
            site.with("PassengerMinInstances 2")
                .with("PassengerMaxInstances 2"),
        );
        let server = setup.with("PassengerMaxPoolSize 2").start();
        Facts::of(&server);
        let apps = server.await_processes("app", 2);
        let load = Load::start(server.port(), "app", "/", 10);
        until("the load to be under way", PATIENCE, || {
            load.answered() > 200
        });
        let first = await_preloader(&server);
        processes::signal(first, Signal::SIGKILL);
        server
            .log()
            .expect(&format!("preloader {first} killed by SIGKILL"));
        // What replaces a killed process comes from another preloader.
        processes::signal(apps[0], Signal::SIGKILL);
        let second = await_preloader(&server);
        assert_ne!(second, first);
        server.await_processes("app", 2);
        // Both at once: the one that is asked to fork is dead or dies while it does.
        let apps = server.app_pids("app");
        processes::signal(second, Signal::SIGKILL);
        apps.iter()
            .take(1)
            .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
        server.await_processes("app", 2);
        let before = load.answered();
        until("requests afterwards", PATIENCE, || {
            load.answered() > before + 200
        });
        let tally = load.finish();
        let (failures, ok) = (tally.failures, tally.ok);
        assert_eq!(
            (failures, tally.resent),
            (Vec::new(), 0),
            "with {ok} answered"
        );
    }
}

#[test]
fn a_restart_takes_the_new_code() {
    for (site, file) in [(ruby(), "config.ru"), (wsgi(), "passenger_wsgi.py")] {
        let server = Setup::of(
            site.with("PassengerMinInstances 2")
                .with("PassengerMaxInstances 2"),
        )
        .start();
        let old = Facts::of(&server).pid("loaded_by");
        let path = server.app_root("app").join(file);
        let text = fs::read_to_string(&path).expect("read the app");
        let new = text.replacen("VERSION = ", "VERSION = 'two' or ", 1);
        fs::write(&path, new).expect("change the app");
        fs::create_dir_all(server.app_root("app").join("tmp")).expect("make tmp");
        server.touch("app", "tmp/restart.txt");
        let facts = until_some("the new code", PATIENCE, || {
            Some(Facts::of(&server)).filter(|facts| facts.text("version") == "two")
        });
        assert_ne!(facts.pid("loaded_by"), old);
        until("the end of what had the old code", PATIENCE, || {
            !processes::is_alive(old) && server.app_pids("app").len() == 2
        });
        for facts in facts_of_all(&server, 2) {
            assert_eq!(
                (facts.text("version"), facts.text("forked")),
                ("two", "true")
            );
        }
    }
}

#[test]
fn a_killed_agent_keeps_the_processes_and_ends_the_preloader() {
    for site in [ruby(), wsgi()] {
        let setup = Setup::of(
            site.with("PassengerMinInstances 2")
                .with("PassengerMaxInstances 2"),
        );
        let server = setup.with("PassengerMaxPoolSize 2").start();
        let preloader = Facts::of(&server).pid("loaded_by");
        let apps = server.await_processes("app", 2);
        let agent = server.instance().agent();
        let load = Load::start(server.port(), "app", "/", 10);
        until("the load to be under way", PATIENCE, || {
            load.answered() > 200
        });
        processes::signal(agent, Signal::SIGKILL);
        until("another agent", PATIENCE, || {
            server.instance().agent() != agent
        });
        until("the preloader's end", PATIENCE, || {
            !processes::is_alive(preloader)
        });
        assert_eq!(
            server.app_pids("app"),
            apps,
            "the processes are not the same"
        );
        // The next one comes from a preloader of the new agent.
        processes::signal(apps[0], Signal::SIGKILL);
        assert_ne!(await_preloader(&server), preloader);
        server.await_processes("app", 2);
        let tally = load.finish();
        assert_eq!(
            tally.failures,
            Vec::<String>::new(),
            "with {} answered",
            tally.ok
        );
        let facts = facts_of_all(&server, 2);
        assert!(
            facts.iter().all(|facts| facts.text("forked") == "true"),
            "{facts:?}"
        );
    }
}

#[test]
fn a_killed_watchdog_keeps_the_processes() {
    let server = Setup::of(
        ruby()
            .with("PassengerMinInstances 2")
            .with("PassengerMaxInstances 2"),
    )
    .start();
    let preloader = Facts::of(&server).pid("loaded_by");
    let apps = server.await_processes("app", 2);
    let watchdog = server.instance().watchdog();
    processes::signal(watchdog, Signal::SIGKILL);
    until("another watchdog", PATIENCE, || {
        server.instance().watchdog() != watchdog
    });
    until("the preloader's end", PATIENCE, || {
        !processes::is_alive(preloader)
    });
    assert_eq!(
        server.app_pids("app"),
        apps,
        "the processes are not the same"
    );
    apps.iter()
        .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
    assert_eq!(Facts::of(&server).text("forked"), "true");
}

#[test]
fn stop_leaves_nothing_whether_the_preloader_is_ready_or_loads() {
    for while_loading in ["", "sleep"] {
        let app = App::inline(Language::Ruby, RUBY).file("while_loading.rb", while_loading);
        let site = Site::new("app", app)
            .with("PassengerMinInstances 2")
            .with("PassengerMaxInstances 2");
        let mut server = Setup::of(site).start();
        let waits = std::thread::spawn({
            let mut client = server.client("app");
            move || client.exchange(&harness::Request::get("/"))
        });
        if while_loading.is_empty() {
            server.await_processes("app", 2);
        }
        await_preloader(&server);
        server.stop_within(Duration::from_secs(40));
        assert_eq!(server.survivors_after_a_moment(), Vec::<ProcessId>::new());
        let _ = waits.join();
    }
}

#[test]
fn a_preloader_that_crashes_while_it_loads_is_done_without() {
    let crash = "Process.kill(:KILL, Process.pid) if $0.include?('Preloader')";
    let app = App::inline(Language::Ruby, RUBY).file("while_loading.rb", crash);
    let server = Setup::of(
        Site::new("app", app)
            .with("PassengerMinInstances 2")
            .with("PassengerMaxInstances 2"),
    )
    .start();
    assert_eq!(Facts::of(&server).text("forked"), "false");
    server
        .log()
        .expect("is of no use: killed by SIGKILL; its process is started directly, and so are");
    facts_of_all(&server, 2);
    assert_eq!(loads(&server), 3, "not tried again");
}

#[test]
fn an_app_that_does_not_load_is_loaded_once_and_reported() {
    let app =
        App::inline(Language::Ruby, RUBY).file("while_loading.rb", "raise 'no such database'");
    let server = Setup::of(Site::new("app", app)).start();
    assert!(server.get("app", "/").status >= 500);
    server.log().expect("no such database");
    assert_eq!(loads(&server), 1, "the same code would have failed again");
    fs::remove_file(server.app_root("app").join("while_loading.rb")).expect("mend the app");
    assert_eq!(Facts::of(&server).text("forked"), "true");
}

#[test]
fn an_app_that_does_not_survive_the_fork_is_started_directly() {
    let crash = "Process.kill(:KILL, Process.pid); sleep";
    let app = App::inline(Language::Ruby, RUBY).file("after_fork.rb", crash);
    let server = Setup::of(Site::new("app", app)).start();
    // The first request may be told of the crash.
    let _ = server.get("app", "/");
    assert_eq!(Facts::of(&server).text("forked"), "false");
    server
        .log()
        .expect("crashed after its preloader had forked it");
}

#[test]
fn an_exception_after_the_fork_is_a_failed_start() {
    let app = App::inline(Language::Ruby, RUBY).file("after_fork.rb", "raise 'cannot reconnect'");
    let server = Setup::of(Site::new("app", app)).start();
    assert!(server.get("app", "/").status >= 500);
    server
        .log()
        .expect("leaving its preloader (step fork): RuntimeError");
    fs::remove_file(server.app_root("app").join("after_fork.rb")).expect("mend the app");
    assert_eq!(Facts::of(&server).text("forked"), "true");
    assert_eq!(loads(&server), 1, "the preloader was in order");
}

#[test]
fn a_preloader_that_is_stuck_is_done_without() {
    let server = Setup::of(ruby()).start();
    let facts = Facts::of(&server);
    let preloader = facts.pid("loaded_by");
    processes::signal(preloader, Signal::SIGSTOP);
    processes::signal(facts.pid("pid"), Signal::SIGKILL);
    assert_eq!(Facts::of(&server).text("forked"), "false");
    server.log().expect("has not forked within");
    until("its end", PATIENCE, || !processes::is_alive(preloader));
}

#[test]
fn an_idle_preloader_is_ended_and_started_again_when_it_is_needed() {
    let server = Setup::of(ruby().with("PassengerMaxPreloaderIdleTime 1")).start();
    let facts = Facts::of(&server);
    let preloader = facts.pid("loaded_by");
    until("the preloader's end", PATIENCE, || {
        !processes::is_alive(preloader)
    });
    assert_eq!(
        Facts::of(&server).pid("pid"),
        facts.pid("pid"),
        "the process stays"
    );
    processes::signal(facts.pid("pid"), Signal::SIGKILL);
    let again = Facts::of(&server);
    assert_eq!(again.text("forked"), "true");
    assert_ne!(again.pid("loaded_by"), preloader);
}

#[test]
fn many_apps_in_a_small_pool_have_few_preloaders() {
    let names = ["app", "b", "c", "d", "e"];
    let sites = names.map(|name| Site::new(name, App::inline(Language::Ruby, RUBY)));
    let setup = sites.into_iter().fold(Setup::default(), Setup::site);
    let server = setup.with("PassengerMaxPoolSize 2").start();
    for name in names.iter().cycle().take(12) {
        let facts = Facts::parse(&server.get(name, "/").ok());
        assert_eq!(facts.text("forked"), "true", "{name}");
    }
    until("two preloaders and two processes", PATIENCE, || {
        let is_app = |pid: &ProcessId| {
            let directory = processes::directory_of(*pid);
            directory.is_some_and(|cwd| cwd.starts_with(server.root().join("sites")))
        };
        let children = processes::children_of(server.instance().agent());
        children.iter().filter(|pid| is_app(pid)).count() <= 4
    });
}

#[test]
fn new_code_that_does_not_load_leaves_the_old_processes_serving() {
    let server = Setup::of(
        ruby()
            .with("PassengerMinInstances 2")
            .with("PassengerMaxInstances 2"),
    )
    .start();
    let old = Facts::of(&server).pid("loaded_by");
    let apps = server.await_processes("app", 2);
    let root = server.app_root("app");
    fs::create_dir_all(root.join("tmp")).expect("make tmp");
    fs::write(root.join("while_loading.rb"), "raise 'not finished'").expect("break the app");
    server.touch("app", "tmp/restart.txt");
    assert_eq!(Facts::of(&server).pid("loaded_by"), old);
    server.log().expect("its new code does not start");
    assert_eq!(server.app_pids("app"), apps);
    until("the old preloader's end", PATIENCE, || {
        !processes::is_alive(old)
    });
    fs::remove_file(root.join("while_loading.rb")).expect("mend the app");
    fs::remove_file(root.join("tmp/restart.txt")).expect("remove the restart file");
    server.touch("app", "tmp/restart.txt");
    until("the new code", PATIENCE, || {
        Facts::of(&server).pid("loaded_by") != old
    });
}

#[test]
fn what_forked_processes_print_is_told_apart() {
    let app = App::inline(Language::Ruby, RUBY).file("after_fork.rb", "puts 'here I am'");
    let server = Setup::of(
        Site::new("app", app)
            .with("PassengerMinInstances 2")
            .with("PassengerMaxInstances 2"),
    )
    .start();
    Facts::of(&server);
    for pid in server.await_processes("app", 2) {
        server.log().expect(&format!("App {pid} output: here I am"));
    }
}
