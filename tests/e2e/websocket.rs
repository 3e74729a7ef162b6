//! WebSockets: connections that an app upgrades, as a client sees them.

use crate::clients::{with_tls, Program};
use crate::frames::{
    await_open, connect, echoes, frame, open, pattern, read_frame, read_head, request, site,
    ACCEPT, BINARY, CLOSE, PING, PONG, TEXT,
};
use harness::wait::PATIENCE;
use harness::{until, Mpm, Setup};
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn messages_of_every_size_come_back_unchanged() {
    for mpm in Mpm::ALL {
        let server = Setup::default().mpm(mpm).site(site()).start();
        let (mut stream, head) = connect(&server, "/");
        let lower = head.to_ascii_lowercase();
        assert!(head.starts_with("HTTP/1.1 101 "), "{mpm:?} {head}");
        for field in [
            ACCEPT,
            "upgrade: websocket",
            "connection: upgrade",
            "x-app: yes",
        ] {
            assert!(lower.contains(field), "{mpm:?}: no {field:?} in {head}");
        }
        for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            echoes(&mut stream, BINARY, &pattern(size));
        }
        echoes(&mut stream, TEXT, "grüße".as_bytes());
        // Other requests are served meanwhile.
        assert_eq!(server.get("ws", "/").ok(), "plain request");
        drop(stream);
        await_open(&server, 0);
    }
}

#[test]
pub(crate) fn messages_that_come_with_the_handshake_are_not_lost() {
    let server = Setup::of(site()).start();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connect");
    let mut bytes = request("/greets").into_bytes();
    bytes.extend(frame(TEXT, b"early"));
    stream.write_all(&bytes).expect("send both at once");
    read_head(&mut stream).expect("an answer");
    assert_eq!(read_frame(&mut stream).expect("the greeting").1, b"hello");
    assert_eq!(read_frame(&mut stream).expect("the echo").1, b"early");
}

#[test]
pub(crate) fn a_refused_upgrade_is_an_ordinary_response() {
    let server = Setup::of(site()).start();
    let (_, head) = connect(&server, "/refused");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}

#[test]
fn either_side_may_close() {
    for mpm in Mpm::ALL {
        let server = Setup::default().mpm(mpm).site(site()).start();
        let mut stream = open(&server);
        stream
            .write_all(&frame(CLOSE, &[3, 232]))
            .expect("send a close");
        let answer = read_frame(&mut stream).expect("its answer");
        assert_eq!(answer, (CLOSE, vec![3, 232]), "{mpm:?}");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "{mpm:?}");

        let mut stream = open(&server);
        stream.write_all(&frame(TEXT, b"bye")).expect("send");
        let close = read_frame(&mut stream).expect("a close");
        assert_eq!(close, (CLOSE, vec![3, 232]), "{mpm:?}");
        stream
            .write_all(&frame(CLOSE, &[3, 232]))
            .expect("answer it");
        read_frame(&mut stream).expect("the app's own answer");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "{mpm:?}");
        await_open(&server, 0);
    }
}

#[test]
fn an_app_that_dies_is_said_to_be_going_away() {
    for mpm in Mpm::ALL {
        let server = Setup::default().mpm(mpm).site(site()).start();
        let mut stream = open(&server);
        stream.write_all(&frame(TEXT, b"die")).expect("send");
        let close = read_frame(&mut stream).expect("a close in the app's place");
        assert_eq!(close, (CLOSE, vec![3, 233]), "{mpm:?}");
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "{mpm:?}");
    }
}

#[test]
fn a_silent_client_is_pinged_and_closed_if_it_does_not_answer() {
    for mpm in Mpm::ALL {
        let server = Setup::default()
            .mpm(mpm)
            .with("PassengerWebSocketPingInterval 1")
            .site(site())
            .start();
        let mut lively = open(&server);
        for _ in 0..3 {
            let ping = read_frame(&mut lively).expect("a ping");
            assert_eq!(ping, (PING, Vec::new()), "{mpm:?}");
            lively.write_all(&frame(PONG, b"")).expect("answer it");
        }
        echoes(&mut lively, TEXT, b"still here");
        let mut dead = open(&server);
        assert_eq!(read_frame(&mut dead).expect("a ping").0, PING, "{mpm:?}");
        // No answer.
        assert!(read_frame(&mut dead).is_err(), "{mpm:?}: not closed");
    }
}

#[test]
fn sockets_work_over_tls() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = with_tls(Setup::default().mpm(mpm), site()).start();
        for _ in 0..5 {
            let mut client = Program::tls(&server, "ws");
            client.send(request("/greets").as_bytes());
            assert!(client.head().starts_with("HTTP/1.1 101 "), "{mpm:?}");
            assert_eq!(client.bytes_of(7), b"\x81\x05hello");
            for size in [1, 1000, 300_000] {
                let payload = pattern(size);
                client.send(&frame(BINARY, &payload));
                let (kind, echo) = read_frame(&mut client).expect("an echo");
                assert!(kind == BINARY && echo == payload, "{mpm:?} {size}");
            }
            client.send(&frame(CLOSE, &[3, 232]));
            assert_eq!(client.bytes_of(4), b"\x88\x02\x03\xe8");
            assert_eq!(client.rest().0, b"");
        }
    }
}

#[test]
fn the_access_log_has_a_line_for_each_socket_that_ended() {
    for mpm in Mpm::ALL {
        let server = Setup::default()
            .mpm(mpm)
            .with("LoadModule status_module /usr/lib/apache2/modules/mod_status.so")
            .with("ExtendedStatus On")
            .with("CustomLog access.log \"%>s %U\"")
            .site(site())
            .start();
        let mut socket = open(&server);
        echoes(&mut socket, TEXT, b"hello");
        socket
            .write_all(&frame(CLOSE, &[3, 232]))
            .expect("send a close");
        read_frame(&mut socket).expect("its answer");
        assert_eq!(socket.read(&mut [0]).expect("the end"), 0);
        drop(socket);
        let log = server.root().join("access.log");
        until("a line in the access log", PATIENCE, || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("101 /\n"))
        });
    }
}

#[test]
fn a_silent_tls_client_is_pinged_and_closed_if_it_does_not_answer() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let setup = Setup::default()
            .mpm(mpm)
            .with("PassengerWebSocketPingInterval 1");
        let server = with_tls(setup, site()).start();
        let mut client = Program::tls(&server, "ws");
        client.send(request("/").as_bytes());
        assert!(client.head().starts_with("HTTP/1.1 101 "), "{mpm:?}");
        for _ in 0..2 {
            assert_eq!(read_frame(&mut client).expect("a ping").0, PING, "{mpm:?}");
            client.send(&frame(PONG, b""));
        }
        client.send(&frame(TEXT, b"still here"));
        let mut echo = read_frame(&mut client).expect("an echo");
        while echo.0 == PING {
            client.send(&frame(PONG, b""));
            echo = read_frame(&mut client).expect("an echo");
        }
        assert_eq!(echo, (TEXT, b"still here".to_vec()), "{mpm:?}");
        // No answer any more: pings, and the end.
        while let Ok((kind, _)) = read_frame(&mut client) {
            assert!(kind == PING || kind == CLOSE, "{mpm:?}: {kind}");
        }
    }
}

/// Bytes that are no frames, lengths that nothing has, kinds that do not exist, no mask: what the app makes of them is its
/// affair, and nobody else's.
#[test]
fn nonsense_in_place_of_frames_harms_nobody() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = Setup::default().mpm(mpm).site(site()).start();
        let mut other = open(&server);
        let nonsense: [&[u8]; 7] = [
            b"GET / HTTP/1.1\r\nHost: ws\r\n\r\n",
            &[0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x89, 0xfe, 0xff, 0xff, 1, 2, 3, 4],
            &[0xf3, 0x85, 1, 2, 3, 4, 5, 6, 7, 8, 9],
            &[0x81, 0x05, b'h', b'e', b'l', b'l', b'o'],
            &[0x80; 5000],
            &[0xff; 5000],
        ];
        let strange: Vec<_> = nonsense
            .iter()
            .map(|bytes| {
                let mut stream = open(&server);
                stream.write_all(bytes).expect("send");
                stream
            })
            .collect();
        echoes(&mut other, TEXT, b"still here");
        assert_eq!(server.get("ws", "/").ok(), "plain request", "{mpm:?}");
        drop((strange, other));
        await_open(&server, 0);
    }
}
