//! Node.js servers behind httpd: connections after responses without a body, and servers that their applications close.

use harness::wait::PATIENCE;
use harness::{until, App, Language, Load, Request, Server, Setup, Site};
use std::fs;

/// Says which connection a request came on. `/whole` and `/parts` differ in how they speak of a body; `/raw` answers past
/// Node's own response, with a body whatever the method; `/late` sends one when another request comes.
const HEADS: &str = r"
let connections = 0;
const EVIL = 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil';
const server = require('http').createServer((request, response) => {
  const { socket } = request;
  if (socket.later) socket.write(socket.later);
  socket.later = null;
  response.setHeader('X-Connection', socket.number);
  switch (request.url) {
    case '/whole': return response.end('hello');
    case '/parts': response.write('hello'); return response.end(' world');
    case '/told': response.writeHead(200, { 'Content-Length': 5 }); return response.end('hello');
    case '/array': response.writeHead(200, ['Content-Length', '5']); return response.end('hello');
    case '/none': response.statusCode = 204; return response.end();
    case '/same': response.statusCode = 304; return response.end();
    case '/raw': return socket.write(`HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n${EVIL}`);
    case '/late':
      socket.later = EVIL;
      return socket.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n');
    default: return response.end('fine');
  }
}).listen(3000);
server.on('connection', (socket) => { socket.number = connections; connections += 1; });
";

/// One worker process and one app process: a request finds the connection that the one before it left.
fn alone(source: &str) -> Server {
    let site =
        Site::new("app", App::inline(Language::Node, source)).with("PassengerMaxInstances 1");
    let one = "StartServers 1\nServerLimit 1\nThreadsPerChild 4\nMaxRequestWorkers 4";
    Setup::of(site).with(one).start()
}

#[test]
fn responses_without_a_body_keep_their_connection() {
    let server = alone(HEADS);
    let connection = |method: &str, path: &str| {
        let response = server.request("app", &Request::new(method, path));
        assert!(
            [200, 204, 304].contains(&response.status),
            "{method} {path}"
        );
        assert!(response.header("!~passenger-no-body").is_none());
        response.header("x-connection").map(str::to_owned)
    };
    let first = connection("GET", "/");
    assert!(first.is_some());
    for path in ["/whole", "/parts", "/told", "/none", "/same", "/"] {
        assert_eq!(connection("HEAD", path), first, "HEAD {path}");
        assert_eq!(connection("GET", path), first, "GET {path}");
    }
    let length = server.request("app", &Request::new("HEAD", "/told"));
    assert_eq!(length.header("content-length"), Some("5"));
}

#[test]
fn a_body_after_a_response_to_head_answers_nobody() {
    let server = alone(HEADS);
    for path in ["/raw", "/late", "/array", "/raw"] {
        let mut client = server.client("app");
        let head = client.exchange(&Request::new("HEAD", path));
        let head = head.expect("a response");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        for _ in 0..3 {
            let next = client.exchange(&Request::get("/")).expect("the next");
            assert_eq!(next.ok(), "fine", "after {path}");
        }
    }
}

/// Ends itself as soon as it is told to, as applications do after an error that nobody expected; each is told once.
const CLOSES: &str = r"
const fs = require('fs');
const server = require('http').createServer((request, response) => {
  if (fs.existsSync('close') && server.listening) {
    fs.rmSync('close');
    server.close(() => process.exit(1));
  }
  let length = 0;
  request.on('data', (data) => { length += data.length; });
  request.on('end', () => response.end(`${process.pid} ${length}`));
}).listen(3000);
server.keepAliveTimeout = 1;
";

#[test]
fn a_server_that_its_application_closes_costs_no_request() {
    let site = Site::new("app", App::inline(Language::Node, CLOSES));
    let server = Setup::of(site).with("PassengerMaxPoolSize 2").start();
    let pid = |answer: &str| answer.split(' ').next().map(str::to_owned);
    let first = pid(&server.get("app", "/").ok());
    let load = Load::start(server.port(), "app", "/", 4);
    until("the load to run", PATIENCE, || load.answered() > 100);
    server.touch("app", "close");
    let body = vec![b'x'; 10_000];
    until("another process", PATIENCE, || {
        let answer = server.post("app", "/", &body).ok();
        assert!(answer.ends_with(" 10000"), "{answer}");
        pid(&answer) != first
    });
    let tally = load.finish();
    assert_eq!((tally.failures, tally.resent), (Vec::new(), 0));
    assert!(!fs::exists(server.app_root("app").join("close")).expect("look"));
}

/// Says no to an upgrade by hand, as applications do in the listener for upgrades, and leaves the connection open.
const REFUSES: &str = r"
const server = require('http').createServer((request, response) => response.end('fine')).listen(3000);
server.on('upgrade', (request, socket) => {
  socket.write('HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nno');
});
";

#[test]
fn a_connection_whose_upgrade_was_refused_gets_no_other_request() {
    let server = alone(REFUSES);
    for _ in 0..3 {
        let upgrade = Request::get("/")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let refused = server.request("app", &upgrade);
        assert_eq!((refused.status, refused.text().as_str()), (401, "no"));
        assert_eq!(server.get("app", "/").ok(), "fine");
    }
}
