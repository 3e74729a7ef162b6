//! Agent, watchdog and tools.
#![deny(unsafe_code)]

pub mod agent;
pub mod apps;
pub mod config;
pub mod instance;
pub mod log;
pub mod output;
pub mod pool;
pub mod spawn;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
pub mod watchdog;
