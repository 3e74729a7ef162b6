//! Reads httpd's error log, which has httpd's lines, ours and what the apps print.

use crate::wait::{until, PATIENCE};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines no test may produce, whatever it does.
const NEVER: [&str; 5] = [
    "panicked at",
    "[BUG]",
    "exit signal Segmentation",
    "exit signal Aborted",
    "exit signal Bus error",
];

/// A log file that is still being written.
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// The log at `path`; it need not exist yet.
    #[must_use]
    pub fn at(path: &Path) -> Log {
        Log {
            path: path.to_owned(),
        }
    }

    /// What was written until now.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    /// How many lines contain `words`.
    #[must_use]
    pub fn count(&self, words: &str) -> usize {
        self.text()
            .lines()
            .filter(|line| line.contains(words))
            .count()
    }

    /// Waits for a line that contains `words`.
    ///
    /// # Panics
    /// When there is none in time; the message ends with the log's tail.
    pub fn expect(&self, words: &str) {
        self.expect_times(words, 1);
    }

    /// Waits until at least `times` lines contain `words`.
    ///
    /// # Panics
    /// When there are not in time.
    pub fn expect_times(&self, words: &str, times: usize) {
        until(
            &format!("{times} log line(s) with {words:?}"),
            PATIENCE,
            || self.count(words) >= times,
        );
    }

    /// Waits until there are lines with these words, one after the other.
    ///
    /// # Panics
    /// When they are not in time.
    pub fn expect_in_order(&self, words: &[String]) {
        until(&format!("log lines with {words:?}"), PATIENCE, || {
            let text = self.text();
            let mut lines = text.lines();
            words
                .iter()
                .all(|words| lines.any(|line| line.contains(words)))
        });
    }

    /// Lines that no test may produce: a panic, a broken invariant, a crash of httpd.
    #[must_use]
    pub fn scandals(&self) -> Vec<String> {
        let is_scandal = |line: &&str| NEVER.iter().any(|words| line.contains(words));
        self.text()
            .lines()
            .filter(is_scandal)
            .map(str::to_owned)
            .collect()
    }

    /// The last `lines` lines, for messages.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}
