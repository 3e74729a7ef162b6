//! WebSockets of ASGI applications, from the handshake in the binary protocol to the last frame. One path per
//! ability in `tests/fixtures/asgi-websocket`.

mod support;
#[path = "../../tests/harness/websocket.rs"]
#[allow(unreachable_pub, reason = "it is part of a library, too")]
mod websocket;

use std::io::{Read, Write};
use std::path::Path;

use support::client::{Client, Request};
use support::process::{AppProcess, Launch};
use support::{binary, Language};
use websocket::{frame, BINARY, CLOSE, FIN, PING, PONG, TEXT};

fn process() -> Option<AppProcess> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/asgi-websocket");
    Launch::new(Language::Asgi, &fixture).start_ready()
}

/// RFC 6455 section 1.3 has this key.
fn request(path: &str) -> Request {
    Request::get(path)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// Shakes hands; returns the head of the answer.
fn open(process: &AppProcess, path: &str) -> (Client, String) {
    let mut client = process.connect();
    client.send(&request(path).header("Sec-WebSocket-Protocol", "soap, chat"));
    let head = binary::receive_head(&mut client.stream).expect("a head");
    assert_eq!(head.flags, binary::RAW | binary::LAST, "{}", head.text);
    assert_eq!(head.number, client.number());
    assert!(head.text.starts_with("101\0"), "{}", head.text);
    (client, head.text)
}

fn send(client: &mut Client, first: u8, payload: &[u8]) {
    let bytes = frame(first, payload);
    client.stream.write_all(&bytes).expect("send a frame");
}

/// A whole message of the server: kind and payload.
fn receive(client: &mut Client) -> (u8, Vec<u8>) {
    let (first, payload) = websocket::read_frame(&mut client.stream).expect("a frame");
    assert_eq!(first & 0xf0, FIN, "one frame, no reserved bits");
    (first & 0xf, payload)
}

/// The status of the close frame that must be next.
fn close_status(client: &mut Client) -> u16 {
    let (kind, payload) = receive(client);
    assert_eq!(kind, CLOSE, "{payload:?}");
    u16::from_be_bytes([payload[0], payload[1]])
}

fn expect_end(client: &mut Client) {
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).expect("an end");
    assert!(rest.is_empty(), "{rest:?}");
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| u8::try_from((i * 31 + i / 251) % 256).expect("below 256"))
        .collect()
}

#[test]
fn the_handshake_is_what_both_specifications_say() {
    let Some(process) = process() else { return };
    let (mut client, head) = open(&process, "/scope");
    for field in [
        "\0Sec-WebSocket-Accept\0s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "\0Sec-WebSocket-Protocol\0chat",
        "\0X-Mine\0yes",
    ] {
        assert!(head.contains(field), "no {field:?} in {head:?}");
    }
    assert!(!head.contains("nonsense"), "{head:?}");
    let (kind, scope) = receive(&mut client);
    assert_eq!(kind, TEXT);
    let scope: serde_json::Value = serde_json::from_slice(&scope).expect("JSON");
    let expected = serde_json::json!({
        "type": "websocket", "scheme": "ws", "path": "/scope", "subprotocols": ["soap", "chat"], "http_version": "1.1"
    });
    assert_eq!(scope, expected);
    assert_eq!(close_status(&mut client), 1000);
}

/// `permessage-deflate`: what browsers always offer is passed over, so messages travel as they are, and one that was
/// compressed all the same breaks the rules.
#[test]
fn compression_is_not_negotiated() {
    let Some(process) = process() else { return };
    let offer = "permessage-deflate; client_max_window_bits";
    let mut client = process.connect();
    client.send(&request("/echo").header("Sec-WebSocket-Extensions", offer));
    let head = binary::receive_head(&mut client.stream).expect("a head");
    assert!(head.text.starts_with("101\0"), "{}", head.text);
    let head = head.text.to_ascii_lowercase();
    assert!(!head.contains("extensions"), "{head}");
    let repeated = vec![b'a'; 10_000];
    send(&mut client, FIN | TEXT, &repeated);
    assert_eq!(receive(&mut client), (TEXT, repeated));
    // "Hello" as RFC 7692 compresses it, section 7.2.3.1.
    let compressed = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    send(&mut client, FIN | 0x40 | TEXT, &compressed);
    assert_eq!(close_status(&mut client), 1002);
}

#[test]
fn messages_of_every_size_come_back() {
    let Some(process) = process() else { return };
    let (mut client, _) = open(&process, "/echo");
    for size in [0, 1, 125, 126, 65_535, 65_536, 3 << 20] {
        let payload = pattern(size);
        let copy = payload.clone();
        let mut out = client.stream.try_clone().expect("a second handle");
        // The other way is full before all is sent.
        let sender = std::thread::spawn(move || out.write_all(&frame(FIN | BINARY, &copy)));
        let (kind, echo) = receive(&mut client);
        sender.join().expect("no panic").expect("sent");
        assert!(kind == BINARY && echo == payload, "{size}");
    }
    send(&mut client, FIN | TEXT, "grüße".as_bytes());
    assert_eq!(receive(&mut client), (TEXT, "grüße".into()));
}

#[test]
fn fragments_are_put_together_and_control_frames_may_come_between() {
    let Some(process) = process() else { return };
    let (mut client, _) = open(&process, "/echo");
    let mut stream = frame(TEXT, b"gr\xc3");
    stream.extend(frame(FIN | PING, b"are you there?"));
    stream.extend(frame(0, b"\xbc\xc3"));
    stream.extend(frame(FIN | PONG, b""));
    stream.extend(frame(FIN, b"\x9fe"));
    for byte in stream {
        client.stream.write_all(&[byte]).expect("send a byte");
    }
    assert_eq!(receive(&mut client), (PONG, b"are you there?".to_vec()));
    assert_eq!(receive(&mut client), (TEXT, "grüße".into()));
}

#[test]
fn pings_of_a_client_that_does_not_read_cost_no_memory() {
    const PINGS: usize = 20_000;
    let Some(process) = process() else { return };
    let (mut client, _) = open(&process, "/echo");
    let pings: Vec<u8> = frame(FIN | PING, &[b'x'; 125]).repeat(PINGS);
    client.stream.write_all(&pings).expect("all are read");
    send(&mut client, FIN | TEXT, b"the end");
    let mut pongs = 0;
    loop {
        match receive(&mut client) {
            (PONG, _) => pongs += 1,
            other => break assert_eq!(other, (TEXT, b"the end".to_vec())),
        }
    }
    assert!(0 < pongs && pongs < PINGS, "{pongs} of {PINGS} pongs");
}

#[test]
fn a_client_that_breaks_the_rules_is_told_which_and_closed() {
    let Some(process) = process() else { return };
    let too_big = {
        let mut bytes = frame(FIN | BINARY, &[]);
        bytes[1] = 0x80 | 127;
        bytes.splice(2..2, (1_u64 << 40).to_be_bytes());
        bytes
    };
    for (bytes, status) in [
        (vec![FIN | TEXT, 0], 1002),
        (frame(FIN | 0x40 | TEXT, b""), 1002),
        (frame(FIN | 3, b""), 1002),
        (frame(FIN, b""), 1002),
        (frame(PING, b""), 1002),
        (frame(FIN | PING, &[0; 126]), 1002),
        ([frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat(), 1002),
        (frame(FIN | CLOSE, &[3]), 1002),
        (frame(FIN | CLOSE, &[3, 237]), 1002),
        (frame(FIN | TEXT, &[0xff]), 1007),
        (too_big, 1009),
    ] {
        let (mut client, _) = open(&process, "/echo");
        client.stream.write_all(&bytes).expect("send");
        assert_eq!(close_status(&mut client), status, "{bytes:?}");
        expect_end(&mut client);
        process.expect_log(&format!("disconnected: {status}"));
    }
}

#[test]
fn the_client_may_close() {
    let Some(process) = process() else { return };
    let (mut client, _) = open(&process, "/echo");
    send(&mut client, FIN | CLOSE, b"\x0b\xb9enough");
    assert_eq!(close_status(&mut client), 3001);
    expect_end(&mut client);
    process.expect_log("disconnected: 3001 'enough'");
    let (mut client, _) = open(&process, "/echo");
    send(&mut client, FIN | CLOSE, b"");
    assert_eq!(receive(&mut client), (CLOSE, Vec::new()));
    process.expect_log("disconnected: 1005 ''");
    drop(open(&process, "/echo"));
    process.expect_log("disconnected: 1006 ''");
}

#[test]
fn the_application_may_close() {
    let Some(process) = process() else { return };
    let (mut client, _) = open(&process, "/closes");
    let (kind, payload) = receive(&mut client);
    assert_eq!((kind, &payload[..2]), (CLOSE, &[0x0b, 0xbf][..]));
    let reason = std::str::from_utf8(&payload[2..]).expect("cut between two characters");
    assert_eq!(reason.len(), 122);
    send(&mut client, FIN | CLOSE, &payload[..2]);
    expect_end(&mut client);
    process.expect_log("then 3007");
    process.expect_log("nobody listens");
}

#[test]
fn an_application_that_ends_closes_its_socket() {
    let Some(process) = process() else { return };
    for (path, status) in [("/raises", 1011), ("/returns", 1000)] {
        let (mut client, _) = open(&process, path);
        assert_eq!(close_status(&mut client), status);
    }
    process.expect_log("ValueError: no luck");
}

#[test]
fn a_refusal_is_an_ordinary_response() {
    let Some(process) = process() else { return };
    let mut client = process.connect();
    for (path, status, text) in [
        ("/refused", 403, "Forbidden\n"),
        ("/denied", 401, "who are you?"),
        ("/silent", 500, "Internal Server Error\n"),
        ("/unknown", 500, "Internal Server Error\n"),
    ] {
        let response = client.call(&request(path));
        assert_eq!((response.status, response.text().as_str()), (status, text));
        assert!(!response.is_last, "the connection serves on");
    }
    assert_eq!(client.call(&Request::get("/")).text(), "plain");
    for (name, value, status) in [
        ("Sec-WebSocket-Version", "8", 426),
        ("Sec-WebSocket-Key", "c2hvcnQ=", 400),
        ("Sec-WebSocket-Key", "*", 400),
    ] {
        let response = client.call(&request("/echo").header(name, value));
        assert_eq!(response.status, status, "{name}: {value}");
        assert_eq!(response.header("sec-websocket-version"), ["13"]);
    }
}

#[test]
fn an_open_socket_is_no_request_in_execution() {
    let Some(mut process) = process() else { return };
    let (mut client, _) = open(&process, "/echo");
    assert!(process.ask_busy("1").is_empty());
    send(&mut client, FIN | TEXT, b"still here");
    assert_eq!(receive(&mut client), (TEXT, b"still here".to_vec()));
}

#[test]
fn stop_says_good_bye_to_all_sockets() {
    let Some(mut process) = process() else { return };
    let (mut one, _) = open(&process, "/echo");
    let (mut deaf, _) = open(&process, "/deaf");
    process.tell("stop");
    for client in [&mut one, &mut deaf] {
        assert_eq!(close_status(client), 1001);
        send(client, FIN | CLOSE, &[3, 233]);
        expect_end(client);
    }
    process.expect_log("disconnected: 1001");
    assert_eq!(process.wait().code(), Some(0), "the deaf one is ended");
}
