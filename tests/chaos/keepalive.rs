//! Clients that keep their connections and follow HTTP's rules for their end: a request on a kept
//! connection that was closed before a byte of the response came goes again on another one (RFC 9112,
//! 9.3.1); after `Connection: close` none is sent; a request on a new connection is never sent twice.

use crate::latency::Latencies;
use harness::{Client, Request};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Failures that are kept as sentences.
const SENTENCES: usize = 20;

/// What they came to.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) right: u64,
    pub(crate) resent: u64,
    pub(crate) failed: u64,
    pub(crate) failures: Vec<String>,
    pub(crate) latencies: Latencies,
}

/// What all clients ask for, and what is right.
#[derive(Debug, Clone)]
pub(crate) struct Errand {
    pub(crate) port: u16,
    pub(crate) site: String,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
    /// Requests of all clients together.
    pub(crate) requests: u64,
}

/// Clients at work.
pub(crate) struct Clients {
    taken: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Account>>,
}

impl Clients {
    /// Starts so many of them.
    pub(crate) fn start(errand: &Errand, connections: usize) -> Clients {
        let taken = Arc::new(AtomicU64::new(0));
        let threads = (0..connections)
            .map(|_| {
                let (errand, taken) = (errand.clone(), Arc::clone(&taken));
                thread::spawn(move || work(&errand, &taken))
            })
            .collect();
        Clients { taken, threads }
    }

    /// Requests that were begun.
    pub(crate) fn begun(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Waits until all requests are done.
    pub(crate) fn finish(self) -> Account {
        let mut total = Account::default();
        for thread in self.threads {
            let account = thread.join().expect("a client panicked");
            total.right += account.right;
            total.resent += account.resent;
            total.failed += account.failed;
            total.failures.extend(account.failures);
            total.latencies.extend(account.latencies);
        }
        total
    }
}

fn work(errand: &Errand, taken: &AtomicU64) -> Account {
    let request = Request::get(&errand.target);
    let mut account = Account::default();
    let mut connection = None;
    while taken.fetch_add(1, Ordering::Relaxed) < errand.requests {
        let began = Instant::now();
        let is_reused = connection.is_some();
        let mut answer = one(&mut connection, errand, &request);
        if is_reused && answer.as_ref().is_err_and(is_closed) {
            account.resent += 1;
            answer = one(&mut connection, errand, &request);
        }
        match answer {
            Ok(None) => {
                account.right += 1;
                account.latencies.add(began.elapsed());
            }
            Ok(Some(wrong)) => account.fail(wrong),
            Err(e) => account.fail(format!("{e} ({:?})", e.kind())),
        }
    }
    account
}

impl Account {
    fn fail(&mut self, sentence: String) {
        self.failed += 1;
        if self.failures.len() < SENTENCES {
            self.failures.push(sentence);
        }
    }
}

/// What was wrong, if the answer was.
fn one(
    slot: &mut Option<Client>,
    errand: &Errand,
    request: &Request,
) -> io::Result<Option<String>> {
    let mut client = match slot.take() {
        Some(client) => client,
        None => Client::connect(errand.port, &errand.site)?,
    };
    let response = client.exchange(request)?;
    if response.header("connection") != Some("close") {
        *slot = Some(client);
    }
    if response.status == 200 && response.body == errand.body {
        return Ok(None);
    }
    let text: String = response.text().chars().take(100).collect();
    Ok(Some(format!("status {}: {text:?}", response.status)))
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | BrokenPipe
    )
}
