//! What a client's request may do: bodies of every kind, refusals, clients that leave, a full disk.

use crate::environment::{self, Told};
use crate::modules::{load, MPMS};
use harness::{App, Language, Mpm, Request, Server, Setup, Site};
use nix::unistd::Uid;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A connection that reads and writes bytes as they are.
fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connect");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("set a limit");
    stream
}

/// The next line that the server says.
fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}

fn probes(mpm: Mpm, directives: &[&str]) -> Server {
    Language::ALL
        .iter()
        .fold(Setup::default().mpm(mpm), |setup, language| {
            let site = directives
                .iter()
                .fold(Site::probe(*language), |site, d| site.with(d));
            setup.site(site)
        })
        .start()
}

#[test]
fn chunked_bodies_arrive_whole_buffered_or_not() {
    for buffering in ["on", "off"] {
        for mpm in MPMS {
            let server = probes(mpm, &[&format!("PassengerBufferUpload {buffering}")]);
            for language in Language::ALL {
                let mut client = server.client(language.name());
                for _ in 0..2 {
                    let head = Request::new("POST", "/echo").header("Transfer-Encoding", "chunked");
                    client.send(&head).expect("send the head");
                    client
                        .send_bytes(b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n")
                        .expect("send the body");
                    assert_eq!(
                        client.response().expect("a response").ok(),
                        "hello world",
                        "{language:?} {buffering}"
                    );
                    let posted = Request::post("/echo", b"sized");
                    assert_eq!(
                        client.exchange(&posted).expect("a response").ok(),
                        "sized",
                        "{language:?} {buffering}"
                    );
                }
            }
        }
    }
}

#[test]
pub(crate) fn empty_bodies_are_told_from_none() {
    for language in [Language::Ruby, Language::Python] {
        let server = Setup::of(environment::site(language)).start();
        assert_eq!(
            server.post("app", "/", b"").told("CONTENT_LENGTH"),
            Some("0".into())
        );
        assert_eq!(server.get("app", "/").told("CONTENT_LENGTH"), None);
        let mut client = server.client("app");
        client
            .send(&Request::new("PUT", "/").header("Transfer-Encoding", "chunked"))
            .expect("send");
        client.send_bytes(b"0\r\n\r\n").expect("send the end");
        let chunked = client.response().expect("a response");
        assert_eq!(
            chunked.told("CONTENT_LENGTH"),
            Some("0".into()),
            "{language:?}"
        );
        assert_eq!(
            client
                .exchange(&Request::get("/"))
                .expect("a response")
                .told("REQUEST_METHOD"),
            Some("GET".into())
        );
    }
    let node = Setup::of(environment::site(Language::Node)).start();
    assert_eq!(
        node.post("app", "/", b"").told("content-length"),
        Some("0".into())
    );
    assert_eq!(node.get("app", "/").told("content-length"), None);
}

#[test]
fn a_client_that_waits_for_100_gets_it_or_its_refusal() {
    let denied = "<Location /denied>\nRequire all denied\n</Location>";
    for buffering in ["on", "off"] {
        for mpm in MPMS {
            let server = probes(
                mpm,
                &[
                    denied,
                    "LimitRequestBody 1000",
                    &format!("PassengerBufferUpload {buffering}"),
                ],
            );
            for language in Language::ALL {
                let name = language.name();
                let ask = |target: &str, length: usize| {
                    let mut stream = BufReader::new(connect(&server));
                    let head = format!(
                        "POST {target} HTTP/1.1\r\nHost: {name}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
                    );
                    stream
                        .get_mut()
                        .write_all(head.as_bytes())
                        .expect("send the head");
                    let answer = line(&mut stream);
                    (stream, answer)
                };
                let (mut stream, answer) = ask("/echo", 5);
                assert_eq!(answer, "HTTP/1.1 100 Continue", "{name} {buffering}");
                stream.get_mut().write_all(b"hello").expect("send the body");
                let mut rest = String::new();
                stream.read_to_string(&mut rest).expect("the response");
                assert!(
                    rest.contains("HTTP/1.1 200 OK") && rest.ends_with("hello"),
                    "{name} {buffering}: {rest}"
                );
                assert_eq!(
                    rest.matches("HTTP/1.1").count(),
                    1,
                    "{name} {buffering}: {rest}"
                );
                assert!(ask("/denied", 5).1.contains(" 403 "));
                assert!(ask("/echo", 5000).1.contains(" 413 "));
            }
        }
    }
}

/// Sends a head and 20 MB of body while nobody reads, then says how the answer began.
fn answer_while_sending(server: &Server, target: &str, framing: &str) -> String {
    let mut reader = BufReader::new(connect(server));
    let mut writer = reader.get_ref().try_clone().expect("a second handle");
    let head = format!("POST {target} HTTP/1.1\r\nHost: app\r\n{framing}\r\n\r\n");
    let is_chunked = framing.contains("chunked");
    let sender = std::thread::spawn(move || {
        let piece = vec![b'x'; 64 * 1024];
        let sent = writer.write_all(head.as_bytes());
        for _ in 0..320 {
            let length = if is_chunked {
                format!("{:x}\r\n", piece.len())
            } else {
                String::new()
            };
            let end: &[u8] = if is_chunked { b"\r\n" } else { b"" };
            // The server may stop reading at any time: that is what this is about.
            if sent.is_err()
                || writer
                    .write_all(&[length.as_bytes(), &piece, end].concat())
                    .is_err()
            {
                return;
            }
        }
        if is_chunked {
            let _ = writer.write_all(b"0\r\n\r\n");
        }
    });
    let answer = line(&mut reader);
    sender.join().expect("the sender does not panic");
    answer
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let site = Site::new("app", App::probe(Language::Python)).with(
        "<Location /limited>\nLimitRequestBody 1000\n</Location>\n\
         <Location /in>\nAuthType Basic\nAuthName x\nAuthBasicProvider anon\nAnonymous nobody\nRequire valid-user\n</Location>",
    );
    let setup = load(
        Setup::of(site),
        &["auth_basic", "authn_core", "authn_anon", "authz_user"],
    );
    for mpm in MPMS {
        let server = setup.clone().mpm(mpm).start();
        for framing in ["Content-Length: 20971520", "Transfer-Encoding: chunked"] {
            assert!(
                answer_while_sending(&server, "/limited", framing).contains(" 413 "),
                "{framing}"
            );
            assert!(
                answer_while_sending(&server, "/in", framing).contains(" 401 "),
                "{framing}"
            );
        }
        assert_eq!(
            server.app_pids("app"),
            [0; 0],
            "a refused upload started the app"
        );
    }
}

#[test]
fn an_app_may_refuse_an_upload_it_does_not_want() {
    let app = App::inline(
        Language::Node,
        "require('http').createServer((q, s) => { s.statusCode = q.method === 'POST' ? 413 : 200; s.end('x') }).listen(3000)",
    );
    let site = Site::new("app", app).with("PassengerBufferUpload off");
    for mpm in MPMS {
        let server = Setup::of(site.clone())
            .with("PassengerMaxPoolSize 1")
            .mpm(mpm)
            .start();
        for framing in ["Content-Length: 20971520", "Transfer-Encoding: chunked"] {
            assert!(
                answer_while_sending(&server, "/", framing).contains(" 413 "),
                "{framing}"
            );
        }
        assert_eq!(server.get("app", "/").ok(), "x");
    }
}

/// An app that takes five bytes, says so by a file, and then the rest.
fn taking(language: Language) -> App {
    let source = match language {
        Language::Ruby => unreachable!("see the test"),
        Language::Python => {
            "def application(e, s):\n    first = e['wsgi.input'].read(5)\n    open('first', 'wb').write(first)\n    \
             s('200 OK', [])\n    return [first + e['wsgi.input'].read()]\n"
        }
        Language::Node => {
            "require('http').createServer((q, s) => {\n  let all = '';\n  \
             q.on('data', d => { if (!all) require('fs').writeFileSync('first', d); all += d; });\n  \
             q.on('end', () => s.end(all));\n}).listen(3000);\n"
        }
    };
    App::inline(language, source)
}

#[test]
fn an_unbuffered_upload_reaches_the_app_while_it_is_sent() {
    // Rack 2 wants a body that can be rewound, so its adapter reads all of it first.
    for language in [Language::Python, Language::Node] {
        for mpm in MPMS {
            let site = Site::new("app", taking(language)).with("PassengerBufferUpload off");
            let server = Setup::of(site).mpm(mpm).start();
            let mut client = server.client("app");
            client
                .send(&Request::new("POST", "/").header("Content-Length", "10"))
                .expect("send the head");
            client.send_bytes(b"first").expect("send the first half");
            // The second half is not sent before the app has the first.
            server.await_file("app", "first");
            client.send_bytes(b"other").expect("send the second half");
            assert_eq!(
                client.response().expect("a response").ok(),
                "firstother",
                "{language:?}"
            );
        }
    }
}

#[test]
fn uploads_in_progress_occupy_no_app() {
    for mpm in MPMS {
        let server = Setup::of(Site::new("app", App::probe(Language::Python)))
            .with("PassengerMaxPoolSize 1")
            .mpm(mpm)
            .start();
        let mut slow: Vec<_> = (0..5).map(|_| server.client("app")).collect();
        for client in &mut slow {
            client
                .send(&Request::new("POST", "/echo").header("Content-Length", "10"))
                .expect("send the head");
            client.send_bytes(b"first").expect("send half a body");
        }
        assert_eq!(server.get("app", "/").ok(), "hello from python\n");
        for client in &mut slow {
            client.send_bytes(b"other").expect("send the rest");
            assert_eq!(client.response().expect("a response").ok(), "firstother");
        }
    }
}

#[test]
fn a_client_that_vanishes_while_it_uploads_disturbs_nobody() {
    for (buffering, mpm) in [
        ("on", Mpm::Event),
        ("on", Mpm::Prefork),
        ("off", Mpm::Event),
        ("off", Mpm::Prefork),
    ] {
        let site = Site::new("app", App::probe(Language::Python))
            .with(&format!("PassengerBufferUpload {buffering}"));
        let server = Setup::of(site)
            .with("PassengerMaxPoolSize 1")
            .mpm(mpm)
            .start();
        for framing in [
            ("Content-Length", "1000000"),
            ("Transfer-Encoding", "chunked"),
        ] {
            let mut client = server.client("app");
            let target = if buffering == "on" {
                "/note?gone"
            } else {
                "/echo"
            };
            client
                .send(&Request::new("POST", target).header(framing.0, framing.1))
                .expect("send the head");
            client.send_bytes(b"5\r\nhello\r\n").expect("send a little");
            client.abort();
        }
        assert_eq!(server.get("app", "/note?after").ok(), "after\n");
        let log = std::fs::read_to_string(server.app_root("app").join("requests.log"))
            .expect("read the app's log");
        assert_eq!(
            log, "begin after\nend after\n",
            "an upload nobody finished reached the app"
        );
    }
}

/// A file system of one megabyte, mounted while this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None without root.
    fn new() -> Option<SmallDisk> {
        if !Uid::effective().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        let at = std::env::temp_dir().join(format!("psgr-disk-{}", std::process::id()));
        std::fs::create_dir_all(&at).expect("create a mount point");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=1m,mode=1777", "tmpfs"])
            .arg(&at);
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(SmallDisk(at));
        }
        eprintln!("skipped: cannot mount a tmpfs");
        let _ = std::fs::remove_dir(&at);
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_full_disk_is_a_507_and_the_app_is_not_touched() {
    let Some(disk) = SmallDisk::new() else { return };
    for mpm in MPMS {
        let server = Setup::of(Site::new("app", App::probe(Language::Python)))
            .with(&format!("PassengerDataBufferDir {}", disk.0.display()))
            .mpm(mpm)
            .start();
        let refused = server.post("app", "/echo", &vec![b'x'; 5 << 20]);
        assert_eq!(refused.status, 507);
        server.log().expect("PSGR0203");
        server.log().expect("PassengerDataBufferDir");
        assert_eq!(server.app_pids("app"), [0; 0], "the app was started");
        assert_eq!(
            server.post("app", "/echo", &vec![b'x'; 500_000]).body.len(),
            500_000
        );
        assert_eq!(server.get("app", "/").ok(), "hello from python\n");
    }
}
