//! The Apache module.
#![deny(unsafe_code)]

mod codes;
#[allow(unsafe_code)]
mod ffi;
mod hooks;
