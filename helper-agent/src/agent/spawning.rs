//! The beginning of a process: reserved slot, order, shim, and its watchers. What is to be started is found out
//! before (`preparing.rs`); what it says until it is published is `listening.rs`'s. The deadline covers all of it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::answering;
use super::core::{watch, Agent};
use super::processes::{Body, Phase, Process, Starting, Way};
use super::tasks::{self, Happening};
use crate::instance;
use crate::pool::{Event, GroupId, ProcessId};
use crate::spawn::dialogue;
use crate::spawn::launch::{self, Launched};
use crate::spawn::prepare::Prepared;
use crate::spawn::report::{Cause, Story, Tail};
use crate::sys::process::effective_uid;

/// A process that said why it failed exits by itself; it is given so long.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);
impl Agent {
    /// Begins a start. Whatever becomes of it is an event for the pool.
    pub(super) fn spawn(&mut self, group_id: GroupId, id: ProcessId) {
        let Some(group) = self.groups.get(group_id) else {
            self.tell(Event::SpawnFailed { process: id });
            return;
        };
        let reference = match self.view.reserve_process(group.reference) {
            Ok(reference) => reference,
            Err(e) => {
                let cause = Cause::NotBegun(format!("there is no room for another process: {e}"));
                self.report(group_id, &cause, &Story::default(), "");
                self.tell(Event::SpawnFailed { process: id });
                return;
            }
        };
        let timeout = group.options.start_timeout();
        let timed_out = Happening::StartTimedOut { process: id };
        let starting = Starting {
            story: Story::default(),
            cause: None,
            tail: Arc::new(Mutex::new(Some(Tail::default()))),
            deadline: tasks::after(timeout, self.happenings.clone(), timed_out),
            timeout,
            uid: effective_uid(),
            forced_concurrency: None,
            way: Way::Open,
            has_loaded: true,
            began: Instant::now(),
            ended: None,
        };
        let process = Process {
            // What the slot has counted is its predecessors'. Noted from the beginning: a successor could not find out.
            takes_before: self.view.load(reference).takes,
            ..Process::new(
                group_id,
                reference,
                group.code_generation,
                Phase::Starting(Box::new(starting)),
            )
        };
        self.processes.insert(id, process);
        if !self.fork_if_preloaded(group_id, id) {
            self.begin_start(group_id, id);
        }
    }

    /// Everything between fork and `go`.
    pub(super) fn launch(&mut self, id: ProcessId, prepared: &Prepared) -> Result<(), String> {
        let apache = (effective_uid() == 0).then_some(self.configuration.apache.uid);
        let Some(process) = self.processes.get_mut(id) else {
            return Ok(());
        };
        let reference = process.reference;
        let path =
            instance::app_socket(&self.instance_dir, reference.slot(), reference.generation());
        let Some(starting) = process.starting() else {
            return Ok(());
        };
        starting.note(prepared);
        let tail = Arc::clone(&starting.tail);
        let listener = match &prepared.port {
            Some(_) => None,
            None => Some(
                launch::bind(&path, apache, self.configuration.global.socket_backlog).map_err(
                    |e| format!("cannot make its request socket {}: {e}", path.display()),
                )?,
            ),
        };
        let image = self.descriptors.agent_image.as_fd();
        let launched = launch::launch(image, &prepared.order, listener, self.limits)
            .map_err(|e| format!("cannot start a process: {e}"))?;
        log::debug!(
            "process {} starts: {}",
            launched.pid,
            prepared.order.command()
        );
        let group = self.processes.get(id).map(|process| process.group);
        let mut body = self.watch_body(id, launched, group, &tail);
        if let Some(reserved) = &prepared.port {
            body.is_command = true;
            let answer = answering::answer(
                id,
                reserved.port,
                prepared.uid,
                self.helpers.clone(),
                self.happenings.clone(),
            );
            body.tasks.push(watch(answer));
        }
        if let Some(process) = self.processes.get_mut(id) {
            process.port.clone_from(&prepared.port);
        }
        self.let_go_on(id, body);
        Ok(())
    }

    /// Puts a process into the store and then lets it go on: a successor must know every process there is.
    pub(super) fn let_go_on(&mut self, id: ProcessId, body: Body) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let descriptors = [
            body.pidfd.as_fd(),
            body.output.as_fd(),
            body.control.as_fd(),
        ];
        let group = self.groups.get(process.group);
        let whose = (body.pid, group.map_or("", |group| &group.name));
        let deposited = self.store.deposit(process.reference, whose, descriptors);
        match deposited.map(|()| body.say(dialogue::go())) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => log::debug!("process {} ended before it began: {e}", body.pid),
            Err(e) => {
                body.kill_group();
                log::error!("cannot put process {} into the store: {e}", body.pid);
            }
        }
        process.body = Some(body);
    }

    /// Puts a process that came out of the shim where it belongs (what it forks will be there as well), and gives
    /// it its watchers.
    pub(super) fn watch_body(
        &self,
        id: ProcessId,
        launched: Launched,
        group: Option<GroupId>,
        tail: &tasks::SharedTail,
    ) -> Body {
        let Launched {
            pid,
            pidfd,
            output,
            control,
        } = launched;
        if let Some(Err(e)) = self.cgroup.as_ref().map(|cgroup| cgroup.add(pid)) {
            log::warn!("cannot put process {pid} into the control group: {e}");
        }
        let parts = (Arc::new(pidfd), Arc::new(output), Arc::new(control));
        let mut body = self.body(id, pid, parts, group, tail);
        body.is_child = true;
        body
    }

    /// The body of a process that exists, with its watchers; not (known to be) our child.
    pub(super) fn body(
        &self,
        id: ProcessId,
        pid: i32,
        (pidfd, output, control): (
            Arc<crate::sys::pidfd::Pidfd>,
            Arc<OwnedFd>,
            Arc<std::os::unix::net::UnixStream>,
        ),
        group: Option<GroupId>,
        tail: &tasks::SharedTail,
    ) -> Body {
        let group = group.and_then(|group| self.groups.get(group));
        let outlet = tasks::Outlet {
            has_prefix: !self.configuration.global.disable_log_prefix,
            app: group.map_or_else(String::new, |group| group.name.clone()),
            pid,
            app_log: group.map_or_else(Arc::default, |group| Arc::clone(&group.app_log)),
            tail: Arc::clone(tail),
        };
        let out = || self.happenings.clone();
        let tasks = vec![
            watch(tasks::output(id, Arc::clone(&output), outlet, out())),
            watch(tasks::control(id, Arc::clone(&control), out())),
            watch(tasks::exit(id, Arc::clone(&pidfd), out())),
        ];
        Body {
            pid,
            pidfd,
            output,
            control,
            is_command: false,
            is_child: false,
            is_reaped: false,
            exit: None,
            tasks,
        }
    }
}
