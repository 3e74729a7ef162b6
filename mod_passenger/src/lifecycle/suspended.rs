//! A suspended watchdog (`SIGSTOP`) that nobody else notices: the agent kills one that is silent for seconds, and it an
//! agent, so both must have been suspended at once. Whoever is still suspended at the next look is woken, and sees to the
//! agent itself.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::codes;
use crate::ffi::retained::Retained;

/// What a watchdog is called in `/proc`, however it was started.
const NAME: &str = "passenger-watch";

/// The watchdog that was suspended at the look before; 0: none. Forgetting it, at a restart, costs a look.
static SEEN: AtomicI32 = AtomicI32::new(0);

/// One look of several, seconds apart.
pub(super) fn look(instance: &Retained) {
    let suspended = watchdog(instance).filter(|pid| is_suspended(*pid));
    let now = suspended.unwrap_or(0);
    // Relaxed: httpd's parent has one thread.
    if SEEN.swap(now, Ordering::Relaxed) == now && now != 0 {
        wake(now);
    }
}

/// Before it is told something that cannot wait.
pub(super) fn wake_at_once(instance: &Retained) {
    if let Some(pid) = watchdog(instance).filter(|pid| is_suspended(*pid)) {
        wake(pid);
    }
}

fn wake(pid: i32) {
    log::error!(
        "{}: the watchdog pid={pid} was suspended (SIGSTOP), and so was the helper agent, or it would have taken its \
         place; the watchdog is woken (SIGCONT)",
        codes::SUSPENDED
    );
    if let Err(e) = kill(Pid::from_raw(pid), Signal::SIGCONT) {
        log::error!(
            "{}: cannot wake the watchdog pid={pid}: {e}",
            codes::SUSPENDED
        );
    }
}

/// Our child, or, once that has died, the one of its successors that says so in the instance directory.
fn watchdog(instance: &Retained) -> Option<i32> {
    if instance.watchdog != 0 {
        return Some(instance.watchdog);
    }
    let file = Path::new(&instance.instance_dir).join("watchdog.pid");
    let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    // 0 and negative numbers would be groups.
    (pid > 1).then_some(pid)
}

fn is_suspended(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| says_suspended(&stat))
}

/// A process that a debugger holds is `t`, and not our business.
fn says_suspended(stat: &str) -> bool {
    let Some((before, after)) = stat.rsplit_once(')') else {
        return false;
    };
    before.split_once('(').is_some_and(|(_, name)| name == NAME)
        && after.trim_start().starts_with("T ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_suspended_watchdog_is_one() {
        assert!(says_suspended("7 (passenger-watch) T 1 7 7 0"));
        assert!(!says_suspended("7 (passenger-watch) S 1 7 7 0"));
        assert!(!says_suspended("7 (passenger-watch) t 1 7 7 0"));
        assert!(!says_suspended("7 (passenger-agent) T 1 7 7 0"));
        assert!(!says_suspended(""));
        let own = i32::try_from(std::process::id()).expect("a PID");
        assert!(!is_suspended(own));
    }
}
