//! Step 4 of a request's life: a seat, now or after a wait in the group's queue.

use crate::error::RequestError;
use crate::exchange;
use crate::ffi::request::Request;
use crate::worker::Worker;
use passenger_shm::{Busy, GroupRef, Hint, ProcessRef, QueueFull, Seat};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Longest sleep between two looks at the client.
const SLICE: Duration = Duration::from_millis(250);

/// Takes a seat of the group, avoiding `avoid` where another process has room. Blocks while the group is
/// busy or its first process starts.
///
/// # Errors
/// A full queue, an app that does not start, a client that left, or a wait that could never end.
pub(crate) fn admit<'w>(
    r: &Request<'_>,
    worker: &'w Worker,
    group: GroupRef,
    avoid: Option<ProcessRef>,
) -> Result<Seat<'w>, RequestError> {
    if let Ok(seat) = worker.client.take(group, avoid) {
        return Ok(seat);
    }
    if let Some(outer) = seat_holder_above(r) {
        return Err(RequestError::WouldDeadlock { outer });
    }
    let failures = worker.view.group(group).map(|info| info.spawn_failures);
    let mut waiter = worker
        .client
        .enqueue(group)
        .map_err(|full| queue_full(worker, group, &full))?;
    worker.client.hint(Hint::CapacityWanted(group));
    loop {
        if let Some(seat) = waiter.wait(SLICE) {
            return Ok(seat);
        }
        if is_client_gone(r) {
            return Err(RequestError::ClientGone);
        }
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

fn queue_full(worker: &Worker, group: GroupRef, full: &QueueFull) -> RequestError {
    let limit = worker.view.group(group).map_or(0, |info| info.queue_limit);
    RequestError::QueueFull {
        length: full.length,
        limit,
        oldest: full.oldest,
    }
}
