//! Hooks: programs of root's that are run when something happens. What they are told, and that nobody waits for one,
//! whatever it does.

use crate::one_process;
use harness::wait::PATIENCE;
use harness::{processes, until, App, Client, Language, Request, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory with programs that only we can change, removed at the end.
struct Scripts(PathBuf);

impl Scripts {
    fn new() -> Scripts {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("psgr-hooks-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("create a directory");
        chmod(&directory, 0o755);
        Scripts(directory)
    }

    /// A program; `$D` in it is the directory.
    fn script(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        let head = format!("#!/bin/sh\nD={}\n", self.0.display());
        fs::write(&path, head + text + "\n").expect("write a script");
        chmod(&path, 0o755);
        path.display().to_string()
    }

    /// A program that notes what it is told, in a file of its own named after what has happened.
    fn recorder(&self) -> String {
        self.script(
            "record",
            "tr '\\0' '\\n' </proc/$$/environ >$D/.$$\nmv $D/.$$ $D/told.$PASSENGER_HOOK_NAME.$$",
        )
    }

    /// What the recorder was told at each of its runs for that hook.
    fn told(&self, hook: &str) -> Vec<Vec<String>> {
        let beginning = format!("told.{hook}.");
        let files = fs::read_dir(&self.0).expect("list the notes");
        let notes = files.filter_map(|file| {
            let file = file.expect("a note");
            let is_one = file.file_name().to_string_lossy().starts_with(&beginning);
            is_one.then(|| fs::read_to_string(file.path()).expect("read a note"))
        });
        let lines = |text: String| text.lines().map(str::to_owned).collect();
        notes.map(lines).collect()
    }

    fn await_told(&self, hook: &str) -> Vec<String> {
        until(&format!("the hook {hook}"), PATIENCE, || {
            !self.told(hook).is_empty()
        });
        self.told(hook).remove(0)
    }

    fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set a mode");
}

fn value<'a>(told: &'a [String], name: &str) -> &'a str {
    let is_it = |line: &&String| line.split('=').next() == Some(name);
    let line = told.iter().find(is_it);
    let line = line.unwrap_or_else(|| panic!("no {name} in {told:?}"));
    &line[name.len() + 1..]
}

fn names(told: &[String]) -> Vec<&str> {
    let name = |line: &'_ String| !line.starts_with("LANG=") && !line.starts_with("LC_ALL=");
    let shown = told.iter().filter(|line| name(line));
    let mut names: Vec<&str> = shown.filter_map(|line| line.split('=').next()).collect();
    names.retain(|name| *name != "TZ");
    names.sort_unstable();
    names
}

/// An app that does not start.
fn broken() -> Site {
    let app = App::inline(
        Language::Python,
        "raise RuntimeError('no database\\x07 here')\n",
    );
    Site::new("broken", app)
}

#[test]
fn processes_that_come_and_go_are_told_with_pid_and_app_and_nothing_else() {
    let scripts = Scripts::new();
    let record = scripts.recorder();
    let site = one_process(Language::Python).with("SetEnv SECRET swordfish");
    let mut server = Setup::of(site)
        .env("TOKEN", "swordfish")
        .with(&format!("PassengerCtl hook_attached_process {record}"))
        .with(&format!("PassengerCtl hook_detached_process {record}"))
        .start();
    let pid = server.await_processes("python", 1)[0];
    let attached = scripts.await_told("attached_process");
    let root = server.app_root("python").display().to_string();
    for (name, expected) in [
        ("PASSENGER_HOOK_NAME", "attached_process"),
        ("PASSENGER_PROCESS_PID", &pid.to_string()),
        ("PASSENGER_APP_ROOT", &root),
        ("PASSENGER_APP_GROUP_NAME", &format!("{root} (production)")),
    ] {
        assert_eq!(value(&attached, name), expected);
    }
    assert_eq!(
        names(&attached),
        [
            "PASSENGER_APP_GROUP_NAME",
            "PASSENGER_APP_ROOT",
            "PASSENGER_HOOK_NAME",
            "PASSENGER_PROCESS_PID",
            "PATH"
        ]
    );
    // One that is killed is not there any more, and another comes.
    processes::signal(pid, Signal::SIGKILL);
    let gone = scripts.await_told("detached_process");
    assert_eq!(value(&gone, "PASSENGER_PROCESS_PID"), pid.to_string());
    until("another process", PATIENCE, || {
        scripts.told("attached_process").len() == 2
    });
    // One that ends with httpd is told of, too.
    server.stop_within(PATIENCE);
    assert_eq!(scripts.told("detached_process").len(), 2);
    assert_eq!(scripts.told("attached_process").len(), 2, "each once");
    assert!(
        server.survivors_after_a_moment().is_empty(),
        "{}",
        server.evidence()
    );
}

#[test]
fn a_start_that_fails_is_told_with_message_and_id_in_one_line() {
    let scripts = Scripts::new();
    let record = scripts.recorder();
    let server = Setup::of(broken())
        .with(&format!("PassengerCtl hook_spawn_failed {record}"))
        .start();
    assert_eq!(server.get("broken", "/").status, 500);
    let told = scripts.await_told("spawn_failed");
    let id = value(&told, "PASSENGER_ERROR_ID").to_owned();
    assert_eq!(id.len(), 8, "{told:?}");
    server.log().expect(&format!("(error {id})"));
    assert!(!value(&told, "PASSENGER_ERROR_MESSAGE").is_empty());
    let root = server.app_root("broken").display().to_string();
    assert_eq!(value(&told, "PASSENGER_APP_ROOT"), root);
    assert_eq!(
        names(&told),
        [
            "PASSENGER_APP_GROUP_NAME",
            "PASSENGER_APP_ROOT",
            "PASSENGER_ERROR_ID",
            "PASSENGER_ERROR_MESSAGE",
            "PASSENGER_HOOK_NAME",
            "PATH"
        ],
        "{told:?}"
    );
}

#[test]
fn many_refused_requests_are_told_as_numbers() {
    let scripts = Scripts::new();
    let record = scripts.recorder();
    let site = Site::probe(Language::Python)
        .with("PassengerMaxInstances 1")
        .with("PassengerMaxRequestQueueSize 1");
    let server = Setup::of(site)
        .with(&format!("PassengerCtl hook_queue_full_error {record}"))
        .start();
    let mut first = server.client("python");
    first
        .send(&Request::get("/hold?one"))
        .expect("send the request");
    server.await_file("python", "one.begun");
    // One of these waits, the other is refused: from then on the queue is full.
    let crowd: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = server.client("python");
            client
                .send(&Request::get("/pid"))
                .expect("send the request");
            client
        })
        .collect();
    server.log().expect("PSGR0206");
    for _ in 0..40 {
        assert_eq!(server.get("python", "/pid").status, 503);
    }
    // And the one of the two.
    let refused = 41;
    let told = || -> usize {
        let told = scripts.told("queue_full_error");
        let numbers = told
            .iter()
            .map(|it| value(it, "PASSENGER_REJECTED_REQUESTS"));
        numbers.map(|n| n.parse::<usize>().expect("a number")).sum()
    };
    until("all of them to be told", PATIENCE, || told() >= refused);
    assert_eq!(told(), refused);
    assert!(scripts.told("queue_full_error").len() < refused, "together");
    let root = server.app_root("python").display().to_string();
    let one = scripts.await_told("queue_full_error");
    assert_eq!(value(&one, "PASSENGER_APP_ROOT"), root);
    server.touch("python", "one.go");
    assert_eq!(first.response().expect("the answer").ok(), "one\n");
    drop(crowd);
}

#[test]
fn a_process_lives_until_the_hook_has_looked_at_its_long_request() {
    let scripts = Scripts::new();
    let look = scripts.script(
        "look",
        "cat /proc/$PASSENGER_PROCESS_PID/stat >$D/seen\nwhile [ ! -e $D/go ]; do sleep 0.1; done",
    );
    let site = Site::probe(Language::Python)
        .with("PassengerMinInstances 1")
        .with("PassengerMaxRequestTime 1");
    let server = Setup::of(site)
        .with(&format!(
            "PassengerCtl hook_max_request_time_reached {look}"
        ))
        .start();
    let pid = server.await_processes("python", 1)[0];
    let mut client = server.client("python");
    client
        .send(&Request::get("/hold?one"))
        .expect("send the request");
    until("the hook", PATIENCE, || scripts.has("seen"));
    let beginning = format!("{pid} ");
    until("what it saw", PATIENCE, || {
        scripts.read("seen").starts_with(&beginning)
    });
    // Meanwhile nobody else comes to it.
    let another = server.get("python", "/pid").ok();
    assert_ne!(another.trim(), pid.to_string());
    fs::write(scripts.0.join("go"), "").expect("let it end");
    until("the process to be killed", PATIENCE, || {
        !processes::is_alive(pid)
    });
    server.log().expect("(PassengerMaxRequestTime)");
}

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
fn a_program_that_others_could_change_keeps_httpd_from_starting() {
    let scripts = Scripts::new();
    let good = scripts.script("good", "exit 0");
    let bad = scripts.script("bad", "exit 0");
    chmod(Path::new(&bad), 0o757);
    let check = |line: &str| {
        let file = scripts.0.join("httpd.conf");
        let prefix = harness::stage::prefix();
        let (root, prefix) = (scripts.0.display(), prefix.display());
        let text = format!(
            "ServerRoot \"{root}\"\nServerName localhost\nListen 127.0.0.1:1\nPidFile \"{root}/pid\"\n\
             ErrorLog \"{root}/error.log\"\n\
             LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
             LoadModule passenger_module \"{prefix}/modules/mod_passenger.so\"\n{line}\n"
        );
        fs::write(&file, text).expect("write a configuration");
        let output = Command::new("/usr/sbin/apache2")
            .args(["-t", "-f"])
            .arg(&file)
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .expect("run /usr/sbin/apache2 -t");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let (is_accepted, said) = check(&format!("PassengerCtl hook_spawn_failed {good}"));
    assert!(is_accepted, "{said}");
    for (line, words) in [
        (
            format!("\"{good};{bad}\""),
            format!("{bad} can be changed by others"),
        ),
        (bad.clone(), "httpd.conf:8)".to_owned()),
        (format!("{good}.not"), "cannot look at".to_owned()),
        ("good".to_owned(), "is not the absolute path".to_owned()),
    ] {
        let (is_accepted, said) = check(&format!("PassengerCtl hook_spawn_failed {line}"));
        assert!(!is_accepted && said.contains(&words), "{line}: {said}");
        assert!(said.contains("hook_spawn_failed"), "{line}: {said}");
    }
}

#[test]
fn a_program_that_others_can_change_meanwhile_is_not_run() {
    let scripts = Scripts::new();
    let first = scripts.script("first", "touch $D/first.ran");
    let second = scripts.script("second", "touch $D/second.ran");
    let server = Setup::of(broken())
        .with(&format!("PassengerCtl hook_spawn_failed {first};{second}"))
        .start();
    chmod(Path::new(&second), 0o777);
    assert_eq!(server.get("broken", "/").status, 500);
    let place = format!("{}/httpd.conf:", server.root().display());
    let refused = format!("hook spawn_failed: {second} is not run: {second} can be changed");
    server.log().expect(&refused);
    let text = server.log().text();
    let line = text.lines().find(|line| line.contains(&refused));
    assert!(line.expect("the line").contains(&place), "{text}");
    assert!(scripts.has("first.ran") && !scripts.has("second.ran"));
    // Nor does a restart end httpd for it; it is said again.
    server.graceful();
    server.log().expect(&format!(
        "PassengerCtl hook_spawn_failed: {second} can be changed"
    ));
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

fn pids(text: &str) -> Vec<i32> {
    text.lines().filter_map(|line| line.parse().ok()).collect()
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
