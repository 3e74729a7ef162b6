//! Many WebSockets, those of clients that vanish or do not read, and those that are open when a server restarts
//! or stops.

use crate::clients::{resident_kib, with_tls, Program};
use crate::frames::{
    await_open, echoes, frame, open, pattern, read_frame, request, site, BINARY, CLOSE, TEXT,
};
use harness::wait::{until_some, PATIENCE};
use harness::{processes, until, Mpm, Setup};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    for mpm in Mpm::ALL {
        let server = Setup::default().mpm(mpm).site(site()).start();
        for round in 0..40 {
            let mut stream = open(&server);
            if round % 2 == 0 {
                stream
                    .write_all(&frame(TEXT, b"push 300000"))
                    .expect("send");
            }
            if round % 3 == 0 {
                stream.shutdown(Shutdown::Both).expect("close");
            }
        }
        await_open(&server, 0);
        assert_eq!(server.get("ws", "/").ok(), "plain request", "{mpm:?}");
    }
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_no_memory() {
    let server = Setup::of(site())
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 16\nMaxRequestWorkers 16")
        .start();
    let mut quick = open(&server);
    let mut slow = open(&server);
    echoes(&mut slow, TEXT, b"warm");
    let resident = || -> usize { server.workers().iter().map(|pid| resident_kib(*pid)).sum() };
    let before = resident();
    const BYTES: usize = 64 << 20;
    slow.write_all(&frame(TEXT, format!("push {BYTES}").as_bytes()))
        .expect("send");
    for round in 0..200 {
        echoes(&mut quick, BINARY, &pattern(round * 100));
    }
    let more = resident().saturating_sub(before);
    assert!(more < 8 * 1024, "{BYTES} bytes not read cost {more} KiB");
    let (kind, payload) = read_frame(&mut slow).expect("all of it, later");
    assert_eq!((kind, payload.len()), (BINARY, BYTES));
    assert!(payload.iter().all(|b| *b == b'x'));
}

#[test]
fn a_graceful_restart_ends_sockets_with_a_word_and_the_old_workers_leave() {
    for mpm in Mpm::ALL {
        let server = Setup::default()
            .mpm(mpm)
            .with("PassengerWebSocketDrainTime 6")
            .site(site())
            .start();
        let before = server.workers();
        let mut sockets: Vec<_> = (0..8).map(|_| open(&server)).collect();
        server.graceful();
        for socket in &mut sockets {
            let close = read_frame(socket).expect("a close");
            assert_eq!(close, (CLOSE, vec![3, 233]), "{mpm:?}");
            socket
                .write_all(&frame(CLOSE, &[3, 233]))
                .expect("answer it");
            assert_eq!(socket.read(&mut [0]).expect("the end"), 0, "{mpm:?}");
        }
        until("the old workers to leave", PATIENCE, || {
            !before.iter().any(|pid| processes::is_alive(*pid))
        });
        echoes(&mut open(&server), TEXT, b"the new ones serve");
    }
}

#[test]
pub(crate) fn a_socket_that_ignores_the_good_bye_does_not_keep_an_old_worker() {
    let server = Setup::of(site())
        .with("PassengerWebSocketDrainTime 2")
        .start();
    let before = server.workers();
    let socket = open(&server);
    server.graceful();
    until("the old workers to leave", PATIENCE, || {
        !before.iter().any(|pid| processes::is_alive(*pid))
    });
    drop(socket);
}

#[test]
fn five_hundred_idle_sockets_occupy_no_thread() {
    const SOCKETS: usize = 500;
    let server = Setup::of(site())
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 8\nMaxRequestWorkers 8")
        .with("AsyncRequestWorkerFactor 80")
        .start();
    let worker = until_some("one worker", PATIENCE, || server.workers().first().copied());
    let mut sockets = vec![open(&server)];
    let before = resident_kib(worker);
    sockets.extend((1..SOCKETS).map(|_| open(&server)));
    let each = resident_kib(worker).saturating_sub(before) / SOCKETS;
    eprintln!("an idle WebSocket costs its worker process {each} KiB");
    assert!(each < 100, "{each} KiB per idle socket");
    for socket in &mut sockets {
        echoes(socket, TEXT, b"one of many");
    }
    assert_eq!(server.get("ws", "/open").ok(), SOCKETS.to_string());
    drop(sockets);
    await_open(&server, 0);
    // httpd has forgotten them, too: otherwise its limit of 8 × 81 connections would be reached now.
    let again: Vec<_> = (0..SOCKETS).map(|_| open(&server)).collect();
    assert_eq!(server.get("ws", "/open").ok(), again.len().to_string());
}

/// Under worker and prefork a socket has a thread or a process of its own, and nobody else waits for those.
#[test]
fn sockets_leave_the_rest_of_the_workers_to_others() {
    for mpm in [Mpm::Worker, Mpm::Prefork] {
        let server = Setup::default()
            .mpm(mpm)
            .with("PassengerMaxPoolSize 1")
            .site(site())
            .start();
        let mut sockets: Vec<_> = (0..20).map(|_| open(&server)).collect();
        for socket in &mut sockets {
            echoes(socket, TEXT, b"one of many");
        }
        assert_eq!(server.get("ws", "/open").ok(), "20", "{mpm:?}");
        drop(sockets);
        await_open(&server, 0);
        // As many again: nothing of the first is left.
        let again: Vec<_> = (0..20).map(|_| open(&server)).collect();
        assert_eq!(server.get("ws", "/open").ok(), again.len().to_string());
    }
}

/// Writes until the peer takes no more.
fn fill(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).expect("do not block");
    let (mut sent, mut last) = (0, Instant::now());
    // What has not moved for so long will not.
    while last.elapsed() < Duration::from_secs(2) && sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(n) => (sent, last) = (sent + n, Instant::now()),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    stream.set_nonblocking(false).expect("block again");
    sent
}

#[test]
fn an_app_that_does_not_read_makes_its_client_wait_and_nobody_else() {
    const MESSAGES: usize = 256;
    const BYTES: usize = 256 * 1024;
    for mpm in Mpm::ALL {
        let server = Setup::default().mpm(mpm).site(site()).start();
        let mut deaf = open(&server);
        let mut other = open(&server);
        deaf.write_all(&frame(TEXT, b"deaf")).expect("send");
        echoes(&mut other, TEXT, b"warm");
        let resident = || -> usize { server.workers().iter().map(|pid| resident_kib(*pid)).sum() };
        let before = resident();
        let messages = frame(BINARY, &[b'x'; BYTES]).repeat(MESSAGES);
        let sent = fill(&mut deaf, &messages);
        assert!(sent < messages.len(), "{mpm:?}: all of it went somewhere");
        echoes(&mut other, TEXT, b"nobody else");
        let more = resident().saturating_sub(before);
        assert!(
            more < 16 * 1024,
            "{mpm:?}: {sent} bytes not read cost {more} KiB"
        );
        assert_eq!(server.get("ws", "/hear").ok(), "yes");
        let mut writer = deaf.try_clone().expect("a second handle");
        let rest = messages[sent..].to_vec();
        let sender = std::thread::spawn(move || writer.write_all(&rest));
        for _ in 0..MESSAGES {
            let (kind, echo) = read_frame(&mut deaf).expect("the echo");
            assert_eq!((kind, echo.len()), (BINARY, BYTES), "{mpm:?}");
        }
        sender.join().expect("no panic").expect("all was sent");
    }
}

/// The same the other way round over TLS: the client does not read.
#[test]
fn a_tls_client_that_does_not_read_holds_up_nobody() {
    const BYTES: usize = 32 << 20;
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = with_tls(Setup::default().mpm(mpm), site()).start();
        let connect = || {
            let mut client = Program::tls(&server, "ws");
            client.send(request("/").as_bytes());
            assert!(client.head().starts_with("HTTP/1.1 101 "), "{mpm:?}");
            client
        };
        let (mut slow, mut quick) = (connect(), connect());
        slow.send(&frame(TEXT, format!("push {BYTES}").as_bytes()));
        for round in 0..50 {
            let payload = pattern(round * 100);
            quick.send(&frame(BINARY, &payload));
            let echo = read_frame(&mut quick).expect("an echo");
            assert!(echo == (BINARY, payload), "{mpm:?}");
        }
        let (kind, payload) = read_frame(&mut slow).expect("all of it, later");
        assert_eq!((kind, payload.len()), (BINARY, BYTES), "{mpm:?}");
    }
}

#[test]
fn tls_clients_that_vanish_leave_nothing_behind() {
    let server = with_tls(Setup::default(), site())
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 4\nMaxRequestWorkers 4")
        .start();
    // More, all in all, than one worker process may have connections.
    for round in 0..30 {
        let mut client = Program::tls(&server, "ws");
        client.send(request("/greets").as_bytes());
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        assert_eq!(client.bytes_of(7), b"\x81\x05hello");
        if round % 2 == 0 {
            client.send(&frame(TEXT, b"push 3000000"));
        }
        // Killed, as it stands.
        drop(client);
    }
}

#[test]
fn a_stop_with_open_sockets_is_orderly() {
    for mpm in Mpm::ALL {
        let mut server = Setup::default().mpm(mpm).site(site()).start();
        let _sockets: Vec<_> = (0..5).map(|_| open(&server)).collect();
        server.stop_within(Duration::from_secs(30));
        assert_eq!(server.log().scandals(), Vec::<String>::new(), "{mpm:?}");
    }
}
