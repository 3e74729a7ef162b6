//! skeleton, being filled in
#![allow(missing_docs, clippy::all, clippy::pedantic)]
use crate::*;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;
#[derive(Debug)]
pub struct AgentView {}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Orphan {
    pub number: u64,
    pub(crate) word: u64,
}
impl AgentView {
    pub fn attach(
        _routes_rw: BorrowedFd<'_>,
        _traffic: BorrowedFd<'_>,
        _doorbell: OwnedFd,
    ) -> Result<AgentView, Error> {
        unimplemented!()
    }
    pub fn adopt(&self) {
        unimplemented!()
    }
    pub fn beat(&self) {
        unimplemented!()
    }
    pub fn instance_key(&self) -> [u8; 16] {
        unimplemented!()
    }
    pub fn capacities(&self) -> Capacities {
        unimplemented!()
    }
    pub fn set_config_generation(&self, _generation: u64) {
        unimplemented!()
    }
    pub fn supersede(&self) {
        unimplemented!()
    }
    pub fn create_group(
        &self,
        _params: &GroupParams,
        _definition: &[u8],
    ) -> Result<GroupRef, Error> {
        unimplemented!()
    }
    pub fn update_group(&self, _group: GroupRef, _params: &GroupParams) {
        unimplemented!()
    }
    pub fn add_key(&self, _key: GroupKey, _group: GroupRef) -> Result<(), Error> {
        unimplemented!()
    }
    pub fn remove_keys_of(&self, _group: GroupRef) {
        unimplemented!()
    }
    pub fn remove_group(&self, _group: GroupRef) {
        unimplemented!()
    }
    pub fn groups(&self) -> Vec<(GroupRef, GroupParams, Vec<u8>)> {
        unimplemented!()
    }
    pub fn reserve_process(&self, _group: GroupRef) -> Result<ProcessRef, Error> {
        unimplemented!()
    }
    pub fn publish(&self, _process: ProcessRef, _params: &ProcessParams) {
        unimplemented!()
    }
    pub fn drain(&self, _process: ProcessRef) {
        unimplemented!()
    }
    pub fn dead(&self, _process: ProcessRef) {
        unimplemented!()
    }
    pub fn free_process(&self, _process: ProcessRef) {
        unimplemented!()
    }
    pub fn processes(&self) -> Vec<ProcessSnapshot> {
        unimplemented!()
    }
    pub fn load(&self, _process: ProcessRef) -> Load {
        unimplemented!()
    }
    pub fn orphans(&self, _process: ProcessRef) -> Vec<Orphan> {
        unimplemented!()
    }
    pub fn free_orphan(&self, _process: ProcessRef, _orphan: &Orphan) -> bool {
        unimplemented!()
    }
    pub fn revoke_stale_grants(&self, _older_than: Duration) -> u32 {
        unimplemented!()
    }
    pub fn queue(&self, _group: GroupRef) -> Queue {
        unimplemented!()
    }
    pub fn note_spawn_failure(&self, _group: GroupRef) {
        unimplemented!()
    }
    pub fn wake_waiters(&self, _group: GroupRef, _n: u32) {
        unimplemented!()
    }
    pub fn pop_hint(&self) -> Option<Hint> {
        unimplemented!()
    }
    pub fn hints_overflowed(&self) -> bool {
        unimplemented!()
    }
    pub fn sleep_begins(&self) -> bool {
        unimplemented!()
    }
    pub fn sleep_ends(&self) {
        unimplemented!()
    }
}
