//! The client's side of WebSockets: handshake and frames; and an app to talk to.

use harness::wait::PATIENCE;
use harness::{until, websocket, App, Language, Server, Site};
use std::io::{self, Read, Write};
use std::net::TcpStream;

pub(crate) use harness::websocket::{BINARY, CLOSE, PING, PONG, TEXT};

/// Echoes messages; `push N` sends N bytes, `bye` closes, `die` ends the process, `deaf` reads no more until `/hear`. Everything by hand: no package is
/// needed. `/open` says how many sockets are open, other URLs are plain HTTP.
pub(crate) const NODE: &str = r"
const crypto = require('crypto');
const http = require('http');
let open = 0;
const deaf = [];

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
  if (request.url === '/hear') { for (const socket of deaf.splice(0)) socket.resume(); return response.end('yes'); }
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
      else if (text === 'deaf') { socket.pause(); deaf.push(socket); }
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
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";

pub(crate) fn site() -> Site {
    Site::new("ws", App::inline(Language::Node, NODE))
}

pub(crate) fn request(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: ws\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// A frame as a client sends it, the only one of its message.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    websocket::frame(websocket::FIN | opcode, payload)
}

/// A frame as a server sends it: opcode and payload.
pub(crate) fn read_frame(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let (first, payload) = websocket::read_frame(stream)?;
    Ok((first & 0xf, payload))
}

/// Byte by byte: what follows the head belongs to the stream.
pub(crate) fn read_head(stream: &mut impl Read) -> io::Result<String> {
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

pub(crate) fn await_open(server: &Server, count: usize) {
    let what = format!("the app to have {count} open sockets");
    until(&what, PATIENCE, || {
        server.get("ws", "/open").text() == count.to_string()
    });
}

pub(crate) fn pattern(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| u8::try_from((i * 31 + i / 251) % 256).expect("below 256"))
        .collect()
}
