//! Apps that die while they answer: what may be sent again, and what a client sees of a response that was
//! broken off.

use crate::clients::{with_h2, with_tls, Program};
use harness::wait::PATIENCE;
use harness::{processes, until, App, Language, Mpm, Request, Server, Setup, Site};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Counts executions in a file, then dies: `/always`, `/once` (the first time), `/hinted` (after an interim
/// response), `/in-head` (within the response's head), `/length` and `/chunked` (within the body, when `gate` is
/// there).
const NODE: &str = r"
const fs = require('fs');
const die = () => process.kill(process.pid, 'SIGKILL');
const dieAtGate = () => (fs.existsSync('gate') ? die() : setTimeout(dieAtGate, 5));
require('http').createServer((request, response) => {
  request.on('data', () => {}).on('end', () => {
    fs.appendFileSync('executions', 'x');
    const count = fs.statSync('executions').size;
    switch (request.url) {
      case '/always': return die();
      case '/once': return count === 1 ? die() : response.end('second');
      case '/hinted': return response.writeEarlyHints({ link: '</a.css>; rel=preload' }, () => setTimeout(die, 50));
      case '/in-head': return response.socket.write('HTTP/1.1 200 O', () => setTimeout(die, 50));
      case '/length': response.setHeader('Content-Length', 100); // falls through
      default: response.write('0123456789'); return dieAtGate();
    }
  });
}).listen(3000);
";

const PYTHON: &str = r"
import os, signal, time

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def application(env, start_response):
    env['wsgi.input'].read()
    with open('executions', 'a') as file:
        file.write('x')
    path, count = env['PATH_INFO'], os.path.getsize('executions')
    if path == '/always' or path == '/once' and count == 1:
        die()
    if path == '/once':
        start_response('200 OK', [])
        return [b'second']
    start_response('200 OK', [('Content-Length', '100')] if path == '/length' else [])
    return dying()

def dying():
    yield b'0123456789'
    while not os.path.exists('gate'):
        time.sleep(0.005)
    die()
";

/// One app per protocol.
const APPS: [(Language, &str); 2] = [(Language::Node, NODE), (Language::Python, PYTHON)];

fn server(mpm: Mpm, (language, source): (Language, &str)) -> Server {
    let site = Site::new("app", App::inline(language, source));
    Setup::default().mpm(mpm).site(site).start()
}

fn executions(server: &Server) -> usize {
    let file = server.app_root("app").join("executions");
    fs::read(file).map_or(0, |bytes| bytes.len())
}

#[test]
pub(crate) fn a_get_that_killed_its_process_is_sent_once_more() {
    for app in APPS {
        let server = server(Mpm::Event, app);
        assert_eq!(server.get("app", "/once").ok(), "second");
        assert_eq!(executions(&server), 2, "{:?}", app.0);
    }
}

#[test]
pub(crate) fn a_get_that_kills_every_process_is_given_up_after_the_second() {
    for app in APPS {
        let server = server(Mpm::Event, app);
        assert_eq!(server.get("app", "/always").status, 502);
        assert_eq!(executions(&server), 2, "{:?}", app.0);
    }
}

#[test]
pub(crate) fn a_post_that_may_have_run_is_never_sent_again() {
    for app in APPS {
        for body in [&b""[..], b"body"] {
            let server = server(Mpm::Event, app);
            assert_eq!(server.post("app", "/always", body).status, 502);
            assert_eq!(executions(&server), 1, "{:?} {body:?}", app.0);
        }
    }
}

#[test]
pub(crate) fn a_put_is_sent_again_with_its_body_if_that_was_kept() {
    for app in APPS {
        let server = server(Mpm::Event, app);
        let put = Request::new("PUT", "/always").header("Content-Length", "0");
        assert_eq!(server.request("app", &put).status, 502);
        assert_eq!(executions(&server), 2, "{:?}", app.0);
    }
    for (language, source) in APPS {
        let site =
            Site::new("app", App::inline(language, source)).with("PassengerBufferUpload off");
        let server = Setup::of(site).start();
        let mut client = server.client("app");
        client
            .send(&Request::new("PUT", "/always").header("Content-Length", "4"))
            .expect("send the head");
        client.send_bytes(b"body").expect("send the body");
        assert_eq!(client.response().expect("a response").status, 502);
        assert_eq!(
            executions(&server),
            1,
            "{language:?}: the body was not kept"
        );
    }
}

#[test]
pub(crate) fn a_request_of_which_a_byte_was_answered_is_never_sent_again() {
    for target in ["/hinted", "/in-head"] {
        let server = server(Mpm::Event, APPS[0]);
        assert_eq!(server.get("app", target).status, 502, "{target}");
        assert_eq!(executions(&server), 1, "{target}");
    }
}

#[test]
fn a_response_whose_app_died_looks_cut_and_not_complete() {
    for mpm in Mpm::ALL {
        for app in APPS {
            for target in ["/length", "/chunked"] {
                let server = server(mpm, app);
                let mut client = server.client("app");
                client
                    .send(&Request::get(target))
                    .expect("send the request");
                client.response_head().expect("the head");
                assert_eq!(client.body_piece().expect("the first piece"), b"0123456789");
                server.touch("app", "gate");
                let end = client.body_piece().expect_err("the response is cut");
                assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof, "{mpm:?} {target}");
                assert_eq!(executions(&server), 1);
            }
        }
    }
}

/// HTTP/1.0 without a length: the connection's end would be taken for the response's, so it is no orderly end.
#[test]
fn a_client_of_http_1_0_sees_that_its_response_was_cut() {
    for mpm in Mpm::ALL {
        for app in APPS {
            let server = server(mpm, app);
            let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connect");
            stream
                .set_read_timeout(Some(PATIENCE))
                .expect("a time limit");
            stream
                .write_all(b"GET /chunked HTTP/1.0\r\nHost: app\r\n\r\n")
                .expect("send the request");
            let mut seen = Vec::new();
            while !seen.ends_with(b"0123456789") {
                let mut piece = [0; 1024];
                let n = stream.read(&mut piece).expect("the first piece");
                assert!(n > 0, "{mpm:?}: ended early");
                seen.extend_from_slice(&piece[..n]);
            }
            server.touch("app", "gate");
            let end = stream.read(&mut [0; 1024]).map_err(|e| e.kind());
            assert_eq!(
                end,
                Err(io::ErrorKind::ConnectionReset),
                "{mpm:?} {:?}",
                app.0
            );
            assert_eq!(executions(&server), 1);
        }
    }
}

/// The same over TLS, where an orderly end is a message of its own (`s_client` fails without it).
#[test]
fn a_tls_client_sees_that_its_response_was_cut() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        for version in ["1.0", "1.1"] {
            let site = Site::new("app", App::inline(Language::Node, NODE));
            let server = with_tls(Setup::default().mpm(mpm), site).start();
            let mut client = Program::tls(&server, "app");
            let request = format!("GET /chunked HTTP/{version}\r\nHost: app\r\n\r\n");
            client.send(request.as_bytes());
            assert!(client.head().contains(" 200 "), "{mpm:?} {version}");
            if version == "1.1" {
                assert_eq!(client.line(), "a", "the chunk's length");
            }
            assert_eq!(client.bytes_of(10), b"0123456789");
            server.touch("app", "gate");
            let (rest, is_content) = client.rest();
            if version == "1.1" {
                assert_eq!(rest, b"\r\n", "{mpm:?}: no last chunk");
            } else {
                assert_eq!((rest.as_slice(), is_content), (&b""[..], false), "{mpm:?}");
            }
        }
    }
}

#[test]
fn an_h2_client_sees_that_its_response_was_cut() {
    for target in ["/length", "/chunked"] {
        let site = Site::new("app", App::inline(Language::Node, NODE));
        let server = with_h2(Setup::of(site)).start();
        let mut client = Program::h2(&server, "app", target);
        assert_eq!(client.bytes_of(10), b"0123456789");
        server.touch("app", "gate");
        let (rest, is_content) = client.rest();
        assert_eq!((rest.as_slice(), is_content), (&b""[..], false), "{target}");
    }
}

/// What a process that is dead, or dies before it reads, was sent goes to another one, whatever the method.
#[test]
fn a_post_that_was_never_read_is_sent_to_another_process() {
    for app in APPS {
        for mpm in [Mpm::Event, Mpm::Prefork] {
            let server = server(mpm, app);
            let posted = |body: &[u8]| server.post("app", "/once", body);
            // The first execution of all is the one that dies.
            assert_eq!(server.get("app", "/once").ok(), "second");
            let mut count = executions(&server);
            // Dead, with a connection that was kept alive.
            for body in [&b""[..], b"body", &[b'x'; 300_000]] {
                for pid in server.app_pids("app") {
                    processes::signal(pid, Signal::SIGKILL);
                    // Of one that is dying nobody knows how much of a body it has read. Its connections are closed
                    // by the last of its threads.
                    until("it to be dead", PATIENCE, || {
                        let threads = fs::read_dir(format!("/proc/{pid}/task"));
                        !processes::is_alive(pid) && threads.map_or(0, Iterator::count) <= 1
                    });
                }
                assert_eq!(posted(body).ok(), "second", "{:?} {mpm:?}", app.0);
                count += 1;
                assert_eq!(executions(&server), count, "{:?} {mpm:?}", app.0);
            }
            // Stopped: it has the request, and has not read it when it dies.
            let pids = server.app_pids("app");
            for pid in &pids {
                processes::signal(*pid, Signal::SIGSTOP);
            }
            let mut client = server.client("app");
            client
                .send(&Request::post("/once", b""))
                .expect("send the request");
            // Whether it has got there by now or not: either way nobody has read it.
            for pid in &pids {
                processes::signal(*pid, Signal::SIGKILL);
            }
            assert_eq!(client.response().expect("a response").ok(), "second");
            assert_eq!(executions(&server), count + 1, "{:?} {mpm:?}", app.0);
        }
    }
}
