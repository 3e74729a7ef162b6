//! Bodies far larger than memory, both ways: what worker, agent and app need for them at most.

use crate::part::Part;
use harness::processes::ProcessId;
use harness::wait::{until_some, PATIENCE};
use harness::{App, Client, Language, Request, Server, Setup, Site};
use nix::sys::statvfs::statvfs;
use serde_json::{json, Value};
use std::fs;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// More than this above what it had after a hundredth of the bytes is no constant memory.
const NOISE_KIB: u64 = 4 * 1024;
/// Bytes sent at once.
const PIECE: usize = 256 * 1024;
/// How long the app may take to read an upload that was spooled, in silences of the client.
const SILENCES: usize = 30;

const SITE: &str = "huge";
const APP: &str = "
def application(env, start_response):
    if env['PATH_INFO'] == '/down':
        start_response('200 OK', [('Content-Length', env['QUERY_STRING'])])
        return pieces(int(env['QUERY_STRING']))
    length, body = 0, env['wsgi.input']
    while piece := body.read(65536):
        length += len(piece)
    start_response('200 OK', [])
    return [str(length).encode()]

def pieces(left):
    while left > 0:
        piece = (b'0123456789abcdef' * 4096)[:left]
        left -= len(piece)
        yield piece
";

/// A way for bytes to take.
#[derive(Debug, Clone, Copy)]
enum Way {
    Down,
    /// The app reads it while it is sent.
    Streamed,
    /// To a file first.
    Spooled,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Down => "download",
            Way::Streamed => "upload, streamed",
            Way::Spooled => "upload, spooled",
        }
    }
}

/// Resident memory of worker, agent and app, in KiB.
type Memory = [u64; 3];
const WHO: [&str; 3] = ["worker", "agent", "app"];

fn memory(pids: [ProcessId; 3]) -> Memory {
    pids.map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|value| value.split_whitespace().next()?.parse().ok());
        kib.unwrap_or(0)
    })
}

/// Notes the most that each of them has, until stopped.
struct Observer {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Memory>,
}

impl Observer {
    fn of(pids: [ProcessId; 3]) -> Observer {
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut most = [0; 3];
            while !stop.load(Ordering::Relaxed) {
                for (most, now) in most.iter_mut().zip(memory(pids)) {
                    *most = now.max(*most);
                }
                thread::sleep(LOOK);
            }
            most
        });
        Observer { is_over, thread }
    }

    fn finish(self) -> Memory {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the observer panicked")
    }
}

/// Moves so many bytes; what was wrong.
fn transfer(server: &Server, way: Way, bytes: u64) -> io::Result<Option<String>> {
    let mut client = server.client(SITE);
    let moved = match way {
        Way::Down => {
            client.send(&Request::get(&format!("/down?{bytes}")))?;
            client.response_head()?;
            let mut moved = 0;
            loop {
                match client.body_piece()?.len() as u64 {
                    0 => break moved,
                    n => moved += n,
                }
            }
        }
        Way::Streamed | Way::Spooled => {
            let target = match way {
                Way::Streamed => "/streamed",
                _ => "/spooled",
            };
            let length = bytes.to_string();
            client.send(&Request::new("POST", target).header("Content-Length", &length))?;
            let piece = vec![b'x'; PIECE];
            let mut left = bytes;
            while left > 0 {
                let n = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                client.send_bytes(&piece[..n])?;
                left -= n as u64;
            }
            answer(&mut client)?
        }
    };
    Ok((moved != bytes).then(|| format!("{}: {moved} of {bytes} bytes", way.name())))
}

/// How many bytes the app says it has read, which may take it a while.
fn answer(client: &mut Client) -> io::Result<u64> {
    let mut silences = 0;
    loop {
        match client.response() {
            Ok(response) => return Ok(response.text().parse().unwrap_or(0)),
            Err(e) if e.kind() == ErrorKind::WouldBlock && silences < SILENCES => silences += 1,
            Err(e) => return Err(e),
        }
    }
}

/// Whether there is room for a file of that size where bodies are buffered.
fn has_room(bytes: u64) -> bool {
    let at = std::env::temp_dir();
    statvfs(&at).is_ok_and(|fs| fs.blocks_available() * fs.fragment_size() > bytes + bytes / 10)
}

/// So many bytes down and up.
pub(crate) fn measure(bytes: u64) -> Part {
    let site = Site::new(SITE, App::inline(Language::Python, APP))
        .with("LimitRequestBody 0")
        .with("<Location /streamed>\nPassengerBufferUpload off\n</Location>");
    let mut server = Setup::of(site)
        .with("PassengerMaxPoolSize 1")
        .with("StartServers 1\nServerLimit 1\nThreadsPerChild 8\nMaxRequestWorkers 8")
        .start();
    let mut ways = vec![Way::Down, Way::Streamed];
    match has_room(bytes) {
        true => ways.push(Way::Spooled),
        false => println!("huge: no room for a spooled upload of {bytes} bytes"),
    }
    let mut failures = Vec::new();
    let mut note = |result: io::Result<Option<String>>| match result {
        Ok(complaint) => failures.extend(complaint),
        Err(e) => failures.push(e.to_string()),
    };
    for way in &ways {
        note(transfer(&server, *way, bytes / 100));
    }
    let worker = until_some("a worker", PATIENCE, || server.workers().first().copied());
    let app = server.await_processes(SITE, 1)[0];
    let pids = [worker, server.instance().agent(), app];
    let mut figures = Vec::new();
    let mut texts = Vec::new();
    for way in ways {
        let before = memory(pids);
        let observer = Observer::of(pids);
        let began = Instant::now();
        note(transfer(&server, way, bytes));
        let seconds = began.elapsed().as_secs_f64();
        let most = observer.finish();
        for ((who, before), most) in WHO.iter().zip(before).zip(most) {
            if most > before + NOISE_KIB {
                let complaint = format!("{}: {who} {before} → {most} KiB", way.name());
                note(Ok(Some(complaint)));
            }
        }
        texts.push(format!(
            "{} {seconds:.0} s, {}",
            way.name(),
            describe(before, most)
        ));
        figures.push(json!({
            "way": way.name(), "bytes": bytes, "seconds": seconds,
            "resident_kib_before": by_name(before), "resident_kib_at_most": by_name(most),
        }));
    }
    server.stop_within(PATIENCE);
    let text = format!("{bytes} bytes each way: {}", texts.join("; "));
    Part::new("huge", text, json!(figures), failures)
}

fn by_name(memory: Memory) -> Value {
    let pairs = WHO.iter().zip(memory);
    Value::Object(
        pairs
            .map(|(who, kib)| ((*who).to_owned(), json!(kib)))
            .collect(),
    )
}

fn describe(before: Memory, most: Memory) -> String {
    let each = WHO.iter().zip(before).zip(most);
    let each = each.map(|((who, before), most)| format!("{who} {before} → {most} KiB"));
    each.collect::<Vec<_>>().join(", ")
}
