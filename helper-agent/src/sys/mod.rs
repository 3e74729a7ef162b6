//! What the standard library does not offer of Linux: pidfds, subreaper, descriptor plumbing, starting a
//! program from an image descriptor, `tee`, `epoll`. The only place of this crate with `unsafe`;
//! everything it exports is safe to call. Knows nothing of apps, agents or messages.

pub mod clock;
pub mod descriptor;
pub mod epoll;
pub mod fsuser;
pub mod limits;
pub mod listener;
pub mod memfd;
pub mod patience;
pub mod pidfd;
pub mod process;
pub mod readiness;
pub mod signals;
pub mod spawn;
pub mod tree;

use std::io;

/// Turns the `-1 and errno` convention of a system call into a result.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// As [`check`], for calls that answer with a `long` (`syscall`) or a `ssize_t`.
fn check_size(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The same 32 bits as an unsigned number (`i32::cast_unsigned` is newer than our oldest compiler).
fn unsigned(bits: i32) -> u32 {
    u32::from_ne_bytes(bits.to_ne_bytes())
}
