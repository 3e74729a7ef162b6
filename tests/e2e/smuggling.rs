//! Requests that mean one thing to httpd and another to whoever reads them next. The rule that every test here holds
//! to: what an app executed is what httpd's access log says, request by request.

use crate::headers::conversation;
use crate::modules::{load, MPMS};
use harness::wait::PATIENCE;
use harness::{App, Language, Mpm, Request, Server, Setup, Site};
use std::process::Command;
use std::time::{Duration, Instant};

/// Notes `METHOD TARGET` of each request, and answers with its body.
const NODE: &str = "require('http').createServer((q, s) => {
  require('fs').appendFileSync('seen', `${q.method} ${q.url}\\n`);
  const all = [];
  q.on('data', d => all.push(d)).on('end', () => s.end(Buffer.concat(all)));
}).listen(3000);
";

const PYTHON: &str = "def application(env, start_response):
    with open('seen', 'a') as file:
        file.write(env['REQUEST_METHOD'] + ' ' + env['REQUEST_URI'] + '\\n')
    start_response('200 OK', [])
    return [env['wsgi.input'].read()]
";

const APPS: [(Language, &str); 2] = [(Language::Node, NODE), (Language::Python, PYTHON)];

/// One process, so that whatever is left on its connections meets the next request.
fn setup((language, source): (Language, &str), buffering: &str) -> Setup {
    let site = Site::new("app", App::inline(language, source))
        .with(&format!("PassengerBufferUpload {buffering}"))
        .with("PassengerMaxInstances 1");
    Setup::of(site)
        .with("CustomLog access.log %r")
        .with("KeepAliveTimeout 200ms\nTimeout 5")
}

/// What the app saw, and what httpd did, as `METHOD TARGET`, sorted.
fn seen_and_served(server: &Server) -> (Vec<String>, Vec<String>) {
    let seen = std::fs::read_to_string(server.app_root("app").join("seen")).unwrap_or_default();
    let log = std::fs::read_to_string(server.root().join("access.log")).unwrap_or_default();
    let mut seen: Vec<String> = seen.lines().map(str::to_owned).collect();
    let request = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let mut served: Vec<String> = log.lines().map(request).collect();
    seen.sort();
    served.sort();
    (seen, served)
}

/// Fails if the app executed what httpd knows nothing of.
fn assert_nothing_was_smuggled(server: &Server, what: &str) {
    // httpd logs a request when its response is out.
    let deadline = Instant::now() + PATIENCE;
    while let Some(request) = unknown_to_httpd(server) {
        assert!(
            Instant::now() < deadline,
            "{what}: the app executed {request:?}; httpd knows of {:?}",
            seen_and_served(server).1
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the app executed more often than httpd did.
fn unknown_to_httpd(server: &Server) -> Option<String> {
    let (seen, mut served) = seen_and_served(server);
    seen.into_iter().find(|request| {
        let at = served.iter().position(|other| other == request);
        at.map(|at| served.swap_remove(at)).is_none()
    })
}

/// A request whose framing says two things, and what would be smuggled by it.
fn ambiguous() -> Vec<String> {
    const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: app\r\nX: ";
    let chunked = format!("0\r\n\r\n{HIDDEN}");
    let transfer_codings = [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding:chunked\r\n ",
        "Transfer-Encoding\r\n : chunked",
        " Transfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding: CHUNKED",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: gzip, chunked",
    ];
    let lengths = [
        "Content-Length: 6\r\nContent-Length: 5",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 5 6",
        "Content-Length: -1",
        "Content-Length : 5",
        "Content-Length: 5\r\n 6",
        "Content_Length: 5",
        "Content-Length: 99999999999999999999999",
    ];
    let chunks = [
        "1;a=b\r\nx\r\n0\r\n\r\n",
        "1\nx\n0\n\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "1 \r\nx\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF1\r\nx\r\n0\r\n\r\n",
        "0\r\nTrailer: 1\r\nContent-Length: 50\r\n\r\n",
        "0;\rGET /hidden HTTP/1.1\r\n\r\n",
        "\r\n0\r\n\r\n",
    ];
    let head = "POST /ambiguous HTTP/1.1\r\nHost: app\r\n";
    let both = transfer_codings
        .iter()
        .map(|coding| format!("{head}Content-Length: 6\r\n{coding}\r\n\r\n{chunked}"));
    let alone = transfer_codings
        .iter()
        .map(|coding| format!("{head}{coding}\r\n\r\n{chunked}"));
    let lengths = lengths
        .iter()
        .map(|length| format!("{head}{length}\r\n\r\nabcde{HIDDEN}"));
    let chunks = chunks
        .iter()
        .map(|body| format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}{HIDDEN}"));
    // A body where there is none by custom.
    let get = format!("GET /get HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\nabcde{HIDDEN}");
    let old =
        format!("POST /old HTTP/1.0\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
    both.chain(alone)
        .chain(lengths)
        .chain(chunks)
        .chain([get, old])
        .map(|text| text + "y\r\n\r\n")
        .collect()
}

/// CVE-2022-36760 and what other servers had of the kind (Puma's CVE-2020-11076, CVE-2020-11077, CVE-2022-24790,
/// gunicorn's CVE-2024-6827): two lengths, two codings, names and lines that are nearly right.
#[test]
fn an_app_executes_what_httpd_knows_of_and_nothing_else() {
    for (app, buffering) in APPS.into_iter().zip(["on", "off"]).chain(
        // The other way round.
        APPS.into_iter().zip(["off", "on"]),
    ) {
        for mpm in MPMS {
            let server = setup(app, buffering).mpm(mpm).start();
            for bytes in ambiguous() {
                let answer = conversation(&server, &bytes);
                assert!(
                    answer.starts_with("HTTP/1.1 ") || answer.is_empty(),
                    "{bytes:?}: {answer}"
                );
            }
            assert_eq!(server.post("app", "/after", b"body").ok(), "body");
            assert_nothing_was_smuggled(&server, &format!("{:?} {mpm:?} {buffering}", app.0));
        }
    }
}

/// The same from a client whose httpd is told to be lenient (`HttpProtocolOptions Unsafe`).
#[test]
pub(crate) fn nothing_is_smuggled_where_httpd_is_lenient_either() {
    for app in APPS {
        let server = setup(app, "off")
            .with("HttpProtocolOptions Unsafe LenientMethods Allow0.9")
            .start();
        let lines = [
            "GET /a b HTTP/1.1",
            "GET /a\tb HTTP/1.1",
            "GET /a\x0bb HTTP/1.1",
            "GET /a\rX HTTP/1.1",
            "GET\t/tab HTTP/1.1",
            "G(T /paren HTTP/1.1",
            "GET /a HTTP/1.1\rX: y",
            "GET /gr\u{fc} HTTP/1.1",
            "GET http://app/absolute path HTTP/1.1",
        ];
        for line in lines {
            conversation(
                &server,
                &format!("{line}\r\nHost: app\r\nConnection: close\r\n\r\n"),
            );
        }
        for bytes in ambiguous() {
            conversation(&server, &bytes);
        }
        assert_eq!(server.post("app", "/after", b"body").ok(), "body");
        let (seen, served) = seen_and_served(&server);
        let hides = |lines: &[String]| lines.iter().any(|line| line.contains("/hidden"));
        assert!(!hides(&seen) || hides(&served), "{:?}: {seen:?}", app.0);
        // Each line is one request with a target of one word.
        assert!(
            seen.iter().all(|line| line.split(' ').count() == 2),
            "{:?}: {seen:?}",
            app.0
        );
    }
}

/// A body that is as long as its Content-Length only until httpd unpacks it: what is more would be the app's next
/// request, past httpd's access rules.
#[test]
fn an_unpacked_body_hides_no_request() {
    let packed = Command::new("python3")
        .args(["-c", PACK])
        .output()
        .expect("run python3");
    assert!(packed.status.success(), "{packed:?}");
    let length = packed.stdout.len();
    for app in APPS {
        for buffering in ["on", "off"] {
            for mpm in MPMS {
                let setup = setup(app, buffering).with("SetInputFilter DEFLATE");
                let server = load(setup, &["filter", "deflate"]).mpm(mpm).start();
                let request =
                    Request::post("/upload", &packed.stdout).header("Content-Encoding", "gzip");
                let echo = server.request("app", &request);
                let text = echo.text();
                assert_eq!(echo.status, 200, "{:?} {mpm:?} {buffering}", app.0);
                assert!(
                    text.len() > length && text[length..].starts_with("GET /hidden"),
                    "{:?} {mpm:?} {buffering}: {} bytes of {length}",
                    app.0,
                    text.len()
                );
                assert_eq!(server.post("app", "/after", b"body").ok(), "body");
                assert_nothing_was_smuggled(&server, &format!("{:?} {buffering}", app.0));
            }
        }
    }
}

/// A gzip stream that unpacks to as many letters as it has bytes, and then a request.
const PACK: &str = r"
import gzip, sys
hidden = b'GET /hidden HTTP/1.1\r\nHost: app\r\nX: ' + b'y' * 500 + b'\r\n\r\n'
for n in range(60, 400):
    packed = gzip.compress(b'A' * n + hidden, mtime=0)
    if len(packed) == n:
        sys.stdout.buffer.write(packed)
        break
else:
    sys.exit('no such length')
";

/// Whatever else changes a body's length on its way: the request is refused, and the app does not take the rest for
/// another one.
#[test]
fn a_body_that_becomes_longer_on_its_way_is_refused() {
    for mpm in MPMS {
        let setup = setup(APPS[0], "off")
            .with("ExtFilterDefine twice mode=input cmd=\"/bin/sed s/x/xx/g\"")
            .with("SetInputFilter twice");
        let server = load(setup, &["ext_filter"]).mpm(mpm).start();
        let refused = server.post("app", "/upload", &[b'x'; 100_000]);
        assert_eq!(refused.status, 400, "{mpm:?}");
        assert_eq!(server.post("app", "/after", b"body").ok(), "body");
        assert_nothing_was_smuggled(&server, "ext_filter");
    }
}

/// Heads that are too much of everything.
#[test]
fn heads_without_measure_are_refused_and_harm_nobody() {
    for mpm in MPMS {
        let server = setup(APPS[0], "on").mpm(mpm).start();
        let get = "GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n";
        let many = "X: y\r\n".repeat(10_000);
        let long = format!("X: {}\r\n", "y".repeat(100_000));
        let name = format!("{}: y\r\n", "X".repeat(100_000));
        let target = format!("GET /{} HTTP/1.1\r\nHost: app\r\n", "a".repeat(100_000));
        let folded = format!("X: a\r\n{}", " b\r\n".repeat(10_000));
        for (what, bytes) in [
            ("10 000 fields", format!("{get}{many}\r\n")),
            ("a field of 100 000 bytes", format!("{get}{long}\r\n")),
            ("a name of 100 000 bytes", format!("{get}{name}\r\n")),
            ("a target of 100 000 bytes", format!("{target}\r\n")),
            ("10 000 folded lines", format!("{get}{folded}\r\n")),
            ("a NUL in a value", format!("{get}X: a\0b\r\n\r\n")),
            ("a NUL in a name", format!("{get}X\0Y: a\r\n\r\n")),
            ("no colon", format!("{get}nonsense\r\n\r\n")),
        ] {
            let answer = conversation(&server, &bytes);
            assert!(
                answer.starts_with("HTTP/1.1 4") || answer.is_empty(),
                "{mpm:?} {what}: {}",
                answer.lines().next().unwrap_or_default()
            );
        }
        assert_eq!(server.post("app", "/after", b"body").ok(), "body");
        assert_nothing_was_smuggled(&server, "heads");
        let (seen, _) = seen_and_served(&server);
        assert_eq!(seen, ["POST /after"], "{mpm:?}");
    }
}

/// A value that a client folded over lines is one value without a line break to the app.
#[test]
pub(crate) fn folded_fields_and_bare_line_feeds_cannot_make_fields() {
    for language in Language::ALL {
        let server = Setup::of(crate::environment::site(language)).start();
        let told = conversation(
            &server,
            "GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\nX-Folded: one\r\n\tX-Made: two\r\n\r\n",
        );
        let names = ["x-made=", "HTTP_X_MADE="];
        assert!(
            !names.iter().any(|name| told.contains(&format!("\n{name}"))),
            "{language:?}: {told}"
        );
        assert!(
            told.contains("=one") && told.contains("X-Made: two"),
            "{language:?}: {told}"
        );
    }
}

/// HTTP/0.9 has neither head nor length: the answer is the body and the end.
#[test]
fn a_client_of_http_0_9_gets_the_body_alone() {
    for mpm in MPMS {
        let server = Setup::of(Site::probe(Language::Python)).mpm(mpm).start();
        assert_eq!(conversation(&server, "GET /\r\n"), "hello from python\n");
    }
}

/// S-15: after a framing error nothing that follows is a request.
#[test]
fn after_a_broken_chunk_the_connection_ends() {
    for (buffering, mpm) in [
        ("on", Mpm::Event),
        ("off", Mpm::Event),
        ("off", Mpm::Prefork),
    ] {
        let server = setup(APPS[0], buffering).mpm(mpm).start();
        let answer = conversation(
            &server,
            "POST /broken HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n\
             GET /hidden HTTP/1.1\r\nHost: app\r\n\r\n",
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        // An unknown coding, and nobody it is for.
        let answer = conversation(
            &server,
            "POST /broken HTTP/1.1\r\nTransfer-Encoding: unknown\r\n\r\nGET /hidden HTTP/1.1\r\nHost: app\r\n\r\n",
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        let (seen, _) = seen_and_served(&server);
        assert!(!seen.iter().any(|line| line.contains("hidden")), "{seen:?}");
    }
}
