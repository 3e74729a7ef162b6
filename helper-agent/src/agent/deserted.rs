//! Commands whose server has ended while what we started of them, a shell as a rule, lives on: nobody listens at the port
//! any more, or somebody else does. Workers say which process is suspect; what counts is what the kernel says of its port.

use std::time::Duration;

use passenger_shm::ProcessRef;

use super::core::Agent;
use super::tasks::Happening;
use crate::pool::{Event, ProcessId};
use crate::spawn::port;

/// A server may listen anew, after a reload of its own, say: so often it is looked, …
const LOOKS: u32 = 4;
/// … with such pauses.
const LOOK_PAUSE: Duration = Duration::from_millis(500);

impl Agent {
    /// A worker had trouble with a process. For a command that may be the only sign that its server has ended.
    pub(super) fn on_suspect(&mut self, reference: ProcessRef) {
        let mut processes = self.processes.iter();
        let Some((id, process)) = processes.find(|(_, p)| p.reference == reference) else {
            return;
        };
        let is_command = process.body.as_ref().is_some_and(|body| body.is_command);
        if !is_command || !process.is_serving() || process.is_ending {
            return;
        }
        let mut known = self.view.processes().into_iter();
        let Some(known) = known.find(|snapshot| snapshot.process == reference) else {
            return;
        };
        // One look at a time, however often a worker says so.
        if !self.suspects.insert(id) {
            return;
        }
        let out = self.happenings.clone();
        let begun = self.helpers.run(move || {
            let is_deserted = is_deserted(known.port, known.uid);
            let _ = out.blocking_send(Happening::LookedAtPort {
                process: id,
                is_deserted,
            });
        });
        if begun.is_err() {
            self.suspects.remove(&id);
        }
    }

    pub(super) fn on_looked_at_port(&mut self, id: ProcessId, is_deserted: bool) {
        self.suspects.remove(&id);
        let Some(process) = self.processes.get(id) else {
            return;
        };
        if !is_deserted || !process.is_serving() || process.is_ending {
            return;
        }
        let name = self.groups.get(process.group).map_or("?", |g| &g.name);
        log::warn!(
            "app {name}: the server of command {} has ended, nobody of its user listens at its port; the command is \
             replaced",
            process.pid()
        );
        self.tell(Event::LeaveAsked { process: id });
    }
}

fn is_deserted(number: u16, uid: u32) -> bool {
    (0..LOOKS).all(|look| {
        if look > 0 {
            std::thread::sleep(LOOK_PAUSE);
        }
        port::listener(number) != Some(uid)
    })
}
