//! The Apache module.
#![deny(unsafe_code)]

mod codes;
mod config;
#[allow(unsafe_code)]
mod ffi;
mod hooks;

/// Names this build; the agent refuses the configuration of another one.
pub(crate) const BUILD_ID: &str = env!("PASSENGER_BUILD_ID");
