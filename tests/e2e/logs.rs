//! What apps print: whose it is, logs of single apps, and who may name and play with these.

use harness::app::owner_uid;
use harness::log::Log;
use harness::wait::{until, PATIENCE};
use harness::{processes, App, Language, Server, Setup, Site};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use std::fs;
use std::os::unix::fs::{symlink, MetadataExt};

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
