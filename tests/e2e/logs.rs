//! What apps print: whose it is, logs of single apps, and who may name and play with these.

use harness::app::owner_uid;
use harness::log::Log;
use harness::wait::{until, PATIENCE};
use harness::{processes, App, Language, Server, Setup, Site};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{symlink, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Prints the path of each request, on standard error.
const PRINTS: &str = "import sys\nprint('hello from the start', flush=True)\n\
    def application(environ, start_response):\n    \
    print('asked for ' + environ['PATH_INFO'], file=sys.stderr, flush=True)\n    \
    start_response('200 OK', [])\n    return [b'']\n";

fn site() -> Site {
    Site::new(
        "app",
        App::inline(Language::Python, PRINTS).file("log/.keep", ""),
    )
}

fn with_own_log() -> Site {
    site().with("PassengerAppLogFile log/app.log")
}

fn own_log(server: &Server) -> Log {
    Log::at(&server.app_root("app").join("log/app.log"))
}

fn pid(server: &Server) -> i32 {
    server.await_processes("app", 1)[0]
}

#[test]
fn each_line_says_which_app_and_which_process_it_is_of() {
    let server = Setup::of(site()).start();
    assert_eq!(server.get("app", "/one").status, 200);
    let (name, pid) = (server.app_root("app").display().to_string(), pid(&server));
    let prefix = format!("[{name} (production)] App {pid} output: ");
    server
        .log()
        .expect(&format!("{prefix}hello from the start"));
    server.log().expect(&format!("{prefix}asked for /one"));
}

#[test]
fn an_app_can_have_a_log_of_its_own_that_follows_rotation() {
    let server = Setup::of(with_own_log()).start();
    assert_eq!(server.get("app", "/one").status, 200);
    let log = own_log(&server);
    let line = format!("] App {} output: asked for /one", pid(&server));
    log.expect(&line);
    assert!(log.count("hello from the start") > 0, "{}", log.text());
    assert_eq!(
        server.log().count("asked for /one"),
        0,
        "it is in the main log, too"
    );
    let path = server.app_root("app").join("log/app.log");
    let meta = fs::metadata(&path).expect("look at the log");
    assert_eq!(meta.uid(), owner_uid(), "the log is not the app's user's");
    // As logrotate does without copytruncate, and without telling anybody.
    fs::rename(&path, path.with_extension("1")).expect("rotate");
    until("the next lines to be in a new file", PATIENCE, || {
        assert_eq!(server.get("app", "/two").status, 200);
        log.count("asked for /two") > 0
    });
    assert_eq!(server.get("app", "/three").status, 200);
    log.expect("asked for /three");
    assert_eq!(server.log().count("asked for"), 0, "nothing went astray");
}

#[test]
fn without_prefix_an_apps_own_log_has_its_lines_and_nothing_else() {
    let server = Setup::of(with_own_log())
        .with("PassengerDisableLogPrefix on")
        .start();
    assert_eq!(server.get("app", "/one").status, 200);
    until("the app's lines", PATIENCE, || {
        own_log(&server).text() == "hello from the start\nasked for /one\n"
    });
}

#[test]
fn the_report_of_a_failed_start_is_in_the_apps_own_log() {
    let source = "import time\nprint('going to sleep', flush=True)\ntime.sleep(3600)\n";
    let app = App::inline(Language::Python, source).file("log/.keep", "");
    let site = Site::new("app", app)
        .with("PassengerAppLogFile log/app.log")
        .with("PassengerStartTimeout 2");
    let server = Setup::of(site).start();
    assert!((500..600).contains(&server.get("app", "/").status));
    let log = own_log(&server);
    log.expect("output: going to sleep");
    log.expect("it was not ready for requests within 2 seconds; its process was waiting in sleep");
    for fact in [
        "  user: ",
        "  command: ",
        "  kernel function: ",
        "  step load: ",
    ] {
        assert!(log.count(fact) > 0, "{fact:?} is missing in {}", log.text());
    }
    // The administrator reads of it, too; the output is in the app's log alone.
    server.log().expect("its process was waiting in sleep");
    assert_eq!(server.log().count("going to sleep"), 0);
}

#[test]
fn a_crash_is_told_in_the_apps_own_log() {
    let server = Setup::of(with_own_log()).start();
    assert_eq!(server.get("app", "/").status, 200);
    let pid = pid(&server);
    processes::signal(pid, Signal::SIGKILL);
    own_log(&server).expect(&format!(
        "process {pid} killed by SIGKILL without having been asked to"
    ));
}

#[test]
fn an_apps_own_log_goes_on_after_the_agents_death_and_a_graceful_restart() {
    let server = Setup::of(with_own_log()).start();
    assert_eq!(server.get("app", "/one").status, 200);
    let log = own_log(&server);
    log.expect("asked for /one");
    let agent = server.instance().agent();
    processes::signal(agent, Signal::SIGKILL);
    until("the successor to write there", PATIENCE, || {
        assert_eq!(server.get("app", "/two").status, 200);
        log.count("asked for /two") > 0
    });
    server.graceful();
    assert_eq!(server.get("app", "/three").status, 200);
    log.expect("asked for /three");
}

#[test]
fn what_an_app_prints_while_nobody_writes_its_log_is_written_by_the_next_app_log_process() {
    let server = Setup::of(with_own_log()).start();
    assert_eq!(server.get("app", "/before").status, 200);
    let log = own_log(&server);
    log.expect("asked for /before");
    let writer = || {
        let children = processes::children_of(server.instance().agent());
        let is_it = |pid: &i32| processes::command_of(*pid).contains("--app-logs");
        children.into_iter().find(is_it)
    };
    let first = writer().expect("an app-log process");
    processes::signal(first, Signal::SIGKILL);
    for number in 0..20 {
        assert_eq!(server.get("app", &format!("/{number}.")).status, 200);
    }
    until("another app-log process", PATIENCE, || {
        writer().is_some_and(|pid| pid != first)
    });
    assert_eq!(server.get("app", "/after").status, 200);
    log.expect("asked for /after");
    for number in 0..20 {
        let line = format!("asked for /{number}.");
        assert_eq!(log.count(&line), 1, "{line}: {}", log.text());
    }
    server
        .log()
        .expect(&format!("the app-log process {first} has ended"));
    assert_eq!(server.log().count("asked for"), 0, "nothing went astray");
}

#[test]
fn links_and_pipes_in_the_place_of_an_apps_log_lead_root_nowhere() {
    let server = Setup::of(with_own_log()).start();
    let path = server.app_root("app").join("log/app.log");
    let victim = server.root().join("victim");
    fs::write(&victim, "precious\n").expect("write a file of ours");
    symlink(&victim, &path).expect("plant a link");
    assert_eq!(server.get("app", "/one").status, 200);
    server.log().expect("cannot open the app's log");
    server.log().expect("output: asked for /one");
    assert_eq!(fs::read_to_string(&victim).expect("read it"), "precious\n");
    fs::remove_file(&path).expect("remove the link");
    until("the log to be opened once it can be", PATIENCE, || {
        assert_eq!(server.get("app", "/two").status, 200);
        own_log(&server).count("asked for /two") > 0
    });
    if Uid::effective().is_root() {
        // A directory on the way that leads elsewhere: only the app's user's rights count.
        let secret = server.root().join("secret");
        fs::create_dir(&secret).expect("make a directory of root's");
        let log = server.app_root("app").join("log");
        fs::rename(&log, log.with_extension("away")).expect("move the directory");
        symlink(&secret, &log).expect("plant a link");
        until("the agent to have looked again", PATIENCE, || {
            assert_eq!(server.get("app", "/three").status, 200);
            server.log().count("Permission denied") > 0
        });
        let made = fs::read_dir(&secret).expect("look into it").count();
        assert_eq!(made, 0, "root made a file in a place the app chose");
    }
}

#[test]
fn htaccess_cannot_name_a_log() {
    let server = Setup::of(site()).start();
    let htaccess = server.app_root("app").join("public/.htaccess");
    fs::write(htaccess, "PassengerAppLogFile /tmp/chosen-by-the-app\n").expect("write .htaccess");
    assert_eq!(server.get("app", "/").status, 500);
    server.log().expect("PassengerAppLogFile not allowed here");
}

/// Writes to a file from memory whose contents somebody else would have to provide (userfaultfd(2)), and nobody does: the
/// kernel waits with the lock of the file in its hands, as it does for a file system in user space that never answers.
const HOLDS_LOCK: &str = r#"
import ctypes, fcntl, mmap, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
number = {'x86_64': 323, 'aarch64': 282}[os.uname().machine]
faults = libc.syscall(number, os.O_CLOEXEC)
if faults < 0:
    sys.exit('no userfaultfd here')
fcntl.ioctl(faults, 0xC018AA3F, struct.pack('QQQ', 0xAA, 0, 0))
page = libc.mmap(None, mmap.PAGESIZE, 3, 0x22, -1, 0)
fcntl.ioctl(faults, 0xC020AA00, struct.pack('QQQQ', page, mmap.PAGESIZE, 1, 0))
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
print('holding', flush=True)
libc.write(log, page, mmap.PAGESIZE)
"#;

/// Somebody who holds the lock of a file; gone at the end, whatever happens.
struct Holder(Child);

impl Holder {
    /// `None` where the kernel does not let us play that trick.
    fn of(path: &Path) -> Option<Holder> {
        let mut child = Command::new("python3")
            .args(["-c", HOLDS_LOCK])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start who holds the lock");
        let mut said = String::new();
        let output = child.stdout.take().expect("its output");
        let holder = Holder(child);
        let _ = BufReader::new(output).read_line(&mut said);
        let syscall = format!("/proc/{}/syscall", holder.0.id());
        (said == "holding\n").then(|| {
            until("the lock to be held", PATIENCE, || {
                fs::read_to_string(&syscall).is_ok_and(|text| text.starts_with(WRITE))
            });
            holder
        })
    }
}

/// Number of `write` in `/proc/PID/syscall`.
const WRITE: &str = if cfg!(target_arch = "x86_64") {
    "1 "
} else {
    "64 "
};

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_app_whose_log_never_answers_keeps_neither_the_agent_nor_another_log_waiting() {
    let other = Site::new(
        "other",
        App::inline(Language::Python, PRINTS).file("log/.keep", ""),
    );
    let server = Setup::of(with_own_log())
        .site(other.with("PassengerAppLogFile log/app.log"))
        .start();
    assert_eq!(server.get("app", "/one").status, 200);
    own_log(&server).expect("asked for /one");
    let agent = server.instance().agent();
    let Some(holder) = Holder::of(&server.app_root("app").join("log/app.log")) else {
        return;
    };
    for _ in 0..20 {
        assert_eq!(server.get("app", "/stuck").status, 200);
    }
    // Starting an app and writing its log is the agent's work.
    assert_eq!(server.get("other", "/one").status, 200);
    Log::at(&server.app_root("other").join("log/app.log")).expect("asked for /one");
    // So is noticing a death, also if it has to be told in that log.
    let dead = pid(&server);
    processes::signal(dead, Signal::SIGKILL);
    until("another process of the app", PATIENCE, || {
        assert_eq!(server.get("app", "/stuck").status, 200);
        server.app_pids("app").iter().any(|pid| *pid != dead)
    });
    assert_eq!(
        server.instance().agent(),
        agent,
        "the agent had to be replaced"
    );
    drop(holder);
    own_log(&server).expect_times("asked for /stuck", 20);
    // Even a successor finds no obstacle in what hangs there.
    let Some(holder) = Holder::of(&server.app_root("app").join("log/app.log")) else {
        return;
    };
    assert_eq!(server.get("app", "/stuck").status, 200);
    processes::signal(agent, Signal::SIGKILL);
    until("a successor that starts processes", PATIENCE, || {
        server
            .instance()
            .pid_now("agent.pid")
            .is_some_and(|pid| pid != agent)
    });
    processes::signal(server.await_processes("other", 1)[0], Signal::SIGKILL);
    until("another process of the other app", PATIENCE, || {
        server.get("other", "/two").status == 200
    });
    drop(holder);
    assert_eq!(server.get("app", "/free").status, 200);
    own_log(&server).expect("asked for /free");
}
