//! Core files: where a crash leaves its memory is the kernel's decision, and the log says what that was.

use harness::wait::PATIENCE;
use harness::{processes, until, App, Language, Server, Setup, Site};
use std::fs;
use std::process::Command;

const PYTHON: &str = "\
import os

def application(environ, start_response):
    if environ['PATH_INFO'] == '/crash':
        os.abort()
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [str(os.getpid()).encode()]
";

const RUBY: &str = "\
run(lambda do |env|
  Process.kill(:ABRT, $$) && sleep if env['PATH_INFO'] == '/crash'
  [200, { 'content-type' => 'text/plain' }, [$$.to_s]]
end)
";

/// Whether the kernel puts core files of whatever size where the process is, under a name that the agent can foretell.
fn is_left_in_its_directory() -> bool {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    is_plain(pattern.trim_end())
}

/// No pipe, no directory, and of the process nothing but its id.
fn is_plain(pattern: &str) -> bool {
    let rest = ["%%", "%p", "%P"]
        .iter()
        .fold(pattern.to_owned(), |rest, known| rest.replace(known, ""));
    !pattern.is_empty() && !rest.contains(['/', '|', '%'])
}

#[test]
fn only_plain_patterns_leave_core_files_in_the_directory() {
    for pattern in ["core", "core.%p", "%%-%P.core", "core.%%"] {
        assert!(is_plain(pattern), "{pattern}");
    }
    for pattern in [
        "",
        "|/usr/lib/collect %p",
        "/var/crash/core",
        "cores/core.%p",
        "core.%e.%p",
        "core.%%%t",
        "core%",
    ] {
        assert!(!is_plain(pattern), "{pattern}");
    }
}

/// Processes that the agent starts from here on may leave core files.
fn allow_core_files(server: &Server) -> bool {
    let agent = server.instance().agent().to_string();
    let changed = Command::new("prlimit")
        .args(["--pid", &agent, "--core=unlimited:unlimited"])
        .output();
    changed.is_ok_and(|output| output.status.success())
}

#[test]
fn an_app_that_crashes_leaves_its_core_file_in_its_root_and_the_log_says_so() {
    if !is_left_in_its_directory() {
        eprintln!("not tested: the kernel's core_pattern is not a plain name");
        return;
    }
    for (language, code) in [(Language::Python, PYTHON), (Language::Ruby, RUBY)] {
        let site = Site::new("app", App::inline(language, code));
        let server = Setup::of(site).start();
        if !allow_core_files(&server) {
            eprintln!("not tested: the limit of core files cannot be raised here");
            return;
        }
        let pid = server.get("app", "/").ok();
        let _ = server.get("app", "/crash");
        server.log().expect(&format!(
            "process {pid} killed by SIGABRT (core dumped) without having been asked to"
        ));
        let root = server.app_root("app");
        let said = format!(
            "process {pid} has crashed, its core file is {}/",
            root.display()
        );
        server.log().expect(&said);
        let text = server.log().text();
        let (_, path) = text.split_once("its core file is ").expect("the line");
        let (path, _) = path.split_once(", unless").expect("a path");
        let file = fs::metadata(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(file.len() > 0, "{language:?}");
        assert_eq!(server.get("app", "/").status, 200);
    }
}

#[test]
fn without_the_limit_there_is_no_core_file_and_no_word_of_one() {
    let site = Site::new("app", App::inline(Language::Python, PYTHON));
    let server = Setup::of(site).start();
    let agent = server.instance().agent().to_string();
    let changed = Command::new("prlimit")
        .args(["--pid", &agent, "--core=0"])
        .output();
    assert!(changed.is_ok_and(|output| output.status.success()));
    let pid = server.get("app", "/").ok();
    let _ = server.get("app", "/crash");
    let end = format!("process {pid} killed by SIGABRT without having been asked to");
    if is_left_in_its_directory() {
        server.log().expect(&end);
        assert_eq!(server.log().count("its core file is"), 0);
    }
}

/// As httpd's own processes do.
#[test]
fn watchdog_and_agent_are_in_the_core_dump_directory_if_there_is_one() {
    let name = format!("psgr-cores-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir_all(&directory).expect("make the directory");
    let wanted = directory.canonicalize().expect("its path");
    let site = Site::new("app", App::inline(Language::Python, PYTHON));
    let server = Setup::of(site)
        .with(&format!("CoreDumpDirectory {}", wanted.display()))
        .start();
    let instance = server.instance();
    for part in [instance.watchdog(), instance.agent()] {
        assert_eq!(processes::directory_of(part), Some(wanted.clone()));
    }
    let app: i32 = server.get("app", "/").ok().parse().expect("a pid");
    let root = server.app_root("app").canonicalize().ok();
    assert_eq!(processes::directory_of(app), root);
    // Its successor, too, and the rest of the way down.
    let agent = instance.agent();
    processes::signal(agent, nix::sys::signal::Signal::SIGKILL);
    until("another agent", PATIENCE, || instance.agent() != agent);
    assert_eq!(processes::directory_of(instance.agent()), Some(wanted));
    drop(server);
    fs::remove_dir_all(&directory).expect("remove it");
}
