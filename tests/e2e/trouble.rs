//! Machines in trouble: full disks, no more descriptors, processes or memory (`pretended` has what a test cannot do
//! to a machine). What runs goes on, what cannot be done is a clear error, and when the trouble is over everything works again,
//! without anybody's help.

use crate::one_process;
use harness::log::Log;
use harness::scarcity::{limit_open_files, Cage, Disk};
use harness::wait::PATIENCE;
use harness::{processes, until, App, Language, Load, Mpm, Request, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;

/// Two apps, of which only the first one runs; the second shows what becomes of a start.
pub(crate) fn first_of_two() -> Setup {
    let sites = Setup::of(Site::probe(Language::Python));
    let sites = sites.site(Site::probe(Language::Node));
    // One worker of httpd: another one might introduce itself only when there is trouble already.
    sites.with("StartServers 1\nServerLimit 1\nMaxRequestWorkers 32")
}

/// The second app cannot be started, and the log says why; the first one is served.
pub(crate) fn start_fails_because(server: &Server, why: &str) {
    let refused = server.get("node", "/");
    assert!(refused.status >= 500, "{refused:?}");
    server.log().expect(why);
    assert_eq!(server.get("python", "/").status, 200);
}

/// The trouble is over.
pub(crate) fn second_app_starts(server: &Server) {
    until("the second app to be served", PATIENCE, || {
        server.get("node", "/").status == 200
    });
    assert_eq!(server.get("python", "/").status, 200);
}

#[test]
fn a_full_disk_under_the_log_stops_nobody_and_what_was_lost_is_told() {
    let Some(disk) = Disk::mount(64, 100) else {
        return;
    };
    let file = disk.path().join("passenger.log");
    let log = Log::at(&file);
    let server = Setup::of(one_process(Language::Python))
        .with(&format!("PassengerLogFile {}", file.display()))
        .start();
    assert_eq!(server.get("python", "/say?before").status, 200);
    log.expect("before");
    disk.fill();
    let agent = server.instance().agent();
    processes::signal(agent, Signal::SIGKILL);
    until("another agent", PATIENCE, || {
        server.instance().agent() != agent
    });
    // The file's last page still takes some, and until the agent reads it the pipe takes 64 KiB.
    let line = format!("/say?{}", "lost".repeat(100));
    for _ in 0..200 {
        assert_eq!(server.get("python", &line).status, 200);
    }
    disk.free();
    assert_eq!(server.get("python", "/say?afterwards").status, 200);
    log.expect("afterwards");
    log.expect("log lines are lost: No space left on device");
}

#[test]
fn a_full_disk_refuses_large_uploads_and_slows_responses_for_slow_clients_down() {
    let Some(disk) = Disk::mount(1024, 100) else {
        return;
    };
    let app = App::inline(
        Language::Python,
        "def application(environ, start_response):\n    \
             body = environ['wsgi.input'].read() or b'x' * 8000000\n    \
             start_response('200 OK', [('Content-Length', str(len(body)))])\n    \
             return [body]\n",
    );
    let server = Setup::of(Site::new("python", app))
        .with(&format!("PassengerDataBufferDir {}", disk.path().display()))
        .start();
    let upload = vec![b'u'; 400_000];
    assert!(server.post("python", "/", &upload).body == upload);
    // The first upload's buffer goes when its request is over, a moment after its answer.
    until("a large upload to be refused", PATIENCE, || {
        disk.fill();
        server.post("python", "/", &upload).status == 507
    });
    server.log().expect("PSGR0203");
    assert_eq!(server.post("python", "/", b"small").body, b"small");
    // More than sockets and memory hold: the app waits for a client that does not read yet.
    let mut slow = server.client("python");
    slow.send(&Request::get("/")).expect("send a request");
    let (status, _) = slow.response_head().expect("a head");
    assert_eq!(status, 200);
    let mut length = 0;
    loop {
        let piece = slow.body_piece().expect("the whole body");
        if piece.is_empty() {
            break;
        }
        length += piece.len();
    }
    assert_eq!(length, 8_000_000);
    disk.free();
    assert!(server.post("python", "/", &upload).body == upload);
}

#[test]
fn an_instance_directory_without_room_stops_starts_and_nothing_else() {
    let Some(disk) = Disk::mount(1024, 100) else {
        return;
    };
    let registry = format!(
        "PassengerInstanceRegistryDir {}",
        disk.path().join("i").display()
    );
    let server = first_of_two().with(&registry).start();
    assert_eq!(server.get("python", "/").status, 200);
    disk.use_up_files();
    start_fails_because(&server, "No space left on device");
    // A successor cannot even write its number down.
    let instance = harness::Instance::in_registry(&disk.path().join("i"));
    processes::signal(instance.watchdog(), Signal::SIGKILL);
    server
        .log()
        .expect("is the watchdog now, with 1 app processes");
    assert_eq!(server.get("python", "/").status, 200);
    disk.free();
    second_app_starts(&server);

    let apps = instance.app_pids(&server.app_root("node"));
    disk.while_read_only(|| {
        apps.iter()
            .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
        start_fails_because(&server, "Read-only file system");
    });
    second_app_starts(&server);
}

#[test]
fn an_agent_without_descriptors_stops_starts_and_nothing_else() {
    let server = first_of_two().start();
    assert_eq!(server.get("python", "/").status, 200);
    let apps = server.app_pids("python");
    {
        let _limit = limit_open_files(server.instance().agent(), 10);
        start_fails_because(&server, "Too many open files");
    }
    second_app_starts(&server);
    // And it still can take the watchdog's place.
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    let limit = limit_open_files(agent, 10);
    processes::signal(watchdog, Signal::SIGKILL);
    until("another watchdog", PATIENCE, || {
        server.instance().watchdog() != watchdog
    });
    assert_eq!(server.get("python", "/").status, 200);
    drop(limit);
    assert_eq!(server.app_pids("python"), apps);
}

#[test]
fn an_agent_without_descriptors_hears_of_new_workers_once_it_has_some() {
    let server = Setup::of(one_process(Language::Python)).start();
    assert_eq!(server.get("python", "/").status, 200);
    let agent = server.instance().agent();
    let limit = limit_open_files(agent, 10);
    // New workers, of whose connections the agent cannot be told now.
    server.graceful();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.get("python", "/").status);
        let lost = "a message of the watchdog is lost";
        until("the agent to miss two messages", PATIENCE, || {
            server.log().count(lost) >= 2
        });
        drop(limit);
        assert_eq!(waiting.join().expect("a request"), 200);
    });
    assert_eq!(
        server.instance().agent(),
        agent,
        "the agent had to be replaced"
    );
}

#[test]
fn a_watchdog_without_descriptors_is_slower_and_recovers() {
    let server = first_of_two().start();
    assert_eq!(server.get("python", "/").status, 200);
    let agent = server.instance().agent();
    {
        let _limit = limit_open_files(server.instance().watchdog(), 10);
        processes::signal(agent, Signal::SIGKILL);
        server.log().expect("cannot start a helper agent");
        assert_eq!(server.get("python", "/").status, 200);
    }
    until("another agent", PATIENCE, || {
        server.instance().agent() != agent
    });
    second_app_starts(&server);
}

#[test]
fn a_worker_without_descriptors_answers_with_an_error_and_recovers() {
    let server = Setup::of(one_process(Language::Python))
        .mpm(Mpm::Prefork)
        .with("StartServers 1\nMinSpareServers 1\nMaxSpareServers 1\nMaxRequestWorkers 1")
        // httpd answers with 403 when it cannot look for such files.
        .without_htaccess()
        .start();
    // The connection is there before the trouble is; httpd itself needs descriptors for new ones.
    let mut client = server.client("python");
    let static_file = Request::get("/static.txt");
    assert_eq!(client.exchange(&static_file).expect("a file").status, 200);
    let worker = crate::crash::worker_of(&server, &client);
    {
        let _limit = limit_open_files(worker, 5);
        let refused = client.exchange(&Request::get("/")).expect("an answer");
        assert_eq!(refused.status, 503);
        server.log().expect("Too many open files");
    }
    // httpd has closed the connection after the error, and there is only this worker.
    until("the worker to recover", PATIENCE, || {
        server.get("python", "/").status == 200
    });
    assert_eq!(server.workers(), [worker]);
}

#[test]
fn without_processes_to_be_had_starts_fail_with_the_reason_and_traffic_goes_on() {
    let Some(cage) = Cage::of_processes() else {
        return;
    };
    let server = first_of_two().start();
    assert_eq!(server.get("python", "/").status, 200);
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    cage.lock_up(watchdog);
    cage.lock_up(agent);
    cage.allow(Some(2));
    start_fails_because(&server, "Resource temporarily unavailable");
    assert_eq!(server.instance().agent(), agent, "it did not die of it");
    cage.allow(Some(1));
    let load = Load::start(server.port(), "python", "/pid", 4);
    processes::signal(agent, Signal::SIGKILL);
    server.log().expect("cannot start a helper agent");
    load.await_more(200);
    cage.allow(None);
    until("another agent", PATIENCE, || {
        server.instance().agent() != agent
    });
    assert_eq!(load.finish().failures, Vec::<String>::new());
    second_app_starts(&server);
}

/// What the kernel is told about who to end first when memory is short.
fn oom_score_adj(pid: i32) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("read the score");
    text.trim().parse().expect("a number")
}

/// Whether this process, and so httpd's parent, has `CAP_SYS_RESOURCE`, which root lacks in some containers.
fn may_lower_scores() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("read the capabilities");
    let line = status.lines().find(|line| line.starts_with("CapEff:"));
    let mask = line.and_then(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    let may = mask.is_some_and(|mask| mask & (1 << 24) != 0);
    if !may {
        eprintln!("no CAP_SYS_RESOURCE here: the scores of watchdog and agent are not tested");
    }
    may
}

#[test]
fn apps_go_first_when_memory_is_short_then_httpd_then_the_agent_and_the_watchdog_never() {
    let server = Setup::of(one_process(Language::Python)).start();
    assert_eq!(server.get("python", "/").status, 200);
    let httpd = oom_score_adj(server.parent());
    let check = || {
        let apps = server.app_pids("python");
        assert_eq!(apps.len(), 1);
        assert_eq!(oom_score_adj(apps[0]), httpd + 100);
        if may_lower_scores() {
            assert_eq!(oom_score_adj(server.instance().agent()), -900);
            assert_eq!(oom_score_adj(server.instance().watchdog()), -1000);
        }
    };
    check();
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    processes::signal(watchdog, Signal::SIGKILL);
    until("another pair", PATIENCE, || {
        server.instance().watchdog() != watchdog && server.instance().agent() != agent
    });
    server
        .app_pids("python")
        .iter()
        .for_each(|pid| processes::signal(*pid, Signal::SIGKILL));
    until("another process", PATIENCE, || {
        server.get("python", "/").status == 200
    });
    check();
}

#[test]
fn an_app_that_eats_all_memory_is_ended_and_nobody_else_is() {
    let Some(cage) = Cage::of_memory() else {
        return;
    };
    let app = App::inline(
        Language::Python,
        "def application(environ, start_response):\n    \
             if environ['PATH_INFO'] == '/eat':\n        \
                 pieces = []\n        \
                 while True:\n            \
                     pieces.append(bytearray(1 << 20))\n    \
             start_response('200 OK', [])\n    \
             return [b'fine']\n",
    );
    let server = Setup::of(Site::new("python", app).with("PassengerMinInstances 1")).start();
    assert_eq!(server.get("python", "/").ok(), "fine");
    let (watchdog, agent) = (server.instance().watchdog(), server.instance().agent());
    let workers = server.workers();
    cage.allow(Some(96 << 20));
    for pid in server.survivors() {
        cage.lock_up(pid);
    }
    let eaten = server.request("python", &Request::post("/eat", b"x"));
    assert_eq!(eaten.status, 502);
    server
        .log()
        .expect("killed by SIGKILL without having been asked to");
    assert_eq!(server.get("python", "/").ok(), "fine");
    assert_eq!(
        (server.instance().watchdog(), server.instance().agent()),
        (watchdog, agent)
    );
    assert!(workers.iter().all(|pid| processes::is_alive(*pid)));
}
