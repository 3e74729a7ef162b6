//! `PassengerAppLogFile`: a file of its own for what one app prints, and for what is to be said about it.
//!
//! The file may lie where the app's user can have every write and every look wait for ever (a file system in user
//! space, a lock on the file that the kernel takes), so the agent never touches it: a process of its own opens and
//! writes such files, a thread for each ([`writer`]). What the agent has of a log is a pipe into that process.
//!
//! ```text
//!  output of apps ─► agent ─┬─ pipe ─► thread ─► the app's file     app-log process
//!                           └─ pipe ─► thread ─► another app's      (`links` starts it)
//! ```
//! A pipe that is full loses lines and counts them; the count stands in the log as soon as there is room. What cannot be
//! written into the file goes to the main log.
//!
//! | file | owns |
//! |---|---|
//! | this one | the agent's end of one log |
//! | `links` | the app-log process as the agent has it |
//! | [`writer`] | the app-log process |
//! | `place` | which file may be opened, and with whose rights |

mod links;
mod place;
pub mod writer;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::log_output::LogOutput;
use crate::sys::clock::LocalTime;

pub use links::Links;
pub use place::{Owner, Target};

/// How often it is looked whether the file is still the one with that name, and a log that is not open is tried again.
pub const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Stands in a record between the time and what also belongs into the main log when the file takes nothing. Lines of
/// apps have no control characters by the time they come here.
const MARK: char = '\x1f';

/// The log of one app.
#[derive(Debug, Default)]
pub struct AppLog {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    target: Option<Target>,
    /// The pipe; `None` while there is none.
    output: Option<LogOutput>,
    checked: Option<Instant>,
    /// Somebody is at it.
    is_looked_after: bool,
}

/// What a log needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// [`AppLog::aim`].
    Target,
    /// [`AppLog::open`].
    Pipe,
}

impl AppLog {
    /// Makes this its file, unless it is already.
    pub fn aim(&self, target: Target, links: &Links) {
        let is_known = self.state().target.as_ref() == Some(&target);
        if !is_known {
            self.state().target = Some(target);
            self.open(links);
        }
    }

    /// Has the app-log process write what comes from now on.
    pub fn open(&self, links: &Links) {
        let Some(target) = self.state().target.clone() else {
            return;
        };
        // Not under the lock: it may have to start the process.
        let opened = links.open(&target);
        let mut state = self.state();
        if state.target.as_ref() != Some(&target) {
            return;
        }
        match opened {
            Ok(pipe) => state.output = Some(LogOutput::new(pipe, state.output.take())),
            Err(e) => {
                state.output = None;
                log::error!(
                    "cannot write the app's log {}: {e}; what this app prints goes to this log meanwhile",
                    target.path.display()
                );
            }
        }
    }

    /// No file any more: everything goes to the main log.
    pub fn forget(&self) {
        *self.state() = State::default();
    }

    /// Whether a file was named.
    #[must_use]
    pub fn has_target(&self) -> bool {
        self.state().target.is_some()
    }

    /// What is to be done now by whoever asks; nobody else is told the same before [`AppLog::done`]. Also says what was
    /// lost, if there is room for that now.
    #[must_use]
    pub fn need(&self) -> Option<Need> {
        let mut state = self.state();
        state.catch_up();
        let is_old = state.checked.is_none_or(|at| at.elapsed() >= CHECK_PERIOD);
        let need = match state.target {
            _ if state.is_looked_after || !is_old => None,
            None => Some(Need::Target),
            Some(_) => state.output.is_none().then_some(Need::Pipe),
        };
        if need.is_some() {
            state.is_looked_after = true;
            state.checked = Some(Instant::now());
        }
        need
    }

    /// The need was met, or cannot be.
    pub fn done(&self) {
        self.state().is_looked_after = false;
    }

    /// Writes a line that the app printed, with `prefix` and the time before it unless that is empty. `false`: it
    /// belongs into the main log. Never waits.
    pub fn line(&self, prefix: &str, line: &str) -> bool {
        let time = match prefix.is_empty() {
            true => String::new(),
            false => format!("[{}] ", LocalTime::now()),
        };
        self.state().write(&format!("{time}{MARK}{prefix}{line}\n"))
    }

    /// Writes what is to be said about the app. Never waits.
    pub fn note(&self, text: &str) {
        let now = LocalTime::now();
        let mut state = self.state();
        for line in text.lines() {
            // Part of it may be an app's words: what a terminal would obey is escaped.
            let is_bad = |c: char| c.is_control() && c != '\t';
            let line = line.replace(is_bad, "\u{fffd}");
            state.write(&format!("[{now}] [passenger] {line}\n"));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // There is no state that a panic could leave half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether there is somebody who takes it, now or, counted, not.
    fn write(&mut self, record: &str) -> bool {
        let written = self.output.as_mut().map(|o| o.write(record.as_bytes()));
        self.judge(written)
    }

    fn catch_up(&mut self) {
        let written = self.output.as_mut().map(LogOutput::catch_up);
        self.judge(written);
    }

    /// A full pipe is there; one without a reader is of no use any more.
    fn judge(&mut self, written: Option<io::Result<()>>) -> bool {
        match written {
            None => false,
            Some(Err(e)) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.output = None;
                false
            }
            Some(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::sys::descriptor;

    /// A log whose writer is the test.
    fn log() -> (AppLog, OwnedFd) {
        let (read, write) = descriptor::pipe().unwrap();
        let log = AppLog::default();
        *log.state() = State {
            target: Some(Target {
                path: "/own.log".into(),
                name: "app".into(),
                owner: None,
            }),
            output: Some(LogOutput::new(write, None)),
            ..State::default()
        };
        (log, read)
    }

    #[test]
    fn a_log_that_nobody_writes_down_makes_nobody_wait_and_says_what_it_lost() {
        let (log, read) = log();
        let line = "x".repeat(1000);
        // Far more than any pipe holds: were one of them to wait, this would be the end.
        for _ in 0..5_000 {
            assert!(log.line("App 7 output: ", &line), "it is told who takes it");
        }
        assert_eq!(log.need(), None);
        let mut reader = File::from(read);
        let mut piece = vec![0; 1 << 20];
        let length = reader.read(&mut piece).unwrap();
        let taken = String::from_utf8_lossy(&piece[..length]).into_owned();
        // There is room now.
        let _ = log.need();
        assert!(log.line("", "after"));
        log.forget();
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let all = format!("{taken}{rest}");
        let said = all.lines().filter(|line| line.contains("lines are lost"));
        let count = |line: &str| line.rsplit(' ').find_map(|word| word.parse::<usize>().ok());
        let lost: usize = said.filter_map(count).sum();
        let whole = all.matches("output: ").count();
        assert!(lost > 1_000, "no pipe is that large");
        assert_eq!(whole + lost, 5_000, "every line is there or counted");
        assert!(rest.ends_with("\x1fafter\n"));
    }

    #[test]
    fn without_a_reader_lines_go_elsewhere_until_there_is_one() {
        let (log, read) = log();
        assert!(log.line("", "one"));
        drop(read);
        assert!(!log.line("", "two"));
        assert_eq!(log.need(), Some(Need::Pipe));
        assert_eq!(log.need(), None, "somebody is at it");
        log.done();
        assert_eq!(log.need(), None, "not again at once");
        log.forget();
        assert!(!log.line("", "three") && !log.has_target());
        assert_eq!(log.need(), Some(Need::Target));
    }

    #[test]
    fn a_note_has_no_control_characters() {
        let (log, read) = log();
        log.note("about\nit\x1f\x1b[2J");
        log.forget();
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert!(
            text.ends_with("] [passenger] it\u{fffd}\u{fffd}[2J\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2);
    }
}
