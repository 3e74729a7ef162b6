//! The real watchdog with a stand-in agent: what happens when any of parent, watchdog, agent, worker and
//! app dies, hangs or misbehaves.

mod watchdog_harness;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};

use helper_agent::instance;
use helper_agent::sys::descriptor;
use helper_agent::sys::process::{self, ExitStatus};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromParent, ToParent};
use watchdog_harness::{is_running, kill, wait_for, Instance, Stage, PATIENCE};

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

/// An app that ignores SIGTERM in a busy loop and has children that escaped, one by `setsid` and one by a
/// double fork into another session.
fn stubborn(stage: &Stage) -> String {
    let file = stage.path("escaped");
    let file = file.display();
    format!(
        "trap '' TERM; setsid sh -c 'echo $$ >> {file}; exec sleep 1000' & \
         (setsid sh -c 'trap \"\" TERM; echo $$ >> {file}; exec sleep 1001' &) ; while :; do :; done"
    )
}

fn escaped(stage: &Stage) -> Vec<i32> {
    wait_for("two escapees", || {
        let text = fs::read_to_string(stage.path("escaped")).ok()?;
        let pids: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
        (pids.len() == 2).then_some(pids)
    })
}

#[test]
fn stop_ends_apps_that_ignore_it_and_everything_that_escaped() {
    let (instance, mut agent) = Instance::start("escape");
    let app = agent.spawn(&stubborn(&instance.stage));
    let escaped = escaped(&instance.stage);
    agent.command("mode ignore-stop");
    instance.stop(300);
    assert_eq!(instance.watchdog_status(), ExitStatus::Exited { code: 0 });
    for pid in escaped.iter().chain([&app, &agent.pid]) {
        assert!(!is_running(*pid), "process {pid} is still there");
    }
}

#[test]
fn everything_ends_when_the_agent_died_before_and_again_while_stopping() {
    let (mut instance, mut agent) = Instance::start("double");
    let app = agent.spawn(&stubborn(&instance.stage));
    let escaped = escaped(&instance.stage);
    kill(agent.pid, libc::SIGKILL);
    let mut agent = instance.stage.next_agent();
    agent.wait_for_event("ready");
    agent.command("mode ignore-stop");
    instance
        .channel
        .send(&FromParent::Stop { deadline_ms: 500 }, &[])
        .unwrap();
    agent.wait_for_event("Stop {");
    kill(agent.pid, libc::SIGKILL);
    instance.wait_for_end();
    for pid in escaped.iter().chain([&app]) {
        assert!(!is_running(*pid), "process {pid} is still there");
    }
}

#[test]
fn everything_ends_when_httpd_is_killed() {
    // The parent is a process of its own here; what it leaves comes to us instead of to init.
    process::become_subreaper().unwrap();
    let mut stage = Stage::new("parent");
    let (ours, theirs) = Channel::pair().unwrap();
    let log = OwnedFd::from(stage.log_file());
    let parent = stage.start_program(&["--parent"], &theirs, &log);
    let document = stage.config(1);
    let fds = [document.as_fd(), log.as_fd()];
    ours.send(&FromParent::Configure { generation: 1 }, &fds)
        .unwrap();
    let mut agent = stage.next_agent();
    agent.wait_for_event("ready");
    assert!(ours.wait_readable(PATIENCE).unwrap());
    let answer = ours.recv::<ToParent>().unwrap().unwrap().message;
    let ToParent::Ready { instance_dir } = answer else {
        panic!("{answer:?}")
    };
    let pid = fs::read_to_string(format!("{instance_dir}/watchdog.pid")).unwrap();
    let watchdog: i32 = pid.trim().parse().unwrap();
    let app = agent.spawn("setsid sleep 1002 & sleep 1003");
    parent.pidfd.signal(libc::SIGKILL).unwrap();
    parent.pidfd.reap_blocking().unwrap();
    agent.wait_for_event("Stop {");
    wait_for("the end of all", || {
        let left = [watchdog, agent.pid, app].into_iter().any(is_running);
        (!left && stage.instances().is_empty()).then_some(())
    });
    let _ = process::reap(watchdog);
}

#[test]
fn an_agent_takes_the_place_of_a_killed_watchdog() {
    // Whom a killed watchdog leaves comes to us instead of to init.
    process::become_subreaper().unwrap();
    let (mut instance, mut agent) = Instance::start("takeover");
    let app = agent.spawn("while :; do echo tick; sleep 0.05; done");
    let (worker, _) = instance.worker();
    agent.wait_for_event(&format!("pid: {}", worker.pid));
    instance.watchdog.pidfd.signal(libc::SIGKILL).unwrap();
    assert_eq!(
        instance.watchdog_status(),
        ExitStatus::Killed {
            signal: libc::SIGKILL,
            dumped_core: false,
        }
    );

    // The same process, another program; and a new agent that knows everything.
    let mut second = instance.stage.next_agent();
    let image = fs::read_link(format!("/proc/{}/exe", agent.pid)).unwrap();
    assert!(
        image.ends_with("libexec/passenger-watchdog"),
        "{}",
        image.display()
    );
    assert!(second
        .wait_for_event("Start")
        .contains("watchdog_generation: 2"));
    second.wait_for_event(&format!("pid: {}", worker.pid));
    second.wait_for_event(&format!("pid: {app}"));
    second.wait_for_event("ready");
    assert!(is_running(app));
    let pid = fs::read_to_string(instance.directory.join("watchdog.pid")).unwrap();
    assert_eq!(pid.trim(), agent.pid.to_string());

    // It does all that a watchdog does: output, workers, configurations, restarts, a further take-over.
    let mark = instance.stage.log().len();
    wait_for("output after the take-over", || {
        instance.stage.log()[mark..]
            .contains("output: tick")
            .then_some(())
    });
    worker.pidfd.signal(libc::SIGKILL).unwrap();
    worker.pidfd.reap_blocking().unwrap();
    second.wait_for_event("WorkerGone");
    let (late, told) = instance.worker();
    assert!(told.starts_with("welcome "), "{told}");
    instance.configure(2);
    assert_eq!(instance.answer().0, ToParent::Configured { generation: 2 });
    kill(second.pid, libc::SIGKILL);
    let mut third = instance.stage.next_agent();
    third.wait_for_event("ready");
    kill(agent.pid, libc::SIGKILL);
    let mut fourth = instance.stage.next_agent();
    assert!(fourth
        .wait_for_event("Start")
        .contains("watchdog_generation: 3"));
    fourth.wait_for_event(&format!("pid: {app}"));
    fourth.wait_for_event("ready");
    late.pidfd.signal(libc::SIGKILL).unwrap();
    late.pidfd.reap_blocking().unwrap();
    // Its parent and its parent's successor have died: it is our child now, or PID 1's. It still is in the
    // store, so the agent ends it; only what it might have let escape would be lost.
    instance.stop(5000);
    for pid in [app, agent.pid, second.pid, third.pid] {
        wait_for("the end of a process", || (!is_running(pid)).then_some(()));
        let _ = process::reap(pid);
    }
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
fn a_first_start_that_cannot_succeed_says_why_and_leaves_nothing() {
    for (mode, why) in [
        ("die", "exited with status 3"),
        ("refuse", "the stand-in refuses"),
    ] {
        let stage = Stage::new(mode);
        stage.set_mode(mode);
        let instance = Instance::launch(stage);
        let (answer, _) = instance.answer();
        let ToParent::Failed { message } = answer else {
            panic!("{answer:?}")
        };
        assert!(message.contains(why), "{message}");
        instance.wait_for_end();
        assert_eq!(instance.watchdog_status(), ExitStatus::Exited { code: 1 });
        assert_eq!(instance.stage.instances().len(), 0);
    }
}

#[test]
fn a_registry_that_is_not_safe_is_a_sentence_for_the_administrator() {
    let stage = Stage::new("registry");
    let registry = stage.path("registry");
    fs::create_dir(&registry).unwrap();
    fs::set_permissions(
        &registry,
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let instance = Instance::launch(stage);
    let (answer, _) = instance.answer();
    let ToParent::Failed { message } = answer else {
        panic!("{answer:?}")
    };
    assert!(
        message.contains("can be written by other users"),
        "{message}"
    );
    assert_eq!(instance.watchdog_status(), ExitStatus::Exited { code: 1 });
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

#[test]
fn what_a_dead_instance_left_is_removed_and_a_live_one_is_not() {
    let (mut dead, agent) = Instance::start("stale");
    let left = dead.directory.clone();
    // Both at once: nobody is left to clean up.
    kill(agent.pid, libc::SIGSTOP);
    dead.watchdog.pidfd.signal(libc::SIGKILL).unwrap();
    dead.watchdog_status();
    kill(agent.pid, libc::SIGKILL);
    dead.wait_for_end();
    assert!(
        instance::is_held(&left).unwrap(),
        "httpd's parent lives and could go on with it"
    );
    dead.reserve.clear();
    wait_for("the free lock", || {
        (!instance::is_held(&left).unwrap()).then_some(())
    });

    let (ours, theirs) = Channel::pair().unwrap();
    let log = OwnedFd::from(dead.stage.log_file());
    dead.watchdog = dead.stage.start_program(&[], &theirs, &log);
    drop(theirs);
    dead.channel = ours;
    dead.configure(1);
    let mut agent = dead.stage.next_agent();
    agent.wait_for_event("ready");
    wait_for("the stale directory's removal", || {
        (!left.exists()).then_some(())
    });
    assert_eq!(dead.stage.instances().len(), 1);
    dead.stop(5000);
}

#[test]
fn the_real_agent_keeps_to_the_protocol() {
    process::become_subreaper().unwrap();
    let mut instance = Instance::launch(Stage::with_real_agent("real"));
    instance.take_ready();
    instance.configure(2);
    assert_eq!(instance.answer().0, ToParent::Configured { generation: 2 });

    let first = instance.pid_in("agent.pid");
    kill(first, libc::SIGKILL);
    let second = wait_for("another agent", || {
        Some(instance.pid_in("agent.pid")).filter(|p| *p != first)
    });
    instance
        .stage
        .wait_for_log(&format!("helper agent {second} is ready"));

    let (worker, told) = instance.worker();
    assert!(told.starts_with("welcome "), "{told}");
    instance.watchdog.pidfd.signal(libc::SIGKILL).unwrap();
    instance.watchdog_status();
    instance.stage.wait_for_log(&format!(
        "process {second} is the watchdog now, with 0 app processes and 1 workers"
    ));
    assert_eq!(instance.pid_in("watchdog.pid"), second);
    instance.configure(3);
    assert_eq!(instance.answer().0, ToParent::Configured { generation: 3 });
    worker.pidfd.signal(libc::SIGKILL).unwrap();
    worker.pidfd.reap_blocking().unwrap();
    instance
        .stage
        .wait_for_log(&format!("worker {} is gone", worker.pid));
    instance.stop(5000);
    wait_for("the end of the second watchdog", || {
        (!is_running(second)).then_some(())
    });
    let _ = process::reap(second);
}

#[test]
fn a_hung_watchdog_is_killed_by_the_agent_that_takes_its_place() {
    process::become_subreaper().unwrap();
    let mut instance = Instance::launch(Stage::with_real_agent("hung-watchdog"));
    instance.take_ready();
    let agent = instance.pid_in("agent.pid");
    instance
        .stage
        .wait_for_log(&format!("helper agent {agent} is ready"));
    instance.watchdog.pidfd.signal(libc::SIGSTOP).unwrap();
    instance
        .stage
        .wait_for_log("has said nothing for 3 s; killing it");
    assert_eq!(
        instance.watchdog_status(),
        ExitStatus::Killed {
            signal: libc::SIGKILL,
            dumped_core: false,
        }
    );
    instance
        .stage
        .wait_for_log(&format!("process {agent} is the watchdog now"));
    instance.configure(2);
    assert_eq!(instance.answer().0, ToParent::Configured { generation: 2 });
    instance.stop(5000);
    wait_for("the end of the second watchdog", || {
        (!is_running(agent)).then_some(())
    });
    let _ = process::reap(agent);
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

/// Both at once, so that neither can take the other's place; httpd's parent starts another watchdog.
#[test]
fn another_watchdog_goes_on_with_the_reserve_of_a_dead_pair() {
    process::become_subreaper().unwrap();
    let (mut instance, mut agent) = Instance::start("reserve");
    let app = agent.spawn("while :; do echo tick; sleep 0.05; done");
    let gone = agent.spawn("exit 0");
    let (worker, told) = instance.worker();
    agent.wait_for_event(&format!("pid: {}", worker.pid));
    instance.configure(2);
    assert_eq!(instance.answer().0, ToParent::Configured { generation: 2 });
    for round in 0..2 {
        kill(agent.pid, libc::SIGSTOP);
        instance.watchdog.pidfd.signal(libc::SIGKILL).unwrap();
        instance.watchdog_status();
        kill(agent.pid, libc::SIGKILL);
        instance.wait_for_end();
        let _ = process::reap(agent.pid);
        let _ = process::reap(gone);
        assert!(is_running(app), "the app must not notice");
        assert!(
            instance::is_held(&instance.directory).unwrap(),
            "nobody may take it for a stale one"
        );

        let (ours, theirs) = Channel::pair().unwrap();
        let log = OwnedFd::from(instance.stage.log_file());
        instance.watchdog = instance.stage.start_program(&[], &theirs, &log);
        drop(theirs);
        instance.channel = ours;
        let fds = [instance.reserve[0].as_fd(), instance.reserve[1].as_fd()];
        instance
            .channel
            .send(&FromParent::Rebuild {}, &fds)
            .unwrap();
        let directory = instance.directory.clone();
        instance.take_ready();
        assert_eq!(instance.directory, directory);
        agent = instance.stage.next_agent();
        assert!(agent
            .wait_for_event("Start")
            .contains(&format!("watchdog_generation: {}", round + 2)));
        agent.wait_for_event("Config { generation: 2 }");
        let known = agent.wait_for_event("Worker {");
        let identity: Vec<&str> = told.split(' ').collect();
        assert!(
            known.contains(&format!("slot: {},", identity[1])),
            "{known}"
        );
        assert!(
            known.contains(&format!("generation: {},", identity[2])),
            "{known}"
        );
        agent.wait_for_event(&format!("pid: {app}"));
        agent.wait_for_event("ready");
        let mark = instance.stage.log().len();
        wait_for("output of the app", || {
            instance.stage.log()[mark..]
                .contains("output: tick")
                .then_some(())
        });
    }
    // It does all that a watchdog does.
    worker.pidfd.signal(libc::SIGKILL).unwrap();
    worker.pidfd.reap_blocking().unwrap();
    agent.wait_for_event("WorkerGone");
    agent.command("mode ignore-stop");
    instance.stop(300);
    for pid in [app, agent.pid] {
        wait_for("the end of a process", || {
            let _ = process::reap(pid);
            (!is_running(pid)).then_some(())
        });
    }
}
