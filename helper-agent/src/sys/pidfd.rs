//! Processes by descriptor: a pidfd names one process for ever, a PID only until it is reaped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::process::Exit;
use super::{check, check_size, descriptor, unsigned};

/// A descriptor of one process.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl From<OwnedFd> for Pidfd {
    /// Wraps a descriptor that a peer says is a pidfd; if it is not, calls on it fail.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> Self {
        pidfd.0
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Pidfd {
    /// Opens the process that has this PID now. Is it the one that was meant? For an unreaped child of
    /// the caller yes; for others ask again whatever made the caller think so.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: takes two integers.
        let fd = check_size(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this (close-on-exec) descriptor for us alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// A second descriptor of the same process.
    ///
    /// # Errors
    /// Too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends a signal (a `libc::SIG*` number, 0 only asks). `Ok(false)`: the process is gone already.
    ///
    /// # Errors
    /// `EPERM`, or `EBADF` when this is not a pidfd.
    pub fn signal(&self, signal: libc::c_int) -> io::Result<bool> {
        self.signal_with(signal, 0)
    }

    /// Sends a signal to all members of the process group this process is the leader of, without a race
    /// against the reuse of its number. `Ok(false)`: there is no such group (any more).
    ///
    /// # Errors
    /// `EINVAL` on kernels before 6.9, `EPERM`.
    pub fn signal_group(&self, signal: libc::c_int) -> io::Result<bool> {
        const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 4;
        self.signal_with(signal, PIDFD_SIGNAL_PROCESS_GROUP)
    }

    fn signal_with(&self, signal: libc::c_int, flags: libc::c_uint) -> io::Result<bool> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a null siginfo is allowed (the kernel fills it as kill does); no memory is touched.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                no_info,
                flags,
            )
        };
        match check_size(result) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether the process has ended (a zombie has). True also when this is no pidfd at all.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        descriptor::poll_now(self.as_fd(), libc::POLLIN).map_or(true, |events| events != 0)
    }

    /// How this child of ours ended, leaving it a zombie so that its PID and process group still name
    /// it. `None`: it still runs.
    ///
    /// # Errors
    /// `ECHILD` when it is not our child or was reaped.
    pub fn peek(&self) -> io::Result<Option<Exit>> {
        self.wait(libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
    }

    /// How this child of ours ended, reaping it. `None`: it still runs.
    ///
    /// # Errors
    /// `ECHILD` when it is not our child or was reaped.
    pub fn reap(&self) -> io::Result<Option<Exit>> {
        self.wait(libc::WEXITED | libc::WNOHANG)
    }

    /// Waits until this child of ours ends, reaping it. Blocks.
    ///
    /// # Errors
    /// `ECHILD` when it is not our child or was reaped.
    pub fn reap_blocking(&self) -> io::Result<Option<Exit>> {
        self.wait(libc::WEXITED)
    }

    fn wait(&self, options: libc::c_int) -> io::Result<Option<Exit>> {
        let id = unsigned(self.0.as_raw_fd());
        super::process::wait_id(libc::P_PIDFD, id, options)
    }
}

/// Sends a signal to the process group of an unreaped child of the caller that leads it. `Ok(false)`: no
/// such group. Only for children: nobody else can have reaped the leader, so the number is still its.
///
/// # Errors
/// `InvalidInput` for numbers that `kill` would read as "everybody"; `EPERM`.
pub fn signal_group_of_child(leader: i32, signal: libc::c_int) -> io::Result<bool> {
    if leader <= 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("no group {leader}"),
        ));
    }
    // SAFETY: takes two integers; the guard above excludes the special targets 0, -1 and init.
    match check(unsafe { libc::kill(-leader, signal) }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::process::ExitStatus;
    use super::*;

    #[test]
    fn a_child_can_be_watched_killed_peeked_and_reaped_once() {
        // Reaped through the pidfd below, which clippy cannot see.
        #[allow(clippy::zombie_processes)]
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = Pidfd::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!pidfd.has_exited());
        assert!(pidfd.peek().unwrap().is_none());
        assert!(pidfd.signal(libc::SIGKILL).unwrap());
        let exit = pidfd.reap_blocking().unwrap().unwrap();
        assert_eq!(
            exit.status,
            ExitStatus::Killed {
                signal: libc::SIGKILL,
                dumped_core: false,
            }
        );
        assert_eq!(exit.status.to_string(), "killed by SIGKILL");
        assert!(pidfd.has_exited());
        assert!(
            !pidfd.signal(libc::SIGKILL).unwrap(),
            "gone: no error, no victim"
        );
        assert!(pidfd.reap().is_err());
    }
}
