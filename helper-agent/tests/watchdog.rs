//! The real watchdog with a stand-in agent: what happens when any of parent, watchdog, agent, worker and
//! app dies, hangs or misbehaves.

mod watchdog_harness;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use helper_agent::sys::descriptor;
use helper_agent::sys::process::ExitStatus;
use passenger_shm::messages::{FromParent, ToParent};
use watchdog_harness::{is_running, kill, wait_for, Instance};

#[test]
fn an_instance_starts_and_ends_without_a_trace() {
    let (instance, agent) = Instance::start("trace");
    let read = |name: &str| fs::read_to_string(instance.directory.join(name)).unwrap();
    assert_eq!(
        read("watchdog.pid").trim(),
        instance.watchdog.pid.to_string()
    );
    assert_eq!(read("agent.pid").trim(), agent.pid.to_string());
    assert!(read("properties.json").contains("Test/1.0"));
    instance.stop(5000);
    assert_eq!(instance.watchdog_status(), ExitStatus::Exited { code: 0 });
    assert!(!is_running(agent.pid));
}

#[test]
fn a_killed_agent_is_replaced_and_gets_the_same_processes() {
    let (mut instance, mut agent) = Instance::start("replaced");
    let app = agent.spawn("while :; do echo tick; sleep 0.05; done");
    instance
        .stage
        .wait_for_log(&format!("App {app} output: tick"));
    kill(agent.pid, libc::SIGKILL);
    let mut next = instance.stage.next_agent();
    let process = next.wait_for_event("Process");
    assert!(process.contains(&format!("pid: {app}")), "{process}");
    next.wait_for_event("StoreEnd");
    next.wait_for_event("ready");
    assert!(is_running(app));
    instance
        .stage
        .wait_for_log(&format!("helper agent {} killed by SIGKILL", agent.pid));
    // Its end is told by the watchdog, whose child it is now.
    kill(app, libc::SIGKILL);
    let exited = next.wait_for_event("ChildExited");
    assert!(
        exited.contains(&format!("pid: {app}")) && exited.contains("signal: 9"),
        "{exited}"
    );
    instance.stop(5000);
}

#[test]
fn no_line_is_lost_while_agents_come_and_go() {
    let (mut instance, mut agent) = Instance::start("lines");
    let end = instance.stage.path("end");
    let app = agent.spawn(&format!(
        "n=0; while [ ! -e {} ]; do n=$((n+1)); echo line $n.; sleep 0.001; done; echo total $n.",
        end.display()
    ));
    for round in 1..=5 {
        let so_far = count_lines(&instance.stage.log(), app);
        wait_for("more lines", || {
            (count_lines(&instance.stage.log(), app) > so_far + 50).then_some(())
        });
        // In every other round the next agent never gets as far as reading.
        instance
            .stage
            .set_mode(if round % 2 == 0 { "die" } else { "normal" });
        kill(agent.pid, libc::SIGKILL);
        if round % 2 == 0 {
            instance.stage.wait_for_log("exited with status 3");
            let so_far = count_lines(&instance.stage.log(), app);
            wait_for("lines without an agent", || {
                (count_lines(&instance.stage.log(), app) > so_far + 50).then_some(())
            });
            instance.stage.set_mode("normal");
        }
        agent = wait_for("an agent that lives", || {
            let mut candidate = instance.stage.next_agent();
            let outcome = candidate.wait_for_any(&["ready", "gone"]);
            (outcome == "ready").then_some(candidate)
        });
    }
    assert!(is_running(app), "an app that lost its reader dies");
    fs::write(&end, "").unwrap();
    let total = format!("App {app} output: total ");
    instance.stage.wait_for_log(&total);
    let log = instance.stage.log();
    let total: usize = after(&log, &total).parse().unwrap();
    let prefix = format!("App {app} output: line ");
    let seen: BTreeSet<usize> = log
        .lines()
        .filter_map(|line| after_in(line, &prefix)?.parse().ok())
        .collect();
    let lost: Vec<usize> = (1..=total).filter(|n| !seen.contains(n)).collect();
    assert!(lost.is_empty(), "lost of {total}: {lost:?}");
    instance.stop(5000);
}

fn count_lines(log: &str, app: i32) -> usize {
    log.matches(&format!("App {app} output: line ")).count()
}

/// What stands between a text and the next full stop.
fn after<'a>(log: &'a str, text: &str) -> &'a str {
    after_in(log, text).unwrap()
}

fn after_in<'a>(log: &'a str, text: &str) -> Option<&'a str> {
    log.split_once(text)?
        .1
        .split_once('.')
        .map(|(number, _)| number)
}

#[test]
fn workers_get_identities_and_their_death_is_noticed() {
    let (mut instance, mut agent) = Instance::start("workers");
    let (one, one_told) = instance.worker();
    let (two, two_told) = instance.worker();
    assert!(one_told.starts_with("welcome "), "{one_told}");
    assert_ne!(one_told, two_told);
    agent.wait_for_event(&format!("pid: {}", two.pid));
    // The next agent learns of both.
    kill(agent.pid, libc::SIGKILL);
    let mut agent = instance.stage.next_agent();
    agent.wait_for_event(&format!("pid: {}", one.pid));
    agent.wait_for_event(&format!("pid: {}", two.pid));
    one.pidfd.signal(libc::SIGKILL).unwrap();
    let gone = agent.wait_for_event("WorkerGone");
    let mut numbers = one_told.split(' ').skip(1);
    let (slot, generation) = (numbers.next().unwrap(), numbers.next().unwrap());
    assert!(gone.contains(&format!("slot: {slot}")), "{gone}");
    assert!(
        gone.contains(&format!("generation: {generation}")),
        "{gone}"
    );
    one.pidfd.reap_blocking().unwrap();
    two.pidfd.signal(libc::SIGKILL).unwrap();
    two.pidfd.reap_blocking().unwrap();
    instance.stop(5000);
}

#[test]
fn configurations_are_taken_or_refused_and_survive_the_agent() {
    let (mut instance, agent) = Instance::start("config");
    instance.configure(2);
    assert_eq!(instance.answer().0, ToParent::Configured { generation: 2 });
    kill(agent.pid, libc::SIGKILL);
    let mut agent = instance.stage.next_agent();
    agent.wait_for_event("Config { generation: 2 }");
    agent.wait_for_event("ready");
    agent.command("mode refuse");
    // The command travels beside the configuration; a second one is certain to come after it.
    agent.spawn("exit 0");
    instance.configure(3);
    let (answer, _) = instance.answer();
    assert!(
        matches!(answer, ToParent::ConfigureRefused { generation: 3, .. }),
        "{answer:?}"
    );
    kill(agent.pid, libc::SIGKILL);
    let mut agent = instance.stage.next_agent();
    agent.wait_for_event("Config { generation: 2 }");
    agent.wait_for_event("ready");
    instance.stop(5000);
}

/// DESIGN.md: under 1 MB of private memory. Anonymous pages are counted: those of the program's file are
/// shared with every other instance, and `Private_Dirty` counts them too while a fresh build is not yet
/// written back.
#[test]
fn the_watchdog_stays_small() {
    let (mut instance, agent) = Instance::start("small");
    kill(agent.pid, libc::SIGKILL);
    instance.stage.next_agent().wait_for_event("ready");
    let path = format!("/proc/{}/smaps_rollup", instance.watchdog.pid);
    let rollup = fs::read_to_string(path).unwrap();
    let line = rollup
        .lines()
        .find(|line| line.starts_with("Anonymous:"))
        .unwrap();
    let kilobytes: u32 = line
        .split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert!(kilobytes < 1024, "{rollup}");
    instance.stop(5000);
}

#[test]
fn a_hung_agent_is_replaced() {
    let (mut instance, agent) = Instance::start("hung");
    kill(agent.pid, libc::SIGSTOP);
    let mut next = instance.stage.next_agent();
    next.wait_for_event("ready");
    assert!(!is_running(agent.pid));
    instance.stage.wait_for_log("its heart has not beaten");
    instance.stop(5000);
}

#[test]
fn nobody_but_httpds_parent_is_obeyed() {
    let (instance, agent) = Instance::start("impostor");
    let out = OwnedFd::from(instance.stage.log_file());
    let impostor = instance
        .stage
        .start_program(&["--say-stop"], &instance.channel, &out);
    let exit = impostor.pidfd.reap_blocking().unwrap().unwrap();
    assert_eq!(exit.status, ExitStatus::Exited { code: 0 });
    instance
        .stage
        .wait_for_log("sent a message on httpd's channel; ignored");
    instance.configure(2);
    assert_eq!(instance.answer().0, ToParent::Configured { generation: 2 });
    assert!(is_running(agent.pid));
    instance.stop(5000);
}

/// A log that is a pipe to a program which has stopped reading.
#[test]
fn a_blocked_log_stops_neither_watchdog_nor_apps() {
    let (mut instance, mut agent) = Instance::start("blocked-log");
    let (read, write) = descriptor::pipe().unwrap();
    let document = instance.stage.config(2);
    let fds = [document.as_fd(), write.as_fd()];
    let configure = FromParent::Configure { generation: 2 };
    instance.channel.send(&configure, &fds).unwrap();
    assert_eq!(instance.answer().0, ToParent::Configured { generation: 2 });
    drop(write);
    let done = instance.stage.path("printed");
    let line = "x".repeat(100);
    let script = format!(
        "n=0; while [ $n -lt 20000 ]; do echo {line}; n=$((n+1)); done; touch {}; exec sleep 1006",
        done.display()
    );
    let app = agent.spawn(&script);
    // From here on the watchdog reads what the app prints: some of it, then an agent, then it again.
    kill(agent.pid, libc::SIGKILL);
    let mut agent = instance.stage.next_agent();
    agent.wait_for_event("ready");
    wait_for("the app to have printed two megabytes", || {
        done.exists().then_some(())
    });
    let (worker, told) = instance.worker();
    assert!(told.starts_with("welcome "), "{told}");
    worker.pidfd.signal(libc::SIGKILL).unwrap();
    worker.pidfd.reap_blocking().unwrap();
    assert!(is_running(app));
    // Now somebody reads again, and is told.
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let reader = std::io::BufRead::lines(std::io::BufReader::new(File::from(read)));
        for line in reader.map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    wait_for("a line that says what was lost", || {
        let line = lines.try_recv().ok()?;
        line.contains("log lines are lost: its reader did not keep up")
            .then_some(())
    });
    instance.stop(5000);
}
