//! Waiting for something that another process does: poll until it is so, or give up and say what was
//! seen instead. A test never sleeps "long enough".

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The usual patience: far longer than anything takes on a loaded machine with two cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds, at most `deadline`.
///
/// # Panics
/// When the deadline passes; the message is `what`.
pub fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    until_some(what, deadline, || condition().then_some(()));
}

/// Waits until `probe` gives a value, at most `deadline`, and returns it.
///
/// # Panics
/// When the deadline passes; the message is `what`.
pub fn until_some<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    until_ok(what, deadline, || probe().ok_or("not yet"))
}

/// Waits until `probe` succeeds, at most `deadline`. The last failure is the evidence when it never does.
///
/// # Panics
/// When the deadline passes; the message has `what` and the last failure.
pub fn until_ok<T, E: std::fmt::Display>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        match probe() {
            Ok(value) => return value,
            Err(evidence) if Instant::now() >= end => {
                panic!("waited {deadline:?} in vain for: {what} (last seen: {evidence})")
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}
