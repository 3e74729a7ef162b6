//! Commands whose server has ended while what we started of them, a shell as a rule, lives on: nobody listens at the port
//! any more, or somebody else does. Workers say which process is suspect; what counts is what the kernel says of its port.

use std::future::Future;
use std::io;
use std::time::Duration;

use passenger_shm::ProcessRef;

use super::answering::owner;
use super::core::Agent;
use super::tasks::Happening;
use crate::pool::{Event, ProcessId};

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
        let helpers = self.helpers.clone();
        tokio::spawn(async move {
            let look = || owner(known.port, &helpers);
            let is_deserted = is_deserted(look, known.uid, LOOK_PAUSE).await;
            let looked = Happening::LookedAtPort {
                process: id,
                is_deserted,
            };
            let _ = out.send(looked).await;
        });
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

/// Whether nobody of that user listens, however often one looks. Who cannot look does not know, and a healthy
/// command stays.
async fn is_deserted<L: Future<Output = io::Result<Option<u32>>>>(
    look: impl Fn() -> L,
    uid: u32,
    pause: Duration,
) -> bool {
    for number in 0..LOOKS {
        if number > 0 {
            tokio::time::sleep(pause).await;
        }
        match look().await {
            Ok(owner) if owner != Some(uid) => {}
            Ok(_) => return false,
            Err(e) => {
                log::debug!("cannot find out who listens at a command's port: {e}");
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn deserted_is_what_every_look_finds_without_a_listener_of_its_user() {
        let me = Some(1000);
        type Found<'a> = &'a dyn Fn(u32) -> io::Result<Option<u32>>;
        let cases: [(Found<'_>, bool); 5] = [
            (&|_| Ok(None), true),
            (&|_| Ok(Some(33)), true),
            (&|_| Ok(me), false),
            (&|look| Ok(me.filter(|_| look == LOOKS)), false),
            // Out of descriptors.
            (&|_| Err(io::Error::from_raw_os_error(24)), false),
        ];
        for (number, (found, expected)) in cases.into_iter().enumerate() {
            let looks = Cell::new(0);
            let look = || {
                looks.set(looks.get() + 1);
                ready(found(looks.get()))
            };
            let is_deserted = is_deserted(look, 1000, Duration::ZERO).await;
            assert_eq!(is_deserted, expected, "case {number}");
        }
    }
}
