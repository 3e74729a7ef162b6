//! WebSockets of Python applications: those of ASGI, and `passenger.hijack`, by which a WSGI application takes
//! the connection.

use crate::clients::{with_tls, Program};
use crate::frames::{
    connect, echoes, frame, open, read_frame, request, BINARY, CLOSE, PING, PONG, TEXT,
};
use crate::languages::{fixture, site, ASGI, WSGI};
use harness::wait::PATIENCE;
use harness::{until, App, Mpm, Request, Server, Setup, Site};
use std::io::{ErrorKind, Read, Write};

fn asgi(mpm: Mpm) -> Server {
    let site = site("ws", ASGI, "sockets_asgi.py");
    Setup::of(site).mpm(mpm).start()
}

fn close_status(stream: &mut impl Read) -> u16 {
    let (kind, payload) = read_frame(stream).expect("a close");
    assert_eq!(kind, CLOSE, "{payload:?}");
    u16::from_be_bytes([payload[0], payload[1]])
}

fn disconnected_with(server: &Server, status: &str) {
    let file = server.app_root("ws").join("closed");
    until("the app to be told of the end", PATIENCE, || {
        std::fs::read_to_string(&file).is_ok_and(|text| text == status)
    });
    std::fs::remove_file(file).expect("remove the file");
}

#[test]
fn an_asgi_app_echoes_messages_of_every_size_and_serves_others_meanwhile() {
    for mpm in Mpm::ALL {
        let server = asgi(mpm);
        let (mut one, head) = connect(&server, "/");
        assert!(head.starts_with("HTTP/1.1 101 "), "{mpm:?} {head}");
        assert!(
            head.to_ascii_lowercase().contains("x-app: ws\r\n"),
            "{head}"
        );
        let mut other = open(&server);
        let pid = server.get("ws", "/").ok();
        for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            echoes(&mut one, BINARY, &vec![b'x'; size]);
            echoes(&mut other, TEXT, "grüße".as_bytes());
        }
        one.write_all(&frame(PING, b"you?")).expect("send a ping");
        let pong = read_frame(&mut one).expect("a pong");
        assert_eq!(pong, (PONG, b"you?".to_vec()), "{mpm:?}");
        assert_eq!(server.get("ws", "/").ok(), pid, "the same process");
    }
}

#[test]
pub(crate) fn either_side_of_an_asgi_socket_may_close() {
    let server = asgi(Mpm::Event);
    let mut stream = open(&server);
    stream
        .write_all(&frame(CLOSE, &[3, 232]))
        .expect("send a close");
    assert_eq!(close_status(&mut stream), 1000);
    disconnected_with(&server, "1000");

    let mut stream = open(&server);
    stream.write_all(&frame(TEXT, b"close")).expect("send");
    assert_eq!(close_status(&mut stream), 3001);
    stream
        .write_all(&frame(CLOSE, &[11, 185]))
        .expect("answer it");
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
    disconnected_with(&server, "3001");

    drop(open(&server));
    disconnected_with(&server, "1006");

    let mut stream = open(&server);
    stream.write_all(&frame(TEXT, b"boom")).expect("send");
    assert_eq!(close_status(&mut stream), 1011);
    server.log().expect("ValueError: no luck");

    let (_, head) = connect(&server, "/refused");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}

#[test]
pub(crate) fn an_asgi_socket_is_told_of_a_restart() {
    let files = App::files()
        .file(ASGI, &fixture("sockets_asgi.py"))
        .file("tmp/.keep", "");
    let server = Setup::of(Site::new("ws", files)).start();
    let before = server.get("ws", "/").ok();
    let mut stream = open(&server);
    echoes(&mut stream, TEXT, b"warm");
    server.touch("ws", "tmp/restart.txt");
    until("the new process to serve", PATIENCE, || {
        server.get("ws", "/").ok() != before
    });
    assert_eq!(close_status(&mut stream), 1001);
    stream
        .write_all(&frame(CLOSE, &[3, 233]))
        .expect("answer it");
    disconnected_with(&server, "1001");
    echoes(&mut open(&server), TEXT, b"the new one serves");
}

#[test]
pub(crate) fn asgi_sockets_work_over_tls() {
    let server = with_tls(Setup::default(), site("ws", ASGI, "sockets_asgi.py")).start();
    let mut client = Program::tls(&server, "ws");
    client.send(request("/").as_bytes());
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    for size in [1, 1000, 300_000] {
        client.send(&frame(BINARY, &vec![7; size]));
        let echo = read_frame(&mut client).expect("an echo");
        assert!(echo == (BINARY, vec![7; size]), "{size}");
    }
    client.send(&frame(CLOSE, &[3, 232]));
    assert_eq!(close_status(&mut client), 1000);
}

#[test]
pub(crate) fn a_wsgi_app_may_take_its_connection_and_serve_others_meanwhile() {
    let source = std::fs::read_to_string(
        harness::stage::repository().join("tests/e2e/fixtures/browser/passenger_wsgi.py"),
    )
    .expect("the app of the browser's test");
    for threads in [1, 3] {
        let site = Site::new("ws", App::files().file(WSGI, &source))
            .with("PassengerConcurrencyModel thread")
            .with(&format!("PassengerThreadCount {threads}"))
            .with("PassengerMaxInstances 1");
        let server = Setup::of(site).start();
        let mut sockets: Vec<_> = (0..5)
            .map(|_| {
                let (stream, head) = connect(&server, "/echo");
                assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
                stream
            })
            .collect();
        for socket in &mut sockets {
            echoes(socket, TEXT, "grüße".as_bytes());
        }
        // Its seats are free.
        let body = server.request("ws", &Request::post("/result", b"posted"));
        assert_eq!(body.status, 204);
        server.await_file("ws", "result");
        sockets[0]
            .write_all(&frame(CLOSE, &[3, 232]))
            .expect("send a close");
        assert_eq!(close_status(&mut sockets[0]), 1000);
        assert_eq!(sockets[0].read(&mut [0]).expect("the end"), 0);
        echoes(&mut sockets[1], TEXT, b"still here");
    }
}

#[test]
pub(crate) fn a_wsgi_app_that_took_its_connection_writes_http_itself() {
    let server = Setup::of(site("ws", WSGI, "hijack_wsgi.py")).start();
    for _ in 0..3 {
        assert_eq!(server.get("ws", "/").ok(), "by hand");
    }
    // The response had begun: it is cut.
    let cut = server.client("ws").exchange(&Request::get("/late"));
    assert_eq!(cut.map_err(|e| e.kind()), Err(ErrorKind::UnexpectedEof));
    server.log().expect("after the response had begun");
    assert_eq!(server.get("ws", "/").ok(), "by hand");
}
