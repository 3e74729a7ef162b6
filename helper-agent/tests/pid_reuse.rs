//! The number of a process that ended goes to a stranger: whoever still names the dead one reaches nobody.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use helper_agent::sys::patience::Patience;
use helper_agent::sys::pidfd::Pidfd;
use helper_agent::watchdog::stop;

/// Attempts: on a busy machine somebody else may get the number first.
const ATTEMPTS: u32 = 50;

/// A process that leads its own group and does nothing.
fn sleeper() -> Child {
    let mut command = Command::new("sleep");
    command.arg("3604").stdin(Stdio::null()).process_group(0);
    command.spawn().expect("start sleep")
}

fn number_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a pid")
}

fn end(mut child: Child) {
    child.kill().expect("kill sleep");
    child.wait().expect("reap sleep");
}

/// Has the kernel give that number to the next process; `false` where nobody may.
fn wish_for(pid: i32) -> bool {
    fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_ok()
}

fn end_stored(pidfd: &Pidfd, named: &Child) -> usize {
    let mut patience = Patience::new(Instant::now());
    stop::end_stored([(number_of(named), pidfd)].into_iter(), &mut patience)
}

/// The pidfd of a process that ended, and a stranger with its number.
fn dead_and_stranger() -> Option<(Pidfd, Child)> {
    for _ in 0..ATTEMPTS {
        let child = sleeper();
        let pid = number_of(&child);
        let pidfd = Pidfd::open(pid).expect("a pidfd");
        end(child);
        if !wish_for(pid) {
            break;
        }
        let stranger = sleeper();
        if number_of(&stranger) == pid {
            return Some((pidfd, stranger));
        }
        end(stranger);
    }
    eprintln!("numbers of processes cannot be chosen here: not tested");
    None
}

#[test]
fn a_stranger_with_the_number_of_a_dead_process_is_safe() {
    let Some((dead, mut stranger)) = dead_and_stranger() else {
        return;
    };
    assert!(dead.has_exited());
    // What an agent and a watchdog do to a process that has to go, and what a watchdog does to all at the end.
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let _ = dead.signal(signal);
        let _ = dead.signal_group(signal);
    }
    assert_eq!(end_stored(&dead, &stranger), 0);
    let status = stranger.try_wait().expect("look at the stranger");
    assert!(status.is_none(), "it was killed: {status:?}");
    end(stranger);
}

/// The counterpart: this is how one would be hit.
#[test]
fn the_number_alone_would_reach_the_stranger() {
    let Some((dead, mut stranger)) = dead_and_stranger() else {
        return;
    };
    let named_again = Pidfd::open(number_of(&stranger)).expect("a pidfd");
    assert!(dead.has_exited() && !named_again.has_exited());
    assert_eq!(end_stored(&named_again, &stranger), 1);
    stranger.wait().expect("reap the stranger");
}
