//! Where agent and watchdog write their log: one descriptor that can be replaced (httpd hands over a new
//! one at every graceful), one `write` per record so that lines of several processes do not mix.
//!
//! Nobody waits for a log: what a full pipe or a full disk does not take is lost, and how much that was
//! stands in the log as soon as there is room again (`log_output`).
//!
//! | `PassengerLogLevel` | word in the log | in the code |
//! |---|---|---|
//! | 0, 1 | `error` | `log::error!`: something the administrator must see to |
//! | 2 | `warn` | `log::warn!`: a consequence exists, service goes on |
//! | 3 (default) | `notice` | `log::info!`: life of processes, output of apps |
//! | 4 | `info` | `log::debug!`: why the pool does what it does |
//! | 5–7 | `debug` | `log::trace!`: everything |

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::log_output::LogOutput;
use crate::sys::clock::LocalTime;

/// The one sink of this process. `None` until a descriptor was given: standard error.
static SINK: Sink = Sink {
    output: Mutex::new(None),
};

struct Sink {
    output: Mutex<Option<LogOutput>>,
}

/// Makes this the sink of the `log` facade, at level `notice`. Until [`replace`] is called it writes to
/// standard error. A second call does nothing.
pub fn install() {
    if log::set_logger(&SINK).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Writes to that descriptor from now on.
pub fn replace(descriptor: OwnedFd) {
    let mut output = SINK.lock();
    let before = output.take();
    *output = Some(LogOutput::new(descriptor, before));
}

/// A copy of the descriptor that is written to.
///
/// # Errors
/// Too many open files.
pub fn descriptor() -> io::Result<OwnedFd> {
    match SINK.lock().as_ref() {
        Some(output) => output.as_fd().try_clone_to_owned(),
        None => io::stderr().as_fd().try_clone_to_owned(),
    }
}

/// Says what was lost if there is room for that now. To be called now and then.
pub fn catch_up() {
    if let Some(output) = SINK.lock().as_mut() {
        // If there is no room yet: the next call.
        let _ = output.catch_up();
    }
}

/// Sets the level from a value of `PassengerLogLevel`.
pub fn set_level(passenger_level: u32) {
    log::set_max_level(match passenger_level {
        0 | 1 => LevelFilter::Error,
        2 => LevelFilter::Warn,
        3 => LevelFilter::Info,
        4 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    });
}

/// Writes a line that an app printed, whatever the level is.
///
/// # Errors
/// Those of `write`: no space left.
pub fn app_output(line: &str) -> io::Result<()> {
    SINK.write(Level::Info, line)
}

impl Sink {
    fn lock(&self) -> MutexGuard<'_, Option<LogOutput>> {
        // There is no state that a panic could leave half changed.
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, level: Level, text: &str) -> io::Result<()> {
        let bytes = format(level, text);
        match self.lock().as_mut() {
            Some(output) => output.write(bytes.as_bytes()),
            None => io::Write::write_all(&mut io::stderr(), bytes.as_bytes()),
        }
    }
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // Nobody is left to tell that the log cannot be written.
            let _ = self.write(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// The record as it stands in the file. Every line of a longer text gets the prefix, so that no part of
/// it can pass for a record of somebody else.
pub(crate) fn format(level: Level, text: &str) -> String {
    let now = LocalTime::now();
    let word = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "notice",
        Level::Debug => "info",
        Level::Trace => "debug",
    };
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.trim_end_matches('\n').split('\n') {
        // Writing to a String cannot fail.
        let _ = write!(out, "[{now}] [passenger] {word}: ");
        for character in line.chars() {
            if character.is_control() && character != '\t' {
                let _ = write!(out, "{}", character.escape_default());
            } else {
                out.push(character);
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_carries_date_and_level_and_no_control_characters() {
        let text = format(Level::Warn, "one\ntwo\x1b[2J\n");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with('[') && lines[0].ends_with("] [passenger] warn: one"));
        assert!(
            lines[1].ends_with("] [passenger] warn: two\\u{1b}[2J"),
            "{}",
            lines[1]
        );
    }
}
