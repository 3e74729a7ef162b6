//! Listening Unix sockets that any local user may connect to, and accepting without waiting.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Binds and listens at `path`, in a directory that nobody else writes. Everybody may connect: who it is
/// the kernel tells for each connection.
///
/// # Errors
/// Those of `bind`, `chmod`, `listen`.
pub fn open_to_all(path: &Path, kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, kind, flags, None)?;
    socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    socket::listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

/// The next connection; `None`: there is none now.
///
/// # Errors
/// Those of `accept4` that do not concern a single connection.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match socket::accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
