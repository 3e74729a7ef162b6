//! Smart spawning: an app is loaded once and its processes are forked, and whatever becomes of the process that has
//! loaded it, requests are answered.

use crate::tools::group_when;
use harness::processes::{self, ProcessId};
use harness::wait::{until_some, PATIENCE};
use harness::{until, App, Language, Server, Setup, Site};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

pub(crate) const RUBY: &str = r##"
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

pub(crate) fn ruby() -> Site {
    Site::new("app", App::inline(Language::Ruby, RUBY))
}

pub(crate) fn wsgi() -> Site {
    let text = format!("{PYTHON}{WSGI}");
    Site::new("app", App::inline(Language::Python, &text)).with("PassengerSpawnMethod smart")
}

pub(crate) fn asgi() -> Site {
    let text = format!("{PYTHON}{ASGI}");
    Site::new("app", App::files().file("passenger_asgi.py", &text))
        .with("PassengerSpawnMethod smart")
        .with("PassengerForceMaxConcurrentRequestsPerProcess 1")
}

/// What a process says about itself.
#[derive(Debug, Clone)]
pub(crate) struct Facts(BTreeMap<String, String>);

impl Facts {
    pub(crate) fn parse(text: &str) -> Facts {
        let pairs = text
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        Facts(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    pub(crate) fn of(server: &Server) -> Facts {
        Facts::parse(&server.get("app", "/").ok())
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn pid(&self, name: &str) -> ProcessId {
        self.text(name).parse().expect("a pid")
    }
}

/// The facts of `count` processes, by having each hold a request until all have one.
pub(crate) fn facts_of_all(server: &Server, count: usize) -> Vec<Facts> {
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

pub(crate) fn loads(server: &Server) -> usize {
    fs::read_to_string(server.app_root("app").join("loads"))
        .unwrap_or_default()
        .lines()
        .count()
}

/// Processes of the app's owner that are children of the agent and hold no request socket.
pub(crate) fn preloaders(server: &Server) -> Vec<ProcessId> {
    let apps = server.app_pids("app");
    let root = server.app_root("app");
    processes::children_of(server.instance().agent())
        .into_iter()
        .filter(|pid| !apps.contains(pid))
        .filter(|pid| processes::directory_of(*pid).is_some_and(|cwd| cwd == root))
        .collect()
}

pub(crate) fn await_preloader(server: &Server) -> ProcessId {
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
