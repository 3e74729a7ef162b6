//! The beginning of a process: reserved slot, order, shim, dialogue, until it is published or a report says
//! why it is not. The deadline covers all of it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use passenger_shm::messages::Registration;
use passenger_shm::{ProcessParams, Protocol};

use super::answering;
use super::core::{watch, Agent};
use super::processes::{Body, Phase, Process, Starting, Way};
use super::retiring::Share;
use super::tasks::{self, Happening};
use crate::config::Configuration;
use crate::instance;
use crate::pool::{Event, GroupId, ProcessId};
use crate::spawn::dialogue::{self, Said, Speaks};
use crate::spawn::launch::{self, Launched};
use crate::spawn::prepare::{self, Prepared};
use crate::spawn::report::{Cause, Story, Tail};
use crate::sys::process::effective_uid;

/// A process that said why it failed exits by itself; it is given so long.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(2);
/// A start waits so long for the preparation of one before it, which was given up. After that it fails
/// with a sentence: helper threads must not gather in a file system that does not answer.
const PREPARE_PATIENCE: Duration = Duration::from_secs(2);

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
            group: group_id,
            reference,
            code_generation: group.code_generation,
            phase: Phase::Starting(Box::new(starting)),
            body: None,
            port: None,
            share: Share::default(),
            takes_before: 0,
            takes_seen: 0,
            last_used: 0,
            spawn_ms: 0,
            forked_by: 0,
            question: None,
            is_abandoned: false,
            work_token: None,
            is_ending: false,
            is_attached: false,
            is_drained: false,
            is_silent: false,
        };
        self.processes.insert(id, process);
        if !self.fork_if_preloaded(group_id, id) {
            self.begin_start(group_id, id);
        }
    }

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

    /// Everything between fork and `go`.
    fn launch(&mut self, id: ProcessId, prepared: &Prepared) -> Result<(), String> {
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
        self.board.touch();
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
