//! Logs of single apps (`PassengerAppLogFile`): which file each has is found out by helper threads. The files themselves
//! are the app-log process's.

use std::sync::Arc;

use super::core::Agent;
use crate::app_log::Need;
use crate::spawn::prepare;

impl Agent {
    /// Begins what is due.
    pub(super) fn look_after_app_logs(&mut self) {
        for (_, group) in self.groups.iter() {
            if group.options.app_log_file.is_none() {
                if group.app_log.has_target() {
                    group.app_log.forget();
                }
                continue;
            }
            let Some(need) = group.app_log.need() else {
                continue;
            };
            let (log, links) = (Arc::clone(&group.app_log), self.app_logs.clone());
            let configuration = Arc::clone(&group.configuration);
            let registration = group.registration.clone();
            let begun = self.helpers.run(move || {
                match (need, registration) {
                    (Need::Pipe, _) => log.open(&links),
                    (Need::Target, Some(registration)) => {
                        if let Some(target) = prepare::log_target(&configuration, &registration) {
                            log.aim(target, &links);
                        }
                    }
                    (Need::Target, None) => {}
                }
                log.done();
            });
            if begun.is_err() {
                group.app_log.done();
            }
        }
    }

    /// The last lines are written before the agent ends.
    pub(super) fn end_app_logs(&mut self) {
        for (_, group) in self.groups.iter() {
            group.app_log.forget();
        }
        self.app_logs.end();
    }
}
