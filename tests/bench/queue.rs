//! How fair the queue is: many clients, few seats, an app that always takes the same time.

use harness::{App, Client, Language, Request, Setup, Site};
use serde_json::{json, Value};
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Clients that ask without a pause.
const CLIENTS: u32 = 25;
/// Processes, one request at a time each.
const SEATS: u32 = 2;
/// What the app takes for each request.
const SERVICE: Duration = Duration::from_millis(2);

/// What the clients of one run saw.
#[derive(Debug)]
pub(crate) struct Queue {
    rate: f64,
    sorted: Vec<Duration>,
}

/// Measures for some seconds.
pub(crate) fn measure(seconds: u32) -> Result<Queue, String> {
    let source = "import time\n\
                  def application(environ, start_response):\n\
                  \x20   time.sleep(0.002)\n\
                  \x20   start_response('200 OK', [('Content-Length', '0')])\n\
                  \x20   return []\n";
    let site = Site::new("queue", App::inline(Language::Python, source))
        .with(&format!("PassengerMinInstances {SEATS}"));
    let server = Setup::of(site)
        .with(&format!("PassengerMaxPoolSize {SEATS}"))
        .with("LogLevel warn")
        .start();
    run(server.port(), Duration::from_secs(1))?;
    let begun = Instant::now();
    let mut sorted = run(server.port(), Duration::from_secs(seconds.into()))?;
    let elapsed = begun.elapsed().as_secs_f64();
    sorted.sort_unstable();
    let requests = u32::try_from(sorted.len()).unwrap_or(u32::MAX);
    Ok(Queue {
        rate: f64::from(requests) / elapsed,
        sorted,
    })
}

fn run(port: u16, time: Duration) -> Result<Vec<Duration>, String> {
    let end = Instant::now() + time;
    let request = Arc::new(Request::get("/"));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let request = Arc::clone(&request);
            thread::spawn(move || client(port, &request, end))
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        let latencies = client.join().map_err(|_| "a client panicked".to_owned())?;
        all.extend(latencies.map_err(|e| format!("queue: {e}"))?);
    }
    Ok(all)
}

fn client(port: u16, request: &Request, end: Instant) -> std::io::Result<Vec<Duration>> {
    let mut client = Client::connect(port, "queue")?;
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        let response = client.exchange(request)?;
        if response.status != 200 {
            return Err(std::io::Error::other(format!("status {}", response.status)));
        }
        latencies.push(begun.elapsed());
    }
    Ok(latencies)
}

impl Queue {
    fn percentile(&self, percent: usize) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted
            .get(last * percent / 100)
            .copied()
            .unwrap_or_default()
    }

    /// What each request would take if everybody were served in turn.
    fn fair() -> Duration {
        SERVICE * CLIENTS / SEATS
    }

    /// The figures as JSON.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "clients": CLIENTS, "seats": SEATS, "service_ms": SERVICE.as_secs_f64() * 1e3,
            "rps": self.rate, "fair_ms": Self::fair().as_secs_f64() * 1e3,
            "p50_ms": self.percentile(50).as_secs_f64() * 1e3,
            "p99_ms": self.percentile(99).as_secs_f64() * 1e3,
            "max_ms": self.percentile(100).as_secs_f64() * 1e3,
        })
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "queue: {CLIENTS} clients, {SEATS} seats, {SERVICE:?} each: {:.0} req/s, p50 {:.1?}, p99 {:.1?}, \
             longest {:.1?}; in turn it would be {:.1?}",
            self.rate,
            self.percentile(50),
            self.percentile(99),
            self.percentile(100),
            Self::fair()
        )
    }
}
