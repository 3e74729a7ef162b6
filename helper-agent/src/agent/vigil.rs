//! Whether the watchdog is alive: it says so once a second. One that is silent does nothing any more for
//! workers that come and go, and would not notice this agent's death; it is killed, and this agent takes
//! its place. A pure state machine, like the one with which the watchdog judges the agent.

use std::time::{Duration, Instant};

/// How often silence is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// A look that comes later than this after the one before proves that the agent itself did not run.
const LATE_LOOK: Duration = Duration::from_millis(1500);

/// Silent looks in a row after which the watchdog counts as hung.
const MOST_SILENT: u32 = 3;

/// What is known of the watchdog's life.
#[derive(Debug)]
pub(super) struct Vigil {
    looked: Instant,
    /// Only who says that it lives can fall silent.
    has_begun: bool,
    has_spoken: bool,
    silent: u32,
}

impl Vigil {
    /// It has not said anything yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            looked: now,
            has_begun: false,
            has_spoken: true,
            silent: 0,
        }
    }

    /// It said that it lives.
    pub(super) fn heard(&mut self) {
        self.has_begun = true;
        self.has_spoken = true;
    }

    /// Whether it is time to look; asked more often than once a second.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now.duration_since(self.looked) >= LOOK
    }

    /// Looks, when that is due; `was_starved` says that the watchdog wanted to run since the last look and
    /// the machine did not let it. Returns how many seconds it has been silent if that is too long.
    pub(super) fn look(&mut self, now: Instant, was_starved: bool) -> Option<u32> {
        let is_late = now.duration_since(self.looked) > LATE_LOOK;
        self.looked = now;
        let is_excused =
            std::mem::take(&mut self.has_spoken) || is_late || was_starved || !self.has_begun;
        self.silent = if is_excused { 0 } else { self.silent + 1 };
        (self.silent >= MOST_SILENT).then_some(self.silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_silent_looks_in_a_row_are_a_hung_watchdog() {
        let start = Instant::now();
        let mut vigil = Vigil::new(start);
        vigil.heard();
        let mut looks = Vec::new();
        for second in 1..=9 {
            if second == 3 {
                vigil.heard();
            }
            assert!(vigil.is_due(start + second * LOOK));
            looks.push(vigil.look(start + second * LOOK, false));
        }
        // Spoken before 1 and 3; silent at 2, and from 4 on.
        let expected = [
            None,
            None,
            None,
            None,
            None,
            Some(3),
            Some(4),
            Some(5),
            Some(6),
        ];
        assert_eq!(looks, expected);
    }

    #[test]
    fn nobody_is_blamed_while_the_machine_does_not_let_anybody_run() {
        let mut now = Instant::now();
        let mut vigil = Vigil::new(now);
        vigil.heard();
        for round in 0..20 {
            now += if round % 2 == 0 { LOOK } else { 10 * LOOK };
            assert_eq!(vigil.look(now, round % 2 == 0), None);
        }
    }
}
