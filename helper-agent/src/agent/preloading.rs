//! Preloaders: processes that have loaded an app and fork its processes (`PassengerSpawnMethod smart`). Owns their
//! beginning and their end; what is known of each is in `preloaders`, what they fork in `forking`.
//!
//! The pool knows nothing of them: it asks for a process, and how that comes into being is decided here. A preloader
//! serves this agent alone and is not in the store: when the agent dies, so does the preloader, by the kernel's hand,
//! and a successor starts another when it needs one. What it has forked are children of the agent and stay.
//!
//! ```text
//!  Loading ──preloaded──► Ready ──► (forks) ──idle · restart · stop──► Ending ──► Gone
//!     │ said why           │ died, or does not fork
//!     │ it failed          └──► that process is started directly, the next one by another preloader …
//!     ▼                         … or also directly until the restart, if it never forked one
//!  report: the app's code is what failed
//! ```

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Agent;
use super::ending::{end_of, LAST_LINES};
use super::preloaders::{Phase, Preloader};
use super::processes::{Process, Starting, Way};
use super::spawning::LAST_WORDS;
use super::tasks::{self, Happening};
use crate::pool::{GroupId, ProcessId};
use crate::spawn::dialogue::{self, Said};
use crate::spawn::launch;
use crate::spawn::prepare::Prepared;
use crate::spawn::report::Cause;
use crate::sys::process::ExitStatus;

impl Agent {
    /// Whether a preloader is to load the app for that start.
    pub(super) fn is_to_be_preloaded(&mut self, id: ProcessId, prepared: &Prepared) -> bool {
        let Some(process) = self.processes.get_mut(id) else {
            return false;
        };
        let (group, generation) = (process.group, process.code_generation);
        let is_direct = process
            .starting()
            .is_none_or(|starting| matches!(starting.way, Way::Direct));
        let given_up = self.groups.get(group).and_then(|g| g.not_preloaded);
        prepared.preloads && !is_direct && given_up != Some(generation)
    }

    /// What its watchers see of a preloader.
    pub(super) fn on_preloader(&mut self, id: ProcessId, happening: Happening) {
        match happening {
            Happening::Said { said, .. } => self.on_preloader_said(id, said),
            Happening::Exited { .. } => self.on_preloader_exited(id),
            Happening::ControlClosed { .. } => self.on_preloader_closed(id, false),
            Happening::OutputClosed { .. } => self.on_preloader_closed(id, true),
            Happening::Overdue { .. } => {
                if let Some(preloader) = self.preloaders.get(id) {
                    preloader.body.kill_group();
                }
            }
            Happening::Conclude { .. } => self.conclude_preloader(id),
            other => log::error!("[BUG] a preloader cannot have {other:?}"),
        }
    }

    /// Starts a preloader for that start. From the shim on it is a start like any other, and it is told as
    /// the start's own.
    pub(super) fn preload(&mut self, id: ProcessId, prepared: &Prepared) -> Result<(), String> {
        self.make_room_for_preloader();
        let preloader_id = self.pool.new_process_id();
        let Some(process) = self.processes.get_mut(id) else {
            return Ok(());
        };
        let (group, code_generation) = (process.group, process.code_generation);
        let Some(starting) = process.starting() else {
            return Ok(());
        };
        starting.note(prepared);
        starting.way = Way::Load;
        let tail = Arc::clone(&starting.tail);
        let image = self.descriptors.agent_image.as_fd();
        let launched = launch::launch_preloader(image, &prepared.order, self.limits)
            .map_err(|e| format!("cannot start its preloader: {e}"))?;
        log::debug!(
            "preloader {} starts: {}",
            launched.pid,
            prepared.order.command()
        );
        let body = self.watch_body(preloader_id, launched, Some(group), &tail);
        if let Err(e) = body.say(dialogue::go()) {
            log::debug!("preloader {} ended before it began: {e}", body.pid);
        }
        let preloader = Preloader {
            group,
            code_generation,
            uid: prepared.uid,
            body,
            phase: Phase::Loading { start: id },
            last_used: Instant::now(),
            forks: 0,
            refusal: None,
            ended: None,
            ended_at: None,
            is_drained: false,
            is_silent: false,
        };
        self.preloaders.insert(preloader_id, preloader);
        Ok(())
    }

    fn start_of(&mut self, id: ProcessId) -> Option<&mut Starting> {
        self.processes.get_mut(id).and_then(Process::starting)
    }

    fn on_preloader_said(&mut self, id: ProcessId, said: Result<Said, String>) {
        let Some(preloader) = self.preloaders.get_mut(id) else {
            return;
        };
        let pid = preloader.body.pid;
        let Phase::Loading { start } = preloader.phase else {
            match said {
                Ok(Said::Error(step, text)) => log::warn!("preloader {pid}: {text} (step {step})"),
                Ok(said) => log::debug!("preloader {pid} said out of turn: {said:?}"),
                Err(text) => {
                    log::error!("preloader {pid} {text}");
                    self.end_preloader(id);
                }
            }
            return;
        };
        match said {
            Ok(Said::Preloaded) => self.on_preloaded(id, start),
            Ok(Said::Error(step, text)) if step == "preload" => {
                preloader.refusal = Some(text);
                preloader.body.kill_group();
            }
            Err(text) => {
                preloader.refusal = Some(format!("it {text}"));
                preloader.body.kill_group();
            }
            Ok(said) => self.on_said_while_loading(id, start, said),
        }
    }

    /// It speaks for the start that waits for it.
    fn on_said_while_loading(&mut self, id: ProcessId, start: ProcessId, said: Said) {
        let Some(starting) = self.start_of(start) else {
            return;
        };
        match said {
            Said::Step(step) => starting.story.began(step),
            Said::Info(key, value) => starting.story.fact(key, value),
            Said::Error(step, text) => {
                // One timer, however often it says so.
                let is_first = starting.cause.is_none();
                starting.cause.get_or_insert(Cause::Said { step, text });
                if is_first {
                    let overdue = Happening::Overdue { process: id };
                    tasks::after(LAST_WORDS, self.happenings.clone(), overdue);
                }
            }
            said => log::debug!("a preloader said out of turn: {said:?}"),
        }
    }

    fn on_preloaded(&mut self, id: ProcessId, start: ProcessId) {
        let began = self.start_of(start).map(|starting| starting.began);
        let Some(preloader) = self.preloaders.get_mut(id) else {
            return;
        };
        preloader.phase = Phase::Ready;
        preloader.last_used = Instant::now();
        self.board.touch();
        let (pid, group) = (preloader.body.pid, preloader.group);
        if let Some((group, began)) = self.groups.get(group).zip(began) {
            let took = began.elapsed().as_millis();
            log::info!(
                "app {}: preloader {pid} has loaded it after {took} ms",
                group.name
            );
            self.ask_to_fork(id, start);
        }
    }

    /// By force: it has nothing to finish, and must not run what the app registered for its end.
    pub(super) fn end_preloader(&mut self, id: ProcessId) {
        let Some(preloader) = self.preloaders.get_mut(id) else {
            return;
        };
        if preloader.ended.is_none() {
            preloader.phase = Phase::Ending;
            preloader.body.kill_group();
        }
    }

    /// Ends those of a group, or all: their code is old, or nobody will need them.
    pub(super) fn end_preloaders(&mut self, of: Option<GroupId>) {
        for id in self.preloaders.ids(|p| of.is_none_or(|of| p.group == of)) {
            self.end_preloader(id);
        }
    }

    /// PID of the preloader that a start waits for.
    pub(super) fn preloader_of(&self, start: ProcessId) -> Option<i32> {
        let loads = |p: &Preloader| p.phase == Phase::Loading { start };
        let found = self.preloaders.iter().find(|(_, p)| loads(p));
        found.map(|(_, preloader)| preloader.body.pid)
    }

    /// A start is given up: what was on its way for it is not needed.
    pub(super) fn abandon(&mut self, start: ProcessId) {
        let loads = |p: &Preloader| p.phase == Phase::Loading { start };
        for id in self.preloaders.ids(loads) {
            self.end_preloader(id);
        }
        let Some(starting) = self.start_of(start) else {
            return;
        };
        // Without our end of its control socket a worker that is still to come ends itself.
        let way = std::mem::replace(&mut starting.way, Way::Direct);
        if let Way::Asked(forking) = way {
            self.end_preloader(forking.preloader);
        }
    }

    /// Ends some before another is started: of many apps in a small pool most have a preloader and no process. There
    /// are never more than processes may be; those whose app has no process go first, the longest unused of them.
    fn make_room_for_preloader(&mut self) {
        let most = self.configuration.global.max_pool_size as usize;
        let count = self.preloaders.ids(Preloader::is_of_use).len();
        let surplus = (count + 1).saturating_sub(most.max(1));
        let is_used = |group| {
            let serves = |p: &Process| p.group == group && p.is_serving();
            self.processes.iter().any(|(_, p)| serves(p))
        };
        let ready = self.preloaders.iter();
        let mut ready: Vec<_> = ready
            .filter(|(_, p)| p.phase == Phase::Ready)
            .map(|(id, p)| (is_used(p.group), p.last_used, id))
            .collect();
        ready.sort_unstable();
        for (_, _, id) in ready.into_iter().take(surplus) {
            self.end_preloader(id);
        }
    }

    /// Ends those that have not forked for long (`PassengerMaxPreloaderIdleTime`).
    pub(super) fn end_idle_preloaders(&mut self) {
        let mut idle = Vec::new();
        for (id, preloader) in self.preloaders.iter() {
            let Some(group) = self.groups.get(preloader.group) else {
                continue;
            };
            let limit = group.options.max_preloader_idle();
            let is_idle = limit.is_some_and(|limit| preloader.last_used.elapsed() >= limit);
            if preloader.phase == Phase::Ready && is_idle {
                log::info!(
                    "app {}: preloader {} has not been needed for long and is ended",
                    group.name,
                    preloader.body.pid
                );
                idle.push(id);
            }
        }
        for id in idle {
            self.end_preloader(id);
        }
    }

    pub(super) fn on_preloader_exited(&mut self, id: ProcessId) {
        let Some(preloader) = self.preloaders.get_mut(id) else {
            return;
        };
        if preloader.ended.is_some() {
            return;
        }
        let status = end_of(&mut preloader.body);
        preloader.ended = Some(status);
        preloader.ended_at = Some(Instant::now());
        let (pid, group, forks) = (preloader.body.pid, preloader.group, preloader.forks);
        let generation = preloader.code_generation;
        match preloader.phase {
            Phase::Loading { .. } => {
                let conclude = Happening::Conclude { process: id };
                tasks::after(LAST_LINES, self.happenings.clone(), conclude);
            }
            Phase::Ready => {
                preloader.phase = Phase::Gone;
                let how = how(status);
                let name = self.groups.get(group).map_or("?", |group| &group.name);
                log::warn!("app {name}: preloader {pid} {how} without having been asked to");
                if forks == 0 {
                    self.preload_no_more(group, generation);
                }
            }
            Phase::Ending | Phase::Gone => preloader.phase = Phase::Gone,
        }
        self.look_after_preloader(id);
    }

    /// Its output (or else its control socket) is read to the end.
    fn on_preloader_closed(&mut self, id: ProcessId, is_output: bool) {
        if let Some(preloader) = self.preloaders.get_mut(id) {
            if is_output {
                preloader.is_drained = true;
            } else {
                preloader.is_silent = true;
            }
        }
        self.look_after_preloader(id);
    }

    /// Draws the conclusion from its end once it has said and printed all, and forgets it when nothing of it is left.
    fn look_after_preloader(&mut self, id: ProcessId) {
        let Some(preloader) = self.preloaders.get(id) else {
            return;
        };
        let is_complete = preloader.is_drained && preloader.is_silent && preloader.ended.is_some();
        if is_complete {
            self.conclude_preloader(id);
            self.preloaders.remove(id);
        }
    }

    /// Forgets those that ended long ago, whoever still holds the other ends of their descriptors.
    pub(super) fn forget_preloaders(&mut self, afterlife: Duration) {
        let is_old = |at: Instant| at.elapsed() >= afterlife;
        for id in self.preloaders.ids(|p| p.ended_at.is_some_and(is_old)) {
            self.conclude_preloader(id);
            self.preloaders.remove(id);
        }
    }

    /// It ended while it loaded: the app's failure if it said so; otherwise perhaps its own.
    fn conclude_preloader(&mut self, id: ProcessId) {
        let Some(preloader) = self.preloaders.get_mut(id) else {
            return;
        };
        let Phase::Loading { start } = preloader.phase else {
            return;
        };
        preloader.phase = Phase::Gone;
        let status = preloader.ended.flatten();
        let (pid, group) = (preloader.body.pid, preloader.group);
        let generation = preloader.code_generation;
        let why = preloader.refusal.take().unwrap_or_else(|| how(status));
        let Some(starting) = self.start_of(start) else {
            return;
        };
        if starting.cause.is_some() {
            starting.ended = Some(status);
            self.conclude(start);
        } else {
            self.preload_no_more(group, generation);
            self.start_directly(start, &format!("preloader {pid} is of no use: {why}"));
        }
    }

    /// What cannot be preloaded is started directly until its code changes.
    pub(super) fn preload_no_more(&mut self, group: GroupId, code_generation: u32) {
        if let Some(group) = self.groups.get_mut(group) {
            group.not_preloaded = Some(code_generation);
        }
    }

    /// What it forks crashes before it is ready: some library of the app may not survive a fork.
    pub(super) fn distrust_preloader(&mut self, group_id: GroupId, code_generation: u32) {
        self.preload_no_more(group_id, code_generation);
        self.end_preloaders(Some(group_id));
        if let Some(group) = self.groups.get(group_id) {
            log::warn!(
                "app {}: its process crashed after its preloader had forked it; processes are started directly until \
                 the app is restarted",
                group.name
            );
        }
    }

    /// Starts without a preloader what one could not give, within the same deadline.
    pub(super) fn start_directly(&mut self, id: ProcessId, why: &str) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        let (group_id, generation) = (process.group, process.code_generation);
        let Some(starting) = process.starting() else {
            return;
        };
        starting.way = Way::Direct;
        if let Some(group) = self.groups.get(group_id) {
            let until = if group.not_preloaded == Some(generation) {
                ", and so are those after it until the app is restarted"
            } else {
                ""
            };
            let name = &group.name;
            log::warn!("app {name}: {why}; its process is started directly{until}");
        }
        self.begin_start(group_id, id);
    }
}

fn how(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "ended".to_owned(), |status| status.to_string())
}
