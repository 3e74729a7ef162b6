//! WebSockets: connections that an app upgrades, as a client sees them.

use crate::clients::{resident_kib, with_h2, with_tls, Program};
use harness::wait::{until_some, PATIENCE};
use harness::{processes, until, App, Language, Mpm, Server, Setup, Site};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Echoes messages; `push N` sends N bytes, `bye` closes, `die` ends the process. Everything by hand: no package is
/// needed. `/open` says how many sockets are open, other URLs are plain HTTP.
pub(crate) const NODE: &str = r"
const crypto = require('crypto');
const http = require('http');
let open = 0;

function frame(opcode, payload) {
  const n = payload.length;
  let head;
  if (n < 126) head = Buffer.from([0x80 | opcode, n]);
  else if (n < 65536) { head = Buffer.alloc(4); head[0] = 0x80 | opcode; head[1] = 126; head.writeUInt16BE(n, 2); }
  else { head = Buffer.alloc(10); head[0] = 0x80 | opcode; head[1] = 127; head.writeBigUInt64BE(BigInt(n), 2); }
  return Buffer.concat([head, payload]);
}

function* frames(state) {
  for (;;) {
    const b = state.input;
    if (b.length < 2) return;
    let n = b[1] & 127, at = 2;
    if (n === 126) { if (b.length < 4) return; n = b.readUInt16BE(2); at = 4; }
    else if (n === 127) { if (b.length < 10) return; n = Number(b.readBigUInt64BE(2)); at = 10; }
    if (b.length < at + 4 + n) return;
    const mask = b.subarray(at, at + 4);
    const payload = Buffer.from(b.subarray(at + 4, at + 4 + n));
    for (let i = 0; i < n; i++) payload[i] ^= mask[i & 3];
    state.input = b.subarray(at + 4 + n);
    yield { opcode: b[0] & 15, payload };
  }
}

const server = http.createServer((request, response) => {
  if (request.url === '/open') return response.end(String(open));
  return response.end('plain ' + (request.headers.upgrade || 'request'));
});

server.on('upgrade', (request, socket, head) => {
  if (request.url === '/refused') return socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno');
  const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  const accept = crypto.createHash('sha1').update(key).digest('base64');
  open += 1;
  socket.setNoDelay(true);
  socket.on('close', () => { open -= 1; });
  socket.on('error', () => {});
  socket.on('end', () => socket.end());
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
    + 'Sec-WebSocket-Accept: ' + accept + '\r\nX-App: yes\r\n\r\n');
  if (request.url === '/greets') socket.write(frame(1, Buffer.from('hello')));
  const state = { input: head };
  const onData = (data) => {
    state.input = Buffer.concat([state.input, data]);
    for (const { opcode, payload } of frames(state)) {
      const text = payload.toString();
      if (opcode === 8) return socket.end(frame(8, payload));
      if (opcode === 9) socket.write(frame(10, payload));
      else if (opcode === 10) continue;
      else if (text === 'bye') socket.write(frame(8, Buffer.from([3, 232])));
      else if (text === 'die') process.kill(process.pid, 'SIGKILL');
      else if (text.startsWith('push ')) socket.write(frame(2, Buffer.alloc(Number(text.slice(5)), 'x')));
      else socket.write(frame(opcode, payload));
    }
  };
  socket.on('data', onData);
  onData(Buffer.alloc(0));
});
server.listen(3000);
";

/// RFC 6455 section 1.3 has this key and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

pub(crate) fn site() -> Site {
    Site::new("ws", App::inline(Language::Node, NODE))
}

pub(crate) fn request(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: ws\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// A frame as a client sends it.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        n @ 0..=125 => bytes.push(0x80 | u8::try_from(n).expect("small")),
        n @ 126..=65535 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(n).expect("small").to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend((n as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

/// A frame as a server sends it: opcode and payload.
pub(crate) fn read_frame(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head[1] {
        126 => {
            let mut bytes = [0; 2];
            stream.read_exact(&mut bytes)?;
            usize::from(u16::from_be_bytes(bytes))
        }
        127 => {
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes)?;
            usize::try_from(u64::from_be_bytes(bytes)).expect("fits")
        }
        n => usize::from(n),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((head[0] & 0xf, payload))
}

/// Byte by byte: what follows the head belongs to the stream.
fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

pub(crate) fn connect(server: &Server, target: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connect");
    stream.set_nodelay(true).expect("no delay");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a time limit");
    stream
        .write_all(request(target).as_bytes())
        .expect("send the request");
    let head = read_head(&mut stream).expect("an answer");
    (stream, head)
}

pub(crate) fn open(server: &Server) -> TcpStream {
    let (stream, head) = connect(server, "/");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

pub(crate) fn echoes(stream: &mut (impl Read + Write), opcode: u8, payload: &[u8]) {
    stream.write_all(&frame(opcode, payload)).expect("send");
    let (got, answer) = read_frame(stream).expect("an echo");
    assert!(
        got == opcode && answer == payload,
        "{} bytes came back as {} of kind {got}",
        payload.len(),
        answer.len()
    );
}

fn await_open(server: &Server, count: usize) {
    let what = format!("the app to have {count} open sockets");
    until(&what, PATIENCE, || {
        server.get("ws", "/open").text() == count.to_string()
    });
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| u8::try_from((i * 31 + i / 251) % 256).expect("below 256"))
        .collect()
}

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
fn messages_that_come_with_the_handshake_are_not_lost() {
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
fn a_refused_upgrade_is_an_ordinary_response() {
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
fn a_socket_that_ignores_the_good_bye_does_not_keep_an_old_worker() {
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

#[test]
fn an_ordinary_request_may_name_websocket_without_getting_one() {
    let server = with_h2(Setup::of(site())).start();
    let post = harness::Request::post("/", b"x").header("Upgrade", "websocket");
    assert_eq!(server.request("ws", &post).ok(), "plain request");
    assert_eq!(Program::h2(&server, "ws", "/").rest().0, b"plain request");
}

/// Takes the socket out of Rack's hands, and echoes in a thread.
const RUBY: &str = r"
require 'digest'

def message(io)
  kind, size = io.readpartial(1).getbyte(0) & 15, io.read(1).getbyte(0) & 127
  size = io.read(2).unpack1('n') if size == 126
  mask = io.read(4).bytes
  [kind, io.read(size).bytes.each_with_index.map { |byte, at| byte ^ mask[at & 3] }.pack('C*')]
end

def echo(io)
  loop do
    kind, payload = message(io)
    size = payload.bytesize < 126 ? [payload.bytesize].pack('C') : [126, payload.bytesize].pack('Cn')
    io.write([0x80 | kind].pack('C') + size + payload)
    break if kind == 8
  end
rescue SystemCallError, IOError
ensure
  io.close
end

run(lambda do |env|
  next [200, { 'content-length' => '5' }, ['plain']] unless env['HTTP_UPGRADE'] == 'websocket'

  io = env['rack.hijack'].call
  key = env['HTTP_SEC_WEBSOCKET_KEY'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
  io.write(%W[HTTP/1.1\ 101\ Switching\ Protocols Upgrade:\ websocket Connection:\ Upgrade
              Sec-WebSocket-Accept:\ #{Digest::SHA1.base64digest(key)}].join(%(\r\n)) + %(\r\n\r\n))
  Thread.new { echo(io) }
  [200, {}, []]
end)
";

#[test]
fn a_ruby_app_may_hijack_its_socket_and_serve_others_meanwhile() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = Setup::default()
            .mpm(mpm)
            .with("PassengerMaxPoolSize 1")
            .site(Site::new("ws", App::inline(Language::Ruby, RUBY)))
            .start();
        let mut sockets: Vec<_> = (0..3).map(|_| open(&server)).collect();
        for socket in &mut sockets {
            echoes(socket, TEXT, "grüße".as_bytes());
            echoes(socket, BINARY, &pattern(60_000));
        }
        // The one process has its only seat free.
        assert_eq!(server.get("ws", "/").ok(), "plain", "{mpm:?}");
        sockets[0]
            .write_all(&frame(CLOSE, &[3, 232]))
            .expect("send a close");
        let answer = read_frame(&mut sockets[0]).expect("its answer");
        assert_eq!(answer, (CLOSE, vec![3, 232]), "{mpm:?}");
    }
}

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
fn an_h2_client_is_told_that_there_are_no_sockets_over_h2() {
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
