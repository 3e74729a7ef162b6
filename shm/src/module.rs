//! skeleton, being filled in
#![allow(missing_docs, clippy::all, clippy::pedantic)]
use crate::*;
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
#[derive(Debug)]
pub struct ModuleView {
    inner: Arc<()>,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    pub live: u32,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull {
    pub length: u32,
    pub oldest: Duration,
}
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<()>,
}
#[derive(Debug)]
pub struct Seat<'a> {
    client: PhantomData<&'a Client>,
}
#[derive(Debug)]
pub struct Waiter<'a> {
    client: PhantomData<&'a Client>,
}
impl ModuleView {
    pub fn attach(
        _routes_ro: BorrowedFd<'_>,
        _traffic: BorrowedFd<'_>,
        _doorbell: OwnedFd,
    ) -> Result<ModuleView, Error> {
        unimplemented!()
    }
    pub fn instance_key(&self) -> [u8; 16] {
        unimplemented!()
    }
    pub fn is_superseded(&self) -> bool {
        unimplemented!()
    }
    pub fn config_generation(&self) -> u64 {
        unimplemented!()
    }
    pub fn find_group(&self, _key: GroupKey) -> Option<GroupRef> {
        unimplemented!()
    }
    pub fn group(&self, _group: GroupRef) -> Option<GroupInfo> {
        unimplemented!()
    }
    pub fn is_live(&self, _process: ProcessRef) -> bool {
        unimplemented!()
    }
    pub fn process_state(&self, _process: ProcessRef) -> Option<ProcessState> {
        unimplemented!()
    }
    pub fn client(&self, _id: ClientId) -> Client {
        Client {
            inner: self.inner.clone(),
        }
    }
}
impl Client {
    pub fn id(&self) -> ClientId {
        unimplemented!()
    }
    pub fn take(&self, _group: GroupRef, _avoid: Option<ProcessRef>) -> Result<Seat<'_>, Busy> {
        let _ = &self.inner;
        unimplemented!()
    }
    pub fn enqueue(&self, _group: GroupRef) -> Result<Waiter<'_>, QueueFull> {
        unimplemented!()
    }
    pub fn queue_length(&self, _group: GroupRef) -> u32 {
        unimplemented!()
    }
    pub fn hint(&self, _hint: Hint) {
        unimplemented!()
    }
}
impl<'a> Seat<'a> {
    pub fn process(&self) -> ProcessRef {
        let _ = self.client;
        unimplemented!()
    }
    pub fn protocol(&self) -> Protocol {
        unimplemented!()
    }
    pub fn number(&self) -> u64 {
        unimplemented!()
    }
    pub fn release(self) {
        unimplemented!()
    }
    pub fn orphan(self) {
        unimplemented!()
    }
}
impl Drop for Seat<'_> {
    fn drop(&mut self) {}
}
impl<'a> Waiter<'a> {
    pub fn wait(&mut self, _slice: Duration) -> Option<Seat<'a>> {
        let _ = self.client;
        unimplemented!()
    }
    pub fn since(&self) -> Duration {
        unimplemented!()
    }
}
impl Drop for Waiter<'_> {
    fn drop(&mut self) {}
}
