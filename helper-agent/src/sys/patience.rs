//! How long to wait for processes that were killed: not even `SIGKILL` ends one that the kernel has wait for a file
//! system that does not answer.

use std::time::{Duration, Instant};

/// How long processes may take to vanish after `SIGKILL` (a process in the kernel's hands cannot).
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long it is waited for nobody but such as are in the kernel's hands: a log, say, on a dead network file system.
const STUCK_LIMIT: Duration = Duration::from_secs(2);

/// How long to wait for the killed. One for all that is ended together: who hangs is waited for once.
#[derive(Debug)]
pub struct Patience {
    deadline: Instant,
    /// Since when everybody left is in the kernel's hands.
    stuck_since: Option<Instant>,
}

impl Patience {
    /// Begins now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            deadline: now + KILL_LIMIT,
            stuck_since: None,
        }
    }

    /// Whether to give those up who are left, by their states. There may be none: who has a thread that cannot end is a
    /// zombie by his own state, and nobody can reap him.
    pub fn is_over(&mut self, now: Instant, mut states: impl Iterator<Item = char>) -> bool {
        if states.all(|state| matches!(state, 'D' | 'Z' | 'X')) {
            let since = *self.stuck_since.get_or_insert(now);
            return now >= (since + STUCK_LIMIT).min(self.deadline);
        }
        self.stuck_since = None;
        now >= self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(100);

    #[test]
    fn those_whom_no_signal_reaches_are_given_up_soon_and_the_others_late() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert!(!patience.is_over(start, "D".chars()));
        // A zombie whose thread hangs is not among the living.
        assert!(!patience.is_over(start + MOMENT, "".chars()));
        assert!(patience.is_over(start + STUCK_LIMIT, "DZ".chars()));
        let mut patience = Patience::new(start);
        assert!(!patience.is_over(start, "D".chars()));
        assert!(!patience.is_over(start + STUCK_LIMIT, "DR".chars()));
        // It got on meanwhile.
        assert!(!patience.is_over(start + STUCK_LIMIT + MOMENT, "D".chars()));
        assert!(patience.is_over(start + STUCK_LIMIT * 2 + MOMENT, "D".chars()));
        let mut patience = Patience::new(start);
        assert!(!patience.is_over(start + KILL_LIMIT - MOMENT, "R".chars()));
        assert!(patience.is_over(start + KILL_LIMIT, "R".chars()));
    }
}
