//! Responses of apps that say more than they may: what is left over never answers somebody else, and nothing an app
//! says costs httpd more than its request.

use crate::headers::conversation;
use crate::modules::MPMS;
use harness::{App, Language, Mpm, Request, Server, Setup, Site};

/// Speaks HTTP by hand and keeps its connections. `/raw?HEX` writes these bytes, and those after a `-` when another request
/// comes on the same connection; `/flood` writes interim responses until nobody reads them, `/hints` some; everything else is
/// answered with `fine N`, N being the number of the connection.
const SERVER: &str = r"
const fs = require('fs');
let connections = 0;
const HINT = 'HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n';

function answer(socket, [path, query]) {
  if (socket.later) socket.write(socket.later);
  socket.later = null;
  if (path === '/raw') {
    const [now, later] = query.split('-').map((hex) => Buffer.from(hex, 'hex'));
    socket.write(now);
    socket.later = later;
  } else if (path === '/flood') {
    const more = () => { while (!socket.destroyed && socket.write(HINT)); };
    socket.on('drain', more);
    socket.on('close', () => fs.writeFileSync('closed', ''));
    more();
  } else if (path === '/hints') {
    socket.write(HINT.repeat(60) + 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine');
  } else {
    const text = 'fine ' + socket.number;
    socket.write('HTTP/1.1 200 OK\r\nContent-Length: ' + text.length + '\r\n\r\n' + text);
  }
}

require('net').createServer((socket) => {
  let input = '';
  socket.number = connections++;
  socket.on('error', () => {});
  socket.on('data', (data) => {
    input += data.toString('latin1');
    for (let end; (end = input.indexOf('\r\n\r\n')) >= 0; input = input.slice(end + 4)) {
      answer(socket, input.split(' ')[1].split('?'));
    }
  });
}).listen(process.env.PORT, '127.0.0.1');
";

/// One worker process at a time, so that a request finds what the one before it left.
fn server(mpm: Mpm) -> Server {
    let app = App::files().file("server.js", SERVER);
    let site = Site::new("app", app)
        .with("PassengerAppStartCommand \"node server.js\"")
        .with("PassengerMaxInstances 1");
    let one = match mpm {
        Mpm::Prefork => "StartServers 1\nServerLimit 1\nMaxRequestWorkers 1\nMinSpareServers 1",
        _ => "StartServers 1\nServerLimit 1\nThreadsPerChild 4\nMaxRequestWorkers 4",
    };
    Setup::of(site).mpm(mpm).with(one).start()
}

fn hex(bytes: &str) -> String {
    bytes.bytes().map(|b| format!("{b:02x}")).collect()
}

/// What an app might say too much: a whole response, well made.
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nSet-Cookie: evil=1\r\n\r\nevil";

/// Method, bytes of the response, and what comes later.
fn too_much() -> Vec<(&'static str, String, String)> {
    let heads = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
    ];
    let mut cases = Vec::new();
    for (method, head) in heads {
        // With the body that must not come, at once or later; and with a response in its place.
        for body in ["hello", EVIL] {
            cases.push((method, format!("{head}{body}"), String::new()));
            cases.push((method, head.to_owned(), body.to_owned()));
        }
    }
    let whole = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
    ];
    cases.extend(whole.map(|head| ("GET", format!("{head}{EVIL}"), String::new())));
    cases
}

#[test]
fn what_an_app_says_too_much_answers_nobody() {
    for mpm in MPMS {
        let server = server(mpm);
        for (method, now, later) in too_much() {
            let mut query = hex(&now);
            if !later.is_empty() {
                query += &format!("-{}", hex(&later));
            }
            let mut client = server.client("app");
            let request = Request::new(method, &format!("/raw?{query}"));
            let response = client.exchange(&request).expect("a response");
            let case = format!("{mpm:?} {method} {now:?} then {later:?}");
            assert!([200, 204, 304].contains(&response.status), "{case}");
            assert!(["", "hello"].contains(&response.text().as_str()), "{case}");
            for _ in 0..2 {
                let next = client.exchange(&Request::get("/")).expect("the next");
                assert!(next.text().starts_with("fine "), "{case}: {next:?}");
                assert_eq!(next.header("set-cookie"), None, "{case}");
            }
        }
    }
}

#[test]
fn a_connection_of_an_honest_app_is_used_again() {
    let server = server(Mpm::Event);
    let first = server.get("app", "/").ok();
    assert_eq!(server.get("app", "/").ok(), first);
    let nothing = hex("HTTP/1.1 304 Not Modified\r\n\r\n");
    assert_eq!(server.get("app", &format!("/raw?{nothing}")).status, 304);
    assert_eq!(server.get("app", "/").ok(), first);
}

#[test]
fn a_flood_of_interim_responses_is_a_502_and_ends() {
    for mpm in MPMS {
        let server = server(mpm);
        assert_eq!(server.get("app", "/flood").status, 502, "{mpm:?}");
        server.log().expect("interim responses came before");
        // The app learns that nobody listens.
        server.await_file("app", "closed");
        let few = server.get("app", "/hints");
        assert_eq!(few.ok(), "fine", "{mpm:?}");
        assert!(server.get("app", "/").ok().starts_with("fine "));
    }
}

#[test]
fn heads_without_measure_are_a_502() {
    let server = server(Mpm::Event);
    for (what, field) in [
        ("many fields", "X: y\r\n".repeat(10_000)),
        ("a long value", format!("X: {}\r\n", "y".repeat(300_000))),
        ("a long name", format!("{}: y\r\n", "X".repeat(300_000))),
    ] {
        // Longer than a target may be: the app has it in a file.
        let app = App::inline(
            Language::Python,
            "def application(env, start_response):\n    \
             lines = open('head').read().splitlines()\n    \
             start_response('200 OK', [tuple(line.split(': ')) for line in lines])\n    return [b'x']\n",
        );
        let python = Setup::of(Site::new(
            "app",
            app.file("head", &field.replace("\r\n", "\n")),
        ));
        let python = python.start();
        assert_eq!(python.get("app", "/").status, 502, "{what}");
        python.log().expect("PSGR0208");
    }
    assert!(server.get("app", "/").ok().starts_with("fine "));
}

/// CVE-2023-38709, CVE-2020-5247: whatever control character an app takes from its user, in a final response or in an
/// early hint.
#[test]
fn no_control_character_of_an_app_reaches_a_client() {
    const APP: &str = "def application(env, start_response):
    character = bytes.fromhex(env['QUERY_STRING']).decode('latin-1')
    start_response('200 OK', [('X-Before', 'x'), ('X-A', 'a' + character + 'Set-Cookie: evil=1')])
    return [b'x']
";
    for mpm in MPMS {
        let site = Site::new("app", App::inline(Language::Python, APP));
        let server = Setup::of(site).mpm(mpm).start();
        for byte in (0..32).chain([127]).filter(|byte| *byte != 9) {
            let answer = conversation(
                &server,
                &format!("GET /?{byte:02x} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"),
            );
            assert!(
                answer.starts_with("HTTP/1.1 50"),
                "{mpm:?} {byte}: {answer}"
            );
            assert!(!answer.contains("evil"), "{mpm:?} {byte}: {answer}");
        }
        assert_eq!(server.get("app", "/?09").status, 200);
    }
    let server = server(Mpm::Event);
    for control in ["\r", "\x01", "\x0b", "\x1b[31m", "\x7f"] {
        let bytes =
            format!("HTTP/1.1 103 Early Hints\r\nLink: a{control}Set-Cookie: evil=1\r\n\r\n{EVIL}");
        let response = server.get("app", &format!("/raw?{}", hex(&bytes)));
        assert_eq!(response.status, 502, "{control:?}");
        assert_eq!(response.header("set-cookie"), None, "{control:?}");
    }
}
