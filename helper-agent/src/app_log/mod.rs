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
//! A pipe that is full loses lines and counts them; the count stands in the log as soon as there is room. The agent keeps
//! the pipe's reading end, too: what is in it waits for the next app-log process when one dies. While there is none to be
//! had lines go to the main log, and so does what cannot be written into the file.
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
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::log_output::LogOutput;
use crate::sys::clock::LocalTime;
use links::Reader;

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
    /// Its other end, for whoever reads it next.
    read: Option<Arc<OwnedFd>>,
    reader: Option<Reader>,
    /// Why nobody reads it and lines go to the main log, said once.
    complaint: Option<String>,
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
            {
                let mut state = self.state();
                state.target = Some(target);
                // Who reads the pipe that there is writes to another file.
                (state.read, state.reader) = (None, None);
            }
            self.open(links);
        }
    }

    /// Has the app-log process write what comes from now on, and what still waits.
    pub fn open(&self, links: &Links) {
        let (target, read) = {
            let state = self.state();
            (state.target.clone(), state.read.clone())
        };
        let Some(target) = target else {
            return;
        };
        // Not under the lock: it may have to start the process.
        let opened = open(links, &target, read);
        let mut state = self.state();
        if state.target.as_ref() == Some(&target) {
            state.take(opened, &target);
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
            Some(_) => state.is_unread().then_some(Need::Pipe),
        };
        if is_old {
            state.checked = Some(Instant::now());
        }
        state.is_looked_after |= need.is_some();
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

/// A pipe with somebody who reads it: the reader, the reading end and, if it is new, the writing end.
type Opened = (Reader, Arc<OwnedFd>, Option<OwnedFd>);

fn open(links: &Links, target: &Target, read: Option<Arc<OwnedFd>>) -> io::Result<Opened> {
    let (read, write) = match read {
        Some(read) => (read, None),
        None => {
            let (read, write) = links::pipe()?;
            (Arc::new(read), Some(write))
        }
    };
    let reader = links.open(target, read.as_fd())?;
    Ok((reader, read, write))
}

impl State {
    fn take(&mut self, opened: io::Result<Opened>, target: &Target) {
        match opened {
            Ok((reader, read, write)) => {
                (self.reader, self.read) = (Some(reader), Some(read));
                if let Some(write) = write {
                    self.output = Some(LogOutput::new(write, self.output.take()));
                }
                self.complaint = None;
            }
            // In a moment; what comes meanwhile waits in the pipe, if there is one.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                let text = e.to_string();
                if self.is_news(&text) {
                    log::error!(
                        "cannot write the app's log {}: {text}; what this app prints goes to this log \
                         meanwhile",
                        target.path.display()
                    );
                }
                self.complaint = Some(text);
            }
        }
    }

    /// It is tried again each second, but said once.
    fn is_news(&self, complaint: &str) -> bool {
        self.complaint.as_deref() != Some(complaint)
    }

    fn is_unread(&self) -> bool {
        self.reader.as_ref().is_none_or(Reader::is_gone)
    }

    /// Whether there is somebody who takes it, now or, counted, not.
    fn write(&mut self, record: &str) -> bool {
        if self.complaint.is_some() {
            return false;
        }
        // A line that a full pipe does not take is counted there.
        let written = self.output.as_mut().map(|o| o.write(record.as_bytes()));
        written.is_some()
    }

    fn catch_up(&mut self) {
        if let Some(output) = &mut self.output {
            // There may be no room yet.
            let _ = output.catch_up();
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
            // Whose process this is: it lives as long as the test.
            reader: Some(Reader::of(std::process::id())),
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

    /// Links whose app-log process is no program that can be started.
    fn broken_links() -> Links {
        Links::new(File::open("/dev/null").unwrap().into(), None)
    }

    #[test]
    fn what_waits_for_a_reader_that_died_is_read_by_the_next() {
        let (log, read) = log();
        log.state().read = Some(Arc::new(read));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        log.state().reader = Some(Reader::of(child.id()));
        child.wait().unwrap();
        assert!(log.line("", "one"), "it waits in the pipe");
        assert_eq!(log.need(), Some(Need::Pipe));
        assert_eq!(log.need(), None, "somebody is at it");
        log.done();
        assert_eq!(log.need(), None, "not again at once");
        log.open(&broken_links());
        assert!(!log.line("", "two"), "nobody reads: the main log has it");
        let (target, read) = {
            let state = log.state();
            (state.target.clone().unwrap(), state.read.clone().unwrap())
        };
        let next = (Reader::of(std::process::id()), Arc::clone(&read), None);
        log.state().take(Ok(next), &target);
        assert!(log.line("", "three"));
        log.forget();
        assert!(!log.line("", "four") && !log.has_target());
        assert_eq!(log.need(), Some(Need::Target));
        let mut text = String::new();
        let read = Arc::try_unwrap(read).unwrap();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "\x1fone\n\x1fthree\n");
    }

    #[test]
    fn what_fails_each_second_is_said_once() {
        let (log, _read) = log();
        assert!(log.state().is_news("no descriptors"));
        log.open(&broken_links());
        let said = log.state().complaint.clone().unwrap();
        assert!(!log.state().is_news(&said) && log.state().is_news("something else"));
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
