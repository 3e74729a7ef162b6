//! A thin `epoll`: level-triggered for channels, edge-triggered for pipes that may keep a partial line.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{check, unsigned};

/// When an interest is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// As long as it is readable.
    Readable,
    /// As long as it is readable or writable.
    ReadableOrWritable,
    /// Once for each change.
    ReadableEdge,
}

/// What happened to a registered descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The number given at registration.
    pub token: u64,
    /// Whether there is something to read: data, end of file or an error.
    pub is_readable: bool,
    /// Whether there is room to write.
    pub is_writable: bool,
}

/// A set of descriptors to wait for. Remove a descriptor before closing it: as long as another process
/// has a copy, closing alone leaves it in the set.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// Those of `epoll_create1`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes flags only.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a descriptor.
    ///
    /// # Errors
    /// Those of `epoll_ctl`: already there, not pollable.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, trigger: Trigger) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, trigger)
    }

    /// Changes when a descriptor of the set is reported.
    ///
    /// # Errors
    /// Those of `epoll_ctl`: not there.
    pub fn change(&self, fd: BorrowedFd<'_>, token: u64, trigger: Trigger) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, trigger)
    }

    /// Takes a descriptor out of the set; does nothing if it is not there.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: `event` lives over the call (kernels before 2.6.9 wanted it); both fds are open.
        unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                fd.as_raw_fd(),
                &raw mut event,
            );
        }
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        token: u64,
        trigger: Trigger,
    ) -> io::Result<()> {
        let bits = match trigger {
            Trigger::Readable => libc::EPOLLIN,
            Trigger::ReadableOrWritable => libc::EPOLLIN | libc::EPOLLOUT,
            Trigger::ReadableEdge => libc::EPOLLIN | libc::EPOLLET,
        };
        let mut event = libc::epoll_event {
            events: unsigned(bits),
            u64: token,
        };
        // SAFETY: `event` lives over the call, the kernel copies it; both descriptors are borrowed open.
        check(unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                operation,
                fd.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// Waits until something happens, at most `timeout` (`None`: for ever), and appends up to 32 events.
    /// An interrupting signal ends the wait with no event.
    ///
    /// # Errors
    /// Those of `epoll_wait`.
    pub fn wait(&self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        // Rounded up: a timer that wakes half a millisecond early would spin until it is due.
        let millis = timeout.map_or(-1, |t| {
            libc::c_int::try_from(t.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX)
        });
        let mut raw = [libc::epoll_event { events: 0, u64: 0 }; 32];
        // SAFETY: `raw` has room for the 32 events asked for and outlives the call.
        let count = match check(unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), raw.as_mut_ptr(), 32, millis)
        }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => usize::try_from(other?).unwrap_or(0),
        };
        events.extend(raw.iter().take(count).map(|event| {
            // A copy: the struct is packed on some machines.
            let bits = event.events;
            Event {
                token: event.u64,
                is_readable: bits & !unsigned(libc::EPOLLOUT) != 0,
                is_writable: bits & unsigned(libc::EPOLLOUT) != 0,
            }
        }));
        Ok(())
    }
}
