//! A running private httpd, and everything that came out of it.

use crate::client::{Client, Request, Response};
use crate::instance::Instance;
use crate::log::Log;
use crate::processes::{self, ProcessId};
use crate::setup::{Setup, REGISTRY, SITES};
use crate::under_test::UnderTest;
use crate::wait::{until, until_ok, until_some, PATIENCE};
use nix::sys::signal::Signal;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long an orderly stop may take in a test whose apps are well-behaved.
const STOP: Duration = Duration::from_secs(40);

/// A running server. Dropping it stops everything that came out of it.
#[derive(Debug)]
pub struct Server {
    pub(crate) root: PathBuf,
    pub(crate) port: u16,
    child: Option<Child>,
    pub(crate) setup: Setup,
    is_abandoned: bool,
}

impl Server {
    /// Starts a server (see [`Setup::start`]).
    pub(crate) fn start(setup: Setup) -> Server {
        let root = make_root();
        for site in &setup.sites {
            site.app.install(&root.join(SITES).join(&site.name));
        }
        let mut server = Server {
            root,
            port: 0,
            child: None,
            setup,
            is_abandoned: false,
        };
        // Between finding a free port and httpd's bind somebody else may take it.
        for _ in 0..5 {
            server.port = free_port();
            let Err(reason) = server.launch() else {
                return server;
            };
            assert!(
                reason.contains("Address already in use"),
                "httpd did not start: {reason}"
            );
        }
        panic!("five free ports in a row were taken by others");
    }

    /// The port it listens on, at 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its `ServerRoot`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The root directory of a site's app.
    #[must_use]
    pub fn app_root(&self, site: &str) -> PathBuf {
        self.root.join(SITES).join(site)
    }

    /// httpd's error log.
    #[must_use]
    pub fn log(&self) -> Log {
        Log::at(&self.root.join("error.log"))
    }

    /// Watchdog, agent and their directory.
    #[must_use]
    pub fn instance(&self) -> Instance {
        Instance::in_registry(&self.registry())
    }

    /// Where instance directories are made.
    #[must_use]
    pub fn registry(&self) -> PathBuf {
        self.root.join(REGISTRY)
    }

    /// The pid of httpd's parent process.
    #[must_use]
    pub fn parent(&self) -> ProcessId {
        let id = self.child.as_ref().expect("the server was started").id();
        i32::try_from(id).expect("a pid fits")
    }

    /// httpd's worker processes.
    #[must_use]
    pub fn workers(&self) -> Vec<ProcessId> {
        let is_httpd = |pid: &ProcessId| processes::command_of(*pid).contains("apache2");
        processes::children_of(self.parent())
            .into_iter()
            .filter(is_httpd)
            .collect()
    }

    /// The processes of a site's app that exist now.
    #[must_use]
    pub fn app_pids(&self, site: &str) -> Vec<ProcessId> {
        self.instance().app_pids(&self.app_root(site))
    }

    /// A connection to a site.
    ///
    /// # Panics
    /// When httpd does not listen.
    #[must_use]
    pub fn client(&self, site: &str) -> Client {
        Client::connect(self.port, site)
            .unwrap_or_else(|e| panic!("cannot connect: {e}\n{}", self.evidence()))
    }

    /// One request on a connection of its own.
    ///
    /// # Panics
    /// When there is no whole response.
    #[must_use]
    pub fn request(&self, site: &str, request: &Request) -> Response {
        let answer = self.client(site).exchange(request);
        answer.unwrap_or_else(|e| panic!("no response to {request:?}: {e}"))
    }

    /// `GET target`.
    #[must_use]
    pub fn get(&self, site: &str, target: &str) -> Response {
        self.request(site, &Request::get(target))
    }

    /// `POST target`.
    #[must_use]
    pub fn post(&self, site: &str, target: &str, body: &[u8]) -> Response {
        self.request(site, &Request::post(target, body))
    }

    /// Writes a file below the app's root, as a test's signal to the app.
    pub fn touch(&self, site: &str, file: &str) {
        fs::write(self.app_root(site).join(file), "").expect("write a file for the app");
    }

    /// Waits until an app wrote that file below its root.
    pub fn await_file(&self, site: &str, file: &str) {
        let path = self.app_root(site).join(file);
        until(&format!("{} to appear", path.display()), PATIENCE, || {
            path.exists()
        });
    }

    /// `apachectl stop`: returns when httpd's parent is gone, at most `patience` later.
    ///
    /// # Panics
    /// When it is still there then.
    pub fn stop_within(&mut self, patience: Duration) {
        if self.child.is_some() {
            self.let_connections_end();
        }
        let Some(mut child) = self.child.take() else {
            return;
        };
        processes::signal(
            i32::try_from(child.id()).expect("a pid fits"),
            Signal::SIGTERM,
        );
        until_some("httpd to stop", patience, || {
            child.try_wait().expect("wait for httpd")
        });
    }

    /// Everything that came out of this server and is still alive.
    #[must_use]
    pub fn survivors(&self) -> Vec<ProcessId> {
        processes::members_of(&self.root)
    }

    /// As [`Server::survivors`], after the moment that the watchdog may take to exit once it has said that
    /// everything is over: httpd's parent goes on at that word.
    #[must_use]
    pub fn survivors_after_a_moment(&self) -> Vec<ProcessId> {
        // It needs the processor once more, which on a busy machine may take seconds, the longer the more we look.
        let end = Instant::now() + PATIENCE;
        loop {
            let left = self.survivors();
            if left.is_empty() || Instant::now() >= end {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Those of a site's processes that have said that they are ready.
    #[must_use]
    pub fn ready_pids(&self, site: &str) -> Vec<ProcessId> {
        let mut pids = self.app_pids(site);
        let text = self.log().text();
        pids.retain(|pid| text.contains(&format!("process {pid} is ready")));
        pids
    }

    /// Waits until a site has exactly `count` processes and all of them have said that they are ready.
    pub fn await_processes(&self, site: &str, count: usize) -> Vec<ProcessId> {
        until_some(
            &format!("{count} ready processes of {site}"),
            PATIENCE,
            || {
                let ready = self.ready_pids(site);
                let is_all = ready.len() == count && self.app_pids(site).len() == count;
                is_all.then_some(ready)
            },
        )
    }

    /// Says that this test left it in a state where an orderly stop is not to be expected: at the end
    /// everything is killed at once and nothing is checked.
    pub fn abandon(&mut self) {
        self.is_abandoned = true;
    }

    /// What to print when something is not as it should be.
    #[must_use]
    pub fn evidence(&self) -> String {
        let alive: Vec<_> = self
            .survivors()
            .iter()
            .map(|pid| format!("  {pid} {}", processes::command_of(*pid)))
            .collect();
        let root = self.root.display();
        format!(
            "--- {root}: alive\n{}\n--- error.log\n{}",
            alive.join("\n"),
            self.log().tail(60)
        )
    }

    /// Starts httpd.
    ///
    /// # Errors
    /// When it ended before it answered: how, and all that it said.
    fn launch(&mut self) -> Result<(), String> {
        self.write_configuration();
        let output = fs::File::create(self.root.join("console.log")).expect("create console.log");
        let mut command = Command::new("/usr/sbin/apache2");
        if let Some(uid) = self.setup.starter {
            hand_over(&self.root, uid);
            command.uid(uid).gid(uid);
        }
        let child = command
            .args(["-D", "FOREGROUND", "-f", "httpd.conf", "-d"])
            .arg(&self.root)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LANG", "C.UTF-8")
            .envs(self.setup.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate a descriptor"))
            .stderr(output)
            // A window's resize or Ctrl-C must not reach httpd through the terminal's group.
            .process_group(0)
            .spawn()
            .expect("start /usr/sbin/apache2 (Debian package apache2-bin)");
        self.child = Some(child);
        self.await_start()
    }

    fn await_start(&mut self) -> Result<(), String> {
        let mut child = self.child.take().expect("httpd was just started");
        let log = self.log();
        let ended = until_ok("httpd to start", PATIENCE, || {
            if let Some(status) = child.try_wait().expect("wait for httpd") {
                return Ok(Some(status));
            }
            if log.text().contains("resuming normal operations") {
                return Ok(None);
            }
            Err(log.tail(5))
        });
        let Some(status) = ended else {
            self.child = Some(child);
            return Ok(());
        };
        // Without a log the reason is on the console.
        let console = fs::read_to_string(self.root.join("console.log")).unwrap_or_default();
        let log = log.text();
        Err(format!(
            "{status}\n--- its console\n{console}\n--- error.log\n{log}"
        ))
    }

    /// Gives httpd a moment to finish with clients that hung up. Its event MPM shuts the sockets of its
    /// threads down at SIGTERM, and crashes when one of them is being freed (2.4.71, in a fifteenth of the stops
    /// of a busy httpd without our module; core dumps: `apr_os_sock_get` in the main thread,
    /// `apr_allocator_destroy` in a worker thread). The connection is gone before the memory is: the thread must
    /// have got its turn, too.
    pub(crate) fn let_connections_end(&self) {
        let workers = self.workers();
        let is_busy = || {
            processes::open_connections(self.port) > 0
                || !workers.iter().all(|pid| processes::is_at_rest(*pid))
        };
        let end = Instant::now() + Duration::from_secs(1);
        while is_busy() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills whatever is left, until nothing is.
    fn kill_all(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        until(
            &format!("everything below {} to die", self.root.display()),
            PATIENCE,
            || {
                let left = self.survivors();
                left.iter()
                    .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
                left.is_empty()
            },
        );
        Instance::remove_groups(&self.registry());
    }

    /// Stops in the orderly way; complains about what an orderly stop must not leave.
    fn stop_and_check(&mut self) -> Vec<String> {
        let mut complaints = self.log().scandals();
        let before = complaints.len();
        self.stop_within(STOP);
        if self.setup.under_test == UnderTest::Passenger {
            // Its processes end some time after httpd, by design.
            return Vec::new();
        }
        for pid in self.survivors_after_a_moment() {
            complaints.push(format!(
                "process {pid} outlived httpd: {}",
                processes::command_of(pid)
            ));
        }
        for directory in Instance::directories(&self.registry()) {
            complaints.push(format!("{} was not removed", directory.display()));
        }
        let at_stop = self.log().scandals().into_iter().skip(before);
        let is_ours = |line: &String| {
            !(self.setup.crashes_at_stop() && line.contains("exit signal Segmentation"))
        };
        complaints.extend(at_stop.filter(is_ours));
        complaints
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let has_failed = std::thread::panicking();
        let complaints = if has_failed || self.is_abandoned {
            Vec::new()
        } else {
            self.stop_and_check()
        };
        let evidence = if has_failed || !complaints.is_empty() {
            self.evidence()
        } else {
            String::new()
        };
        self.kill_all();
        if has_failed || !complaints.is_empty() {
            eprintln!("{evidence}\n(kept for inspection: {})", self.root.display());
        } else {
            // A file that cannot be removed is no reason to fail a test that passed.
            let _ = fs::remove_dir_all(&self.root);
        }
        if !has_failed {
            assert!(
                complaints.is_empty(),
                "after an orderly stop:\n{}",
                complaints.join("\n")
            );
        }
    }
}

/// A fresh directory with a short path: `sun_path` has 108 bytes.
fn make_root() -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let base = std::env::temp_dir()
        .canonicalize()
        .expect("the temporary directory exists");
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let root = base.join(format!("psgr-{}-{number}", std::process::id()));
    // A directory of an earlier process with our pid: it was kept after a failure.
    let _ = fs::remove_dir_all(&root);
    for directory in ["run", SITES, REGISTRY] {
        fs::create_dir_all(root.join(directory)).expect("create the server's directory");
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))
        .expect("open the server's directory");
    root
}

/// Gives a server's directory to who starts it, but not the apps in it.
fn hand_over(root: &Path, uid: u32) {
    let inside = fs::read_dir(root).expect("read the server's directory");
    let paths = inside.map(|entry| entry.expect("read an entry").path());
    for path in paths.chain([root.to_owned()]) {
        if !path.ends_with(SITES) {
            std::os::unix::fs::chown(&path, Some(uid), Some(uid)).expect("give it away");
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("find a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}
