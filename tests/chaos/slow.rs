//! Slow uploads and slow readers against one process for one request at a time: are others served as fast as without
//! them? Everything in one run, so that the ratio is of one machine in one mood: before, during, after.

use crate::keepalive::{Account, Clients, Errand};
use crate::latency::Summary;
use crate::part::Part;
use harness::wait::PATIENCE;
use harness::{App, Client, Language, Request, Server, Setup, Site};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Slow clients of each kind.
const SLOW: usize = 5;
/// A byte of each in this time: 10 B/s.
const BYTE_TIME: Duration = Duration::from_millis(100);
/// Bytes an upload says it has, more than it ever sends.
const UPLOAD_BYTES: &str = "1000000";
/// How much longer the median may become before it counts as a failure.
const LIMIT: f64 = 1.2;

const SITE: &str = "slow";
const APP: &str = "
def application(env, start_response):
    if env['PATH_INFO'] == '/big':
        start_response('200 OK', [('Content-Length', env['QUERY_STRING'])])
        return pieces(int(env['QUERY_STRING']))
    start_response('200 OK', [('Content-Length', '5')])
    return [b'small']

def pieces(left):
    while left > 0:
        piece = (b'0123456789abcdef' * 4096)[:left]
        left -= len(piece)
        yield piece
";

/// Slow clients at work, until told to stop.
struct Crowd {
    is_over: Arc<AtomicBool>,
    uploads: Vec<JoinHandle<Client>>,
    readers: Vec<JoinHandle<(Client, u64)>>,
}

impl Crowd {
    /// They are all connected, and the app has written everything that the readers will ever read.
    fn start(server: &Server, bytes: u64) -> Crowd {
        let is_over = Arc::new(AtomicBool::new(false));
        let uploads = (0..SLOW).map(|_| upload(server.client(SITE), &is_over));
        let uploads = uploads.collect();
        let readers = (0..SLOW).map(|_| reader(server.client(SITE), bytes, &is_over));
        let readers = readers.collect();
        // There is one seat: whoever is served now is served after those.
        assert_eq!(server.get(SITE, "/").ok(), "small");
        // Else the disk would be busy with it while others are timed.
        nix::unistd::sync();
        Crowd {
            is_over,
            uploads,
            readers,
        }
    }

    /// Ends it; what was wrong with the responses that one of the readers now reads to its end.
    fn finish(self, bytes: u64) -> Vec<String> {
        self.is_over.store(true, Ordering::Relaxed);
        for upload in self.uploads {
            upload.join().expect("an upload panicked").abort();
        }
        let mut complaints = Vec::new();
        for (number, reader) in self.readers.into_iter().enumerate() {
            let (client, read) = reader.join().expect("a reader panicked");
            if number > 0 {
                client.abort();
                continue;
            }
            match rest_of(client) {
                Ok(rest) if read + rest == bytes => {}
                other => complaints.push(format!("a reader got {read} bytes and then {other:?}")),
            }
        }
        complaints
    }
}

fn rest_of(mut client: Client) -> std::io::Result<u64> {
    let mut length = 0;
    loop {
        let piece = client.body_piece()?;
        if piece.is_empty() {
            return Ok(length);
        }
        length += piece.len() as u64;
    }
}

fn upload(mut client: Client, is_over: &Arc<AtomicBool>) -> JoinHandle<Client> {
    let head = Request::new("POST", "/").header("Content-Length", UPLOAD_BYTES);
    client.send(&head).expect("begin an upload");
    let is_over = Arc::clone(is_over);
    thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            client.send_bytes(b"x").expect("go on with an upload");
            thread::sleep(BYTE_TIME);
        }
        client
    })
}

/// Reads the head, and then as little as its buffer allows: what it has read it does not ask for again, so in effect it
/// takes 8 KiB at once and nothing for a long time.
fn reader(mut client: Client, bytes: u64, is_over: &Arc<AtomicBool>) -> JoinHandle<(Client, u64)> {
    client
        .send(&Request::get(&format!("/big?{bytes}")))
        .expect("ask for a large response");
    let (status, _) = client.response_head().expect("a head");
    assert_eq!(status, 200);
    let is_over = Arc::clone(is_over);
    thread::spawn(move || {
        let mut read = 0;
        let mut next = Instant::now();
        while !is_over.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                let piece = client.body_piece().expect("a piece").len();
                read += piece as u64;
                next = Instant::now() + BYTE_TIME * u32::try_from(piece).unwrap_or(u32::MAX);
            }
            thread::sleep(BYTE_TIME);
        }
        (client, read)
    })
}

/// Requests one after another on one connection; the failures go to `failures`.
fn ordinary(server: &Server, requests: u64, failures: &mut Vec<String>) -> (Summary, f64) {
    let errand = Errand {
        port: server.port(),
        site: SITE.to_owned(),
        target: "/".to_owned(),
        body: b"small".to_vec(),
        requests,
    };
    let began = Instant::now();
    let mut account: Account = Clients::start(&errand, 1).finish();
    let seconds = began.elapsed().as_secs_f64();
    failures.append(&mut account.failures);
    (account.latencies.summary(), seconds)
}

/// So many ordinary requests before, during and after.
pub(crate) fn measure(requests: u64, bytes: u64) -> Part {
    let site = Site::new(SITE, App::inline(Language::Python, APP));
    let mut server = Setup::of(site).with("PassengerMaxPoolSize 1").start();
    let mut failures = Vec::new();
    ordinary(&server, requests / 4, &mut failures);
    let before = ordinary(&server, requests, &mut failures);
    let crowd = Crowd::start(&server, bytes);
    let during = ordinary(&server, requests, &mut failures);
    failures.extend(crowd.finish(bytes));
    let after = ordinary(&server, requests, &mut failures);
    server.stop_within(PATIENCE);
    let without = (before.0.p50_ms + after.0.p50_ms) / 2.0;
    let ratio = during.0.p50_ms / without;
    let total = during.1 / ((before.1 + after.1) / 2.0);
    if ratio > LIMIT {
        failures.push(format!("the median became {ratio:.2} times as long"));
    }
    let text = format!(
        "{SLOW} uploads at 10 B/s and {SLOW} readers of {bytes} bytes, one process; {requests} requests: before {}; \
         during {}; after {}; ratio of the medians {ratio:.2}, of the times in all {total:.2}",
        before.0, during.0, after.0
    );
    let bout = |(summary, seconds): (Summary, f64)| json!({ "seconds": seconds, "latencies": summary.to_json() });
    let figures = json!({
        "requests": requests, "reader_bytes": bytes, "slow_uploads": SLOW, "slow_readers": SLOW,
        "before": bout(before), "during": bout(during), "after": bout(after),
        "ratio_of_medians": ratio, "ratio_of_totals": total,
    });
    Part::new("slow", text, figures, failures)
}
