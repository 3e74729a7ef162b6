//! An application process under its loader, with the test in the agent's place: it holds the other
//! end of the control socket, the path of the listening socket, and everything the process prints.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::{kill, Signal};
use nix::unistd::{pipe2, Pid};

use super::client::Client;
use super::worker::Worker;
use super::{wait_until, Language, DEADLINE};

/// Moves the descriptors that `Command` can pass (0 and 1) to where the loader expects them. A shell
/// instead of `pre_exec`, which would need `unsafe`.
const PLACE_DESCRIPTORS: &str = r#"exec 3<&0 4<&1 </dev/null >&2; exec "$@""#;

/// The same for a preloader, which listens nowhere.
const PLACE_CONTROL: &str = r#"exec 3<&0 </dev/null >&2; exec "$@""#;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// How to start a process; see [`Launch::start`].
pub(crate) struct Launch {
    language: Language,
    app: PathBuf,
    startup_file: String,
    variables: Vec<(String, String)>,
    loader: PathBuf,
}

impl Launch {
    pub(crate) fn new(language: Language, app: &Path) -> Self {
        Launch {
            language,
            app: fs::canonicalize(app).expect("the application's directory exists"),
            startup_file: language.startup_file().to_owned(),
            variables: Vec::new(),
            loader: language.loader(),
        }
    }

    /// Takes the loader from another directory than the repository's.
    pub(crate) fn loaders_in(mut self, directory: &Path) -> Self {
        let name = self.loader.file_name().expect("it is a file");
        self.loader = directory.join(name);
        self
    }

    pub(crate) fn startup_file(mut self, name: &str) -> Self {
        name.clone_into(&mut self.startup_file);
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the process and returns at once. `None` where the language is not installed; then the
    /// test has nothing to say, which it prints.
    pub(crate) fn start(self) -> Option<AppProcess> {
        let Some(interpreter) = self.language.interpreter() else {
            eprintln!(
                "skipped: there is no {} on this machine",
                self.language.name()
            );
            return None;
        };
        let directory = scratch_directory();
        let socket = directory.join("app");
        let listener = UnixListener::bind(&socket).expect("bind the listening socket");
        let (ours, theirs) = UnixStream::pair().expect("socket pair");
        let (log_out, log_in) = pipe2(OFlag::O_CLOEXEC).expect("pipe");

        let preloads = |(name, _): &(String, String)| name == "PASSENGER_PRELOAD";
        let placing = if self.variables.iter().any(preloads) {
            PLACE_CONTROL
        } else {
            PLACE_DESCRIPTORS
        };
        let child = Command::new("/bin/sh")
            .args(["-c", placing, "sh"])
            .arg(interpreter)
            .arg(&self.loader)
            .current_dir(&self.app)
            .env_clear()
            .envs(agent_environment(&self.app, &self.startup_file))
            .envs(self.variables)
            .stdin(OwnedFd::from(theirs))
            .stdout(OwnedFd::from(listener))
            .stderr(log_in)
            .process_group(0)
            .spawn()
            .expect("start the interpreter");

        ours.set_read_timeout(Some(DEADLINE))
            .expect("set a timeout");
        Some(AppProcess {
            language: self.language,
            child,
            startup_file: self.app.join(self.startup_file),
            socket,
            directory,
            control: Some(BufReader::new(ours)),
            log: collect(File::from(log_out)),
        })
    }

    /// Starts the process and waits until it is ready.
    pub(crate) fn start_ready(self) -> Option<AppProcess> {
        let mut process = self.start()?;
        while !process
            .next_line()
            .expect("the process becomes ready")
            .starts_with("ready ")
        {}
        Some(process)
    }
}

/// A started process; it and its children end with this value.
pub(crate) struct AppProcess {
    language: Language,
    child: Child,
    startup_file: PathBuf,
    socket: PathBuf,
    directory: PathBuf,
    control: Option<BufReader<UnixStream>>,
    log: Arc<Mutex<Vec<u8>>>,
}

impl AppProcess {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn startup_file(&self) -> &Path {
        &self.startup_file
    }

    /// A new connection to the process, as an Apache worker makes it.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.language, &self.socket)
    }

    /// The next line from the process; `None` when it has closed the control socket.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let control = self.control.as_mut().expect("the control socket is open");
        let mut line = String::new();
        match control.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end_matches('\n').to_owned()),
            Err(error) => panic!("no line on the control socket: {error}\n{}", self.log()),
        }
    }

    /// Sends one line to the process.
    pub(crate) fn tell(&mut self, line: &str) {
        let control = self.control.as_mut().expect("the control socket is open");
        control
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .expect("write a control line");
    }

    /// A preloader: asks it for a worker.
    pub(crate) fn fork(&mut self) -> Worker {
        let control = self.control.as_ref().expect("the control socket is open");
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let socket = self.directory.join(format!("worker-{number}"));
        Worker::ask(self.language, control.get_ref(), socket)
    }

    /// Asks how busy it is and returns the numbers it answers with.
    pub(crate) fn ask_busy(&mut self, token: &str) -> Vec<u64> {
        self.tell(&format!("busy? {token}"));
        let line = self.next_line().expect("an answer");
        let mut words = line.split(' ');
        assert_eq!(
            (words.next(), words.next()),
            (Some("busy"), Some(token)),
            "in {line:?}"
        );
        words.map(|word| word.parse().expect("a number")).collect()
    }

    /// Closes our end of the control socket: the instance is gone.
    pub(crate) fn hang_up(&mut self) {
        self.control = None;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(pid(&self.child), signal).expect("signal the process");
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(|| {
            status = self.child.try_wait().expect("wait for the process");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Everything printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().expect("the collector lives")).into_owned()
    }

    /// Waits until it has printed the text.
    pub(crate) fn expect_log(&self, text: &str) {
        let started = Instant::now();
        while !self.log().contains(text) {
            assert!(
                started.elapsed() < DEADLINE,
                "{text:?} was not printed, but:\n{}",
                self.log()
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// The sockets the process has open, as `/proc` names them.
    pub(crate) fn open_sockets(&self) -> Vec<String> {
        sockets_of(self.child.id())
    }
}

/// The sockets that a process has open, as `/proc` names them.
pub(crate) fn sockets_of(pid: impl std::fmt::Display) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    descriptors
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .filter(|target| target.starts_with("socket:"))
        .collect()
}

impl Drop for AppProcess {
    fn drop(&mut self) {
        // The group: fixtures may have started children.
        let _ = nix::sys::signal::killpg(pid(&self.child), Signal::SIGKILL);
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
        if std::thread::panicking() {
            eprintln!("--- output of the process ---\n{}", self.log());
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
}

fn scratch_directory() -> PathBuf {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let directory =
        std::env::temp_dir().join(format!("loader-test-{}-{number}", std::process::id()));
    fs::create_dir(&directory).expect("make a scratch directory");
    directory
}

/// What the agent gives a process, and nothing of whoever runs the tests.
fn agent_environment(app: &Path, startup_file: &str) -> Vec<(String, String)> {
    let uid = nix::unistd::getuid().to_string();
    let app_root = app.to_string_lossy().into_owned();
    let startup_path = app.join(startup_file).to_string_lossy().into_owned();
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    [
        ("PATH", path.as_str()),
        ("HOME", "/"),
        // As Debian starts httpd.
        ("LANG", "C"),
        ("IN_PASSENGER", "1"),
        ("PASSENGER_APP_ENV", "production"),
        ("RACK_ENV", "production"),
        ("RAILS_ENV", "production"),
        ("WSGI_ENV", "production"),
        ("NODE_ENV", "production"),
        ("PASSENGER_APP_ROOT", &app_root),
        ("PASSENGER_STARTUP_FILE", &startup_path),
        ("PASSENGER_APP_GROUP_NAME", "conformance (production)"),
        ("PASSENGER_PEER_UID", &uid),
        ("PASSENGER_THREADS", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Reads the output as it comes, so that a full pipe never stops the process.
pub(crate) fn collect(mut pipe: impl Read + Send + 'static) -> Arc<Mutex<Vec<u8>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&log);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            copy.lock()
                .expect("nobody panics with it")
                .extend_from_slice(&buffer[..length]);
        }
    });
    log
}
