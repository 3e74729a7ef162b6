//! skeleton
use crate::{Capacities, Error};
use std::os::fd::OwnedFd;
/// The descriptors.
#[derive(Debug)]
pub struct SegmentFds {
    /// rw
    pub routes: OwnedFd,
    /// ro
    pub routes_read_only: OwnedFd,
    /// rw
    pub traffic: OwnedFd,
}
/// Creates.
///
/// # Errors
/// Io.
pub fn create_segments(_c: &Capacities) -> Result<SegmentFds, Error> {
    unimplemented!()
}
/// Hash.
#[must_use]
pub fn layout_hash() -> u64 {
    unimplemented!()
}
