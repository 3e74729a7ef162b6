//! Small things about processes and threads that need a system call without a safe wrapper.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};

use super::barrier::guard;
use super::bindings::ap_close_listeners;

/// Of our threads; the relay calls httpd's filters, TLS included.
const STACK_BYTES: usize = 512 * 1024;

/// Stops accepting connections in this process.
pub(crate) fn close_listeners() {
    // SAFETY: closes httpd's own listening sockets; callable at any time in parent and children.
    unsafe { ap_close_listeners() };
}

/// A descriptor that becomes readable when that process has ended.
///
/// # Errors
/// Those of `pidfd_open(2)`, e.g. when there is no such process.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a system call on numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until the descriptor is readable; `None` waits forever.
pub(crate) fn wait_readable(fd: &OwnedFd, timeout: Option<Duration>) -> bool {
    let milliseconds = timeout.map_or(-1, |time| {
        i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
    });
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one pollfd that outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
        if ready >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return ready > 0;
        }
    }
}

/// Starts a thread in which every signal is blocked: httpd's handlers belong to httpd's threads.
/// Never in httpd's parent.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn spawn_signal_blocked(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let builder = std::thread::Builder::new();
    let builder = builder.name(name.to_owned()).stack_size(STACK_BYTES);
    let result = with_signals_blocked(|| builder.spawn(move || guard((), body)));
    result.map(drop)
}

/// Starts a thread by `start` in which every signal is blocked: it inherits the mask of its creator.
pub(crate) fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let result = start();
    if let Ok(before) = before {
        // It was this thread's mask a moment ago, so this cannot fail.
        let _ = before.thread_set_mask();
    }
    result
}

/// Seconds on a clock that never goes back and is the same for this process over all reloads.
pub(crate) fn monotonic_seconds() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: room for the answer; this clock exists everywhere.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0)
}

/// Ends the process at once: no handler, no cleanup, no other thread gets to run.
pub(crate) fn exit_now() -> ! {
    // SAFETY: allowed at any time.
    unsafe { libc::_exit(0) }
}

/// The file this library was loaded from.
pub(crate) fn own_file() -> Option<PathBuf> {
    // SAFETY: plain data, filled by dladdr.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let own = own_file as fn() -> Option<PathBuf> as *const libc::c_void;
    // SAFETY: an address of this library and room for the answer.
    if unsafe { libc::dladdr(own, &raw mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr succeeded: a C string that lives as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let name = OsStr::from_bytes(name.to_bytes());
    std::fs::canonicalize(name).ok()
}
