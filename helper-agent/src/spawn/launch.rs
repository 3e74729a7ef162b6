//! The agent's side of the fork: the named socket, the pipes, the shim. Nothing here waits for the app.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};

use super::order::{SpawnOrder, CONTROL_FD, LISTENER_FD, ORDER_FD};
use crate::sys::descriptor;
use crate::sys::limits::NoFile;
use crate::sys::pidfd::Pidfd;
use crate::sys::spawn::{self, Program};

/// Connections that may wait to be accepted where nobody says so; a worker opens one per seat it takes.
pub const BACKLOG: u32 = 2048;

/// What apps get back of what watchdog and agent changed for themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Open files.
    pub nofile: Option<NoFile>,
    /// OOM score.
    pub oom_score_adj: Option<i32>,
}

/// A shim that waits for `go`.
#[derive(Debug)]
pub struct Launched {
    /// Its PID, and that of the app process.
    pub pid: i32,
    /// Its descriptor.
    pub pidfd: Pidfd,
    /// Read end of what it prints, non-blocking.
    pub output: OwnedFd,
    /// Our end of the control socket, non-blocking.
    pub control: UnixStream,
}

/// Binds the request socket of an app process, at which `backlog` connections may wait (the kernel may allow
/// fewer: `net.core.somaxconn`). Only `owner` and root can connect, and nobody at all before that is so.
///
/// # Errors
/// Those of `bind`, `chown`, `chmod`, `listen`.
pub fn bind(path: &Path, owner: Option<u32>, backlog: u32) -> io::Result<OwnedFd> {
    let fd = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    socket::bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    if let Some(owner) = owner {
        std::os::unix::fs::lchown(path, Some(owner), None)?;
    }
    // Only from here on can anybody connect.
    let backlog = i32::try_from(backlog)
        .ok()
        .and_then(|n| Backlog::new(n).ok());
    socket::listen(&fd, backlog.unwrap_or(Backlog::MAXCONN))?;
    Ok(fd)
}

/// Starts the shim with that order. Takes the listener, which only a command has none of: its only other copy is
/// the shim's.
///
/// # Errors
/// Out of descriptors or processes, or an order that cannot be written down.
pub fn launch(
    image: BorrowedFd<'_>,
    order: &SpawnOrder,
    listener: Option<OwnedFd>,
    limits: Limits,
) -> io::Result<Launched> {
    start(image, order, listener, limits)
}

/// Starts a preloader, which nobody connects to.
///
/// # Errors
/// Those of [`launch`].
pub fn launch_preloader(
    image: BorrowedFd<'_>,
    order: &SpawnOrder,
    limits: Limits,
) -> io::Result<Launched> {
    start(image, &order.for_preloader(), None, limits)
}

fn start(
    image: BorrowedFd<'_>,
    order: &SpawnOrder,
    listener: Option<OwnedFd>,
    limits: Limits,
) -> io::Result<Launched> {
    let order = order.to_memfd()?;
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    let (output, print) = descriptor::pipe()?;
    let (control, their_control) = UnixStream::pair()?;
    let mut descriptors = vec![
        (null.as_fd(), 0),
        (print.as_fd(), 1),
        (print.as_fd(), 2),
        (their_control.as_fd(), CONTROL_FD),
        (order.as_fd(), ORDER_FD),
    ];
    descriptors.extend(listener.iter().map(|fd| (fd.as_fd(), LISTENER_FD)));
    let program = Program {
        image,
        arguments: vec![
            c"passenger-helper-agent".to_owned(),
            c"--spawn".to_owned(),
            std::ffi::CString::new(ORDER_FD.to_string())?,
        ],
        environment: vec![],
        descriptors,
        new_session: true,
        oom_score_adj: limits.oom_score_adj,
        nofile: limits.nofile,
    };
    let started = spawn::spawn(&program)?;
    drop(program);
    // Now only the shim has it: an app is dead when its listener is.
    drop(listener);
    control.set_nonblocking(true)?;
    descriptor::set_nonblocking(output.as_fd(), true)?;
    Ok(Launched {
        pid: started.pid,
        pidfd: started.pidfd,
        output,
        control,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use std::os::fd::AsRawFd;

    #[test]
    fn as_many_connections_wait_as_the_backlog_says() {
        let name = format!("psgr-backlog-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let knock = || {
            let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
            socket::connect(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).map(|()| fd)
        };
        for backlog in [0, 3] {
            let listener = bind(&path, None, backlog).unwrap();
            // The kernel takes one more than it is told.
            let waiting: Vec<_> = (0..=backlog).map(|_| knock().unwrap()).collect();
            assert_eq!(knock().unwrap_err(), Errno::EAGAIN, "{backlog}");
            drop((waiting, listener));
        }
        // More than the kernel has is as many as it has.
        assert!(bind(&path, None, u32::MAX).is_ok());
        fs::remove_file(path).unwrap();
    }
}
