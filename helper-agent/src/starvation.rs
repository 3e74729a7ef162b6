//! Whether a process that did nothing was not let by the machine: then it is not hung.

use std::time::Duration;

/// Waiting for a processor for so long between two looks, a second apart, counts as "the machine did not
/// let it run".
const STARVED: Duration = Duration::from_millis(300);

/// Looks at one process again and again.
#[derive(Debug)]
pub(crate) struct Starvation {
    pid: i32,
    waited: Duration,
}

impl Starvation {
    /// Looks at that process from now on.
    #[must_use]
    pub(crate) fn of(pid: i32) -> Self {
        Self {
            pid,
            waited: waited(pid).unwrap_or_default(),
        }
    }

    /// Whether it was ready to run, but not run, for a good part of the time since the last call.
    pub(crate) fn was_starved(&mut self) -> bool {
        let before = self.waited;
        self.waited = waited(self.pid).unwrap_or(before);
        self.waited.saturating_sub(before) >= STARVED
    }
}

/// The second number of `schedstat`: time spent on a run queue.
fn waited(pid: i32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let nanoseconds = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}
