//! `epoll`, edge-triggered, and a descriptor that wakes its sleeper.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Most events taken in one turn.
const EVENTS: usize = 128;

/// A set of descriptors to wait for.
pub(crate) struct Epoll(OwnedFd);

/// A descriptor that has news.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    /// What [`Epoll::add`] was given.
    pub(crate) token: u64,
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Epoll {
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a system call on numbers.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// Reports each *change*: readable, writable, closed. It ends when the descriptor is closed.
    ///
    /// # Errors
    /// When the system has no memory, or the user too many watches.
    #[allow(clippy::cast_sign_loss)] // EPOLLET is the top bit
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        let (set, fd) = (self.0.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: two open descriptors and an event that outlives the call.
        match unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Stops reporting.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        let (set, fd) = (self.0.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: two open descriptors. One that was never added is no harm.
        unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    /// Waits for news.
    pub(crate) fn wait(&self, timeout: Duration) -> Vec<Event> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: room for that many events.
        let n = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                i32::try_from(EVENTS).unwrap_or(1),
                milliseconds,
            )
        };
        let n = usize::try_from(n).unwrap_or(0);
        events[..n]
            .iter()
            .map(|event| Event { token: event.u64 })
            .collect()
    }
}

/// A counter that makes a descriptor readable.
///
/// # Errors
/// When there are no descriptors left.
pub(crate) fn waker() -> io::Result<OwnedFd> {
    // SAFETY: a system call on numbers.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Wakes whoever waits for it. A counter that is full has woken it already.
pub(crate) fn wake(waker: &OwnedFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: eight bytes, as an eventfd wants them.
    unsafe { libc::write(waker.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}
