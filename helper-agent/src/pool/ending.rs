//! How ending processes are urged on, one by one and all together: drained, asked, SIGTERM, SIGKILL.

use super::event::{Command, Millis, ProcessId};
use super::process::{Process, Stage, State};
use super::Pool;

/// After `stop` was said a process has so long before SIGTERM …
pub(super) const TERMINATE_AFTER_MS: u64 = 5_000;
/// … and after SIGTERM so long before SIGKILL.
const KILL_AFTER_MS: u64 = 55_000;
/// The same for one whose requests had all their time.
const KILL_OVERDUE_AFTER_MS: u64 = 5_000;
/// Workers notice within a second that a process ends, and a client may take two to close.
const PARTING_SLACK_MS: u64 = 4_000;
/// A process that ends has no longer than this for its requests while a group without any process waits for its
/// place and nobody else's is about to be free.
const NEEDED_DRAIN_MS: u64 = 60_000;

impl Pool {
    /// Urges ending processes on: drained → `stop`, then SIGTERM, then SIGKILL.
    pub(super) fn urge(&mut self, now: Millis, out: &mut Vec<Command>) {
        let stop = self.stop;
        let parting = self.limits.stream_drain_ms.saturating_add(PARTING_SLACK_MS);
        let terminate_after = stop.map_or(TERMINATE_AFTER_MS, |stop| stop.terminate_after_ms);
        let patience = self.limits.request_drain_ms;
        let in_the_way = self.in_the_way(now);
        for (id, process) in &mut self.processes {
            let State::Ending(stage) = process.state else {
                continue;
            };
            let must_die = stop.is_some_and(|stop| now >= stop.kill_at);
            let must_ask = stop.is_some_and(|stop| now >= stop.ask_at);
            // Orphans do not hold the question back: `stop` lets the app finish what it was sent. Streams do,
            // while the workers close them one after the other.
            let is_drained = process.load.in_use == 0;
            let kill_after = match process.is_overdue {
                true => KILL_OVERDUE_AFTER_MS,
                false => KILL_AFTER_MS,
            };
            let has_parted = |since| process.load.streams == 0 || now.since(since) >= parting;
            let is_overdue = |since| {
                let had_its_time = patience.is_some_and(|ms| now.since(since) >= ms);
                !is_drained && (had_its_time || in_the_way.contains(id))
            };
            let next = match stage {
                Stage::Killed => continue,
                _ if must_die => Stage::Killed,
                Stage::Draining { is_seen, since }
                    if must_ask || (is_seen && is_drained && has_parted(since)) =>
                {
                    Stage::Asked { since: now }
                }
                Stage::Draining { is_seen, since } if is_seen && is_overdue(since) => {
                    out.push(Command::DrainOverdue { process: *id });
                    process.is_overdue = true;
                    Stage::Asked { since: now }
                }
                Stage::Asked { since } if now.since(since) >= terminate_after => {
                    Stage::Terminated { since: now }
                }
                Stage::Terminated { since } if now.since(since) >= kill_after => Stage::Killed,
                Stage::Draining { .. } | Stage::Asked { .. } | Stage::Terminated { .. } => continue,
            };
            process.state = State::Ending(next);
            let process = *id;
            out.push(match next {
                Stage::Asked { .. } | Stage::Draining { .. } => Command::AskToStop { process },
                Stage::Terminated { .. } => Command::Terminate { process },
                Stage::Killed => Command::Kill { process },
            });
        }
    }

    /// The draining processes whose requests end now, because a group without any process needs their place: no more
    /// than it takes, those that had most time first.
    fn in_the_way(&self, now: Millis) -> Vec<ProcessId> {
        let had_enough = |(id, p): (&ProcessId, &Process)| match p.state {
            State::Ending(Stage::Draining {
                since,
                is_seen: true,
            }) if p.load.in_use > 0 && now.since(since) >= NEEDED_DRAIN_MS => Some((since, *id)),
            _ => None,
        };
        let mut late: Vec<_> = self.processes.iter().filter_map(had_enough).collect();
        if late.is_empty() {
            return Vec::new();
        }
        late.sort_unstable();
        let needed = self.places_needed(now);
        late.into_iter().take(needed).map(|(_, id)| id).collect()
    }

    pub(super) fn end_everything(&mut self, now: Millis, out: &mut Vec<Command>) {
        let live: Vec<ProcessId> = self
            .processes
            .iter()
            .filter(|(_, p)| p.is_up())
            .map(|(id, _)| *id)
            .collect();
        for id in live {
            self.end(now, id, out);
        }
        for (id, process) in &mut self.processes {
            if process.is_starting() {
                // Nobody will ever be served by it.
                process.state = State::Ending(Stage::Killed);
                out.push(Command::Kill { process: *id });
            }
        }
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Command>) {
        if let Some(stop) = &mut self.stop {
            if self.processes.is_empty() && !stop.has_finished {
                stop.has_finished = true;
                out.push(Command::Finished);
            }
        }
    }
}
