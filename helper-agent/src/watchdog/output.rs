//! Reading the apps' output while no agent does: an app dies at its next log line when its pipe loses the
//! reader, and stops when nobody empties it.

use std::os::fd::AsFd;

use super::core::{Source, Watchdog};
use super::table::ProcessKey;
use crate::output::{Drained, LineDrain};
use crate::sys::epoll::Trigger;

impl Watchdog {
    /// A reader for the output of an app.
    pub(super) fn drain_for(&self, pid: i32, app: &str) -> LineDrain {
        if self.settings.has_log_prefix {
            LineDrain::for_app(pid, app)
        } else {
            LineDrain::new("")
        }
    }

    /// Starts to read all outputs; what is in them already is reported at once. The agent must be dead.
    pub(super) fn watch_outputs(&mut self) {
        for (key, entry) in &mut self.table.processes {
            if entry.token.is_none() {
                let fd = entry.output.as_fd();
                match self
                    .events
                    .add(fd, Source::Output(*key), Trigger::ReadableEdge)
                {
                    Ok(token) => entry.token = Some(token),
                    Err(e) => log::error!("cannot watch the output of app {}: {e}", entry.pid),
                }
            }
        }
    }

    /// Leaves all outputs to the agent.
    pub(super) fn unwatch_outputs(&mut self) {
        for entry in self.table.processes.values_mut() {
            if let Some(token) = entry.token.take() {
                self.events.remove(entry.output.as_fd(), token);
            }
        }
        self.busy_outputs.clear();
    }

    /// Writes what one app has printed to the log, if that is ours to do now.
    pub(super) fn drain_output(&mut self, key: ProcessKey) {
        let Some(entry) = self.table.processes.get_mut(&key) else {
            return;
        };
        let Some(token) = entry.token else { return };
        let mut sink = |line: &str| {
            // A full disk must not stop apps: such a line is lost.
            let _ = crate::log::app_output(line);
        };
        match entry
            .drain
            .drain(entry.output.as_fd(), &mut self.scratch, &mut sink)
        {
            Ok(Drained::Waiting) => {}
            Ok(Drained::More) => self.busy_outputs.push(key),
            Ok(Drained::Closed) => self.events.remove(entry.output.as_fd(), token),
            Err(e) => {
                log::error!("cannot read the output of app {}: {e}", entry.pid);
                self.events.remove(entry.output.as_fd(), token);
            }
        }
    }

    /// Looks at unfinished lines again: a pipe reports only what is new.
    pub(super) fn drain_unfinished(&mut self) {
        let waiting = self
            .table
            .processes
            .iter()
            .filter(|(_, entry)| entry.token.is_some() && entry.drain.has_unfinished_line());
        let keys: Vec<ProcessKey> = waiting.map(|(key, _)| *key).collect();
        for key in keys {
            self.drain_output(key);
        }
    }

    /// Reads everything that dead apps have left in their pipes.
    pub(super) fn drain_all(&mut self) {
        self.watch_outputs();
        let keys: Vec<ProcessKey> = self.table.processes.keys().copied().collect();
        for key in keys {
            self.drain_output(key);
            while self.busy_outputs.pop().is_some() {
                self.drain_output(key);
            }
        }
    }
}
