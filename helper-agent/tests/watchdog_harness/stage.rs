//! A directory for one test of the watchdog: installation, registry, log, and the socket at which stand-in agents
//! report.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use helper_agent::sys::memfd;
use helper_agent::sys::spawn::{spawn, Program, Started};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{Apache, Config, Directive};

use super::agent::Agent;
use super::scene::{self, wait_for};

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
        scene::install(watchdog, &directory.join("libexec/passenger-watchdog"));
        scene::install(agent, &directory.join("libexec/passenger-helper-agent"));
        let stand_in = watchdog.with_file_name("examples").join("stand-in-agent");
        scene::install(&stand_in, &directory.join("libexec/stand-in"));
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
        scene::log_file(&self.directory)
    }

    pub(crate) fn log(&self) -> String {
        scene::log(&self.directory)
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        scene::wait_for_log(&self.directory, text);
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
        Agent::greeted(stream)
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
        scene::strike(&self.directory);
    }
}
