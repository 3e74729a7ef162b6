//! The bell that wakes the agent: an eventfd, rung only while the agent says that it sleeps. Owns the
//! descriptor; who sleeps when is argued at `AgentView::sleep_begins`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::error::Error;

/// One process's descriptor of the bell.
#[derive(Debug)]
pub(crate) struct Doorbell(OwnedFd);

impl Doorbell {
    /// Takes the descriptor and makes sure that it never blocks.
    pub(crate) fn new(fd: OwnedFd) -> Result<Doorbell, Error> {
        // SAFETY: an open descriptor, no pointers.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(Error::last_os("ask for the doorbell's flags"));
        }
        if flags & libc::O_NONBLOCK == 0 {
            // SAFETY: as above.
            let set =
                unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
            if set < 0 {
                return Err(Error::last_os("make the doorbell non-blocking"));
            }
        }
        Ok(Doorbell(fd))
    }

    /// Rings. That it may be full (it rings already) or gone is nobody's problem here.
    pub(crate) fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes 8 bytes of an array that outlives the call.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Silences it.
    pub(crate) fn silence(&self) {
        let mut count = [0u8; 8];
        // SAFETY: reads at most 8 bytes into an array that outlives the call; never blocks (see `new`).
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
