//! Many clients at once, until told to stop, with an exact account of what each request came to.

use crate::client::{Client, Request};
use crate::wait::{until, PATIENCE};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

/// What the requests of a load came to.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Answered with 200.
    pub ok: usize,
    /// Sent again because httpd closed a kept-alive connection without a byte of response, as any client
    /// does (RFC 9112, 9.3.1). Ordinary at a graceful restart, and nowhere else.
    pub resent: usize,
    /// Every other outcome, as a sentence.
    pub failures: Vec<String>,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    is_over: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts `connections` clients that send `GET target` to a site over kept-alive connections, one
    /// after the other, until [`Load::finish`].
    #[must_use]
    pub fn start(port: u16, site: &str, target: &str, connections: usize) -> Load {
        let is_over = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let clients = (0..connections)
            .map(|_| {
                let (is_over, done) = (Arc::clone(&is_over), Arc::clone(&done));
                let (site, target) = (site.to_owned(), target.to_owned());
                std::thread::spawn(move || drive(port, &site, &target, &is_over, &done))
            })
            .collect();
        Load {
            is_over,
            done,
            clients,
        }
    }

    /// How many requests were answered with 200 until now.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until so many requests more were answered.
    pub fn await_more(&self, count: usize) {
        let before = self.answered();
        until("more requests to be answered", PATIENCE, || {
            self.answered() > before + count
        });
    }

    /// Lets every client finish the request it is at, and adds up.
    ///
    /// # Panics
    /// When a client did.
    #[must_use]
    pub fn finish(self) -> Tally {
        self.is_over.store(true, Ordering::Relaxed);
        let mut total = Tally::default();
        for client in self.clients {
            let tally = client.join().expect("a client panicked");
            total.ok += tally.ok;
            total.resent += tally.resent;
            total.failures.extend(tally.failures);
        }
        total
    }
}

fn drive(port: u16, site: &str, target: &str, is_over: &AtomicBool, done: &AtomicUsize) -> Tally {
    let request = Request::get(target);
    let mut tally = Tally::default();
    let mut connection: Option<Client> = None;
    while !is_over.load(Ordering::Relaxed) {
        let is_reused = connection.is_some();
        match one(&mut connection, port, site, &request) {
            Ok(200) => {
                tally.ok += 1;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(status) => tally.failures.push(format!("status {status}")),
            Err(e) if is_reused && is_closed_while_idle(&e) => tally.resent += 1,
            Err(e) => tally.failures.push(e.to_string()),
        }
    }
    tally
}

fn one(slot: &mut Option<Client>, port: u16, site: &str, request: &Request) -> io::Result<u16> {
    let mut client = match slot.take() {
        Some(client) => client,
        None => Client::connect(port, site)?,
    };
    let response = client.exchange(request)?;
    if response.header("connection") != Some("close") {
        *slot = Some(client);
    }
    Ok(response.status)
}

fn is_closed_while_idle(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | BrokenPipe
    )
}
