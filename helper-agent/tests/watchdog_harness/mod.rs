//! What the watchdog's tests share: a private instance whose parent is the test, agents that obey it, and
//! patience with a limit. Leaves no process and no file behind, also when a test fails.

// Each test file uses its own part of it.
#![allow(dead_code)]

mod agent;
#[path = "../scene/mod.rs"]
mod scene;
mod stage;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use helper_agent::sys::descriptor;
use helper_agent::sys::pidfd::Pidfd;
use helper_agent::sys::process::ExitStatus;
use helper_agent::sys::spawn::Started;
use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromParent, ToParent};

pub(crate) use agent::Agent;
#[allow(unused_imports)]
pub(crate) use scene::{is_running, wait_for, PATIENCE};
pub(crate) use stage::Stage;

pub(crate) fn kill(pid: i32, signal: i32) {
    assert!(
        Pidfd::open(pid).unwrap().signal(signal).unwrap(),
        "process {pid} is gone already"
    );
}

/// A watchdog whose parent is the test.
pub(crate) struct Instance {
    pub(crate) stage: Stage,
    pub(crate) channel: Channel,
    pub(crate) watchdog: Started,
    /// Workers' end of the hello channel, once ready.
    pub(crate) hello: Option<Channel>,
    /// Both ends of the reserve and the watchdog's image, once ready.
    pub(crate) reserve: Vec<OwnedFd>,
    pub(crate) directory: PathBuf,
}

impl Instance {
    /// Starts the watchdog and sends the first configuration.
    pub(crate) fn launch(stage: Stage) -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        theirs.receive_credentials().unwrap();
        let log = OwnedFd::from(stage.log_file());
        let watchdog = stage.start_program(&[], &theirs, &log);
        let instance = Self {
            stage,
            channel: ours,
            watchdog,
            hello: None,
            reserve: Vec::new(),
            directory: PathBuf::new(),
        };
        instance.configure(1);
        instance
    }

    /// As [`Instance::launch`], and waits until the first agent is ready.
    pub(crate) fn start(test: &str) -> (Self, Agent) {
        let mut instance = Self::launch(Stage::new(test));
        let mut agent = instance.stage.next_agent();
        agent.wait_for_event("ready");
        instance.take_ready();
        (instance, agent)
    }

    /// Waits for the parent's `Ready`.
    pub(crate) fn take_ready(&mut self) {
        let (message, mut fds) = self.answer();
        let ToParent::Ready { instance_dir } = message else {
            panic!("{message:?}")
        };
        assert_eq!(fds.len(), 7);
        self.reserve = fds.split_off(4);
        self.hello = fds.pop().map(Channel::from);
        self.directory = PathBuf::from(instance_dir);
    }

    /// PID in one of the instance's files.
    pub(crate) fn pid_in(&self, name: &str) -> i32 {
        fs::read_to_string(self.directory.join(name))
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    pub(crate) fn configure(&self, generation: u64) {
        let document = self.stage.config(generation);
        let log = self.stage.log_file();
        self.channel
            .send(
                &FromParent::Configure { generation },
                &[document.as_fd(), log.as_fd()],
            )
            .unwrap();
    }

    pub(crate) fn answer(&self) -> (ToParent, Vec<OwnedFd>) {
        assert!(self.channel.wait_readable(PATIENCE).unwrap(), "no answer");
        let received = self
            .channel
            .recv::<ToParent>()
            .unwrap()
            .expect("an answer, not the end");
        (received.message, received.fds)
    }

    /// Waits for the end of the channel: the instance is gone.
    pub(crate) fn wait_for_end(&self) {
        loop {
            assert!(
                self.channel.wait_readable(PATIENCE).unwrap(),
                "the instance does not end"
            );
            match self.channel.recv::<ToParent>() {
                Ok(None) => return,
                Ok(Some(_)) => {}
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}"),
            }
        }
    }

    /// Stops the instance and checks that it left nothing.
    pub(crate) fn stop(&self, deadline_ms: u64) {
        self.channel
            .send(&FromParent::Stop { deadline_ms }, &[])
            .unwrap();
        self.wait_for_end();
        assert_eq!(self.stage.instances(), Vec::<PathBuf>::new());
    }

    pub(crate) fn watchdog_status(&self) -> ExitStatus {
        self.watchdog.pidfd.reap_blocking().unwrap().unwrap().status
    }

    /// A process that says hello; returns it with what it was told.
    pub(crate) fn worker(&self) -> (Started, String) {
        let (read, write) = descriptor::pipe().unwrap();
        let hello = self.hello.as_ref().unwrap();
        let worker = self.stage.start_program(&["--worker"], hello, &write);
        drop(write);
        let mut line = String::new();
        BufReader::new(File::from(read))
            .read_line(&mut line)
            .unwrap();
        (worker, line.trim().to_owned())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // After a failure: end what is left. After a success this finds nobody.
        if self
            .channel
            .send(&FromParent::Stop { deadline_ms: 0 }, &[])
            .is_ok()
        {
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                let _ = self.channel.wait_readable(Duration::from_millis(100));
                if matches!(self.channel.recv::<ToParent>(), Ok(None)) {
                    break;
                }
            }
        }
        let _ = self.watchdog.pidfd.reap();
    }
}
