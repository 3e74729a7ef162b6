//! The end: whatever still runs of this instance is ended, its directory removed. Escapees by `setsid` or
//! double fork are ours, too: this process is their subreaper. Nothing but own descendants is ever
//! signalled, each through a pidfd whose process was looked at again after it was opened.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::instance;
use crate::sys::pidfd::{self, Pidfd};
use crate::sys::{process, tree};

/// How long processes may take to vanish after `SIGKILL` (a process in the kernel's hands cannot).
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long it is waited for nobody but such as are in the kernel's hands: a log, say, on a dead network file system.
const STUCK_LIMIT: Duration = Duration::from_secs(2);

/// Ends every descendant: first stops them all, so that none can fork faster than it is found, then kills
/// process groups and processes until there is no child left. Blocks for milliseconds, [`KILL_LIMIT`] at
/// most, [`STUCK_LIMIT`] for those that not even a signal reaches. Returns how many processes there were.
pub fn end_descendants() -> usize {
    let Ok(own) = i32::try_from(std::process::id()) else {
        return 0;
    };
    let mut seen = BTreeSet::new();
    let mut patience = Patience::new(Instant::now());
    stop_all(own, &mut seen);
    loop {
        reap_all();
        let victims = open_all(own, &mut seen);
        if victims.is_empty() && !has_children() {
            break;
        }
        for (entry, pidfd) in &victims {
            kill_group(own, entry, pidfd);
        }
        for (_, pidfd) in &victims {
            kill(pidfd);
        }
        wait_for_one(victims.iter().map(|(_, pidfd)| pidfd.as_fd()));
        if patience.is_over(Instant::now(), victims.iter().map(|(entry, _)| entry.state)) {
            tell_of_the_undying(own);
            break;
        }
    }
    seen.len()
}

/// How long to wait for the killed.
struct Patience {
    deadline: Instant,
    /// Since when everybody left is in the kernel's hands.
    stuck_since: Option<Instant>,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self {
            deadline: now + KILL_LIMIT,
            stuck_since: None,
        }
    }

    /// `states` are those of the living who are left. There may be none: who has a thread that cannot end is a zombie
    /// by his own state, and nobody can reap him.
    fn is_over(&mut self, now: Instant, mut states: impl Iterator<Item = char>) -> bool {
        if states.all(|state| state == 'D') {
            let since = *self.stuck_since.get_or_insert(now);
            return now >= (since + STUCK_LIMIT).min(self.deadline);
        }
        self.stuck_since = None;
        now >= self.deadline
    }
}

fn tell_of_the_undying(own: i32) {
    for entry in tree::descendants(own).unwrap_or_default() {
        log::error!(
            "process {} ({}) does not die of SIGKILL: the kernel has it wait, as a rule for a file system that does \
             not answer; it ends when that does",
            entry.pid,
            entry.name
        );
    }
}

/// Ends processes of the store that are no descendants (any more), because both who could be their parent
/// have died: each with its process group. Blocks as [`end_descendants`] does. Returns how many there were.
pub fn end_stored<'a>(stored: impl Iterator<Item = &'a Pidfd>) -> usize {
    let mut left: Vec<&Pidfd> = stored.filter(|pidfd| !pidfd.has_exited()).collect();
    let count = left.len();
    let deadline = Instant::now() + KILL_LIMIT;
    while !left.is_empty() && Instant::now() < deadline {
        for pidfd in &left {
            // Before Linux 6.9 only the process itself can be named without a doubt.
            if !pidfd.signal_group(libc::SIGKILL).unwrap_or(false) {
                kill(pidfd);
            }
        }
        wait_for_one(left.iter().map(|pidfd| pidfd.as_fd()));
        left.retain(|pidfd| !pidfd.has_exited());
    }
    count
}

/// `SIGSTOP`s until a look finds nobody new.
fn stop_all(own: i32, seen: &mut BTreeSet<(i32, u64)>) {
    for _ in 0..20 {
        let before = seen.len();
        for (entry, pidfd) in open_all(own, seen) {
            if let Err(e) = pidfd.signal(libc::SIGSTOP) {
                log::debug!("cannot stop process {} ({}): {e}", entry.pid, entry.name);
            }
        }
        if seen.len() == before {
            return;
        }
    }
}

/// All living descendants with their pidfds.
fn open_all(own: i32, seen: &mut BTreeSet<(i32, u64)>) -> Vec<(tree::Entry, Pidfd)> {
    let entries = tree::descendants(own).unwrap_or_else(|e| {
        log::error!("cannot list processes to end them: {e}");
        Vec::new()
    });
    let living = entries
        .into_iter()
        .filter(|entry| !matches!(entry.state, 'Z' | 'X'));
    let opened = living.filter_map(|entry| {
        let pidfd = entry.open().ok().flatten()?;
        seen.insert((entry.pid, entry.started));
        Some((entry, pidfd))
    });
    // A few hundred at a time: each costs a descriptor.
    opened.take(400).collect()
}

/// Kills the group that a process leads, so that members which were forked this moment go as well.
fn kill_group(own: i32, entry: &tree::Entry, leader: &Pidfd) {
    if entry.group != entry.pid {
        return;
    }
    let by_pidfd = leader.signal_group(libc::SIGKILL);
    let is_unsupported = by_pidfd.is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL));
    if is_unsupported && entry.parent == own {
        // Before Linux 6.9, and only for own children: they are unreaped, so the number is theirs.
        let _ = pidfd::signal_group_of_child(entry.pid, libc::SIGKILL);
    }
}

fn kill(pidfd: &Pidfd) {
    if let Err(e) = pidfd.signal(libc::SIGKILL) {
        log::debug!("cannot kill a descendant: {e}");
    }
}

/// Sleeps until one of them has ended, a tenth of a second at most.
fn wait_for_one<'a>(victims: impl Iterator<Item = BorrowedFd<'a>>) {
    let mut fds: Vec<PollFd<'_>> = victims
        .map(|pidfd| PollFd::new(pidfd, PollFlags::POLLIN))
        .collect();
    // An interrupted wait is as good as one that timed out: the caller looks again.
    let _ = nix::poll::poll(&mut fds, PollTimeout::from(100u8));
}

fn reap_all() {
    while let Ok(Some(exit)) = process::peek_any() {
        if process::reap(exit.pid).is_err() {
            return;
        }
    }
}

fn has_children() -> bool {
    match process::peek_any() {
        Ok(_) => true,
        Err(e) => e.raw_os_error() != Some(libc::ECHILD),
    }
}

/// Ends what is left in the instance's control group, and removes the group. Returns how many processes
/// there were.
pub fn end_cgroup(instance: &Path) -> usize {
    let Some(cgroup) = instance::cgroup(instance) else {
        return 0;
    };
    let killed = cgroup.kill();
    cgroup.remove();
    killed
}

/// Removes the instance directory and everything in it; its control group must be empty.
pub fn remove_directory(instance: &Path) {
    end_cgroup(instance);
    match fs::remove_dir_all(instance) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            log::warn!(
                "cannot remove the instance directory {}: {e}",
                instance.display()
            );
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(100);

    #[test]
    fn those_whom_no_signal_reaches_are_given_up_soon_and_the_others_late() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert!(!patience.is_over(start, "D".chars()));
        // A zombie whose thread hangs is not among the living.
        assert!(!patience.is_over(start + MOMENT, "".chars()));
        assert!(patience.is_over(start + STUCK_LIMIT, "DD".chars()));
        let mut patience = Patience::new(start);
        assert!(!patience.is_over(start, "D".chars()));
        assert!(!patience.is_over(start + STUCK_LIMIT, "DR".chars()));
        // It got on meanwhile.
        assert!(!patience.is_over(start + STUCK_LIMIT + MOMENT, "D".chars()));
        assert!(patience.is_over(start + STUCK_LIMIT * 2 + MOMENT, "D".chars()));
        let mut patience = Patience::new(start);
        assert!(!patience.is_over(start + KILL_LIMIT - MOMENT, "R".chars()));
        assert!(patience.is_over(start + KILL_LIMIT, "R".chars()));
    }
}
