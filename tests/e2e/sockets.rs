//! WebSockets and the life of processes: who has sockets is not idle, and whoever ends lets them go in order.

use crate::frames::{connect, echoes, frame, open, read_frame, site, CLOSE, TEXT};
use harness::wait::PATIENCE;
use harness::{processes, until, Language, Mpm, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::io::{Read, Write};

/// A server whose unused processes end after a second, whichever they are.
fn impatient() -> Setup {
    Setup::default()
        .with("PassengerPoolIdleTime 1")
        .with("PassengerMaxPoolSize 4")
        .site(site().with("PassengerMinInstances 0"))
        .site(Site::probe(Language::Python).with("PassengerMinInstances 0"))
}

/// Waits until a process that is used only now and has no sockets was ended for being idle.
fn await_idle_end(server: &Server) {
    assert_eq!(server.get("python", "/").status, 200);
    until("an idle process to be ended", PATIENCE, || {
        server.app_pids("python").is_empty()
    });
}

#[test]
fn a_process_with_nothing_but_sockets_is_not_ended_for_being_idle() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = impatient().mpm(mpm).start();
        let mut socket = open(&server);
        let before = server.app_pids("ws");
        assert_eq!(before.len(), 1, "{mpm:?}");
        for _ in 0..2 {
            await_idle_end(&server);
        }
        echoes(&mut socket, TEXT, b"still here");
        assert_eq!(server.app_pids("ws"), before, "{mpm:?}");
        drop(socket);
        until(
            "the process to be ended, now that it is idle",
            PATIENCE,
            || server.app_pids("ws").is_empty(),
        );
    }
}

#[test]
fn the_sockets_of_a_killed_worker_count_no_more() {
    let server = impatient().start();
    let mut sockets: Vec<_> = (0..6).map(|_| open(&server)).collect();
    for worker in server.workers() {
        processes::signal(worker, Signal::SIGKILL);
    }
    for socket in &mut sockets {
        assert!(read_frame(socket).is_err(), "its worker is dead");
    }
    until("the process to be ended for being idle", PATIENCE, || {
        server.app_pids("ws").is_empty()
    });
    server.log().expect("streams freed");
    echoes(&mut open(&server), TEXT, b"served anew");
}

#[test]
fn a_restart_of_the_app_ends_its_sockets_with_a_word() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = Setup::default()
            .mpm(mpm)
            .with("PassengerWebSocketDrainTime 4")
            .with("PassengerStatThrottleRate 0")
            .site(site())
            .start();
        let mut sockets: Vec<_> = (0..4).map(|_| open(&server)).collect();
        let before = server.app_pids("ws");
        std::fs::create_dir_all(server.app_root("ws").join("tmp")).expect("make tmp");
        server.touch("ws", "tmp/restart.txt");
        assert_eq!(server.get("ws", "/").status, 200);
        for socket in &mut sockets {
            let close = read_frame(socket).expect("a close");
            assert_eq!(close, (CLOSE, vec![3, 233]), "{mpm:?}");
            let answer = frame(CLOSE, &[3, 233]);
            socket.write_all(&answer).expect("answer it");
            assert_eq!(socket.read(&mut [0]).expect("the end"), 0, "{mpm:?}");
        }
        until("the old process to end", PATIENCE, || {
            server
                .app_pids("ws")
                .iter()
                .all(|pid| !before.contains(pid))
        });
        echoes(&mut open(&server), TEXT, b"the new one serves");
    }
}

#[test]
pub(crate) fn a_client_that_ignores_the_good_bye_does_not_keep_an_old_process() {
    let server = Setup::of(site())
        .with("PassengerWebSocketDrainTime 1")
        .start();
    let (mut stubborn, _) = connect(&server, "/");
    let before = server.app_pids("ws");
    processes::signal(before[0], Signal::SIGUSR1);
    assert_eq!(read_frame(&mut stubborn).expect("a close").0, CLOSE);
    until("the old process to end", PATIENCE, || {
        !processes::is_alive(before[0])
    });
    echoes(&mut open(&server), TEXT, b"another one serves");
}
