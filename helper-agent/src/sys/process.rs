//! Waiting for children, and what a process can say about itself.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{check, unsigned};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It called `exit`.
    Exited {
        /// With this status.
        code: i32,
    },
    /// A signal ended it.
    Killed {
        /// Number of the signal.
        signal: i32,
        /// Whether the kernel wrote its memory down, or handed it to a program that does.
        #[serde(default)]
        dumped_core: bool,
    },
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited { code } => write!(f, "exited with status {code}"),
            Self::Killed {
                signal,
                dumped_core,
            } => {
                match nix::sys::signal::Signal::try_from(signal) {
                    Ok(name) => write!(f, "killed by {name}")?,
                    Err(_) => write!(f, "killed by signal {signal}")?,
                }
                f.write_str(if dumped_core { " (core dumped)" } else { "" })
            }
        }
    }
}

/// The end of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its PID.
    pub pid: i32,
    /// How it ended.
    pub status: ExitStatus,
}

/// Any child that has ended, left a zombie. `None`: none has.
///
/// # Errors
/// `ECHILD` when there are no children at all.
pub fn peek_any() -> io::Result<Option<Exit>> {
    wait_id(
        libc::P_ALL,
        0,
        libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
    )
}

/// Reaps one child that has ended. `None`: it still runs.
///
/// # Errors
/// `ECHILD` when it is not our child.
pub fn reap(pid: i32) -> io::Result<Option<Exit>> {
    wait_id(libc::P_PID, unsigned(pid), libc::WEXITED | libc::WNOHANG)
}

/// `waitid`, repeated when interrupted.
pub(super) fn wait_id(
    kind: libc::idtype_t,
    id: libc::id_t,
    options: libc::c_int,
) -> io::Result<Option<Exit>> {
    loop {
        // SAFETY: siginfo_t is integers and pointers; all-zero is a valid value and means "no child".
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a live local that the kernel fills.
        match check(unsafe { libc::waitid(kind, id, &raw mut info, options) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        // SAFETY: waitid succeeded, so `info` holds the SIGCHLD member of the union, or zeroes.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        let status = if info.si_code == libc::CLD_EXITED {
            ExitStatus::Exited { code: status }
        } else {
            ExitStatus::Killed {
                signal: status,
                dumped_core: info.si_code == libc::CLD_DUMPED,
            }
        };
        return Ok(Some(Exit { pid, status }));
    }
}

/// From now on descendants whose parent dies become our children instead of PID 1's. Survives `exec`.
///
/// # Errors
/// Those of `prctl`.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Sets the short name that `ps` shows. A program started from a descriptor would be named after its
/// number.
pub fn set_name(name: &std::ffi::CStr) {
    // Cosmetic: a failure changes nothing that matters.
    let _ = nix::sys::prctl::set_name(name);
}

/// The file this program was started from, also when an upgrade has replaced it since.
///
/// # Errors
/// When `/proc` is not there.
pub fn own_image_path() -> io::Result<PathBuf> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let replaced = path
        .to_str()
        .and_then(|text| text.strip_suffix(" (deleted)"));
    Ok(replaced.map(PathBuf::from).unwrap_or(path))
}

/// Fills the slice from the kernel's random source.
///
/// # Errors
/// Those of `getrandom`; `UnexpectedEof` for more than 256 bytes, which it may deliver in parts.
pub fn random_bytes(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: pointer and length are of one live, writable slice of bytes.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(filled) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Effective user id.
#[must_use]
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}
