//! Servers that close idle connections, in the very moment in which these are used: no request is lost by that, nor
//! executed twice.

use harness::wait::PATIENCE;
use harness::{until, App, Language, Request, Server, Setup, Site};
use std::fs;
use std::thread;

/// Takes every second request of a connection for one that came too late: closes without reading it, as a server does whose
/// time for idle connections is just up. Executions of the others are noted. `late` counts those that came too late.
const TOO_LATE: &str = r"
const fs = require('fs');
const net = require('net');
net.createServer((socket) => {
  let [served, input] = [false, ''];
  socket.on('error', () => {});
  socket.on('data', (data) => {
    if (served) {
      fs.appendFileSync('late', 'x');
      socket.resetAndDestroy ? socket.resetAndDestroy() : socket.destroy();
      return;
    }
    input += data;
    const length = Number((input.match(/content-length: (\d+)/i) || [0, 0])[1]);
    const end = input.indexOf('\r\n\r\n') + 4;
    if (end < 4 || input.length < end + length) return;
    if (input.startsWith('HEAD / ')) return socket.end('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
    served = true;
    const name = input.split(' ')[1];
    fs.appendFileSync('executions', `${name}\n`);
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${name.length}\r\n\r\n${name}`);
  });
}).listen(process.env.PORT, '127.0.0.1');
";

fn lines(server: &Server, file: &str) -> Vec<String> {
    let text = fs::read_to_string(server.app_root("app").join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_server_that_closes_when_it_is_asked_again_loses_nothing() {
    let site = Site::new("app", App::files().file("server.js", TOO_LATE))
        .with("PassengerAppStartCommand \"node server.js\"")
        .with("PassengerMaxInstances 1");
    let server = Setup::of(site)
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 4\nMaxRequestWorkers 4")
        .start();
    let mut expected = Vec::new();
    let mut client = server.client("app");
    let mut ask = |method: &str, body: &[u8], number: usize| {
        let path = format!("/{method}-{}-{number}", body.len());
        let mut request = Request::new(method, &path);
        if !body.is_empty() {
            request = Request::post(&path, body);
        }
        let answer = client.exchange(&request).expect("a response");
        assert_eq!(answer.ok(), path);
        expected.push(path);
    };
    for number in 0..10 {
        ask("POST", b"", number);
        ask("POST", b"body", number);
        ask("PATCH", b"", number);
        // What may be sent again needs that no more than once, however many connections are old.
        ask("GET", b"", number);
        ask("GET", b"", number + 100);
    }
    assert_eq!(lines(&server, "executions"), expected);
    let late = fs::read(server.app_root("app").join("late")).unwrap_or_default();
    assert!(
        !late.is_empty(),
        "none came too late: this test shows nothing"
    );
}

/// Node's own server with that time for idle connections, each of whose requests is noted.
fn impatient(listen: &str, milliseconds: u32) -> String {
    format!(
        r"
const fs = require('fs');
const server = require('http').createServer((request, response) => {{
  let length = 0;
  request.on('data', (data) => {{ length += data.length; }});
  request.on('end', () => {{
    fs.appendFileSync('executions', `${{request.url}}\n`);
    response.end(String(length));
  }});
}});
{listen};
server.keepAliveTimeout = {milliseconds};
server.timeout = {milliseconds} * 100;
"
    )
}

/// Many clients, each with pauses that differ by fractions of the time after which the server closes.
fn post_with_pauses(server: &Server, count: u64) {
    thread::scope(|scope| {
        for client in 0..4 {
            scope.spawn(move || {
                let mut connection = server.client("app");
                for number in 0..count {
                    let path = format!("/{client}/{number}");
                    let body = vec![b'x'; usize::try_from(number % 7 * 1000).expect("small")];
                    let answer = connection.exchange(&Request::post(&path, &body));
                    let answer = answer.expect("a response");
                    assert_eq!(answer.ok(), body.len().to_string(), "{path}");
                    let pause = (client * 7919 + number * 104_729) % 3000;
                    thread::sleep(std::time::Duration::from_micros(pause));
                }
            });
        }
    });
    until("each to be executed once", PATIENCE, || {
        lines(server, "executions").len() >= usize::try_from(4 * count).expect("small")
    });
    let mut executed = lines(server, "executions");
    executed.sort_unstable();
    executed.dedup();
    assert_eq!(executed.len(), lines(server, "executions").len());
}

#[test]
fn no_post_is_lost_to_node_servers_that_close_after_a_millisecond() {
    let listen = "server.listen(process.env.PORT, '127.0.0.1')";
    let command = Site::new("app", App::files().file("server.js", &impatient(listen, 1)))
        .with("PassengerAppStartCommand \"node server.js\"");
    let listen = "server.listen(3000)";
    let loaded = Site::new("app", App::inline(Language::Node, &impatient(listen, 1)));
    for site in [command, loaded] {
        let server = Setup::of(site.with("PassengerMaxInstances 1")).start();
        assert_eq!(server.get("app", "/start").ok(), "0");
        post_with_pauses(&server, 200);
    }
}
