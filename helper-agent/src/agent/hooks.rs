//! Hooks as the agent has them: what happens that programs of root's are to hear of, and the runners that are under way.
//! The agent starts runners and notes their ends; it never waits for one but when a request takes too long, whose process
//! is left alive for a moment so that a program can look into it, and for a moment when everything ends.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use passenger_shm::hooks::Hook;

use super::core::Agent;
use super::groups::Group;
use super::processes::Body;
use super::tasks::{self, Happening};
use crate::hooks::{launch, Facts, Job, Rejections, Schedule};
use crate::pool::{GroupId, ProcessId};
use crate::sys::limits;
use crate::sys::pidfd;
use crate::sys::process::Exit;

/// How long a process whose request takes too long stays alive for those who look into it.
const INSPECTION: Duration = Duration::from_secs(10);

/// How long the agent waits for hooks when everything else has ended.
const LAST_HOOKS: Duration = Duration::from_secs(5);

/// What runs and what waits.
#[derive(Debug, Default)]
pub(super) struct AgentHooks {
    schedule: Schedule,
    rejections: Rejections,
    /// When everything else had ended.
    last_since: Option<Instant>,
}

impl Agent {
    /// A process serves.
    pub(super) fn tell_of_attached(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(id) {
            process.is_attached = true;
        }
        self.run_for_process(Hook::AttachedProcess, id, None);
    }

    /// A process gets no more requests, because it shall end or because it did.
    pub(super) fn tell_of_detached(&mut self, id: ProcessId) {
        let process = self.processes.get_mut(id);
        if process.is_some_and(|process| std::mem::take(&mut process.is_attached)) {
            self.run_for_process(Hook::DetachedProcess, id, None);
        }
    }

    /// A process did not start.
    pub(super) fn tell_of_failure(&mut self, group: GroupId, error_id: String, summary: String) {
        let facts = Facts {
            error_id: Some(error_id),
            error_message: Some(summary),
            ..self.facts_of(group)
        };
        self.run_hook(Hook::SpawnFailed, facts, None, None);
    }

    /// A request of that process takes too long: whether somebody looks into it before it is killed.
    pub(super) fn is_inspected_first(&mut self, id: ProcessId) -> bool {
        if !self.run_for_process(Hook::MaxRequestTimeReached, id, Some(id)) {
            return false;
        }
        if let Some(process) = self.processes.get_mut(id) {
            process.is_inspected = true;
        }
        let inspected = Happening::Inspected { process: id };
        tasks::after(INSPECTION, self.happenings.clone(), inspected);
        true
    }

    /// Whether somebody looks into that process, which is killed afterwards.
    pub(super) fn is_being_inspected(&self, id: ProcessId) -> bool {
        self.processes
            .get(id)
            .is_some_and(|process| process.is_inspected)
    }

    fn run_for_process(&mut self, hook: Hook, id: ProcessId, condemned: Option<ProcessId>) -> bool {
        let Some(process) = self.processes.get(id) else {
            return false;
        };
        let (group, pid) = (process.group, process.pid());
        let facts = Facts {
            process_pid: Some(pid),
            ..self.facts_of(group)
        };
        self.run_hook(hook, facts, None, condemned)
    }

    fn facts_of(&self, group: GroupId) -> Facts {
        let group = self.groups.get(group);
        Facts {
            app_root: group.map(|group| group.facts.app_root.clone()),
            app_group_name: group.map(|group| group.name.clone()),
            ..Facts::default()
        }
    }

    /// Has the programs of a hook run, now or soon; `false` if there are none or too many wait.
    fn run_hook(
        &mut self,
        hook: Hook,
        facts: Facts,
        rejected_by: Option<GroupId>,
        condemned: Option<ProcessId>,
    ) -> bool {
        let Some(programs) = self.configuration.global.hooks.get(hook) else {
            return false;
        };
        let job = Job {
            hook,
            programs: programs.clone(),
            facts,
            rejected_by,
            condemned,
        };
        let is_added = self.hooks.schedule.add(job).is_ok();
        self.start_runners();
        is_added
    }

    fn start_runners(&mut self) {
        while let Some(job) = self.hooks.schedule.next() {
            let image = self.descriptors.agent_image.as_fd();
            let limits = (
                self.limits.nofile,
                self.oom_score_adj.map(limits::app_score),
            );
            match launch(image, limits, job.hook, &job.programs, &job.facts) {
                Ok(started) => {
                    let pid = started.pid;
                    log::debug!("hook {}: runs in process {pid}", job.hook.name());
                    if let Some(Err(e)) = self.cgroup.as_ref().map(|cgroup| cgroup.add(pid)) {
                        log::warn!("cannot put the hook {pid} into the control group: {e}");
                    }
                    self.hooks.schedule.started(pid, job, Instant::now());
                }
                Err(e) => {
                    let (name, place) = (job.hook.name(), &job.programs.place);
                    log::error!("hook {name}: cannot be run: {e} ({place})");
                    self.after_hook(&job);
                }
            }
        }
    }

    /// Nobody looks into it any more.
    fn after_hook(&self, job: &Job) {
        if let Some(id) = job.condemned {
            self.with_body(id, Body::kill_group);
        }
    }

    /// A child has ended that is no process of an app.
    pub(super) fn on_runner_exited(&mut self, exit: &Exit) {
        // How it ended it has said itself.
        if let Some(job) = self.hooks.schedule.ended(exit.pid) {
            log::debug!("hook {}: {}", job.hook.name(), exit.status);
            self.after_hook(&job);
            self.start_runners();
        }
    }

    /// What is due by time.
    pub(super) fn look_after_hooks(&mut self) {
        let now = Instant::now();
        for (pid, job) in self.hooks.schedule.take_overdue(now) {
            let name = job.hook.name();
            log::error!("hook {name}: its runner {pid} does not end by itself and is killed");
            if let Err(e) = pidfd::signal_group_of_child(pid, libc::SIGKILL) {
                log::error!("hook {name}: cannot kill its runner {pid}: {e}");
            }
            self.after_hook(&job);
        }
        if let Some(count) = self.hooks.schedule.take_dropped(now) {
            log::warn!("hooks: {count} were not run, because too many were waiting already");
        }
        self.look_at_rejections(now);
        self.start_runners();
    }

    /// An app is new: all that its queue refuses from now on is to be told, also before the first look.
    pub(super) fn begin_rejections(&mut self, group: GroupId) {
        if self.tells_of_rejections() {
            self.hooks.rejections.saw(group, 0);
        }
    }

    fn tells_of_rejections(&self) -> bool {
        let hooks = &self.configuration.global.hooks;
        hooks.get(Hook::QueueFullError).is_some()
    }

    fn look_at_rejections(&mut self, now: Instant) {
        if !self.tells_of_rejections() {
            return;
        }
        let groups = self.groups.ids();
        self.hooks.rejections.keep(&groups);
        for id in groups {
            let Some(reference) = self.groups.get(id).map(|group: &Group| group.reference) else {
                continue;
            };
            self.hooks.rejections.saw(id, self.view.rejected(reference));
            let Some(count) = self.hooks.rejections.due(id, now) else {
                continue;
            };
            // Counted on.
            if self.hooks.schedule.tells_of(id) || !self.hooks.schedule.has_room() {
                continue;
            }
            let facts = Facts {
                rejected_requests: Some(count),
                ..self.facts_of(id)
            };
            if self.run_hook(Hook::QueueFullError, facts, Some(id), None) {
                self.hooks.rejections.told(id, now);
            }
        }
    }

    /// Whether nothing is under way any more that the end should wait for. What is left then the watchdog ends with
    /// everything else.
    pub(super) fn are_hooks_over(&mut self) -> bool {
        if self.hooks.schedule.is_empty() {
            return true;
        }
        let now = Instant::now();
        let since = *self.hooks.last_since.get_or_insert(now);
        let is_over = now >= since + LAST_HOOKS || self.stop_at.is_some_and(|at| now >= at);
        if is_over {
            let (running, waiting) = self.hooks.schedule.left();
            for (pid, hook) in running {
                log::warn!("hook {}: process {pid} ends with httpd", hook.name());
            }
            if waiting > 0 {
                log::warn!("{waiting} hooks are not run any more, because httpd stops");
            }
        }
        is_over
    }
}
