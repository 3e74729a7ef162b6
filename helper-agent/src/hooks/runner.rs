//! The runner (`passenger-helper-agent --hook NAME PLACE PROGRAM…`): runs the programs of one hook one after the other,
//! writes what they print into the log, and ends them with all their descendants when their time is up. Its
//! environment is theirs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use passenger_shm::hooks::{check_program, Hook};

use crate::log as sink;
use crate::output::{Drained, LineDrain, Scratch};
use crate::sys::patience::Patience;
use crate::sys::pidfd::Pidfd;
use crate::sys::{descriptor, process};
use crate::watchdog::stop::end_descendants;

/// How much of what a hook prints is logged, in bytes; the rest is counted.
const MOST_OUTPUT: usize = 256 * 1024;
/// How long the rest of a line may take before it is looked for.
const UNFINISHED: Duration = Duration::from_millis(5);
/// Turns of reading what is left after a program has ended; descendants of its may write without end.
const LAST_TURNS: usize = 8;

/// The program: returns the status to exit with, 0 if all programs of the hook succeeded.
#[must_use]
pub fn main(name: &str, mut arguments: impl Iterator<Item = String>) -> u8 {
    sink::install();
    process::set_name(c"passenger-hook");
    let hook = Hook::ALL.into_iter().find(|hook| hook.name() == name);
    let (Some(hook), Some(place)) = (hook, arguments.next()) else {
        eprintln!("there is no hook {name:?}");
        return 2;
    };
    // Opened anew: nobody waits for the log.
    if let Ok(log) = sink::descriptor() {
        sink::replace(log);
    }
    match Run::new(hook).and_then(|mut run| run.all(arguments)) {
        Ok(()) => 0,
        Err(why) => {
            log::error!("hook {name}: {why} ({place})");
            1
        }
    }
}

/// A run of one hook.
struct Run {
    hook: Hook,
    deadline: Instant,
    scratch: Scratch,
    printed: usize,
    lost: usize,
}

/// How a wait ended.
enum Waited {
    Exited,
    TimeIsUp,
}

impl Run {
    fn new(hook: Hook) -> Result<Self, String> {
        // Whatever its programs leave behind can be found when time is up.
        process::become_subreaper().map_err(|e| format!("cannot become a subreaper: {e}"))?;
        let scratch = Scratch::new().map_err(|e| format!("cannot read any output: {e}"))?;
        Ok(Self {
            hook,
            deadline: Instant::now() + Duration::from_secs(hook.seconds().into()),
            scratch,
            printed: 0,
            lost: 0,
        })
    }

    fn all(&mut self, programs: impl Iterator<Item = String>) -> Result<(), String> {
        let done = programs
            .map(|program| self.one(&program))
            .find(Result::is_err);
        if self.lost > 0 {
            log::warn!(
                "hook {}: {} more bytes of what it printed are not logged",
                self.hook.name(),
                self.lost
            );
        }
        done.unwrap_or(Ok(()))
    }

    fn one(&mut self, program: &str) -> Result<(), String> {
        check_program(Path::new(program), process::effective_uid())
            .map_err(|why| format!("{program} is not run: {why}"))?;
        let failed = |e: io::Error| format!("{program} cannot be run: {e}");
        let (read, write) = descriptor::pipe().map_err(failed)?;
        let mut child = start(program, write).map_err(failed)?;
        let pid = i32::try_from(child.id()).unwrap_or(0);
        let pidfd = Pidfd::open(pid).map_err(failed)?;
        let waited = self.watch(&pidfd, &read).map_err(failed)?;
        if matches!(waited, Waited::TimeIsUp) {
            end_descendants(&mut Patience::new(Instant::now()));
            let seconds = self.hook.seconds();
            // It was reaped there; what it printed last may still say why.
            self.finish(&read);
            return Err(format!(
                "{program} is killed, its time of {seconds} s is over"
            ));
        }
        self.finish(&read);
        match child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{program} failed: {status}")),
            Err(e) => Err(failed(e)),
        }
    }

    /// Reads until the program ends or its time does.
    fn watch(&mut self, pidfd: &Pidfd, pipe: &OwnedFd) -> io::Result<Waited> {
        let mut drain = self.drain();
        let mut is_open = true;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Waited::TimeIsUp);
            }
            let mut is_busy = false;
            if is_open {
                match self.read(&mut drain, pipe)? {
                    Drained::More => is_busy = true,
                    Drained::Waiting => {}
                    Drained::Closed => is_open = false,
                }
            }
            if pidfd.has_exited() {
                return Ok(Waited::Exited);
            }
            if is_busy {
                continue;
            }
            if drain.has_unfinished_line() {
                // It keeps the pipe readable.
                wait(&[pidfd.as_fd()], left.min(UNFINISHED))?;
            } else if is_open {
                wait(&[pidfd.as_fd(), pipe.as_fd()], left)?;
            } else {
                wait(&[pidfd.as_fd()], left)?;
            }
        }
    }

    /// What is left of a program that has ended.
    fn finish(&mut self, pipe: &OwnedFd) {
        let mut drain = self.drain();
        for _ in 0..LAST_TURNS {
            match self.read(&mut drain, pipe) {
                Ok(Drained::More) => {}
                Ok(Drained::Waiting | Drained::Closed) | Err(_) => return,
            }
        }
    }

    fn drain(&self) -> LineDrain {
        LineDrain::new(format!("hook {} output: ", self.hook.name()))
    }

    fn read(&mut self, drain: &mut LineDrain, pipe: &OwnedFd) -> io::Result<Drained> {
        let (printed, lost) = (&mut self.printed, &mut self.lost);
        drain.drain(pipe.as_fd(), &mut self.scratch, &mut |line| {
            if *printed >= MOST_OUTPUT {
                *lost = lost.saturating_add(line.len());
                return;
            }
            *printed += line.len();
            // A full disk must not stop the hook; there is nobody to tell.
            let _ = sink::app_output(line);
        })
    }
}

/// Without a shell and without arguments; its descriptors are these three. Not in our working directory: that is
/// `CoreDumpDirectory` where there is one, which httpd's user may write to, and interpreters look for modules there.
fn start(program: &str, output: OwnedFd) -> io::Result<Child> {
    let errors = output.try_clone()?;
    Command::new(program)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
}

fn wait(what: &[std::os::fd::BorrowedFd<'_>], patience: Duration) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = what
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let milliseconds = patience.as_millis().saturating_add(1);
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    match nix::poll::poll(&mut fds, timeout) {
        // An interrupted wait is as good as one that timed out: the caller looks again.
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
