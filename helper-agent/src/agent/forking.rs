//! Processes that a preloader forks: from the question to the moment when the agent knows the process as well as one
//! that it has started itself. After that they are the same.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::core::{watch, Agent};
use super::preloaders::{Phase, Preloader};
use super::processes::{Process, Way};
use super::tasks::{self, Happening};
use crate::instance;
use crate::pool::{GroupId, ProcessId};
use crate::spawn::fork::{self, Asked, Hello};
use crate::spawn::launch;
use crate::sys::process::effective_uid;

/// A fork takes milliseconds; a preloader that has not managed it in this time is stuck in some code of the app's.
const FORK_PATIENCE: Duration = Duration::from_secs(10);

/// A worker that a preloader was asked for and that has not said hello.
#[derive(Debug)]
pub(super) struct Forking {
    pub(super) preloader: ProcessId,
    control: Arc<UnixStream>,
    output: Arc<OwnedFd>,
    tasks: [AbortHandle; 2],
}

impl Drop for Forking {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Agent {
    /// Has a preloader fork that process, if there is one with the code of today.
    pub(super) fn fork_if_preloaded(&mut self, group_id: GroupId, id: ProcessId) -> bool {
        let Some(group) = self.groups.get(group_id) else {
            return false;
        };
        let generation = group.code_generation;
        let fits = |p: &Preloader| {
            p.phase == Phase::Ready && p.group == group_id && p.code_generation == generation
        };
        let ready = self.preloaders.iter().find(|(_, p)| fits(p));
        let Some(preloader_id) = ready.map(|(id, _)| id) else {
            return false;
        };
        if let Some(starting) = self.processes.get_mut(id).and_then(Process::starting) {
            starting.has_loaded = false;
        }
        self.ask_to_fork(preloader_id, id);
        true
    }

    pub(super) fn ask_to_fork(&mut self, preloader_id: ProcessId, id: ProcessId) {
        match self.try_to_fork(preloader_id, id) {
            Ok(Some(forking)) => {
                if let Some(starting) = self.processes.get_mut(id).and_then(Process::starting) {
                    starting.way = Way::Asked(forking);
                }
            }
            Ok(None) => {}
            Err(why) => self.fork_failed(id, preloader_id, &why),
        }
    }

    fn try_to_fork(
        &mut self,
        preloader_id: ProcessId,
        id: ProcessId,
    ) -> Result<Option<Forking>, String> {
        let apache = (effective_uid() == 0).then_some(self.configuration.apache.uid);
        let Some(process) = self.processes.get_mut(id) else {
            return Ok(None);
        };
        let (reference, group) = (process.reference, process.group);
        let Some(starting) = process.starting() else {
            return Ok(None);
        };
        let Some(preloader) = self.preloaders.get_mut(preloader_id) else {
            return Err("it is gone".to_owned());
        };
        preloader.last_used = Instant::now();
        starting.uid = preloader.uid;
        starting
            .story
            .fact("preloader", preloader.body.pid.to_string());
        if let Some(group) = self.groups.get(group) {
            starting.forced_concurrency = group.options.forced_concurrency();
        }
        let path =
            instance::app_socket(&self.instance_dir, reference.slot(), reference.generation());
        let listener = launch::bind(&path, apache, self.configuration.global.socket_backlog)
            .map_err(|e| format!("cannot make a request socket {}: {e}", path.display()))?;
        let Asked { control, output } = fork::ask(&preloader.body.control, listener)
            .map_err(|e| format!("it cannot be asked to fork: {e}"))?;
        let (control, output) = (Arc::new(control), Arc::new(output));
        let out = || self.happenings.clone();
        let overdue = Happening::ForkOverdue { process: id };
        let tasks = [
            watch(tasks::hello(id, Arc::clone(&control), out())),
            tasks::after(FORK_PATIENCE, out(), overdue),
        ];
        Ok(Some(Forking {
            preloader: preloader_id,
            control,
            output,
            tasks,
        }))
    }

    /// Whatever was asked for that start, if it still waits for it.
    fn take_forking(&mut self, id: ProcessId) -> Option<Forking> {
        let starting = self.processes.get_mut(id).and_then(Process::starting)?;
        if !matches!(starting.way, Way::Asked(_)) {
            return None;
        }
        match std::mem::replace(&mut starting.way, Way::Forked) {
            Way::Asked(forking) => Some(forking),
            _ => None,
        }
    }

    pub(super) fn on_fork_overdue(&mut self, id: ProcessId) {
        if let Some(forking) = self.take_forking(id) {
            let seconds = FORK_PATIENCE.as_secs();
            let why = format!("it has not forked within {seconds} s");
            self.fork_failed(id, forking.preloader, &why);
        }
    }

    pub(super) fn on_hello(&mut self, id: ProcessId, heard: Result<Hello, String>) {
        let Some(forking) = self.take_forking(id) else {
            return;
        };
        let result = heard.and_then(|hello| self.take_worker(id, &forking, hello));
        if let Err(why) = result {
            self.fork_failed(id, forking.preloader, &why);
        }
    }

    /// From here on it is a process like those that came out of a shim.
    fn take_worker(
        &mut self,
        id: ProcessId,
        forking: &Forking,
        hello: Hello,
    ) -> Result<(), String> {
        let Some(process) = self.processes.get_mut(id) else {
            return Ok(());
        };
        let Some(starting) = process.starting() else {
            return Ok(());
        };
        starting.story.began("fork".to_owned());
        let (uid, tail) = (starting.uid, Arc::clone(&starting.tail));
        let pid = hello.pid;
        if self.processes.by_pid(pid).is_some() || self.preloaders.by_pid(pid).is_some() {
            return Err(format!(
                "what said hello is process {pid}, which is there already"
            ));
        }
        let pidfd = fork::identify(hello, uid)
            .map_err(|why| format!("the process that it forked {why}"))?;
        let parts = (
            Arc::new(pidfd),
            Arc::clone(&forking.output),
            Arc::clone(&forking.control),
        );
        let group = self.processes.get(id).map(|process| process.group);
        let mut body = self.body(id, pid, parts, group, &tail);
        body.is_child = true;
        if let Some(preloader) = self.preloaders.get_mut(forking.preloader) {
            preloader.forks += 1;
            preloader.last_used = Instant::now();
            if let Some(process) = self.processes.get_mut(id) {
                process.forked_by = preloader.body.pid;
            }
        }
        self.let_go_on(id, body);
        Ok(())
    }

    /// A preloader that cannot fork is of no use, and what was wanted of it is had without it.
    fn fork_failed(&mut self, id: ProcessId, preloader_id: ProcessId, why: &str) {
        let mut who = "its preloader".to_owned();
        if let Some(preloader) = self.preloaders.get(preloader_id) {
            who = format!("preloader {}", preloader.body.pid);
            let (group, generation) = (preloader.group, preloader.code_generation);
            if preloader.forks == 0 {
                self.preload_no_more(group, generation);
            }
            self.end_preloader(preloader_id);
        }
        self.start_directly(id, &format!("{who} is of no use: {why}"));
    }
}
