//! What an app's response may do to httpd and its clients. Where a test stands for a vulnerability of the past,
//! its name is in the test.

use crate::environment;
use crate::modules::{load, MPMS};
use harness::{App, Language, Mpm, Request, Server, Setup, Site};
use std::io::{Read, Write};
use std::net::TcpStream;

/// An app that writes whatever the query says (hexadecimal) to the connection, in place of a response.
const RAW: &str = "require('http').createServer((q, s) => {
  const [path, query] = q.url.split('?');
  if (path === '/raw') q.socket.end(Buffer.from(query, 'hex'));
  else s.end('fine');
}).listen(3000);
";

fn raw_server(mpm: Mpm) -> Server {
    let site = Site::new("app", App::inline(Language::Node, RAW));
    Setup::of(site)
        .with("PassengerMaxPoolSize 1")
        .mpm(mpm)
        .start()
}

/// The target that makes the app write `bytes`.
fn raw(bytes: &str) -> String {
    let digits: String = bytes.bytes().map(|b| format!("{b:02x}")).collect();
    format!("/raw?{digits}")
}

/// Everything that the server says to `bytes` before it closes.
pub(crate) fn conversation(server: &Server, bytes: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connect");
    let limit = Some(std::time::Duration::from_secs(60));
    stream.set_read_timeout(limit).expect("set a limit");
    stream.write_all(bytes.as_bytes()).expect("send");
    let mut answer = Vec::new();
    // A reset after the answer is as good as a close.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request on a connection that is closed afterwards, and all that came back.
fn whole_answer(server: &Server, target: &str) -> String {
    conversation(
        server,
        &format!("GET {target} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"),
    )
}

#[test]
fn malformed_responses_are_a_502_and_the_log_shows_their_bytes() {
    let bad = [
        "complete nonsense\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
        // CVE-2022-37436, CVE-2023-38709: control characters that cut or split a head.
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil=1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\x0bb\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ];
    for mpm in MPMS {
        let server = raw_server(mpm);
        for (number, bytes) in bad.iter().enumerate() {
            let response = server.get("app", &raw(bytes));
            assert_eq!(response.status, 502, "{bytes:?}");
            assert!(
                !response
                    .headers
                    .iter()
                    .any(|(name, _)| name == "set-cookie"),
                "{bytes:?}"
            );
            server.log().expect_times("PSGR0208", number + 1);
        }
        assert!(
            server.log().text().contains("complete nonsense\\\\r\\\\n"),
            "{}",
            server.log().tail(40)
        );
        assert_eq!(server.get("app", "/").ok(), "fine");
    }
}

#[test]
pub(crate) fn an_incomplete_head_is_a_502() {
    let server = raw_server(Mpm::Event);
    for bytes in [
        "",
        "HTTP/1.1 200 OK\r\nX: a",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        assert_eq!(server.get("app", &raw(bytes)).status, 502, "{bytes:?}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(300));
    assert_eq!(server.get("app", &raw(&(endless + "\r\n"))).status, 502);
}

#[test]
pub(crate) fn a_wrong_content_length_never_desynchronises_a_client() {
    let server = raw_server(Mpm::Event);
    let mut client = server.client("app");
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    assert_eq!(
        client
            .exchange(&Request::get(&raw(long)))
            .expect("a response")
            .ok(),
        "hello"
    );
    assert_eq!(
        client
            .exchange(&Request::get("/"))
            .expect("a response")
            .ok(),
        "fine"
    );
    let short = raw("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello");
    let cut = client.exchange(&Request::get(&short)).map(|r| r.status);
    assert_ne!(cut.ok(), Some(200), "a short body looks complete");
    let chunks = raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let cut = server
        .client("app")
        .exchange(&Request::get(&chunks))
        .map(|r| r.status);
    assert_ne!(cut.ok(), Some(200), "a cut body looks complete");
}

#[test]
pub(crate) fn trailers_are_dropped_and_the_body_is_whole() {
    let server = raw_server(Mpm::Event);
    let bytes = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\nSet-Cookie: evil=1\r\n\r\n";
    let answer = whole_answer(&server, &raw(bytes));
    assert!(
        answer.contains("hello") && !answer.contains("X-T") && !answer.contains("evil"),
        "{answer}"
    );
}

#[test]
pub(crate) fn statuses_and_phrases_are_the_apps() {
    let server = raw_server(Mpm::Event);
    for (status, line) in [
        ("200 Fine by me", "200 Fine by me"),
        ("299 Odd", "299 Odd"),
        ("418", "418 Status"),
        ("700 Beyond", "700 Beyond"),
        ("404 Not Found", "404 Not Found"),
    ] {
        let answer = whole_answer(
            &server,
            &raw(&format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok")),
        );
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {line}\r\n")),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        assert!(
            answer.contains(&format!("\r\nStatus: {line}\r\n")),
            "{answer}"
        );
    }
    for status in ["204 No Content", "304 Not Modified"] {
        let answer = whole_answer(
            &server,
            &raw(&format!("HTTP/1.1 {status}\r\nETag: \"x\"\r\n\r\n")),
        );
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{answer}"
        );
        assert!(
            answer.ends_with("\r\n\r\n"),
            "a body with {status}: {answer}"
        );
    }
}

#[test]
pub(crate) fn hop_by_hop_fields_and_httpds_own_stay_with_us() {
    let server = raw_server(Mpm::Event);
    let head = "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
                Proxy-Authenticate: Basic\r\nTE: x\r\nUpgrade: h2c\r\nDate: never\r\nServer: other\r\n\
                !~Request-OOB-Work: true\r\nX-End: 1\r\nContent-Length: 2\r\n\r\nok";
    let answer = whole_answer(&server, &raw(head));
    for name in [
        "Keep-Alive",
        "X-Hop",
        "Proxy-Authenticate",
        "TE:",
        "Upgrade",
        "never",
        "other",
        "!~",
    ] {
        assert!(
            !answer.contains(name),
            "{name} reached the client: {answer}"
        );
    }
    assert!(answer.contains("\r\nX-End: 1\r\n"), "{answer}");
    assert_eq!(answer.matches("\r\nDate: ").count(), 1);
    assert!(answer.contains("\r\nServer: Apache"), "{answer}");
    assert!(
        answer.contains(" mod_passenger/"),
        "no token in Server: {answer}"
    );
}

#[test]
fn the_product_is_named_with_its_version_unless_told_not_to() {
    let site = environment::site(Language::Ruby);
    let server = Setup::of(site.clone()).start();
    let powered = server
        .get("app", "/")
        .header("x-powered-by")
        .map(str::to_owned);
    assert!(powered.is_some_and(|p| p.starts_with("mod_passenger ") && p.contains('.')));
    let quiet = Setup::of(site)
        .with("PassengerShowVersionInHeader off")
        .with("ServerTokens Prod")
        .start();
    let response = quiet.get("app", "/");
    assert_eq!(response.header("x-powered-by"), Some("mod_passenger"));
    assert_eq!(response.header("server"), Some("Apache"));
}

#[test]
fn early_hints_reach_the_client_and_cannot_split_the_response() {
    for mpm in MPMS {
        let server = raw_server(mpm);
        let rest = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x\r\n\r\n{rest}");
        let answer = whole_answer(&server, &raw(&hints));
        assert!(
            answer.starts_with("HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n"),
            "{answer}"
        );
        let final_head = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        assert!(
            !final_head.contains("Link"),
            "the hint stayed in the response: {final_head}"
        );
        let others = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{rest}");
        assert!(whole_answer(&server, &raw(&others)).starts_with("HTTP/1.1 200 OK\r\n"));
        // CVE-2020-5249: response splitting through an early hint.
        let evil = format!("HTTP/1.1 103 Early Hints\r\nLink: a\rSet-Cookie: evil=1\r\n\r\n{rest}");
        let answer = whole_answer(&server, &raw(&evil));
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && !answer.contains("evil"),
            "{answer}"
        );
        // A client of HTTP/1.0 would not understand one.
        let old = conversation(
            &server,
            &format!("GET {} HTTP/1.0\r\nHost: app\r\n\r\n", raw(&hints)),
        );
        assert!(old.starts_with("HTTP/1.1 200 OK"), "{old}");
    }
}

/// CVE-2024-38476: headers of an app that made httpd redirect internally or choose a handler.
#[test]
pub(crate) fn an_apps_headers_choose_neither_handler_nor_redirect() {
    let site = Site::new(
        "app",
        App::inline(Language::Node, RAW).file("public/static.txt", "a file"),
    );
    let server = load(Setup::of(site), &["status", "asis"]).start();
    for kind in [
        "application/x-httpd-cgi",
        "application/x-httpd-php",
        "server-status",
        "proxy:http://127.0.0.1/",
        "httpd/send-as-is",
    ] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nLocation: /static.txt\r\nContent-Length: 4\r\n\r\nbody");
        let response = server.get("app", &raw(&head));
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "body"),
            "{kind}"
        );
        assert_eq!(response.header("content-type"), Some(kind));
        assert_eq!(response.header("location"), Some("/static.txt"));
    }
    let head = "HTTP/1.1 302 Found\r\nLocation: /static.txt\r\nContent-Length: 0\r\n\r\n";
    let response = server.get("app", &raw(head));
    assert_eq!(
        (response.status, response.header("location")),
        (302, Some("/static.txt"))
    );
}

#[test]
pub(crate) fn several_cookies_stay_several() {
    for (language, source) in [
        (Language::Ruby, "run ->(env) { [200, {'set-cookie' => ['a=1', 'b=2; Path=/']}, ['x']] }"),
        (Language::Python, "def application(e, s):\n    s('200 OK', [('Set-Cookie', 'a=1'), ('Set-Cookie', 'b=2; Path=/')])\n    return [b'x']\n"),
        (Language::Node, "require('http').createServer((q, s) => { s.setHeader('Set-Cookie', ['a=1', 'b=2; Path=/']); s.end('x') }).listen(3000)"),
    ] {
        let server = Setup::of(Site::new("app", App::inline(language, source))).start();
        let response = server.get("app", "/");
        let cookies: Vec<&str> = response.headers.iter().filter(|(n, _)| n == "set-cookie").map(|(_, v)| v.as_str()).collect();
        assert_eq!(cookies, ["a=1", "b=2; Path=/"], "{language:?}");
    }
}

/// CVE-2023-38709, CVE-2020-5247: a line break in a value that an app took from its user.
#[test]
pub(crate) fn a_line_break_in_an_apps_header_never_reaches_a_client() {
    let python = "def application(e, s):\n    s('200 OK', [('X-A', 'a\\r\\nSet-Cookie: evil=1'), ('Content-Type', 'text/plain')])\n    return [b'x']\n";
    let reason = "def application(e, s):\n    s('200 OK\\r\\nSet-Cookie: evil=1', [('Content-Type', 'text/plain')])\n    return [b'x']\n";
    let name = "def application(e, s):\n    s('200 OK', [('X-A: b\\r\\nSet-Cookie', 'evil=1')])\n    return [b'x']\n";
    for source in [python, reason, name] {
        let server = Setup::of(Site::new("app", App::inline(Language::Python, source))).start();
        let answer = whole_answer(&server, "/");
        assert!(!answer.contains("evil"), "{answer}");
    }
}
