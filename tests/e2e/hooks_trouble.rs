//! Hooks that fail, hang, print without end or lose their agent: nobody waits for one, whatever it does.

use crate::one_process;
use crate::scripts::{broken, pids, Scripts};
use harness::wait::PATIENCE;
use harness::{processes, until, Language, Request, Server, Setup};
use nix::sys::signal::Signal;
use std::fs;

#[test]
fn a_hook_that_hangs_saves_no_process_whose_request_takes_too_long() {
    let scripts = Scripts::new();
    let hang = scripts.script("hang", "touch $D/begun; exec sleep 1000");
    let site = one_process(Language::Python).with("PassengerMaxRequestTime 1");
    let server = Setup::of(site)
        .with(&format!(
            "PassengerCtl hook_max_request_time_reached {hang}"
        ))
        .start();
    let pid = server.await_processes("python", 1)[0];
    let mut client = server.client("python");
    client
        .send(&Request::get("/hold?one"))
        .expect("send the request");
    until("the hook", PATIENCE, || scripts.has("begun"));
    until("the process to be killed", 2 * PATIENCE, || {
        !processes::is_alive(pid)
    });
}

#[test]
fn programs_run_in_order_until_one_fails_and_what_they_print_is_logged() {
    let scripts = Scripts::new();
    let first = scripts.script(
        "first",
        "echo one; echo $(ls /proc/self/fd); printf 'two\\033[2J' >&2",
    );
    let fails = scripts.script("fails", "read line && exit 9; exit 3");
    let third = scripts.script("third", "touch $D/third.ran");
    let written = format!("{first} ; {fails};{third}");
    let server = Setup::of(broken())
        .with(&format!("PassengerCtl hook_spawn_failed \"{written}\""))
        .start();
    assert_eq!(server.get("broken", "/").status, 500);
    // Status 3: its standard input is empty.
    server.log().expect(&format!(
        "hook spawn_failed: {fails} failed: exit status: 3"
    ));
    let text = server.log().text();
    assert!(text.contains("hook spawn_failed output: one\n"), "{text}");
    // Input, output, errors, and the directory that `ls` reads.
    let open = "hook spawn_failed output: 0 1 2 3\n";
    assert!(text.contains(open), "{text}");
    assert!(
        text.contains("hook spawn_failed output: two\\x1b[2J\n"),
        "{text}"
    );
    assert!(!scripts.has("third.ran"));
}

#[test]
fn a_hook_that_prints_without_end_is_logged_in_part() {
    let scripts = Scripts::new();
    // 8 MB in lines, and one without an end.
    let chatty = scripts.script(
        "chatty",
        "yes 0123456789012345678901234567890123456789012345678 | head -c 8000000\nprintf end\ntouch $D/done",
    );
    let server = Setup::of(broken())
        .site(one_process(Language::Python))
        .with(&format!("PassengerCtl hook_spawn_failed {chatty}"))
        .start();
    assert_eq!(server.get("broken", "/").status, 500);
    assert_eq!(server.get("python", "/").status, 200);
    server
        .log()
        .expect("more bytes of what it printed are not logged");
    assert!(scripts.has("done"), "it was read to its end");
    let lines = server.log().count("hook spawn_failed output: 0123456789");
    assert!((100..10_000).contains(&lines), "{lines}");
}

/// A server whose hook hangs, with all that it starts.
fn with_a_hanging_hook(scripts: &Scripts) -> Server {
    let hang = scripts.script(
        "hang",
        "setsid sh -c 'echo $$ >$D/escaped; exec sleep 1000' &\necho $$ >>$D/hangs\nexec sleep 1000",
    );
    let text = fs::read_to_string(&hang).expect("the script");
    fs::write(&hang, text.replacen("\nD=", "\nexport D=", 1)).expect("export the directory");
    Setup::of(broken())
        .site(one_process(Language::Python))
        .with(&format!("PassengerCtl hook_spawn_failed {hang}"))
        .with(&format!("PassengerCtl hook_attached_process {hang}"))
        .start()
}

#[test]
fn a_hook_that_hangs_keeps_nobody_waiting_and_ends_with_httpd() {
    let scripts = Scripts::new();
    let mut server = with_a_hanging_hook(&scripts);
    until("a hook", PATIENCE, || {
        !pids(&scripts.read("hangs")).is_empty()
    });
    for _ in 0..8 {
        assert_eq!(server.get("broken", "/").status, 500);
    }
    // No more than four at once.
    until("four hooks", PATIENCE, || {
        assert_eq!(server.get("broken", "/").status, 500);
        pids(&scripts.read("hangs")).len() == 4
    });
    for _ in 0..20 {
        assert_eq!(server.get("python", "/").status, 200);
    }
    assert_eq!(pids(&scripts.read("hangs")).len(), 4);
    until("what escapes", PATIENCE, || {
        !pids(&scripts.read("escaped")).is_empty()
    });
    let all = [scripts.read("hangs"), scripts.read("escaped")].map(|text| pids(&text));
    server.stop_within(PATIENCE);
    for pid in all.concat() {
        assert!(!processes::is_alive(pid), "{}", server.evidence());
    }
    assert!(
        server.survivors_after_a_moment().is_empty(),
        "{}",
        server.evidence()
    );
    let text = server.log().text();
    assert!(text.contains("ends with httpd"), "{text}");
}

#[test]
fn a_hook_outlives_its_agent_and_the_next_one_runs_others() {
    let scripts = Scripts::new();
    let slow = scripts.script(
        "slow",
        "echo $$ >>$D/begun\nwhile [ ! -e $D/go ]; do sleep 0.1; done\necho I am done\necho $$ >>$D/done",
    );
    let server = Setup::of(one_process(Language::Python))
        .with(&format!("PassengerCtl hook_attached_process {slow}"))
        .start();
    until("the hook", PATIENCE, || {
        pids(&scripts.read("begun")).len() == 1
    });
    let agent = server.instance().agent();
    processes::signal(agent, Signal::SIGKILL);
    until("another agent", PATIENCE, || {
        server
            .instance()
            .pid_now("agent.pid")
            .is_some_and(|pid| pid != agent && processes::is_alive(pid))
    });
    server.log().expect("goes on under this helper agent");
    assert_eq!(server.get("python", "/").status, 200);
    fs::write(scripts.0.join("go"), "").expect("let it end");
    until("the hook's end", PATIENCE, || {
        scripts.read("done") == scripts.read("begun")
    });
    server
        .log()
        .expect("hook attached_process output: I am done");
    // A process that the new agent starts is told of; the one it found was.
    processes::signal(server.app_pids("python")[0], Signal::SIGKILL);
    until("the next hook", PATIENCE, || {
        pids(&scripts.read("done")).len() == 2
    });
}
