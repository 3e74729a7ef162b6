//! Restart files as a worker sees them: cached looks at `restart.txt` and `always_restart.txt`, and the hint to
//! the agent when one of them asks for a restart. Whether there is one is the agent's decision.

use crate::apps::App;
use crate::worker::Worker;
use passenger_shm::{restart_mark, GroupInfo, GroupRef, Hint};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the agent has to look for itself before the request goes on without knowing.
const NOTICE_TIME: Duration = Duration::from_millis(250);
/// Pause between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(1);

/// The restart files of one app and what this worker saw of them last.
///
/// Relaxed throughout: each word stands for itself, and one look more or less does not matter.
#[derive(Debug)]
pub(crate) struct RestartFiles {
    /// `restart.txt` and `always_restart.txt`; `None` if the app's root is not known here.
    paths: Option<(PathBuf, PathBuf)>,
    mark: AtomicU64,
    exists_always: AtomicBool,
    /// The mark that the agent was told of last: a file that only this worker sees is reported once.
    reported: AtomicU64,
}

impl RestartFiles {
    /// The files in that directory, not looked at yet.
    pub(crate) fn in_directory(directory: Option<&Path>) -> Self {
        let path = |name| directory.map(|directory| directory.join(name));
        Self {
            paths: path("restart.txt").zip(path("always_restart.txt")),
            mark: AtomicU64::new(restart_mark(None)),
            exists_always: AtomicBool::new(false),
            reported: AtomicU64::new(0),
        }
    }

    /// Looks at both.
    pub(crate) fn look(&self) {
        let Some((restart, always)) = &self.paths else {
            return;
        };
        let modified = fs::metadata(restart).map(|m| (m.mtime(), m.mtime_nsec()));
        let mark = restart_mark(modified.ok());
        self.mark.store(mark, Ordering::Relaxed);
        let exists = fs::metadata(always).is_ok();
        self.exists_always.store(exists, Ordering::Relaxed);
    }

    /// Whether `restart.txt` is another one than the agent acted upon.
    fn differs(&self, info: &GroupInfo) -> bool {
        let mark = self.mark.load(Ordering::Relaxed);
        mark != restart_mark(None) && info.restart_mark != 0 && mark != info.restart_mark
    }

    /// Whether the agent should look.
    fn ask_for_restart(&self, info: &GroupInfo) -> bool {
        if !self.differs(info) && !self.exists_always.load(Ordering::Relaxed) {
            return false;
        }
        // The cached look may be the older one.
        self.look();
        if self.exists_always.load(Ordering::Relaxed) {
            return true;
        }
        let mark = self.mark.load(Ordering::Relaxed);
        self.differs(info) && self.reported.swap(mark, Ordering::Relaxed) != mark
    }
}

/// Tells the agent when a restart file asks for a restart, and waits until it has looked, so that whoever
/// touched the file is not served by the old code unless the agent says so.
pub(crate) fn notice(worker: &Worker, app: &App, group: GroupRef) {
    let Some(before) = worker.view.group(group) else {
        return;
    };
    if !app.restart_files.ask_for_restart(&before) {
        return;
    }
    worker.client.hint(Hint::RestartTouched(group));
    let start = Instant::now();
    while start.elapsed() < NOTICE_TIME {
        let now = worker.view.group(group);
        if now.is_none_or(|now| now.code_generation != before.code_generation) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(restart_mark: u64) -> GroupInfo {
        GroupInfo {
            queue_limit: 0,
            queue_time: None,
            spawn_failures: 0,
            code_generation: 1,
            code_wait_ms: 0,
            restart_mark,
        }
    }

    #[test]
    fn a_touched_file_is_reported_once_and_an_old_look_never() {
        let directory = std::env::temp_dir().join(format!("psgr-restarts-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("make a directory");
        let files = RestartFiles::in_directory(Some(&directory));
        files.look();
        assert!(!files.ask_for_restart(&info(1)), "no file");
        fs::write(directory.join("restart.txt"), "").expect("touch");
        assert!(!files.ask_for_restart(&info(1)), "the look is cached");
        files.look();
        assert!(
            !files.ask_for_restart(&info(0)),
            "the agent has yet to look"
        );
        assert!(files.ask_for_restart(&info(1)));
        assert!(!files.ask_for_restart(&info(1)), "said already");
        let current = files.mark.load(Ordering::Relaxed);
        assert!(!files.ask_for_restart(&info(current)));
        fs::write(directory.join("always_restart.txt"), "").expect("touch");
        files.look();
        assert!(files.ask_for_restart(&info(current)));
        assert!(files.ask_for_restart(&info(current)), "always");
        fs::remove_dir_all(&directory).expect("clean up");
        assert!(!files.ask_for_restart(&info(current)), "gone by now");
    }
}
