//! `RLIMIT_NOFILE` and `oom_score_adj`: raised or lowered for us, restored for apps.

use std::fs;
use std::io;

use nix::sys::resource::{getrlimit, setrlimit, Resource};

/// The `RLIMIT_NOFILE` this process was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoFile {
    /// What applies.
    pub soft: u64,
    /// What the soft limit may be raised to.
    pub hard: u64,
}

/// The limit that applies to this process now.
///
/// # Errors
/// Those of `getrlimit`.
pub fn nofile() -> io::Result<NoFile> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(NoFile { soft, hard })
}

/// Raises the soft limit to the hard one and returns what it was.
///
/// # Errors
/// Those of `getrlimit` and `setrlimit`.
pub fn raise_nofile() -> io::Result<NoFile> {
    let before = nofile()?;
    setrlimit(Resource::RLIMIT_NOFILE, before.hard, before.hard)?;
    Ok(before)
}

/// Makes room for some more open files: raises the soft limit to the hard one, and both by that many where
/// that is allowed.
///
/// # Errors
/// Those of `getrlimit` and `setrlimit`.
pub fn make_room(more: u64) -> io::Result<()> {
    let NoFile { hard, .. } = nofile()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let higher = hard.saturating_add(more);
    // Who is not root has what there is.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, higher, higher);
    Ok(())
}

/// How much the kernel's OOM killer is told to spare this process, -1000 (never) to 1000.
///
/// # Errors
/// When `/proc` is not there.
pub fn oom_score_adj() -> io::Result<i32> {
    let text = fs::read_to_string("/proc/self/oom_score_adj")?;
    text.trim()
        .parse()
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// The score of a helper agent where httpd has `original`: it goes when only the watchdog is left.
#[must_use]
pub fn agent_score(original: i32) -> i32 {
    original.min(-900)
}

/// The score of an app process where httpd has `original`: it goes before httpd does, as if it had a
/// tenth of the machine's memory more than it has.
#[must_use]
pub fn app_score(original: i32) -> i32 {
    (original + 100).clamp(-1000, 1000)
}

/// Sets it. Lowering needs `CAP_SYS_RESOURCE`.
///
/// # Errors
/// `EACCES` without the capability.
pub fn set_oom_score_adj(value: i32) -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", value.to_string())
}
