//! What a process says on its control socket, from the first step of its start to its leave, and what follows from
//! that: once it is ready it is published.

use std::sync::PoisonError;

use passenger_shm::{ProcessParams, Protocol};

use super::core::Agent;
use super::processes::{Body, Phase, Process};
use super::spawning::LAST_WORDS;
use super::tasks::{self, Happening};
use crate::pool::{Event, ProcessId};
use crate::spawn::dialogue::{Said, Speaks};
use crate::spawn::report::Cause;

impl Agent {
    pub(super) fn on_said(&mut self, id: ProcessId, said: Result<Said, String>) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let pid = process.pid();
        let starting = process.starting();
        match (said, starting) {
            (Ok(Said::Step(step)), Some(starting)) => starting.story.began(step),
            (Ok(Said::Info(key, value)), Some(starting)) => starting.story.fact(key, value),
            (Ok(Said::Error(step, text)), Some(starting)) => {
                // One timer, however often it says so.
                let is_first = starting.cause.is_none();
                starting.cause.get_or_insert(Cause::Said { step, text });
                if is_first {
                    let overdue = Happening::Overdue { process: id };
                    tasks::after(LAST_WORDS, self.happenings.clone(), overdue);
                }
            }
            (
                Ok(Said::Ready {
                    concurrency,
                    speaks,
                }),
                Some(starting),
            ) => {
                if starting.cause.is_none() {
                    self.publish(id, concurrency, speaks);
                }
            }
            (Err(text), Some(starting)) => {
                starting.cause.get_or_insert(Cause::Misspoke(text));
                self.with_body(id, Body::kill_group);
            }
            (Ok(Said::Busy { token, numbers }), None) => self.on_busy(id, token, &numbers),
            (Ok(Said::WorkWanted), None) => self.tell(Event::WorkWanted { process: id }),
            (Ok(Said::WorkDone(token)), None) => self.on_work_done(id, token),
            (Ok(Said::Leave), None) => self.tell(Event::LeaveAsked { process: id }),
            (Err(text), None) => {
                log::error!("app process {pid} {text}; it is replaced");
                self.tell(Event::LeaveAsked { process: id });
            }
            (Ok(Said::Error(step, text)), None) => {
                log::warn!("app process {pid} reports a failure of step {step}: {text}");
            }
            (Ok(said), _) => log::debug!("app process {pid} said out of turn: {said:?}"),
        }
    }

    /// A command answered at its port, which is all it ever says.
    pub(super) fn on_answered(&mut self, id: ProcessId) {
        let starting = self.processes.get_mut(id).and_then(Process::starting);
        if starting.is_some_and(|starting| starting.cause.is_none()) {
            self.publish(id, 0, Speaks::Http);
        }
    }

    /// It is ready: workers may use it.
    fn publish(&mut self, id: ProcessId, concurrency: u32, speaks: Speaks) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let (pid, reference, group_id) = (process.pid(), process.reference, process.group);
        let code_generation = process.code_generation;
        let port = process.port.as_ref().map_or(0, |reserved| reserved.port);
        if process.is_ending {
            // Killed already, because of a restart: what it loaded may be the old code.
            return;
        }
        let Some(starting) = process.starting() else {
            return;
        };
        starting.deadline.abort();
        *starting.tail.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let concurrency = starting.forced_concurrency.unwrap_or(concurrency);
        let params = ProcessParams {
            pid,
            uid: starting.uid,
            concurrency,
            protocol: match speaks {
                Speaks::Binary => Protocol::Binary,
                Speaks::Http => Protocol::Http,
            },
            code_generation,
            port,
        };
        let took = starting.began.elapsed();
        let has_loaded = starting.has_loaded;
        process.phase = Phase::Serving;
        // Before the first request can take a seat: what the slot has counted is its predecessors'.
        process.takes_before = self.view.load(reference).takes;
        process.takes_seen = process.takes_before;
        self.view.publish(reference, &params);
        process.spawn_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        // Which of the slot's requests are this process's a successor could not find out.
        self.board.touch_now();
        if let Some(group) = self.groups.get_mut(group_id) {
            group.failure = None;
            group.former_failure = None;
            group.failed_starts = 0;
            group.is_resisting = false;
            group.tally.starts += 1;
            log::info!(
                "app {}: process {pid} is ready after {} ms",
                group.name,
                took.as_millis()
            );
        }
        self.tell_of_attached(id);
        self.tell(Event::SpawnReady {
            process: id,
            concurrency,
            has_loaded,
        });
    }
}
