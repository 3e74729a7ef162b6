//! A start in the place of an agent that found the watchdog dead: same process, other program.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use passenger_shm::channel::Channel;
use passenger_shm::ClientId;

use super::core::Watchdog;
use super::settings::Head;
use super::start::{prepare, Parts};
use super::table::{ConfigEntry, ProcessEntry, ProcessKey, WorkerEntry};
use super::takeover::Inherited;
use crate::sys::descriptor;
use crate::sys::pidfd::Pidfd;

/// Takes over, with what it left open under the numbers of the table.
pub(super) fn take_over(table: i32) -> Result<Watchdog, String> {
    let mut inherited =
        Inherited::read(table).map_err(|e| format!("cannot read the take-over table: {e}"))?;
    let adopted = |e: io::Error| format!("cannot adopt a descriptor of the agent: {e}");
    let (document, log) = inherited.take_config().map_err(adopted)?;
    let config = ConfigEntry {
        generation: inherited.config_generation,
        document,
        log,
    };
    let head = Head::read(&config)?;
    head.apply_log(&config);
    let (signals, mut originals) = prepare()?;
    originals.nofile = inherited.nofile().or(originals.nofile);
    // This process had the score of an agent.
    originals.oom_score_adj = inherited.oom_score_adj.or(originals.oom_score_adj);
    let descriptors = inherited.take_start().map_err(adopted)?;
    let settings = head.settings();
    let past = inherited.take_past().map_err(adopted)?;
    let directory = PathBuf::from(&inherited.instance_dir);
    let (parent_pid, generation) = (inherited.parent_pid, inherited.watchdog_generation + 1);
    let mut watchdog = Parts {
        signals,
        originals,
        descriptors,
        config,
        settings,
        hooks: head.hooks(),
        parent_pid,
        generation,
    }
    .assemble(directory)?;
    watchdog.told_parent = inherited.was_ready;
    watchdog.is_retired = inherited.is_retired;
    watchdog.table.past = past;
    watchdog.adopt_inherited(&inherited).map_err(adopted)?;
    watchdog.renew_reserve();
    log::warn!(
        "process {} is the watchdog now, with {} app processes and {} workers",
        std::process::id(),
        inherited.processes.len(),
        inherited.workers.len()
    );
    if let Some(left) = inherited.stop_in_ms {
        watchdog.hooks.is_stop_told = true;
        watchdog.begin_stop(left, "the watchdog before was stopping");
    }
    Ok(watchdog)
}

impl Watchdog {
    /// Takes the workers and processes of a take-over table.
    fn adopt_inherited(&mut self, inherited: &Inherited) -> io::Result<()> {
        for worker in &inherited.workers {
            let entry = WorkerEntry {
                pid: worker.pid,
                connection: Channel::foreign(descriptor::take_inherited(worker.connection)?)?,
                pidfd: Pidfd::from(descriptor::take_inherited(worker.pidfd)?),
                token: 0,
            };
            self.add_worker(ClientId::new(worker.slot, worker.generation), entry)?;
        }
        for process in &inherited.processes {
            let fds = [
                descriptor::take_inherited(process.pidfd)?,
                descriptor::take_inherited(process.output)?,
                descriptor::take_inherited(process.control)?,
            ];
            let key = (process.slot, process.generation);
            self.adopt_process(key, process.pid, process.app.clone(), fds);
        }
        self.watch_outputs();
        // Children may have ended while the program was being replaced.
        self.reap_children();
        Ok(())
    }

    /// Takes an app process that an earlier watchdog kept.
    pub(super) fn adopt_process(
        &mut self,
        key: ProcessKey,
        pid: i32,
        app: String,
        fds: [OwnedFd; 3],
    ) {
        let entry = self.process_entry(pid, app, fds);
        self.table.processes.insert(key, entry);
    }

    /// One whose output nobody reads yet. Descriptors: pidfd, output, control socket.
    pub(super) fn process_entry(
        &self,
        pid: i32,
        app: String,
        [pidfd, output, control]: [OwnedFd; 3],
    ) -> ProcessEntry {
        ProcessEntry {
            pid,
            pidfd: Pidfd::from(pidfd),
            output,
            control,
            token: None,
            drain: self.drain_for(pid, &app),
            app,
            exited: None,
        }
    }
}
