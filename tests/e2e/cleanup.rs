//! Whatever ends an instance, and in whatever order its parts are killed: no process, socket, file or shared
//! memory of it is left, and nothing that is not its own is touched.

use crate::one_process;
use harness::processes::{self, ProcessId};
use harness::wait::PATIENCE;
use harness::{until, App, Instance, Language, Mpm, Request, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// An app with processes that escape: one in a session of its own, one whose parent has died as well.
const ESCAPES: &str = r#"
import os, subprocess
def application(environ, start_response):
    if environ['PATH_INFO'] == '/escape':
        one = subprocess.Popen(['sleep', '3601'], start_new_session=True)
        two = subprocess.check_output(
            ['setsid', 'sh', '-c', 'sleep 3602 >/dev/null 2>&1 & echo $!'], text=True)
        with open('escaped.new', 'w') as file:
            file.write(f'{one.pid} {two}')
        os.rename('escaped.new', 'escaped')
    start_response('200 OK', [])
    return [b'fine']
"#;

/// A server with an app whose processes have escaped, and these.
fn with_escapees(mpm: Mpm) -> (Server, Vec<ProcessId>) {
    let site = Site::new("python", App::inline(Language::Python, ESCAPES));
    let server = Setup::of(site.with("PassengerMinInstances 1"))
        .mpm(mpm)
        .start();
    assert_eq!(server.get("python", "/escape").status, 200);
    let file = server.app_root("python").join("escaped");
    let text = std::fs::read_to_string(file).expect("read the numbers");
    let pids: Vec<_> = text
        .split_whitespace()
        .map(|pid| pid.parse().expect("a pid"))
        .collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| processes::is_alive(*pid)));
    (server, pids)
}

/// The sockets and shared memory that are there, whoever has them.
fn traces(server: &Server) -> (HashSet<String>, Vec<ProcessId>) {
    let sockets = processes::sockets_under(&server.registry());
    let has_segments = |pid: &ProcessId| {
        let files = processes::open_files(*pid);
        let mut names = files.iter().filter_map(|path| path.to_str());
        names.any(|name| name.contains("memfd:passenger")) && processes::is_alive(*pid)
    };
    let me = server.root().to_string_lossy().into_owned();
    // Only those of this test: others run beside it.
    let holders = processes::all()
        .into_iter()
        .filter(|pid| processes::command_of(*pid).contains(&me))
        .filter(has_segments);
    (sockets, holders.collect())
}

/// Everything ends by itself; `escaped` as well.
fn nothing_stays(server: &Server, escaped: &[ProcessId]) {
    // httpd's parent may be a zombie of ours.
    until("everything to end", PATIENCE * 2, || {
        let left = server.survivors();
        left.is_empty() && !escaped.iter().any(|pid| processes::is_alive(*pid))
    });
    until("the instance directory to go", PATIENCE, || {
        Instance::directories(&server.registry()).is_empty()
    });
    let (sockets, holders) = traces(server);
    assert_eq!((sockets.len(), holders.len()), (0, 0));
}

#[test]
fn kill_9_of_httpds_parent_leaves_nothing() {
    for mpm in Mpm::ALL {
        let (mut server, escaped) = with_escapees(mpm);
        server.abandon();
        processes::signal(server.parent(), Signal::SIGKILL);
        nothing_stays(&server, &escaped);
    }
}

#[test]
fn kill_9_of_everything_but_the_watchdog_leaves_nothing() {
    let (mut server, escaped) = with_escapees(Mpm::Event);
    server.abandon();
    let watchdog = server.instance().watchdog();
    let victims = server
        .survivors()
        .into_iter()
        .filter(|pid| *pid != watchdog);
    victims.for_each(|pid| processes::signal(pid, Signal::SIGKILL));
    nothing_stays(&server, &escaped);
}

#[test]
fn kill_9_of_the_watchdog_and_then_of_the_parent_leaves_nothing() {
    let (mut server, escaped) = with_escapees(Mpm::Event);
    server.abandon();
    processes::signal(server.instance().watchdog(), Signal::SIGKILL);
    processes::signal(server.parent(), Signal::SIGKILL);
    nothing_stays(&server, &escaped);
}

#[test]
fn kill_9_of_the_agent_and_then_of_the_parent_leaves_nothing() {
    let (mut server, escaped) = with_escapees(Mpm::Worker);
    server.abandon();
    processes::signal(server.instance().agent(), Signal::SIGKILL);
    processes::signal(server.parent(), Signal::SIGKILL);
    nothing_stays(&server, &escaped);
}

/// Where apps have a control group the escapees end, too; that is the one hole without.
#[test]
fn after_a_double_death_a_stop_leaves_nothing() {
    let (mut server, escaped) = with_escapees(Mpm::Event);
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    let has_group = server.instance().directory().join("cgroup").exists();
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        processes::signal(watchdog, signal);
        processes::signal(agent, signal);
    }
    until("another pair", PATIENCE, || {
        server.instance().watchdog() != watchdog && server.instance().agent() != agent
    });
    server.stop_within(Duration::from_secs(60));
    if !has_group {
        eprintln!("no control group here: what escaped is not looked at");
        escaped
            .iter()
            .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
    }
    nothing_stays(&server, &escaped);
}

/// Everything of an instance killed at once, so that nobody can clean up: the next start does.
#[test]
fn the_next_start_removes_what_a_dead_instance_left_and_not_what_lives() {
    let (mut dead, escaped) = with_escapees(Mpm::Event);
    dead.abandon();
    let left = dead.instance().directory().to_owned();
    let has_group = left.join("cgroup").exists();
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in dead.survivors() {
            if !escaped.contains(&pid) {
                processes::signal(pid, signal);
            }
        }
    }
    until("all but the escapees to die", PATIENCE, || {
        dead.survivors().iter().all(|pid| escaped.contains(pid))
    });
    assert!(left.exists());
    let in_the_same_registry = |site: Site| {
        let registry = dead.registry();
        let line = format!("PassengerInstanceRegistryDir {}", registry.display());
        Setup::of(site).with(&line).start()
    };
    let one = in_the_same_registry(one_process(Language::Python));
    assert!(
        !left.exists(),
        "the dead instance's directory is still there"
    );
    if has_group {
        until("the escapees to die", PATIENCE, || {
            !escaped.iter().any(|pid| processes::is_alive(*pid))
        });
    }
    escaped
        .iter()
        .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
    let other = in_the_same_registry(one_process(Language::Python));
    assert_eq!(Instance::directories(&dead.registry()).len(), 2);
    assert_eq!(one.get("python", "/").status, 200);
    assert_eq!(other.get("python", "/").status, 200);
}

/// A process of the apps' user that is none of ours, and works in the app's directory.
fn bystander(directory: &Path) -> Child {
    let mut command = Command::new("sleep");
    command
        .arg("3603")
        .current_dir(directory)
        .stdin(Stdio::null());
    if nix::unistd::Uid::effective().is_root() {
        command.uid(harness::app::owner_uid());
    }
    command.process_group(0).spawn().expect("start sleep")
}

#[test]
fn nothing_that_is_not_ours_is_touched() {
    let (mut server, escaped) = with_escapees(Mpm::Event);
    server.abandon();
    let mut child = bystander(&server.app_root("python"));
    let own = ProcessId::try_from(child.id()).expect("a pid");
    processes::signal(server.parent(), Signal::SIGKILL);
    until("everything else to end", PATIENCE * 2, || {
        let left = server.survivors();
        left.iter().all(|pid| *pid == own) && !escaped.iter().any(|pid| processes::is_alive(*pid))
    });
    assert!(processes::is_alive(own), "a stranger was killed");
    child.kill().expect("kill the bystander");
    child.wait().expect("wait for the bystander");
}

/// What Debian's unit does without systemd (`ExecStop=apachectl graceful-stop`, which is SIGWINCH; `KillMode=mixed`, which is
/// SIGTERM to the main process alone): it is asked to stop, and the moment that it has ended everything left in
/// the unit is killed.
#[test]
fn a_service_manager_that_kills_the_rest_when_httpd_has_ended_finds_no_app_unfinished() {
    let ways = [Signal::SIGWINCH, Signal::SIGTERM];
    for (mpm, signal) in Mpm::ALL
        .into_iter()
        .flat_map(|mpm| ways.map(|way| (mpm, way)))
    {
        let app = r#"
import atexit, os, time
def farewell():
    time.sleep(1)
    open('finished', 'w').close()
atexit.register(farewell)
def application(environ, start_response):
    start_response('200 OK', [])
    return [b'fine']
"#;
        let site = Site::new("python", App::inline(Language::Python, app));
        let mut server = Setup::of(site.with("PassengerMinInstances 1"))
            .mpm(mpm)
            .start();
        assert_eq!(server.get("python", "/").status, 200);
        let watchdog = server.instance().watchdog();
        let apps = server.app_pids("python");
        processes::signal(server.parent(), signal);
        server.stop_within(Duration::from_secs(60));
        let left: Vec<_> = server.survivors();
        left.iter()
            .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
        assert!(
            left.iter().all(|pid| *pid == watchdog),
            "{mpm:?}, {signal}: {left:?} would have been killed before their time"
        );
        assert!(
            server.app_root("python").join("finished").exists(),
            "{mpm:?}, {signal}: the app {apps:?} could not finish"
        );
        assert!(Instance::directories(&server.registry()).is_empty());
    }
}

/// … and when httpd takes too long for it (`TimeoutStopSec`), everything in the unit is killed at once: nobody can clean up, so
/// the next start does.
#[test]
fn a_service_manager_that_loses_patience_leaves_nothing_after_the_next_start() {
    let site = one_process(Language::Python);
    let mut server = Setup::of(site).start();
    server.abandon();
    let mut client = server.client("python");
    client
        .send(&Request::get("/stubborn"))
        .expect("send the request");
    server.await_file("python", "stubborn.begun");
    let left = server.instance().directory().to_owned();
    processes::signal(server.parent(), Signal::SIGTERM);
    server.log().expect("httpd is stopping: ending all apps");
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        let all = server.survivors();
        all.iter().for_each(|pid| processes::signal(*pid, signal));
    }
    until("all to die", PATIENCE, || server.survivors().is_empty());
    assert!(left.exists(), "there was nobody who could remove it");
    let line = format!(
        "PassengerInstanceRegistryDir {}",
        server.registry().display()
    );
    let next = Setup::of(one_process(Language::Python)).with(&line).start();
    assert!(!left.exists(), "the next start did not remove it");
    assert_eq!(next.get("python", "/").status, 200);
}

/// The same for requests: those that were sent are answered, as `graceful-stop` promises.
#[test]
fn a_graceful_stop_lets_requests_finish() {
    let mut server = Setup::of(one_process(Language::Python)).start();
    assert_eq!(server.get("python", "/").status, 200);
    let mut client = server.client("python");
    client
        .send(&Request::get("/hold?last"))
        .expect("send a request");
    server.await_file("python", "last.begun");
    processes::signal(server.parent(), Signal::SIGWINCH);
    server.log().expect("caught SIGWINCH");
    server.touch("python", "last.go");
    assert_eq!(client.response().expect("an answer").ok().trim(), "last");
    drop(client);
    server.stop_within(Duration::from_secs(60));
    assert!(
        server.survivors_after_a_moment().is_empty(),
        "{}",
        server.evidence()
    );
}
