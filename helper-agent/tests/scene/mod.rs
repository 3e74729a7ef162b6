//! What the harnesses of watchdog and agent share: patience with a limit, and a private directory with a log in it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use helper_agent::sys::tree;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn is_running(pid: i32) -> bool {
    tree::Entry::of(pid).is_some_and(|entry| entry.state != 'Z')
}

/// The log of a scene, for a process to write.
pub(crate) fn log_file(scene: &Path) -> File {
    let path = scene.join("log");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    file
}

/// What the log of a scene says so far.
pub(crate) fn log(scene: &Path) -> String {
    fs::read_to_string(scene.join("log")).unwrap_or_default()
}

pub(crate) fn wait_for_log(scene: &Path, text: &str) {
    wait_for(&format!("{text:?} in the log"), || {
        log(scene).contains(text).then_some(())
    });
}

/// Puts a program there.
pub(crate) fn install(program: &Path, to: &Path) {
    assert!(
        program.exists(),
        "{} is missing; run `cargo test -p passenger-helper-agent` or build the examples first",
        program.display()
    );
    // A link is as good and does not read megabytes; not across file systems, though.
    if fs::hard_link(program, to).is_err() {
        fs::copy(program, to).unwrap();
    }
}

/// Removes a scene; a test that fails shows its log.
pub(crate) fn strike(scene: &Path) {
    if std::thread::panicking() {
        eprintln!("--- log of {} ---\n{}", scene.display(), log(scene));
    }
    let _ = fs::remove_dir_all(scene);
}
