//! A Rack app that takes the connection (full hijack): to write HTTP itself, or for a WebSocket.

use crate::frames::{echoes, frame, open, pattern, read_frame, BINARY, CLOSE, TEXT};
use harness::{App, Language, Mpm, Setup, Site};
use std::io::Write;

const APP: &str = r"
run(lambda do |env|
  io = env['rack.hijack'].call
  text =
    case env['PATH_INFO']
    when '/interim' then %W[HTTP/1.1\ 102\ Processing #{} HTTP/1.1\ 103\ Early\ Hints Link:\ </a.css>;rel=preload #{}
                            HTTP/1.1\ 200\ OK Content-Length:\ 5 #{} hello].join(%(\r\n))
    when '/half' then %(HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 20)
    else %(HTTP/1.1 201 Created\r\nX-Mine: yes\r\n\r\nuntil the end)
    end
  text.each_char { |c| io.write(c) }
  io.close
  [200, {}, []]
end)
";

#[test]
fn what_the_app_writes_is_the_response_interim_ones_included() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = Setup::of(Site::new("app", App::inline(Language::Ruby, APP)))
            .mpm(mpm)
            .with("PassengerMaxPoolSize 1")
            .start();
        for _ in 0..3 {
            assert_eq!(server.get("app", "/interim").ok(), "hello", "{mpm:?}");
            let plain = server.get("app", "/");
            assert_eq!(
                (plain.status, plain.text().as_str()),
                (201, "until the end")
            );
            assert_eq!(plain.header("x-mine"), Some("yes"));
        }
        assert_eq!(server.get("app", "/half").status, 502, "{mpm:?}");
        // The seat is free again.
        assert_eq!(server.get("app", "/interim").ok(), "hello", "{mpm:?}");
    }
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
