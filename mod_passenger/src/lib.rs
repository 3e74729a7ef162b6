//! The Apache module: maps requests to apps, takes a seat in shared memory, talks to the app itself.
//!
//! ```text
//! httpd's parent   hooks ─► lifecycle ── parent channel ──► watchdog ─► agent
//!                  commands ─► config ── records, sealed ──────▲
//! worker process   child_init ─► worker ── hello, register ──► watchdog, agent
//!                  fixups ─► mapping ─► apps                   (which app is this URL?)
//!                  handler ─► request_body ─► admit ─► exchange ─► upstream ─► app process
//!                                                      └─► upgrade   (WebSockets)
//! ```
//!
//! In the order of their use: [`config`] and [`lifecycle`] run in httpd's parent; [`worker`] and
//! [`parent_watch`] when a worker process begins; [`mapping`] and [`handler`] for each request. Every
//! line of FFI is in [`ffi`], behind a panic barrier. The module never spawns apps, never decides
//! policy, and keeps no thread in the parent.
#![deny(unsafe_code)]

mod admit;
mod apps;
mod codes;
mod config;
mod environment;
mod error;
mod error_page;
mod exchange;
#[allow(unsafe_code)]
mod ffi;
#[cfg(test)]
mod fuzz;
mod handler;
mod hooks;
mod lifecycle;
mod mapping;
mod next_request;
mod page_cache;
mod parent_watch;
mod passengerfile;
mod paths;
mod request_body;
mod restarts;
mod spawn_page;
mod spill;
mod sticky;
mod upgrade;
mod upstream;
mod worker;

/// Version of the module, for people; which build is installed is `lifecycle`'s to find out.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
