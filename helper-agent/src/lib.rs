//! Agent, watchdog and tools.
#![deny(unsafe_code)]

pub mod store;
#[allow(unsafe_code)]
pub mod sys;
