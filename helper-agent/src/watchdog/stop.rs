//! The end: whatever still runs of this instance is ended, its directory removed. Escapees by `setsid` or
//! double fork are ours, too: this process is their subreaper. Nothing but own descendants is ever
//! signalled, each through a pidfd whose process was looked at again after it was opened.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::instance;
use crate::sys::patience::Patience;
use crate::sys::pidfd::{self, Pidfd};
use crate::sys::{process, tree};

/// Ends every descendant: first stops them all, so that none can fork faster than it is found, then kills
/// process groups and processes until there is no child left, or patience is over; as a rule that takes milliseconds.
/// Returns how many processes there were.
pub fn end_descendants(patience: &mut Patience) -> usize {
    let Ok(own) = i32::try_from(std::process::id()) else {
        return 0;
    };
    let mut seen = BTreeSet::new();
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
pub fn end_stored<'a>(
    stored: impl Iterator<Item = (i32, &'a Pidfd)>,
    patience: &mut Patience,
) -> usize {
    let mut left: Vec<(i32, &Pidfd)> = stored.filter(|(_, pidfd)| !pidfd.has_exited()).collect();
    let count = left.len();
    while !left.is_empty() {
        for (_, pidfd) in &left {
            // Before Linux 6.9 only the process itself can be named without a doubt.
            if !pidfd.signal_group(libc::SIGKILL).unwrap_or(false) {
                kill(pidfd);
            }
        }
        wait_for_one(left.iter().map(|(_, pidfd)| pidfd.as_fd()));
        left.retain(|(_, pidfd)| !pidfd.has_exited());
        // Theirs as long as they have not ended; who ends this moment is not there the next time.
        let entries = left.iter().filter_map(|(pid, _)| tree::Entry::of(*pid));
        let states = entries.map(|entry| entry.state);
        if patience.is_over(Instant::now(), states) {
            break;
        }
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
pub fn end_cgroup(instance: &Path, patience: &mut Patience) -> usize {
    let Some(cgroup) = instance::cgroup(instance) else {
        return 0;
    };
    let killed = cgroup.kill(patience);
    cgroup.remove();
    killed
}

/// Removes the instance directory and everything in it, after what is left in its control group.
pub fn remove_directory(instance: &Path, patience: &mut Patience) {
    end_cgroup(instance, patience);
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
