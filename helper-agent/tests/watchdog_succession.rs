//! The real watchdog: an agent takes its place, or another watchdog that of a dead pair.

mod watchdog_harness;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use helper_agent::instance;
use helper_agent::sys::process::{self, ExitStatus};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromParent, ToParent};
use watchdog_harness::{is_running, kill, wait_for, Instance, Stage};

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
