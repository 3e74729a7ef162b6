//! Before a process is begun: a helper thread finds out what is to be started, since that may wait for a file system
//! or a name service. One preparation of a group at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use passenger_shm::messages::Registration;

use super::core::Agent;
use super::processes::{Phase, Process};
use super::tasks::Happening;
use crate::config::Configuration;
use crate::pool::{GroupId, ProcessId};
use crate::spawn::prepare::{self, Prepared};
use crate::spawn::report::Cause;

/// A start waits so long for the preparation of one before it, which was given up. After that it fails
/// with a sentence: helper threads must not gather in a file system that does not answer.
const PREPARE_PATIENCE: Duration = Duration::from_secs(2);

impl Agent {
    /// Begins with the preparation, or waits for the one that is under way.
    pub(super) fn begin_start(&mut self, group_id: GroupId, id: ProcessId) {
        let Some(group) = self.groups.get(group_id) else {
            return;
        };
        let configuration = Arc::clone(&group.configuration);
        let registration = group.registration.clone();
        let is_preparing = group.preparing_since.is_some();
        let is_stuck = group
            .preparing_since
            .is_some_and(|since| since.elapsed() >= PREPARE_PATIENCE);
        let Some(registration) = registration else {
            let text = "the configuration does not name it any more".to_owned();
            self.fail_start(id, Cause::NotBegun(text));
            return;
        };
        if is_stuck {
            let text =
                "the file system or name service that the start before asked has not answered yet";
            self.fail_start(id, Cause::NotBegun(text.to_owned()));
            return;
        }
        if !is_preparing {
            self.prepare(group_id, id, configuration, registration);
        }
    }

    /// Has a helper thread find out what is to be started.
    fn prepare(
        &mut self,
        group_id: GroupId,
        id: ProcessId,
        configuration: Arc<Configuration>,
        registration: Registration,
    ) {
        if let Some(group) = self.groups.get_mut(group_id) {
            group.preparing_since = Some(Instant::now());
        }
        let (out, loaders) = (self.happenings.clone(), self.loaders.clone());
        let log = self
            .groups
            .get(group_id)
            .filter(|g| g.options.app_log_file.is_some());
        let log = log.map(|group| (Arc::clone(&group.app_log), self.app_logs.clone()));
        let begun = self.helpers.run(move || {
            // First of all, so that whatever goes wrong is told there.
            if let Some((log, links)) = log {
                if let Some(target) = prepare::log_target(&configuration, &registration) {
                    log.aim(target, &links);
                }
            }
            let result = prepare::prepare(&configuration, &registration, &loaders).map(Box::new);
            let happening = Happening::Prepared {
                group: group_id,
                process: id,
                result,
            };
            let _ = out.blocking_send(happening);
        });
        if let Err(e) = begun {
            if let Some(group) = self.groups.get_mut(group_id) {
                group.preparing_since = None;
            }
            let text = format!("the agent cannot start a thread to prepare it: {e}");
            self.fail_start(id, Cause::NotBegun(text));
        }
    }

    pub(super) fn on_prepared(
        &mut self,
        group: GroupId,
        id: ProcessId,
        result: Result<Box<Prepared>, String>,
    ) {
        self.board.touch_now();
        if let Some(group) = self.groups.get_mut(group) {
            group.preparing_since = None;
            if let Ok(prepared) = &result {
                group.name.clone_from(&prepared.group_name);
                group.learn(prepared);
            }
        }
        let is_awaited = self
            .processes
            .get_mut(id)
            .is_some_and(|process| process.body.is_none() && process.starting().is_some());
        if !is_awaited {
            self.prepare_next(group);
            return;
        }
        let launched = result.and_then(|prepared| {
            if self.is_to_be_preloaded(id, &prepared) {
                self.preload(id, &prepared)
            } else {
                self.launch(id, &prepared)
            }
        });
        if let Err(text) = launched {
            self.fail_start(id, Cause::NotBegun(text));
        }
    }

    /// Prepares the start that waited because one before it, given up meanwhile, was being prepared.
    fn prepare_next(&mut self, group_id: GroupId) {
        let waits = |p: &Process| {
            p.group == group_id && p.body.is_none() && matches!(p.phase, Phase::Starting(_))
        };
        let next = self.processes.iter().find(|(_, p)| waits(p));
        let Some(id) = next.map(|(id, _)| id) else {
            return;
        };
        let Some(group) = self.groups.get(group_id) else {
            return;
        };
        let configuration = Arc::clone(&group.configuration);
        if let Some(registration) = group.registration.clone() {
            self.prepare(group_id, id, configuration, registration);
        }
    }
}
