//! Programs for hooks, and what they note.

use harness::wait::PATIENCE;
use harness::{until, App, Language, Site};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory with programs that only we can change, removed at the end.
pub(crate) struct Scripts(pub(crate) PathBuf);

impl Scripts {
    /// An empty one.
    pub(crate) fn new() -> Scripts {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("psgr-hooks-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).expect("create a directory");
        chmod(&directory, 0o755);
        Scripts(directory)
    }

    /// A program; `$D` in it is the directory.
    pub(crate) fn script(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        let head = format!("#!/bin/sh\nD={}\n", self.0.display());
        fs::write(&path, head + text + "\n").expect("write a script");
        chmod(&path, 0o755);
        path.display().to_string()
    }

    /// A program that notes what it is told, in a file of its own named after what has happened.
    pub(crate) fn recorder(&self) -> String {
        self.script(
            "record",
            "tr '\\0' '\\n' </proc/$$/environ >$D/.$$\nmv $D/.$$ $D/told.$PASSENGER_HOOK_NAME.$$",
        )
    }

    /// What the recorder was told at each of its runs for that hook.
    pub(crate) fn told(&self, hook: &str) -> Vec<Vec<String>> {
        let beginning = format!("told.{hook}.");
        let files = fs::read_dir(&self.0).expect("list the notes");
        let notes = files.filter_map(|file| {
            let file = file.expect("a note");
            let is_one = file.file_name().to_string_lossy().starts_with(&beginning);
            is_one.then(|| fs::read_to_string(file.path()).expect("read a note"))
        });
        let lines = |text: String| text.lines().map(str::to_owned).collect();
        notes.map(lines).collect()
    }

    /// The same of its first run, when that is over.
    pub(crate) fn await_told(&self, hook: &str) -> Vec<String> {
        until(&format!("the hook {hook}"), PATIENCE, || {
            !self.told(hook).is_empty()
        });
        self.told(hook).remove(0)
    }

    /// Whether a script has made that file.
    pub(crate) fn has(&self, file: &str) -> bool {
        self.0.join(file).exists()
    }

    /// What scripts have written there so far.
    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Sets a mode.
pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set a mode");
}

/// An app that does not start.
pub(crate) fn broken() -> Site {
    let app = App::inline(
        Language::Python,
        "raise RuntimeError('no database\\x07 here')\n",
    );
    Site::new("broken", app)
}

/// The PIDs that a script has noted, one a line.
pub(crate) fn pids(text: &str) -> Vec<i32> {
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
