//! What an app process starts with and what it leaves: limits, children, zombies.

use crate::one_process;
use harness::processes::{self, ProcessId};
use harness::wait::{until, until_some, PATIENCE};
use harness::{App, Language, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;

/// Starts children that ignore everything but SIGKILL, and those start more.
const BREEDS: &str = "require 'etc'\ndef breed(depth)\n  3.times do\n    fork do\n      \
    %w[TERM HUP INT USR1].each { |signal| trap(signal, 'IGNORE') }\n      \
    breed(depth - 1) if depth > 0\n      File.write(\"#{ENV['HERE']}/bred/#{$$}\", '')\n      \
    sleep\n    end\n  end\nend\nENV['HERE'] = __dir__\nrun(lambda do |env|\n  \
    breed(2) if env['PATH_INFO'] == '/breed'\n  [200, {}, [$$.to_s]]\nend)\n";

fn zombies() -> Vec<ProcessId> {
    let is_zombie = |pid: &ProcessId| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    processes::all().into_iter().filter(is_zombie).collect()
}

/// Zombies below the watchdog of that server.
fn own_zombies(server: &Server) -> Vec<ProcessId> {
    let mut found = zombies();
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    found.retain(|pid| {
        let parent = processes::parent_of(*pid);
        parent == Some(watchdog) || parent == Some(agent)
    });
    found
}

#[test]
fn a_process_that_breeds_is_ended_with_all_of_its_children() {
    let app = App::inline(Language::Ruby, BREEDS).file("bred/.keep", "");
    for way in ["kill", "detach"] {
        let server = Setup::of(Site::new("app", app.clone())).start();
        let pid: ProcessId = server
            .get("app", "/breed")
            .ok()
            .trim()
            .parse()
            .expect("a pid");
        let bred = until_some("39 children", PATIENCE, || {
            let entries = fs::read_dir(server.app_root("app").join("bred")).ok()?;
            let names = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
            let pids: Vec<ProcessId> = names.collect();
            (pids.len() == 39).then_some(pids)
        });
        let signal = if way == "kill" {
            Signal::SIGKILL
        } else {
            Signal::SIGUSR1
        };
        processes::signal(pid, signal);
        until(
            &format!("the children to be gone ({way})"),
            PATIENCE,
            || !bred.iter().any(|child| processes::is_alive(*child)),
        );
        assert_eq!(server.get("app", "/").status, 200, "another process serves");
        until("no zombie to be left", PATIENCE, || {
            own_zombies(&server).is_empty()
        });
    }
}

#[test]
fn an_app_process_leads_a_session_of_its_own_with_httpds_limits() {
    for language in Language::ALL {
        let name = language.name();
        let server = Setup::of(one_process(language)).start();
        let pid: ProcessId = server.get(name, "/pid").ok().trim().parse().expect("a pid");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let (_, rest) = stat.rsplit_once(')').expect("a stat line");
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let own = pid.to_string();
        assert_eq!(
            (fields[2], fields[3]),
            (own.as_str(), own.as_str()),
            "{name}: {stat}"
        );
        let limits = |pid: ProcessId| {
            let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
            let wanted = ["Max core file size", "Max open files", "Max processes"];
            let lines = text
                .lines()
                .filter(|l| wanted.iter().any(|w| l.starts_with(w)));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(limits(pid), limits(server.parent()), "{name}");
        // Where a core file goes unless the system says otherwise.
        assert_eq!(
            processes::directory_of(pid),
            Some(server.app_root(name)),
            "{name}"
        );
    }
}

#[test]
fn nothing_that_ends_leaves_a_zombie() {
    let server = Setup::of(one_process(Language::Python)).start();
    for _ in 0..3 {
        let pid: ProcessId = server
            .get("python", "/pid")
            .ok()
            .trim()
            .parse()
            .expect("a pid");
        processes::signal(pid, Signal::SIGKILL);
        until("it to be gone", PATIENCE, || !processes::is_alive(pid));
    }
    assert_eq!(server.get("python", "/").status, 200);
    processes::signal(server.instance().agent(), Signal::SIGKILL);
    let pid: ProcessId = server
        .get("python", "/pid")
        .ok()
        .trim()
        .parse()
        .expect("a pid");
    // Its parent is the watchdog now.
    processes::signal(pid, Signal::SIGKILL);
    until("all to be reaped", PATIENCE, || {
        own_zombies(&server).is_empty()
    });
    assert_eq!(server.get("python", "/").status, 200);
}

/// Each process starts a daemon that keeps what the process printed to open.
const SIRES: &str = "import os, subprocess\n\
    subprocess.Popen(['sleep', '1000'], start_new_session=True)\n\
    def application(environ, start_response):\n    \
    start_response('200 OK', [])\n    return [str(os.getpid()).encode()]\n";

fn pipes(pid: ProcessId) -> usize {
    let is_pipe = |path: &std::path::PathBuf| path.to_string_lossy().starts_with("pipe:");
    let descriptors = processes::descriptors(pid).into_iter();
    descriptors.filter(|(_, path)| is_pipe(path)).count()
}

#[test]
fn daemons_of_dead_processes_do_not_use_up_descriptors() {
    const GENERATIONS: usize = 14;
    let site = Site::new("app", App::inline(Language::Python, SIRES))
        .with("PassengerMinInstances 1")
        .with("PassengerMaxInstances 1");
    let server = Setup::of(site).start();
    let mut last = String::new();
    for _ in 0..GENERATIONS {
        last = until_some("a process", PATIENCE, || {
            let response = server.get("app", "/");
            (response.status == 200 && response.text() != last).then(|| response.text())
        });
        processes::signal(last.parse().expect("a pid"), Signal::SIGKILL);
    }
    // Eight of those that ended are still heard: a daemon has ten seconds to print, and usually for ever.
    let instance = server.instance();
    for pid in [instance.agent(), instance.watchdog()] {
        until("descriptors to be given up", PATIENCE, || {
            pipes(pid) < GENERATIONS
        });
    }
    assert_eq!(server.get("app", "/").status, 200);
}
