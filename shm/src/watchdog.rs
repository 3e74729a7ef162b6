//! skeleton, being filled in
#![allow(missing_docs, clippy::all, clippy::pedantic)]
use crate::*;
use serde::Serialize;
use std::os::fd::BorrowedFd;
#[derive(Debug)]
pub struct WatchdogView {}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Sweep {
    pub orphaned: u32,
    pub cells: u32,
    pub counters: u32,
}
impl WatchdogView {
    pub fn attach(
        _routes_ro: BorrowedFd<'_>,
        _traffic: BorrowedFd<'_>,
    ) -> Result<WatchdogView, Error> {
        unimplemented!()
    }
    pub fn heartbeat(&self) -> u64 {
        unimplemented!()
    }
    pub fn sweep(&self, _client: ClientId) -> Sweep {
        unimplemented!()
    }
    pub fn capacities(&self) -> Capacities {
        unimplemented!()
    }
}
#[derive(Debug)]
pub struct InspectView {}
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    pub processes: Vec<ProcessSnapshot>,
}
impl InspectView {
    pub fn attach(
        _routes_ro: BorrowedFd<'_>,
        _traffic: Option<BorrowedFd<'_>>,
    ) -> Result<InspectView, Error> {
        unimplemented!()
    }
    pub fn snapshot(&self) -> Snapshot {
        unimplemented!()
    }
}
