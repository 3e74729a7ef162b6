//! Many requests of one kind, undisturbed and while httpd is restarted gracefully again and again.

use crate::ab;
use crate::keepalive::{Clients, Errand};
use crate::latency::Summary;
use crate::part::Part;
use harness::processes::private_memory_kib;
use harness::wait::PATIENCE;
use harness::{App, Language, Server, Setup, Site, UnderTest};
use serde_json::{json, Value};
use std::thread;
use std::time::{Duration, Instant};

/// Simultaneous clients that keep their connections.
const CLIENTS: usize = 100;

/// What every request is answered with.
const HELLO: &str = "hello world\n";

/// The app: two processes that answer at once.
const SITE: &str = "ruby";

/// Private memory that is promised, in KiB.
const WATCHDOG_KIB: u64 = 1024;
const AGENT_KIB: u64 = 6 * 1024;

/// Growth over a million requests that is noise of the allocator, in KiB.
const NOISE_KIB: u64 = 256;

/// One of the two kinds of clients against one server.
#[derive(Debug)]
struct Bout {
    clients: &'static str,
    gracefuls: u32,
    right: u64,
    resent: u64,
    failed: u64,
    failures: Vec<String>,
    seconds: f64,
    summary: Summary,
}

impl Bout {
    fn text(&self) -> String {
        format!(
            "{}, {} gracefuls: {} right, {} failed, {} sent again; {:.0} s; {}",
            self.clients,
            self.gracefuls,
            self.right,
            self.failed,
            self.resent,
            self.seconds,
            self.summary
        )
    }

    fn to_json(&self) -> Value {
        json!({
            "clients": self.clients, "gracefuls": self.gracefuls, "right": self.right, "resent": self.resent,
            "failed": self.failed, "seconds": self.seconds, "latencies": self.summary.to_json(),
        })
    }

    fn complaints(&self) -> Vec<String> {
        if self.failed == 0 {
            return Vec::new();
        }
        let what = format!("{} failed with {}", self.failed, self.clients);
        std::iter::once(what).chain(self.failures.clone()).collect()
    }
}

/// A server, and where its greeting is: the app's, or the same in a file.
struct Ring {
    server: Server,
    target: &'static str,
}

fn ring(under_test: UnderTest) -> Ring {
    let source = format!(
        "HEADERS = {{ 'content-type' => 'text/plain', 'content-length' => '{}' }}.freeze\n\
         run ->(env) {{ [200, HEADERS.dup, [{HELLO:?}]] }}\n",
        HELLO.len()
    );
    let app = App::inline(Language::Ruby, &source).file("public/hello.txt", HELLO);
    let only_ours =
        |directives: &str| format!("<IfModule passenger_module>\n{directives}\n</IfModule>");
    let site = Site::new(SITE, app).with(&only_ours("PassengerMinInstances 2"));
    let server = Setup::of(site)
        .under_test(under_test)
        .without_htaccess()
        .with("LogLevel notice")
        .with(&only_ours(
            "PassengerMaxPoolSize 2\nPassengerMaxRequestQueueSize 0",
        ))
        // Old and new workers overlap at a graceful: room for both, for 100 connections each.
        .with("ServerLimit 20\nMaxRequestWorkers 320\nStartServers 6")
        .with("MinSpareThreads 96\nMaxSpareThreads 320")
        .start();
    let target = match under_test {
        UnderTest::Nothing => "/hello.txt",
        UnderTest::Ours | UnderTest::Passenger => "/",
    };
    assert_eq!(server.get(SITE, target).ok(), HELLO);
    Ring { server, target }
}

/// Undisturbed: latencies to compare with, and what memory does meanwhile.
pub(crate) fn steady(requests: u64) -> Result<Part, String> {
    let mut ring = ring(UnderTest::Ours);
    // Both kinds of clients warm everything up before anything is measured.
    ring.ab(requests / 50, None)?;
    ring.keepalive(requests / 50, 0);
    let before = memory(&ring.server);
    let bouts = [
        ring.ab(requests / 2, None)?,
        ring.keepalive(requests - requests / 2, 0),
    ];
    let after = memory(&ring.server);
    ring.server.stop_within(PATIENCE);
    let mut failures: Vec<String> = bouts.iter().flat_map(Bout::complaints).collect();
    for ((who, limit), (before, after)) in [("watchdog", WATCHDOG_KIB), ("agent", AGENT_KIB)]
        .into_iter()
        .zip(before.into_iter().zip(after))
    {
        if after > limit {
            failures.push(format!("the {who} has {after} KiB for itself, not {limit}"));
        }
        if after > before + NOISE_KIB {
            failures.push(format!("the {who} grew from {before} to {after} KiB"));
        }
    }
    let text = format!(
        "{}; {}; private memory before and after: watchdog {} and {} KiB, agent {} and {} KiB",
        bouts[0].text(),
        bouts[1].text(),
        before[0],
        after[0],
        before[1],
        after[1]
    );
    let figures = json!({
        "bouts": bouts.iter().map(Bout::to_json).collect::<Vec<_>>(),
        "private_kib": { "before": before, "after": after },
    });
    Ok(Part::new("steady", text, figures, failures))
}

/// Private memory of watchdog and agent.
fn memory(server: &Server) -> [u64; 2] {
    let instance = server.instance();
    [instance.watchdog(), instance.agent()].map(|pid| private_memory_kib(pid).unwrap_or(0))
}

/// So many gracefuls while each kind of client is at work.
pub(crate) fn graceful(requests: u64, gracefuls: u32) -> Result<Part, String> {
    let mut ring = ring(UnderTest::Ours);
    let part = ring.disturbed("graceful", requests, gracefuls)?;
    ring.server.stop_within(PATIENCE);
    Ok(part)
}

/// The same against httpd alone and a static file: what is its own doing.
pub(crate) fn bare(requests: u64, gracefuls: u32) -> Result<Part, String> {
    let mut ring = ring(UnderTest::Nothing);
    let part = ring.disturbed("bare", requests / 10, gracefuls)?;
    ring.server.stop_within(PATIENCE);
    Ok(part.without_failures())
}

/// The same against Debian's Passenger; what fails there is a figure, and no failure of the run.
pub(crate) fn theirs(requests: u64, gracefuls: u32) -> Result<Part, String> {
    let mut ring = ring(UnderTest::Passenger);
    let part = ring.disturbed("theirs", requests / 10, gracefuls)?;
    // Its processes go a while after httpd; what it needs for that is not our test.
    ring.server.stop_within(PATIENCE);
    ring.server.abandon();
    Ok(part.without_failures())
}

impl Ring {
    /// Undisturbed for a while, then under gracefuls.
    fn disturbed(&self, name: &str, requests: u64, gracefuls: u32) -> Result<Part, String> {
        let sample = (requests / 10).max(1000);
        let quiet = self.ab(sample, None)?;
        // How long it takes tells how far apart the gracefuls are.
        #[allow(clippy::cast_precision_loss)] // counts of requests
        let expected = quiet.seconds * requests as f64 / quiet.right.max(1) as f64;
        let pause = Duration::from_secs_f64(expected * 0.9 / f64::from(gracefuls + 1));
        let bouts = [
            quiet,
            self.keepalive(sample, 0),
            self.ab(requests, Some((gracefuls, pause)))?,
            self.keepalive(requests, gracefuls),
        ];
        let mut failures: Vec<String> = bouts.iter().flat_map(Bout::complaints).collect();
        failures.extend(self.server.log().scandals());
        let text = bouts.each_ref().map(Bout::text).join("\n  ");
        let figures = json!({ "bouts": bouts.iter().map(Bout::to_json).collect::<Vec<_>>() });
        Ok(Part::new(name, text, figures, failures))
    }

    /// `ab`, and so many gracefuls so far apart, as long as it runs.
    fn ab(&self, requests: u64, gracefuls: Option<(u32, Duration)>) -> Result<Bout, String> {
        let (port, target) = (self.server.port(), self.target);
        let ab = thread::spawn(move || ab::run(port, SITE, target, requests));
        let (mut done, (wanted, pause)) = (0, gracefuls.unwrap_or_default());
        while done < wanted && !ab.is_finished() {
            thread::sleep(pause);
            if !ab.is_finished() {
                self.server.graceful();
                done += 1;
            }
        }
        let report = ab.join().map_err(|_| "the thread of ab panicked")??;
        Ok(Bout {
            clients: "ab -c 100 without keep-alive",
            gracefuls: done,
            right: report.complete.saturating_sub(report.failed),
            resent: 0,
            failed: report.failed,
            failures: Vec::new(),
            seconds: report.seconds,
            summary: report.summary,
        })
    }

    /// The keep-alive clients, with gracefuls spread evenly over their requests.
    fn keepalive(&self, requests: u64, gracefuls: u32) -> Bout {
        let errand = Errand {
            port: self.server.port(),
            site: SITE.to_owned(),
            target: self.target.to_owned(),
            body: HELLO.as_bytes().to_owned(),
            requests,
        };
        let began = Instant::now();
        let clients = Clients::start(&errand, CLIENTS);
        for nth in 1..=u64::from(gracefuls) {
            let due = requests * nth / (u64::from(gracefuls) + 1);
            while clients.begun() < due {
                thread::sleep(Duration::from_millis(1));
            }
            self.server.graceful();
        }
        let mut account = clients.finish();
        Bout {
            clients: "100 keep-alive clients",
            gracefuls,
            right: account.right,
            resent: account.resent,
            failed: account.failed,
            failures: account.failures,
            seconds: began.elapsed().as_secs_f64(),
            summary: account.latencies.summary(),
        }
    }
}
