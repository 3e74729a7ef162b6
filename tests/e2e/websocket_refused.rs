//! Requests that look like one for a WebSocket and cannot have one: over HTTP/2, and ordinary ones.

use crate::clients::{with_h2, Program};
use crate::frames::site;
use harness::wait::PATIENCE;
use harness::Setup;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A frame of HTTP/2.
fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header field without compression (RFC 7541 section 6.2.2).
fn h2_field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).expect("short"));
        bytes.extend(text.as_bytes());
    }
    bytes
}

#[test]
pub(crate) fn an_h2_client_is_told_that_there_are_no_sockets_over_h2() {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const END_HEADERS: u8 = 4;
    let server = with_h2(Setup::of(site())).with("H2WebSockets on").start();
    let fields: Vec<u8> = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "ws"),
        ("sec-websocket-version", "13"),
    ]
    .iter()
    .flat_map(|(name, value)| h2_field(name, value))
    .collect();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connect");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a time limit");
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .expect("send");
    stream
        .write_all(&h2_frame(SETTINGS, 0, 0, &[]))
        .expect("send");
    stream
        .write_all(&h2_frame(HEADERS, END_HEADERS, 1, &fields))
        .expect("send");
    let mut seen = Vec::new();
    let words = b"WebSockets over HTTP/1.1 only";
    while !seen.windows(words.len()).any(|window| window == words) {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).expect("an answer with a reason");
        let text = String::from_utf8_lossy(&seen);
        assert!(n > 0, "closed without the reason: {text}");
        seen.extend_from_slice(&piece[..n]);
    }
}

#[test]
pub(crate) fn an_ordinary_request_may_name_websocket_without_getting_one() {
    let server = with_h2(Setup::of(site())).start();
    let post = harness::Request::post("/", b"x").header("Upgrade", "websocket");
    assert_eq!(server.request("ws", &post).ok(), "plain request");
    assert_eq!(Program::h2(&server, "ws", "/").rest().0, b"plain request");
}
