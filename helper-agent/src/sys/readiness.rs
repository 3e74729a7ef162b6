//! Waiting in the async runtime until a shared descriptor becomes readable.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use passenger_shm::channel::Channel;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;

use super::pidfd::Pidfd;

/// Types that own one descriptor, always the same, for as long as they live.
///
/// # Safety
/// `as_fd` of a value must name the same open descriptor at every call until the value is dropped.
unsafe trait Steady: AsFd {}

// SAFETY: owns the descriptor it returns and has no way to replace it through a shared reference.
unsafe impl Steady for OwnedFd {}
// SAFETY: as above; a wrapper of one OwnedFd.
unsafe impl Steady for UnixStream {}
// SAFETY: as above; a wrapper of one OwnedFd.
unsafe impl Steady for Channel {}
// SAFETY: as above; a wrapper of one OwnedFd.
unsafe impl Steady for Pidfd {}

/// A descriptor that several owners share.
#[derive(Debug)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// What is shared.
    #[must_use]
    pub fn get(&self) -> &T {
        &self.0
    }
}

impl<T: AsFd> AsRawFd for Shared<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<T: AsFd> AsFd for Shared<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Something whose readability can be awaited.
pub type Readable<T> = AsyncFd<Shared<T>>;

/// Lets the runtime watch it for input, edge-triggered. Must be called within a runtime.
///
/// # Errors
/// Out of descriptors or memory, or something `epoll` cannot watch.
#[allow(private_bounds)]
pub fn watch<T: Steady>(shared: Arc<T>) -> io::Result<Readable<T>> {
    // SAFETY: by the contract of `Steady` the descriptor stays open and the same while `shared` lives,
    // and the AsyncFd owns a reference to it until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(Shared(shared), Interest::READABLE) };
    watched.map_err(io::Error::from)
}
