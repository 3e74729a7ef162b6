//! When the agent is started, believed dead, and killed. A pure state machine: times come in, actions go
//! out, so that every (state, event) pair can be tested without a process or a clock.

use std::time::{Duration, Instant};

/// How long an agent may take from its start to `Ready`.
pub const START_LIMIT: Duration = Duration::from_secs(10);

/// How often the heartbeat is looked at.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A look that comes later than this after the one before proves that the watchdog itself did not run
/// (suspend, `SIGSTOP` of all, a slow virtual machine); it says nothing about the agent.
const LATE_LOOK: Duration = Duration::from_millis(1500);

/// How long a killed agent may take to die. One that waits in the kernel, for somebody's file system, cannot, but it never
/// executes another instruction of its own either: its successor has nothing to fear from it.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

/// How long an aborted agent may take to die before it is killed.
const ABORT_LIMIT: Duration = Duration::from_secs(2);

/// An agent that was ready for that long did not die of its start: the next restart is immediate again.
/// Short, so that two accidents a minute apart never cost anybody a pause.
const PROVEN: Duration = Duration::from_secs(2);

/// Longest pause between two starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What the watchdog does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Start an agent.
    Start,
    /// Send `SIGABRT`, for this reason.
    Abort(String),
    /// Send `SIGKILL`.
    Kill,
    /// Go on as if it were dead.
    Abandon,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No agent; one starts then.
    Absent { start_at: Instant },
    /// An agent runs and has not said `Ready`.
    Starting { since: Instant },
    /// It serves.
    Ready {
        since: Instant,
        beat: u64,
        looked: Instant,
        misses: u32,
    },
    /// It was told to abort and is killed then.
    Aborting { kill_at: Instant },
    /// It was killed; its pidfd will tell, or it is abandoned then.
    Killed { abandon_at: Instant },
}

/// The life of the agents, one after the other.
#[derive(Debug)]
pub struct Supervisor {
    state: State,
    /// Since when the agent there is, or was, has been ready.
    ready_since: Option<Instant>,
    /// Agents in a row that died before they were proven.
    failures: u32,
}

impl Supervisor {
    /// No agent yet; the first is due at once.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Absent { start_at: now },
            ready_since: None,
            failures: 0,
        }
    }

    /// An agent was started.
    pub fn started(&mut self, now: Instant) {
        self.state = State::Starting { since: now };
        self.ready_since = None;
    }

    /// The agent said `Ready`; returns how long that took if it is the first time.
    pub fn ready(&mut self, now: Instant, beat: u64) -> Option<Duration> {
        let State::Starting { since } = self.state else {
            return None;
        };
        self.state = State::Ready {
            since: now,
            beat,
            looked: now,
            misses: 0,
        };
        self.ready_since = Some(now);
        Some(now.duration_since(since))
    }

    /// The agent has closed its channel: it is given a moment to exit.
    pub fn channel_closed(&mut self, now: Instant) {
        if matches!(self.state, State::Starting { .. } | State::Ready { .. }) {
            self.state = State::Aborting {
                kill_at: now + ABORT_LIMIT,
            };
        }
    }

    /// Agents in a row that died before they had served for a while.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The agent is dead (its pidfd said so), or could not be started. Returns the pause until the next
    /// start: none for the first failure, then doubling from 100 ms to 30 s. Never gives up.
    pub fn gone(&mut self, now: Instant) -> Duration {
        // Not from the state: the end of its channel comes before its death.
        let is_proven = self
            .ready_since
            .take()
            .is_some_and(|since| now.duration_since(since) >= PROVEN);
        self.failures = if is_proven {
            1
        } else {
            self.failures.saturating_add(1)
        };
        let doublings = self.failures.saturating_sub(2).min(16);
        let pause = match self.failures {
            0 | 1 => Duration::ZERO,
            _ => (Duration::from_millis(100) * (1 << doublings)).min(LONGEST_PAUSE),
        };
        self.state = State::Absent {
            start_at: now + pause,
        };
        pause
    }

    /// Time has passed. `beat` is the heartbeat word; `was_starved` says that the agent wanted to run since
    /// the last look and the machine did not let it.
    pub fn tick(&mut self, now: Instant, beat: u64, was_starved: bool) -> Action {
        match self.state {
            State::Absent { start_at } if now >= start_at => Action::Start,
            State::Starting { since } if now.duration_since(since) >= START_LIMIT => self.abort(
                now,
                format!("it was not ready after {} s", START_LIMIT.as_secs()),
            ),
            State::Ready { .. } => self.look(now, beat, was_starved),
            State::Aborting { kill_at } if now >= kill_at => {
                self.state = State::Killed {
                    abandon_at: now + DEATH_LIMIT,
                };
                Action::Kill
            }
            State::Killed { abandon_at } if now >= abandon_at => Action::Abandon,
            State::Absent { .. } | State::Starting { .. } => Action::Nothing,
            State::Aborting { .. } | State::Killed { .. } => Action::Nothing,
        }
    }

    fn look(&mut self, now: Instant, beat: u64, was_starved: bool) -> Action {
        let State::Ready {
            since,
            beat: known,
            looked,
            misses,
        } = self.state
        else {
            return Action::Nothing;
        };
        let pause = now.duration_since(looked);
        if pause < BEAT_INTERVAL {
            return Action::Nothing;
        }
        let misses = match beat == known {
            false => 0,
            true if pause > LATE_LOOK || was_starved => 0,
            true => misses + 1,
        };
        self.state = State::Ready {
            since,
            beat,
            looked: now,
            misses,
        };
        if misses >= 2 {
            return self.abort(now, format!("its heart has not beaten for {misses} s"));
        }
        Action::Nothing
    }

    fn abort(&mut self, now: Instant, reason: String) -> Action {
        self.state = State::Aborting {
            kill_at: now + ABORT_LIMIT,
        };
        Action::Abort(reason)
    }

    /// When [`Supervisor::tick`] has something to do at the latest.
    #[must_use]
    pub fn next_look(&self) -> Option<Instant> {
        match self.state {
            State::Absent { start_at } => Some(start_at),
            State::Starting { since } => Some(since + START_LIMIT),
            State::Ready { looked, .. } => Some(looked + BEAT_INTERVAL),
            State::Aborting { kill_at } => Some(kill_at),
            State::Killed { abandon_at } => Some(abandon_at),
        }
    }

    /// Whether the agent serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn serving(now: Instant) -> Supervisor {
        let mut supervisor = Supervisor::new(now);
        assert_eq!(supervisor.tick(now, 0, false), Action::Start);
        supervisor.started(now);
        assert_eq!(supervisor.ready(now, 5), Some(Duration::ZERO));
        supervisor
    }

    #[test]
    fn the_first_restart_is_immediate_and_a_crash_loop_is_slowed_down() {
        let mut now = Instant::now();
        let mut supervisor = serving(now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let pause = supervisor.gone(now);
            pauses.push(pause.as_millis());
            assert!(pause.is_zero() || supervisor.tick(now, 0, false) == Action::Nothing);
            now += pause;
            assert_eq!(supervisor.tick(now, 0, false), Action::Start);
            supervisor.started(now);
        }
        assert_eq!(pauses[..5], [0, 100, 200, 400, 800]);
        assert_eq!(pauses[11], 30_000);
        supervisor.ready(now, 1);
        supervisor.channel_closed(now + PROVEN);
        assert_eq!(
            supervisor.gone(now + PROVEN),
            Duration::ZERO,
            "a proven agent clears the record"
        );
    }

    #[test]
    fn two_missed_beats_abort_then_kill() {
        let now = Instant::now();
        let mut supervisor = serving(now);
        assert_eq!(supervisor.tick(now + SECOND, 6, false), Action::Nothing);
        assert_eq!(supervisor.tick(now + 2 * SECOND, 6, false), Action::Nothing);
        assert!(matches!(
            supervisor.tick(now + 3 * SECOND, 6, false),
            Action::Abort(_)
        ));
        assert_eq!(supervisor.tick(now + 4 * SECOND, 6, false), Action::Nothing);
        assert_eq!(supervisor.tick(now + 5 * SECOND, 6, false), Action::Kill);
        let waits_until = now + 5 * SECOND + DEATH_LIMIT;
        let before = waits_until - SECOND;
        assert_eq!(supervisor.tick(before, 6, false), Action::Nothing);
        assert_eq!(supervisor.next_look(), Some(waits_until));
        // The kernel does not let it die: another one has to do.
        assert_eq!(supervisor.tick(waits_until, 6, false), Action::Abandon);
        let pause = supervisor.gone(waits_until);
        assert_eq!(pause, Duration::ZERO);
        assert_eq!(supervisor.tick(waits_until, 6, false), Action::Start);
    }

    #[test]
    fn a_watchdog_that_did_not_run_itself_blames_nobody() {
        let now = Instant::now();
        let mut supervisor = serving(now);
        supervisor.tick(now + SECOND, 5, false);
        assert_eq!(
            supervisor.tick(now + 60 * SECOND, 5, false),
            Action::Nothing
        );
        assert_eq!(
            supervisor.tick(now + 61 * SECOND, 5, false),
            Action::Nothing
        );
        assert!(matches!(
            supervisor.tick(now + 62 * SECOND, 5, false),
            Action::Abort(_)
        ));
    }

    #[test]
    fn an_agent_that_gets_no_cpu_is_not_hung() {
        let now = Instant::now();
        let mut supervisor = serving(now);
        for n in 1..20 {
            assert_eq!(supervisor.tick(now + n * SECOND, 5, true), Action::Nothing);
        }
    }

    #[test]
    fn an_agent_that_never_gets_ready_is_aborted() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(now);
        supervisor.started(now);
        assert_eq!(supervisor.tick(now + 9 * SECOND, 0, false), Action::Nothing);
        assert!(matches!(
            supervisor.tick(now + START_LIMIT, 0, false),
            Action::Abort(_)
        ));
        assert_eq!(supervisor.ready(now + START_LIMIT, 0), None, "too late");
    }
}
