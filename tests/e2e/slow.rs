//! Slow clients, and clients that go away: what they may and may not occupy.
//!
//! Loopback sockets swallow a few megabytes, so a response counts as large from [`LARGE`] on.

use crate::clients::{resident_kib, with_h2, with_tls, Program};
use harness::wait::PATIENCE;
use harness::{until, App, Language, Mpm, Request, Server, Setup, Site};

/// Bytes of a response that no socket buffer holds.
pub(crate) const LARGE: usize = 16 << 20;

/// Writes `/big?BYTES` in pieces; `/stream` waits for a file between two pieces; `/compute` notes in files that it
/// began, and that nobody waits for it any more.
pub(crate) const APP: &str = r"
const fs = require('fs');
const http = require('http');
const piece = Buffer.alloc(65536, '0123456789abcdef');

function big(response, left) {
  while (left > 0) {
    const next = left < piece.length ? piece.subarray(0, left) : piece;
    left -= next.length;
    if (!response.write(next)) return response.once('drain', () => big(response, left));
  }
  return response.end();
}

function compute(response) {
  fs.writeFileSync('begun', '');
  response.on('close', () => fs.writeFileSync(response.writableEnded ? 'answered' : 'noticed', ''));
}

function stream(response) {
  response.write('one\n');
  const look = () => (fs.existsSync('gate') ? response.end('two\n') : setTimeout(look, 5));
  look();
}

http.createServer((request, response) => {
  const [path, query] = request.url.split('?');
  if (path === '/big') return big(response, Number(query));
  if (path === '/compute') return compute(response);
  if (path === '/stream') return stream(response);
  return request.on('data', () => {}).on('end', () => response.end('small'));
}).listen(3000);
";

/// The same in an app that can do one thing at a time, so that being occupied shows.
const SINGLE: &str = r"
def application(env, start_response):
    if env['PATH_INFO'] != '/big':
        start_response('200 OK', [('Content-Length', '5')])
        return [b'small']
    length, *known = env['QUERY_STRING'].split('&')
    start_response('200 OK', [('Content-Length', length)] if known else [])
    return pieces(int(length))

def pieces(left):
    while left > 0:
        piece = (b'0123456789abcdef' * 4096)[:left]
        left -= len(piece)
        yield piece
";

pub(crate) fn site() -> Site {
    Site::new("slow", App::inline(Language::Node, APP))
}

/// An app with one process for one request at a time.
pub(crate) fn single() -> Site {
    Site::new("slow", App::inline(Language::Python, SINGLE))
}

pub(crate) fn one_process(mpm: Mpm) -> Setup {
    Setup::default().mpm(mpm).with("PassengerMaxPoolSize 1")
}

fn is_large_body(body: &[u8]) -> bool {
    body.len() == LARGE && body.chunks(16).all(|chunk| chunk == b"0123456789abcdef")
}

/// Five clients that asked for a large response and read no more than its head.
fn slow_readers(server: &Server) -> Vec<harness::Client> {
    (0..5)
        .map(|_| {
            let mut client = server.client("slow");
            client
                .send(&Request::get(&format!("/big?{LARGE}")))
                .expect("send the request");
            let (status, _) = client.response_head().expect("the head");
            assert_eq!(status, 200);
            client
        })
        .collect()
}

fn read_all(mut client: harness::Client) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let piece = client.body_piece().expect("the next piece");
        if piece.is_empty() {
            return body;
        }
        body.extend_from_slice(&piece);
    }
}

#[test]
fn a_slow_reader_occupies_no_process() {
    for mpm in Mpm::ALL {
        let server = one_process(mpm).site(single()).start();
        let readers = slow_readers(&server);
        assert_eq!(server.get("slow", "/").ok(), "small", "{mpm:?}");
        for reader in readers {
            assert!(is_large_body(&read_all(reader)), "{mpm:?}: not the body");
        }
    }
}

#[test]
fn a_slow_reader_occupies_no_thread_under_event() {
    let server = one_process(Mpm::Event)
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 3\nMaxRequestWorkers 3")
        .site(single())
        .start();
    // More of them than there are threads.
    let readers = slow_readers(&server);
    assert_eq!(server.get("slow", "/").ok(), "small");
    for reader in readers {
        assert!(is_large_body(&read_all(reader)), "not the body");
    }
}

#[test]
pub(crate) fn a_slow_reader_over_tls_occupies_no_process() {
    let server = with_tls(one_process(Mpm::Event), single()).start();
    let request =
        |target: &str| format!("GET {target} HTTP/1.1\r\nHost: slow\r\nConnection: close\r\n\r\n");
    let mut readers: Vec<_> = (0..3).map(|_| Program::tls(&server, "slow")).collect();
    for reader in &mut readers {
        reader.send(request(&format!("/big?{LARGE}")).as_bytes());
        assert_eq!(reader.head(), "HTTP/1.1 200 OK");
    }
    let mut quick = Program::tls(&server, "slow");
    quick.send(request("/").as_bytes());
    assert_eq!(quick.head(), "HTTP/1.1 200 OK");
    assert_eq!(quick.bytes_of(5), b"small");
}

/// One worker process with three threads, over TLS, whose access log says what ended.
fn three_threads(site: Site) -> Server {
    with_tls(one_process(Mpm::Event), site)
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 3\nMaxRequestWorkers 3")
        .with("AsyncRequestWorkerFactor 10")
        .with("CustomLog access.log \"%>s %U\"")
        .start()
}

fn request(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: slow\r\n\r\n").into_bytes()
}

/// More than the server has threads; each has read the head of a large response.
fn slow_tls_readers(server: &Server) -> Vec<Program> {
    (0..6)
        .map(|_| {
            let mut reader = Program::tls(server, "slow");
            reader.send(&request(&format!("/big?{LARGE}&known")));
            assert_eq!(reader.head(), "HTTP/1.1 200 OK");
            reader
        })
        .collect()
}

fn await_logged(server: &Server, line: &str, times: usize) {
    let log = server.root().join("access.log");
    until(
        &format!("{times} × {line:?} in the access log"),
        PATIENCE,
        || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().filter(|l| *l == line).count() == times
        },
    );
}

#[test]
fn a_slow_reader_over_tls_occupies_no_thread_under_event() {
    let server = three_threads(single());
    let readers = slow_tls_readers(&server);
    let mut quick = Program::tls(&server, "slow");
    quick.send(&request("/"));
    assert_eq!(quick.head(), "HTTP/1.1 200 OK");
    assert_eq!(quick.bytes_of(5), b"small");
    await_logged(&server, "200 /big", 0);
    for mut reader in readers {
        assert!(is_large_body(&reader.bytes_of(LARGE)), "not the body");
        // The connection is kept alive as after any response.
        reader.send(&request("/"));
        assert_eq!(reader.head(), "HTTP/1.1 200 OK");
        assert_eq!(reader.bytes_of(5), b"small");
    }
    await_logged(&server, "200 /big", 6);
}

#[test]
fn slow_tls_readers_that_vanish_or_never_read_are_forgotten() {
    let server = three_threads(single());
    drop(slow_tls_readers(&server));
    await_logged(&server, "200 /big", 6);

    let impatient = three_threads(single().with("Timeout 1"));
    let readers = slow_tls_readers(&impatient);
    await_logged(&impatient, "200 /big", 6);
    drop(readers);
    let mut quick = Program::tls(&impatient, "slow");
    quick.send(&request("/"));
    assert_eq!(quick.head(), "HTTP/1.1 200 OK");
}

#[test]
fn a_graceful_restart_lets_a_slow_tls_reader_finish() {
    let server = three_threads(single());
    let mut readers = slow_tls_readers(&server);
    server.graceful();
    let mut reader = readers.remove(0);
    drop(readers);
    assert!(is_large_body(&reader.bytes_of(LARGE)), "not the body");
    let mut quick = Program::tls(&server, "slow");
    quick.send(&request("/"));
    assert_eq!(quick.head(), "HTTP/1.1 200 OK");
}

#[test]
pub(crate) fn a_stream_over_h2_and_tls_arrives_while_the_app_pauses() {
    let server = with_h2(Setup::default()).site(site()).start();
    let mut client = Program::h2(&server, "slow", "/stream");
    assert_eq!(client.line(), "one");
    server.touch("slow", "gate");
    assert_eq!(client.line(), "two");
    assert_eq!(client.rest(), (Vec::new(), true));

    let server = with_tls(Setup::default(), site()).start();
    let mut client = Program::tls(&server, "slow");
    client.send(b"GET /stream HTTP/1.0\r\nHost: slow\r\n\r\n");
    client.head();
    assert_eq!(client.line(), "one");
    server.touch("slow", "gate");
    assert_eq!(client.line(), "two");
}

#[test]
fn a_buffered_response_is_sent_when_it_is_complete_unless_the_app_says_otherwise() {
    let app = App::inline(
        Language::Node,
        "require('http').createServer((q, s) => {
           const fs = require('fs');
           if (q.url === '/live') s.setHeader('X-Accel-Buffering', 'no');
           s.write('one');
           fs.writeFileSync('written', '');
           const wait = setInterval(() => { if (fs.existsSync('gate')) { clearInterval(wait); s.end('two'); } }, 5);
         }).listen(3000)",
    );
    let site = Site::new("slow", app).with("PassengerBufferResponse on");
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = with_h2(Setup::default().mpm(mpm))
            .site(site.clone())
            .start();
        let mut live = server.client("slow");
        live.send(&Request::get("/live")).expect("send");
        live.response_head().expect("a head");
        assert_eq!(live.body_piece().expect("a piece"), b"one", "{mpm:?}");
        std::fs::remove_file(server.app_root("slow").join("written")).expect("it was written");

        let mut buffered = server.client("slow");
        buffered.send(&Request::get("/")).expect("send");
        server.await_file("slow", "written");
        server.touch("slow", "gate");
        buffered.response_head().expect("a head");
        assert_eq!(
            buffered.body_piece().expect("a piece"),
            b"onetwo",
            "{mpm:?}"
        );
        let mut client = Program::h2(&server, "slow", "/");
        assert_eq!(client.rest(), (b"onetwo".to_vec(), true));
    }
}

#[test]
fn a_slow_upload_occupies_no_process() {
    for mpm in Mpm::ALL {
        let server = one_process(mpm).site(single()).start();
        let uploads: Vec<_> = (0..5)
            .map(|_| {
                let mut client = server.client("slow");
                let head = Request::new("POST", "/").header("Content-Length", "1000");
                client.send(&head).expect("send the head");
                client.send_bytes(b"a few bytes").expect("send a little");
                client
            })
            .collect();
        assert_eq!(server.get("slow", "/").ok(), "small", "{mpm:?}");
        for mut upload in uploads {
            upload.send_bytes(&[b'x'; 989]).expect("send the rest");
            assert_eq!(upload.response().expect("a response").ok(), "small");
        }
    }
}

#[test]
fn an_app_learns_that_nobody_waits_for_its_answer() {
    for mpm in Mpm::ALL {
        let server = Setup::default().mpm(mpm).site(site()).start();
        let mut client = server.client("slow");
        client
            .send(&Request::get("/compute"))
            .expect("send the request");
        server.await_file("slow", "begun");
        client.abort();
        server.await_file("slow", "noticed");
    }
}

#[test]
fn slow_readers_cost_no_memory_worth_mentioning() {
    let server = one_process(Mpm::Event)
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 16\nMaxRequestWorkers 16")
        .site(single())
        .start();
    assert_eq!(server.get("slow", "/").ok(), "small");
    let resident = || -> usize { server.workers().iter().map(|pid| resident_kib(*pid)).sum() };
    let before = resident();
    let readers = slow_readers(&server);
    // All five have been taken from the app completely.
    assert_eq!(server.get("slow", "/").ok(), "small");
    let more = resident().saturating_sub(before);
    assert!(
        more < 8 * 1024,
        "5 × {LARGE} bytes held back cost {more} KiB"
    );
    drop(readers);
    until("the readers to be forgotten", PATIENCE, || {
        server.get("slow", "/").status == 200
    });
}

#[test]
fn a_response_without_end_costs_no_memory() {
    const BYTES: u64 = 2_000_000_000;
    let server = one_process(Mpm::Event)
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 16\nMaxRequestWorkers 16")
        .site(single())
        .start();
    let resident = || -> usize { server.workers().iter().map(|pid| resident_kib(*pid)).sum() };
    let mut client = server.client("slow");
    client
        .send(&Request::get(&format!("/big?{BYTES}")))
        .expect("send the request");
    client.response_head().expect("the head");
    let (mut bytes, mut early) = (0, None);
    loop {
        let piece = client.body_piece().expect("the next piece");
        if piece.is_empty() {
            break;
        }
        bytes += piece.len() as u64;
        if bytes > BYTES / 10 && early.is_none() {
            early = Some(resident());
        }
    }
    assert_eq!(bytes, BYTES);
    let more = resident().saturating_sub(early.expect("a tenth came"));
    assert!(more < 1024, "{BYTES} bytes cost {more} KiB");
}
