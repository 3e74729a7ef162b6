//! The relay: one thread per worker process that has all its suspended connections. Started with the first one.
//!
//! httpd never resumes a suspended connection; the relay also ends it, in the steps of httpd's own lingering close.

use super::pump::Pump;
use super::tunnel::Tunnel;
use super::TICK;
use crate::ffi::process;
use crate::ffi::relay::UpgradedClient;
use crate::ffi::relay_epoll::{wake, waker};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a client may take to close after we have.
const LINGER: Duration = Duration::from_secs(2);
/// How often connections that are being closed are looked at.
const CLOSING_TICK: Duration = Duration::from_millis(100);
/// How long the end of the process waits for the relay.
const STOP: Duration = Duration::from_secs(2);

struct Shared {
    waker: OwnedFd,
    arrived: Mutex<Vec<Tunnel>>,
    is_stopping: AtomicBool,
    has_stopped: Mutex<bool>,
    stopped: Condvar,
}

static RELAY: OnceLock<Option<&'static Shared>> = OnceLock::new();

/// Whether the relay runs; starts it if need be.
pub(crate) fn is_running() -> bool {
    RELAY.get_or_init(start).is_some()
}

fn start() -> Option<&'static Shared> {
    let begin = || -> io::Result<&'static Shared> {
        let shared: &'static Shared = Box::leak(Box::new(Shared {
            waker: waker()?,
            arrived: Mutex::new(Vec::new()),
            is_stopping: AtomicBool::new(false),
            has_stopped: Mutex::new(false),
            stopped: Condvar::new(),
        }));
        let pump = Pump::new()?;
        pump.watch(shared.waker.as_fd())?;
        process::spawn_signal_blocked("psgr-relay", move || run(shared, pump))?;
        Ok(shared)
    };
    begin()
        .map_err(|error| {
            log::error!("PSGR0220 there is no relay for WebSockets, each keeps a thread: {error}");
        })
        .ok()
}

/// Takes over a connection that httpd has just suspended.
pub(crate) fn adopt(tunnel: Tunnel) {
    if let Some(Some(shared)) = RELAY.get() {
        shared.arrived.lock().push(tunnel);
        wake(&shared.waker);
    }
}

/// Ends the relay: afterwards it touches nothing of httpd's. `false` when it does not hear, and may touch it still.
pub(crate) fn stop() -> bool {
    let Some(Some(shared)) = RELAY.get() else {
        return true;
    };
    // PAIR(relay-stop): read by the relay in each turn.
    shared.is_stopping.store(true, Ordering::Release);
    wake(&shared.waker);
    let mut has_stopped = shared.has_stopped.lock();
    let is_running = |has_stopped: &mut bool| !*has_stopped;
    let wait = shared
        .stopped
        .wait_while_for(&mut has_stopped, is_running, STOP);
    !wait.timed_out()
}

fn run(shared: &Shared, mut pump: Pump) {
    let mut closing: Vec<Closing> = Vec::new();
    // PAIR(relay-stop): set by `stop`.
    while !shared.is_stopping.load(Ordering::Acquire) {
        for tunnel in std::mem::take(&mut *shared.arrived.lock()) {
            pump.add(tunnel);
        }
        let tick = if closing.is_empty() {
            TICK
        } else {
            CLOSING_TICK
        };
        pump.turn(tick, &mut |tunnel| closing.push(Closing::new(tunnel)));
        let now = Instant::now();
        closing = closing
            .into_iter()
            .filter_map(|closing| closing.look(now))
            .collect();
    }
    pump.leave_at_once();
    // What is left belongs to pools that httpd is about to destroy.
    *shared.has_stopped.lock() = true;
    shared.stopped.notify_all();
}

/// A client's side on its way out.
struct Closing {
    client: UpgradedClient,
    since: Instant,
    has_closed: bool,
    is_quiet: bool,
}

impl Closing {
    fn new(tunnel: Tunnel) -> Self {
        let mut client = tunnel.into_client();
        client.begin_close();
        Self {
            client,
            since: Instant::now(),
            has_closed: false,
            is_quiet: false,
        }
    }

    /// The next step; `None` when it was the last.
    fn look(mut self, now: Instant) -> Option<Self> {
        let is_late = now.saturating_duration_since(self.since) >= LINGER;
        if !self.has_closed {
            let is_lost = self.client.push().is_err();
            if is_lost || is_late || !self.client.has_pending() {
                self.client.close_writing();
                self.has_closed = true;
                self.is_quiet = is_lost;
            }
        }
        if self.has_closed && !self.is_quiet {
            self.is_quiet = is_late || self.client.drain();
        }
        if !self.is_quiet {
            return Some(self);
        }
        let client = self.client.destroy().err()?;
        Some(Self { client, ..self })
    }
}
