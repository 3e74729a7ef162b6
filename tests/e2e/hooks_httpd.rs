//! Hooks of httpd's start and stop.

use crate::one_process;
use crate::scripts::{pids, Scripts};
use harness::wait::PATIENCE;
use harness::{processes, until, Language, Setup};
use nix::sys::signal::Signal;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn start_and_stop_of_httpd_run_their_hooks_in_order_and_a_graceful_none() {
    let scripts = Scripts::new();
    let note = scripts.script(
        "note",
        "echo $PASSENGER_HOOK_NAME >>$D/order\necho noted $PASSENGER_HOOK_NAME",
    );
    let mut setup = Setup::of(one_process(Language::Python));
    for hook in [
        "before_watchdog_initialization",
        "after_watchdog_initialization",
        "before_watchdog_shutdown",
        "after_watchdog_shutdown",
        "attached_process",
        "detached_process",
    ] {
        setup = setup.with(&format!("PassengerCtl hook_{hook} {note}"));
    }
    let mut server = setup.start();
    server.await_processes("python", 1);
    until("the first process to be told of", PATIENCE, || {
        scripts.read("order").lines().count() == 3
    });
    server.graceful();
    server.log().expect("configuration 2 is in force");
    server.stop_within(PATIENCE);
    let order = scripts.read("order");
    let mut order: Vec<&str> = order.lines().collect();
    // The process may be ready before the hook has ended that does not wait for it.
    order[1..3].sort_unstable();
    assert_eq!(
        order,
        [
            "before_watchdog_initialization",
            "after_watchdog_initialization",
            "attached_process",
            "before_watchdog_shutdown",
            "detached_process",
            "after_watchdog_shutdown",
        ],
        "{}",
        server.evidence()
    );
    let output = "hook after_watchdog_shutdown output: noted after_watchdog_shutdown";
    server.log().expect(output);
    assert!(
        server.survivors_after_a_moment().is_empty(),
        "{}",
        server.evidence()
    );
}

/// Starts httpd with that line, which is to end by itself: whether it was content, and what it said.
fn httpd_with(root: &Path, line: &str) -> (bool, String) {
    let prefix = harness::stage::prefix();
    let (name, prefix) = (root.display(), prefix.display());
    let user = match nix::unistd::geteuid().is_root() {
        true => "User www-data\nGroup www-data",
        false => "",
    };
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("its number").port();
    drop(free);
    let text = format!(
        "ServerRoot \"{name}\"\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile \"{name}/pid\"\n\
         DefaultRuntimeDir \"{name}\"\nErrorLog \"{name}/error.log\"\n{user}\n\
         LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
         LoadModule passenger_module \"{prefix}/modules/mod_passenger.so\"\n\
         PassengerInstanceRegistryDir \"{name}/i\"\n{line}\n"
    );
    let file = root.join("httpd.conf");
    fs::write(&file, text).expect("write a configuration");
    let output = Command::new("/usr/sbin/apache2")
        .args(["-D", "FOREGROUND", "-f"])
        .arg(&file)
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .expect("run /usr/sbin/apache2");
    let log = fs::read_to_string(root.join("error.log")).unwrap_or_default();
    let said = log + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn a_start_hook_that_fails_keeps_httpd_from_starting() {
    let scripts = Scripts::new();
    let fails = scripts.script("fails", "echo no database; exit 1");
    for hook in [
        "before_watchdog_initialization",
        "after_watchdog_initialization",
    ] {
        let root = scripts.0.join(hook);
        fs::create_dir(&root).expect("create a directory");
        let line = format!("PassengerCtl hook_{hook} {fails}");
        let mut ended = httpd_with(&root, &line);
        // Between finding a free port and httpd's bind somebody else may take it.
        for _ in 0..4 {
            if !ended.1.contains("could not bind") {
                break;
            }
            ended = httpd_with(&root, &line);
        }
        let (is_content, said) = ended;
        assert!(!is_content, "{said}");
        for words in [
            format!("hook {hook} output: no database"),
            format!("hook {hook}: {fails} failed: exit status: 1"),
            "httpd does not start".to_owned(),
        ] {
            assert!(said.contains(&words), "{words}: {said}");
        }
        until("everything to be gone", PATIENCE, || {
            processes::members_of(&root).is_empty()
        });
    }
}

#[test]
fn a_stop_hook_that_fails_or_hangs_delays_the_stop_and_no_more() {
    let scripts = Scripts::new();
    let fails = scripts.script("fails", "exit 1");
    let hangs = scripts.script("hangs", "echo $$ >$D/pid; sleep 1000 & wait");
    let mut server = Setup::of(one_process(Language::Python))
        .with(&format!(
            "PassengerCtl hook_before_watchdog_shutdown {hangs}"
        ))
        .with(&format!(
            "PassengerCtl hook_after_watchdog_shutdown {fails}"
        ))
        .start();
    server.await_processes("python", 1);
    server.stop_within(PATIENCE);
    let text = server.log().text();
    assert!(
        text.contains("is killed, its time of 10 s is over"),
        "{text}"
    );
    assert!(text.contains("httpd stops all the same"), "{text}");
    assert!(
        text.contains(&format!("{fails} failed: exit status: 1")),
        "{text}"
    );
    assert!(!processes::is_alive(pids(&scripts.read("pid"))[0]));
    assert!(
        server.survivors_after_a_moment().is_empty(),
        "{}",
        server.evidence()
    );
}

#[test]
fn who_takes_the_watchdogs_place_runs_the_hooks_of_the_stop() {
    let scripts = Scripts::new();
    let note = scripts.script("note", "echo $PASSENGER_HOOK_NAME >>$D/order");
    let mut setup = Setup::of(one_process(Language::Python));
    for hook in [
        "before_watchdog_initialization",
        "after_watchdog_initialization",
        "before_watchdog_shutdown",
        "after_watchdog_shutdown",
    ] {
        setup = setup.with(&format!("PassengerCtl hook_{hook} {note}"));
    }
    let mut server = setup.start();
    server.await_processes("python", 1);
    let begun = "before_watchdog_initialization\nafter_watchdog_initialization\n";
    assert_eq!(scripts.read("order"), begun);
    processes::signal(server.instance().watchdog(), Signal::SIGKILL);
    server.log().expect("is the watchdog now");
    server
        .log()
        .expect_times("goes on under this helper agent", 1);
    assert_eq!(server.get("python", "/").status, 200);
    server.stop_within(PATIENCE);
    let all = begun.to_owned() + "before_watchdog_shutdown\nafter_watchdog_shutdown\n";
    assert_eq!(scripts.read("order"), all, "{}", server.evidence());
    assert!(
        server.survivors_after_a_moment().is_empty(),
        "{}",
        server.evidence()
    );
}
