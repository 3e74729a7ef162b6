//! Step 4 of a request's life: a seat, now or after a wait in the group's queue.

use crate::config;
use crate::error::RequestError;
use crate::exchange;
use crate::ffi::request::Request;
use crate::worker::Worker;
use passenger_shm::{Busy, GroupRef, Hint, Occupancy, OffRoute, ProcessRef, QueueFull, Seat};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Longest sleep between two looks at the client.
const SLICE: Duration = Duration::from_millis(250);
/// Longest pause between two looks for a certain process.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long a request of a sticky session waits for its process before any other will do.
const ROUTE_PATIENCE: Duration = Duration::from_secs(10);

/// Which process a request would like, or rather not.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    /// The one its sticky session is at.
    pub(crate) route: Option<u64>,
    /// One that has just failed it.
    pub(crate) avoid: Option<ProcessRef>,
}

/// How long a request may wait, and what it is told when it may not.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// `PassengerMaxRequestQueueTime`.
    seconds: Option<u32>,
    /// `PassengerRequestQueueOverflowStatusCode`.
    status: u16,
}

/// Takes a seat of the group, at the process that is wished for where that is possible. Blocks while the group
/// is busy or its first process starts.
///
/// # Errors
/// A full queue, an app that does not start, a client that left, or a wait that could never end.
pub(crate) fn admit<'w>(
    r: &Request<'_>,
    worker: &'w Worker,
    group: GroupRef,
    wish: Wish,
) -> Result<Seat<'w>, RequestError> {
    let start = Instant::now();
    let config = config::of_request(r.as_ptr());
    let patience = Patience {
        seconds: config.and_then(config::DirConfig::max_request_queue_time),
        status: config.map_or(503, config::DirConfig::queue_overflow_status),
    };
    let info = worker.view.group(group);
    let wait_ms = info.map_or(0, |info| info.code_wait_ms);
    if wait_ms > 0 && seat_holder_above(r).is_none() {
        let look = |waited| newest(worker, group, waited);
        if let Some(seat) = await_certain(r, worker, group, patience, look)? {
            return Ok(seat);
        }
    }
    if let Some(route) = wish.route {
        let look = |waited| on_route(r, worker, group, route, waited);
        if let Some(seat) = await_certain(r, worker, group, patience, look)? {
            return Ok(seat);
        }
    }
    match worker.client.take(group, wish.avoid) {
        Ok(seat) => return Ok(seat),
        Err(Busy { live: 0 }) => {}
        // Whoever holds a seat is often done with it and only waits for a processor. Letting others run once
        // costs less than a place in the queue, a sleep and somebody's wake-up (docs/performance.md).
        Err(_) => {
            std::thread::yield_now();
            if let Ok(seat) = worker.client.take(group, wish.avoid) {
                return Ok(seat);
            }
        }
    }
    if let Some(outer) = seat_holder_above(r) {
        return Err(RequestError::WouldDeadlock { outer });
    }
    let failures = info.map(|info| info.spawn_failures);
    let mut waiter = worker
        .client
        .enqueue_again(group, start.elapsed())
        .map_err(|full| queue_full(worker, group, &full, patience.status))?;
    worker.client.hint(Hint::CapacityWanted(group));
    loop {
        if let Some(seat) = waiter.wait(SLICE) {
            return Ok(seat);
        }
        if is_client_gone(r) {
            return Err(RequestError::ClientGone);
        }
        patience.check(worker, group, start)?;
        let Some(info) = worker.view.group(group) else {
            return Err(RequestError::NoInstance {
                reason: "the application's group was removed while the request waited".into(),
            });
        };
        // A failed spawn is this request's answer only if no process is left that could serve it.
        if Some(info.spawn_failures) != failures {
            match worker.client.take(group, None) {
                Ok(seat) => return Ok(seat),
                Err(Busy { live: 0 }) => {
                    if let Some(failure) = worker.why_spawn_failed(group) {
                        return Err(RequestError::Spawn(Box::new(failure)));
                    }
                }
                Err(_) => {}
            }
        }
    }
}

/// What a look for a certain process brought.
enum Look<'w> {
    Seat(Seat<'w>),
    /// It is busy.
    Later,
    /// Any process will do.
    NeverMind,
}

/// A seat at a certain process. `None`: any will do.
///
/// Not in the queue: that is for any seat, and other processes may have free ones. So it looks again and again;
/// `look` is told for how long already.
fn await_certain<'w>(
    r: &Request<'_>,
    worker: &Worker,
    group: GroupRef,
    patience: Patience,
    mut look: impl FnMut(Duration) -> Look<'w>,
) -> Result<Option<Seat<'w>>, RequestError> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    let mut next_check = SLICE;
    loop {
        let waited = start.elapsed();
        match look(waited) {
            Look::Seat(seat) => return Ok(Some(seat)),
            Look::NeverMind => return Ok(None),
            Look::Later => {}
        }
        if waited >= next_check {
            if is_client_gone(r) {
                return Err(RequestError::ClientGone);
            }
            patience.check(worker, group, start)?;
            next_check = waited + SLICE;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK_PAUSE);
    }
}

/// Looks for a process of the newest code: requests wait for one after a restart, as long as the agent says so.
fn newest(worker: &Worker, group: GroupRef, waited: Duration) -> Look<'_> {
    let Some(info) = worker.view.group(group) else {
        return Look::NeverMind;
    };
    match worker.client.take_newest(group) {
        Ok(seat) => return Look::Seat(seat),
        // Nothing old is left to be preferred; the queue is the place to wait.
        Err(Busy { live: 0 }) => return Look::NeverMind,
        Err(Busy { .. }) => {}
    }
    // The bound is also here, in case the agent dies before it takes its word back.
    let bound = Duration::from_millis(u64::from(info.code_wait_ms));
    match info.code_wait_ms != u32::MAX && waited >= bound {
        true => Look::NeverMind,
        false => Look::Later,
    }
}

/// Looks for the process that the client's sticky session is at. Any other will do when that one is gone, or has
/// been busy for too long, or is the group's only one, for which the queue is the place to wait.
fn on_route<'w>(
    r: &Request<'_>,
    worker: &'w Worker,
    group: GroupRef,
    route: u64,
    waited: Duration,
) -> Look<'w> {
    match worker.client.take_on_route(group, route) {
        Ok(seat) => return Look::Seat(seat),
        Err(OffRoute::Gone | OffRoute::Busy { live: 0 | 1 }) => return Look::NeverMind,
        Err(OffRoute::Busy { .. }) => {}
    }
    // A part of a request that is executed there waits for it in vain.
    match waited >= ROUTE_PATIENCE || seat_holder_above(r).is_some() {
        true => Look::NeverMind,
        false => Look::Later,
    }
}

impl Patience {
    /// Whether a request that has waited since `start` may wait on.
    fn check(self, worker: &Worker, group: GroupRef, start: Instant) -> Result<(), RequestError> {
        let is_over = |seconds: &u32| start.elapsed().as_secs() >= u64::from(*seconds);
        let Some(limit) = self.seconds.filter(is_over) else {
            return Ok(());
        };
        let queue = worker.client.queue(group);
        Err(RequestError::QueueTimedOut {
            limit,
            length: queue.length,
            oldest: queue.oldest,
            processes: processes(worker, group),
            status: self.status,
        })
    }
}

/// The URL of a request on this thread that holds a seat while this one, a part of it, asks for another. With
/// few processes they would wait for each other for ever.
fn seat_holder_above(r: &Request<'_>) -> Option<String> {
    let mut above = r.parent();
    while let Some(outer) = above {
        // Relaxed: written and read by this one thread.
        if outer
            .attached()
            .is_some_and(|m| m.holds_seat.load(Ordering::Relaxed))
        {
            return Some(String::from_utf8_lossy(outer.unparsed_uri()).into_owned());
        }
        above = outer.parent();
    }
    None
}

fn is_client_gone(r: &Request<'_>) -> bool {
    match r.client_socket() {
        Some(socket) => exchange::is_gone(socket),
        None => r.is_aborted(),
    }
}

fn queue_full(worker: &Worker, group: GroupRef, full: &QueueFull, status: u16) -> RequestError {
    let limit = worker.view.group(group).map_or(0, |info| info.queue_limit);
    RequestError::QueueFull {
        length: full.length,
        limit,
        oldest: full.oldest,
        processes: processes(worker, group),
        status,
    }
}

/// What each process of the group is at, for the log.
fn processes(worker: &Worker, group: GroupRef) -> String {
    let occupancy = worker.client.occupancy(group);
    if occupancy.is_empty() {
        return "no process is ready".to_owned();
    }
    let words: Vec<String> = occupancy.iter().map(at_work).collect();
    words.join(", ")
}

fn at_work(process: &Occupancy) -> String {
    let mut text = format!("process {} has {}", process.pid, process.busy);
    if process.concurrency > 0 {
        text += &format!(" of {}", process.concurrency);
    }
    text += " requests";
    if process.orphans > 0 {
        text += &format!(" ({} abandoned by clients)", process.orphans);
    }
    if !process.is_newest {
        text += " and runs old code";
    }
    text
}
