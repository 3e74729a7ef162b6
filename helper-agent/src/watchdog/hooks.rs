//! Hooks at httpd's start and stop. Before there is an agent, and when all is over, the watchdog has nothing else to do
//! and waits, with a deadline; between those it goes on with its loop and hears of the runner's end as of any child's.
//!
//! | hook | the watchdog | if it fails |
//! |---|---|---|
//! | `before_watchdog_initialization` | waits, then makes the instance | httpd does not start |
//! | `after_watchdog_initialization` | tells httpd's parent that all is ready after it | httpd does not start |
//! | `before_watchdog_shutdown` | asks for the end of the apps after it | goes on |
//! | `after_watchdog_shutdown` | waits, then exits | goes on |
//!
//! They are httpd's, not an instance's: an upgrade at a `graceful` runs none, nor does a watchdog that takes another's place.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use passenger_shm::hooks::Hook;

use super::core::{Originals, Watchdog};
use super::stop;
use crate::hooks::{launch, Facts, Hooks};
use crate::sys::limits;
use crate::sys::patience::Patience;
use crate::sys::pidfd::{self, Pidfd};
use crate::sys::process::{Exit, ExitStatus};

/// How much longer than its programs a runner may take: it ends them itself.
const GRACE: Duration = Duration::from_secs(2);

/// What is configured, what was run, what runs.
#[derive(Debug, Default)]
pub(super) struct WatchdogHooks {
    /// As configured now.
    pub(super) configured: Hooks,
    /// Whether httpd starts with this instance, and has not been told that it is ready.
    pub(super) is_start: bool,
    /// Whether those of the end were begun.
    pub(super) is_stop_told: bool,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    hook: Hook,
    /// Its own for as long as nobody reaps it, and nobody but us does.
    pid: i32,
    overdue: Instant,
}

impl WatchdogHooks {
    pub(super) fn new(configured: Hooks) -> Self {
        Self {
            configured,
            ..Self::default()
        }
    }
}

/// How long the watchdog puts up with a hook.
fn limit(hook: Hook) -> Duration {
    Duration::from_secs(hook.seconds().into()) + GRACE
}

fn start(
    hooks: &Hooks,
    hook: Hook,
    agent_image: BorrowedFd<'_>,
    originals: Originals,
) -> Option<Result<(i32, Pidfd), String>> {
    let programs = hooks.get(hook)?;
    let limits = (
        originals.nofile,
        originals.oom_score_adj.map(limits::app_score),
    );
    let started = launch(agent_image, limits, hook, programs, &Facts::default());
    let failed = |e| format!("hook {}: cannot be run: {e}", hook.name());
    Some(started.map(|s| (s.pid, s.pidfd)).map_err(failed))
}

/// Runs a hook to its end while there is nothing else to do, or until httpd's parent dies.
///
/// # Errors
/// A sentence, when a program failed or took too long.
pub(super) fn run_to_end(
    hooks: &Hooks,
    hook: Hook,
    agent_image: BorrowedFd<'_>,
    originals: Originals,
    parent: Option<&Pidfd>,
) -> Result<(), String> {
    let Some(started) = start(hooks, hook, agent_image, originals) else {
        return Ok(());
    };
    let (_, runner) = started?;
    let deadline = Instant::now() + limit(hook);
    while !runner.has_exited() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            stop::end_descendants(&mut Patience::new(Instant::now()));
            return Err(format!("hook {}: took too long", hook.name()));
        }
        if parent.is_some_and(Pidfd::has_exited) {
            stop::end_descendants(&mut Patience::new(Instant::now()));
            return Err(format!("hook {}: httpd is gone meanwhile", hook.name()));
        }
        let watched = [Some(&runner), parent].into_iter().flatten();
        let mut fds: Vec<PollFd<'_>> = watched
            .map(|pidfd| PollFd::new(pidfd.as_fd(), PollFlags::POLLIN))
            .collect();
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        // An interrupted wait is as good as one that timed out.
        let _ = nix::poll::poll(&mut fds, timeout);
    }
    match runner.reap() {
        Ok(Some(exit)) => verdict(hook, exit.status),
        Ok(None) | Err(_) => Err(format!("hook {}: ended unseen", hook.name())),
    }
}

fn verdict(hook: Hook, status: ExitStatus) -> Result<(), String> {
    match status {
        ExitStatus::Exited { code: 0 } => Ok(()),
        _ => Err(format!(
            "hook {}: failed, and the lines before say why",
            hook.name()
        )),
    }
}

impl Watchdog {
    /// Begins a hook whose end the loop will hear of; `false` if there is none.
    fn begin_hook(&mut self, hook: Hook) -> Result<bool, String> {
        let image = self.descriptors.agent_image.as_fd();
        let Some(started) = start(&self.hooks.configured, hook, image, self.originals) else {
            return Ok(false);
        };
        let (pid, _) = started?;
        self.hooks.running = Some(Running {
            hook,
            pid,
            overdue: Instant::now() + limit(hook),
        });
        Ok(true)
    }

    /// The agent is ready: httpd's parent is told, after a hook if this is httpd's start.
    pub(super) fn on_first_ready(&mut self) {
        if self.hooks.running.is_some() {
            // Another agent meanwhile: the hook's end is the next thing to happen.
            return;
        }
        if std::mem::take(&mut self.hooks.is_start) {
            match self.begin_hook(Hook::AfterWatchdogInitialization) {
                Ok(true) => return,
                Ok(false) => {}
                Err(why) => return self.fail_start(why),
            }
        }
        self.told_parent = self.tell_parent_ready();
    }

    /// The end begins; whether the apps have to wait for a hook.
    pub(super) fn begin_stop_hook(&mut self) -> bool {
        let is_due = self.told_parent && !self.is_retired && !self.hooks.is_stop_told;
        if !is_due {
            return false;
        }
        self.hooks.is_stop_told = true;
        self.begin_hook(Hook::BeforeWatchdogShutdown)
            .unwrap_or_else(|why| {
                log::error!("{why}");
                false
            })
    }

    /// Whether the apps still wait for the hook at the end.
    pub(super) fn is_stop_hook_running(&self) -> bool {
        let running = self.hooks.running.as_ref();
        running.is_some_and(|run| run.hook == Hook::BeforeWatchdogShutdown)
    }

    /// A child has ended; whether it was a hook's runner.
    pub(super) fn on_hook_exit(&mut self, exit: Exit) -> bool {
        let Some(run) = self.hooks.running.take_if(|run| run.pid == exit.pid) else {
            return false;
        };
        self.after_hook(run.hook, verdict(run.hook, exit.status));
        true
    }

    /// Gives up a runner that does not end by itself.
    pub(super) fn look_after_hook(&mut self, now: Instant) {
        let Some(run) = self.hooks.running.take_if(|run| now >= run.overdue) else {
            return;
        };
        if let Err(e) = pidfd::signal_group_of_child(run.pid, libc::SIGKILL) {
            log::error!("cannot kill the runner {} of a hook: {e}", run.pid);
        }
        let why = format!("hook {}: took too long", run.hook.name());
        self.after_hook(run.hook, Err(why));
    }

    fn after_hook(&mut self, hook: Hook, verdict: Result<(), String>) {
        match (hook, verdict) {
            // It may have been told to end meanwhile.
            (Hook::AfterWatchdogInitialization, _) if self.ending.is_some() => {}
            (Hook::AfterWatchdogInitialization, Ok(())) => {
                self.told_parent = self.tell_parent_ready();
            }
            (Hook::AfterWatchdogInitialization, Err(why)) => self.fail_start(why),
            (_, verdict) => {
                if let Err(why) = verdict {
                    log::warn!("{why}; httpd stops all the same");
                }
                self.ask_to_end();
            }
        }
    }

    /// Everything has ended.
    pub(super) fn run_last_hook(&mut self) {
        let hook = Hook::AfterWatchdogShutdown;
        let is_wanted = self.hooks.configured.get(hook).is_some();
        if !is_wanted || !self.told_parent || self.is_retired {
            return;
        }
        let image = self.descriptors.agent_image.as_fd();
        if let Err(why) = run_to_end(&self.hooks.configured, hook, image, self.originals, None) {
            log::warn!("{why}");
        }
        stop::end_descendants(&mut Patience::new(Instant::now()));
    }
}
