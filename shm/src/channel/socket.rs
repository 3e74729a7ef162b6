//! The socket under a channel: making a pair, its options, whether anything is there. Owns the unsafe lines about
//! the socket itself; what goes through it is `datagram.rs`'s.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Two connected `SOCK_SEQPACKET` sockets, both close-on-exec and blocking.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: `fds` is an array of two ints that outlives the call, as socketpair(2) demands.
    check(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    })?;
    // SAFETY: the kernel has just made fds[0] for us; nobody else knows its number.
    let one = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: likewise for fds[1].
    let other = unsafe { OwnedFd::from_raw_fd(fds[1]) };
    Ok((one, other))
}

/// Whether that is a datagram-keeping, connected kind of Unix socket. Asks the socket layer alone, so it
/// is safe for a descriptor of any origin.
pub(super) fn is_seqpacket(socket: BorrowedFd<'_>) -> bool {
    let is = |option: libc::c_int, wanted: libc::c_int| {
        let mut value: libc::c_int = -1;
        let mut length: libc::socklen_t = 4;
        // SAFETY: value and length are live locals, and length says how large the value is.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        result == 0 && value == wanted
    };
    is(libc::SO_DOMAIN, libc::AF_UNIX) && is(libc::SO_TYPE, libc::SOCK_SEQPACKET)
}

/// Makes calls on the open file return `WouldBlock` instead of blocking, or undoes it.
pub(super) fn set_nonblocking(socket: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let value = libc::c_int::from(nonblocking);
    // SAFETY: FIONBIO reads one int through the pointer, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONBIO, &raw const value) })
}

/// Switches an option of `SOL_SOCKET` on.
pub(super) fn enable(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option value is one int that outlives the call, and its size is given.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const on).cast(),
            4,
        )
    })
}

/// What poll(2) says of these events within so many milliseconds; 0: none.
pub(super) fn poll_once(
    socket: BorrowedFd<'_>,
    events: libc::c_short,
    ms: libc::c_int,
) -> io::Result<libc::c_short> {
    let mut entry = libc::pollfd {
        fd: socket.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one pollfd that outlives the call, and its count.
    let ready = unsafe { libc::poll(&raw mut entry, 1, ms) };
    check(ready.min(0))?;
    Ok(entry.revents)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
