//! The real watchdog with a stand-in agent: starts that cannot succeed, and the end of an instance, which leaves nothing.

mod watchdog_harness;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use helper_agent::instance;
use helper_agent::sys::process::{self, ExitStatus};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromParent, ToParent};
use watchdog_harness::{is_running, kill, wait_for, Instance, Stage, PATIENCE};

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
