//! Agent, watchdog and tools.
#![deny(unsafe_code)]

pub mod log;
pub mod output;
pub mod pool;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
