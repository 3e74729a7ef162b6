//! What the watchdog's tests share: a private instance whose parent is the test, agents that obey it, and
//! patience with a limit. Leaves no process and no file behind, also when a test fails.

// Each test file uses its own part of it.
#![allow(dead_code)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use helper_agent::sys::pidfd::Pidfd;
use helper_agent::sys::process::ExitStatus;
use helper_agent::sys::spawn::{spawn, Program, Started};
use helper_agent::sys::{descriptor, memfd, tree};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{Apache, Config, Directive, FromParent, ToParent};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn is_running(pid: i32) -> bool {
    tree::Entry::of(pid).is_some_and(|entry| entry.state != 'Z')
}

pub(crate) fn kill(pid: i32, signal: i32) {
    assert!(
        Pidfd::open(pid).unwrap().signal(signal).unwrap(),
        "process {pid} is gone already"
    );
}

/// A directory with an installation in it, and everything that tests of the watchdog need besides.
pub(crate) struct Stage {
    pub(crate) directory: PathBuf,
    listener: UnixListener,
}

impl Stage {
    pub(crate) fn new(test: &str) -> Self {
        let watchdog = Path::new(env!("CARGO_BIN_EXE_passenger-watchdog"));
        Self::with_agent(
            test,
            &watchdog.with_file_name("examples").join("stand-in-agent"),
        )
    }

    /// With the real agent; it does not connect to the test.
    pub(crate) fn with_real_agent(test: &str) -> Self {
        Self::with_agent(
            test,
            Path::new(env!("CARGO_BIN_EXE_passenger-helper-agent")),
        )
    }

    fn with_agent(test: &str, agent: &Path) -> Self {
        let name = format!("watchdog-test-{}-{test}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("libexec")).unwrap();
        let watchdog = Path::new(env!("CARGO_BIN_EXE_passenger-watchdog"));
        copy(watchdog, &directory.join("libexec/passenger-watchdog"));
        copy(agent, &directory.join("libexec/passenger-helper-agent"));
        let stand_in = watchdog.with_file_name("examples").join("stand-in-agent");
        copy(&stand_in, &directory.join("libexec/stand-in"));
        fs::write(directory.join("mode"), "normal").unwrap();
        let listener = UnixListener::bind(directory.join("agents")).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            directory,
            listener,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What agents that start from now on do.
    pub(crate) fn set_mode(&self, mode: &str) {
        fs::write(self.path("mode"), mode).unwrap();
    }

    pub(crate) fn environment(&self, more: &[(&str, String)]) -> Vec<CString> {
        let own = [
            ("PATH", "/usr/bin:/bin".to_owned()),
            ("STAND_IN_MODE", self.path("mode").display().to_string()),
            ("STAND_IN_SOCKET", self.path("agents").display().to_string()),
            (
                "STAND_IN_WATCHDOG",
                self.path("libexec/passenger-watchdog")
                    .display()
                    .to_string(),
            ),
        ];
        own.iter()
            .chain(more)
            .map(|(name, value)| CString::new(format!("{name}={value}")).unwrap())
            .collect()
    }

    pub(crate) fn log_file(&self) -> File {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_for(&format!("{text:?} in the log"), || {
            self.log().contains(text).then_some(())
        });
    }

    /// A configuration as httpd's parent makes it.
    pub(crate) fn config(&self, generation: u64) -> OwnedFd {
        let directive = |name: &str, value: String| Directive {
            name: name.to_owned(),
            args: vec![value],
            file: "test.conf".to_owned(),
            line: 1,
        };
        let config = Config {
            generation,
            build: "test".to_owned(),
            apache: Apache {
                uid: 33,
                gid: 33,
                software: "Test/1.0".to_owned(),
                mpm: "event".to_owned(),
                server_limit: 4,
                max_threads: 16,
            },
            global: vec![
                directive(
                    "PassengerInstanceRegistryDir",
                    self.path("registry").display().to_string(),
                ),
                directive("PassengerLogLevel", "7".to_owned()),
            ],
            servers: Vec::new(),
            records: Vec::new(),
        };
        memfd::with_contents(c"config", &serde_json::to_vec(&config).unwrap()).unwrap()
    }

    pub(crate) fn start_program(&self, role: &[&str], channel: &Channel, out: &OwnedFd) -> Started {
        let file = if role.is_empty() {
            "passenger-watchdog"
        } else {
            "stand-in"
        };
        let image = File::open(self.path("libexec").join(file)).unwrap();
        let null = File::open("/dev/null").unwrap();
        let mut arguments = vec![CString::new(file).unwrap()];
        arguments.extend(role.iter().map(|text| CString::new(*text).unwrap()));
        spawn(&Program {
            image: image.as_fd(),
            arguments,
            environment: self
                .environment(&[("PASSENGER_PARENT_PID", std::process::id().to_string())]),
            descriptors: vec![
                (null.as_fd(), 0),
                (out.as_fd(), 1),
                (out.as_fd(), 2),
                (channel.as_fd(), 3),
            ],
            new_session: true,
            oom_score_adj: None,
            nofile: None,
        })
        .unwrap()
    }

    /// The next agent that starts: waits for its connection.
    pub(crate) fn next_agent(&mut self) -> Agent {
        let stream = wait_for("a new agent", || self.listener.accept().ok()).0;
        stream.set_nonblocking(false).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let (send, events) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut agent = Agent {
            pid: 0,
            stream,
            events,
        };
        let hello = agent.wait_for_event("hello ");
        agent.pid = hello.trim_start_matches("hello ").parse().unwrap();
        agent
    }

    pub(crate) fn instances(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path("registry")) else {
            return Vec::new();
        };
        entries.flatten().map(|entry| entry.path()).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- log of {} ---\n{}",
                self.directory.display(),
                self.log()
            );
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(
        from.exists(),
        "{} is missing; run `cargo test -p passenger-helper-agent` or build the examples first",
        from.display()
    );
    // A link is as good and does not read megabytes; not across file systems, though.
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).unwrap();
    }
}

/// A stand-in agent that runs.
pub(crate) struct Agent {
    pub(crate) pid: i32,
    stream: UnixStream,
    events: Receiver<String>,
}

impl Agent {
    /// Waits for an event that contains the text, skipping others.
    pub(crate) fn wait_for_event(&mut self, text: &str) -> String {
        wait_for(&format!("event {text:?} of agent {}", self.pid), || loop {
            match self.events.try_recv() {
                Ok(line) if line.contains(text) => return Some(line),
                Ok(_) => {}
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    panic!("agent {} is gone; waited for {text:?}", self.pid)
                }
            }
        })
    }

    /// Waits for one of these events; `gone` is the end of the agent.
    pub(crate) fn wait_for_any(&mut self, texts: &[&'static str]) -> &'static str {
        wait_for(
            &format!("one of {texts:?} of agent {}", self.pid),
            || loop {
                match self.events.try_recv() {
                    Ok(line) => {
                        if let Some(text) = texts.iter().find(|text| line.contains(**text)) {
                            return Some(*text);
                        }
                    }
                    Err(TryRecvError::Empty) => return None,
                    Err(TryRecvError::Disconnected) => return Some("gone"),
                }
            },
        )
    }

    pub(crate) fn command(&mut self, text: &str) {
        writeln!(self.stream, "{text}").unwrap();
    }

    /// Starts an app that runs this shell script; returns its PID.
    pub(crate) fn spawn(&mut self, script: &str) -> i32 {
        self.command(&format!("spawn {script}"));
        self.wait_for_event("spawned ")
            .trim_start_matches("spawned ")
            .parse()
            .unwrap()
    }
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
