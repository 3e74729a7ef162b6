//! The vocabulary of an end-to-end test: private httpd instances, the apps behind them, a small
//! HTTP client, the processes that came out of it, and waiting with a deadline.
//!
//! ```text
//! Setup ──start()──► Server ──► get/post/client      requests over TCP, by site name
//!   │                  │   ├──► instance()           pids of watchdog and agent
//!   └─ Site (an App)   │   ├──► app_pids(site)       pids of an app's processes
//!                      │   └──► log()                httpd's error log, ours and the apps' lines
//!                      └─ Drop: ends every process that came out of it, removes its directory
//! ```
//!
//! Each instance lives in a temporary directory whose path is the proof of membership: a process
//! belongs to a test when its command line, environment, working directory or an open file names it.
//! Nothing here sleeps to synchronise; [`wait::until`] polls and gives up with evidence.
#![deny(unsafe_code)]

pub mod app;
pub mod client;
pub mod httpd;
pub mod installation;
pub mod instance;
pub mod load;
pub mod log;
pub mod processes;
pub mod reload;
pub mod scarcity;
pub mod setting;
pub mod setup;
pub mod stage;
pub mod under_test;
pub mod wait;
pub mod websocket;

pub use app::{App, Language, Site};
pub use client::{Client, Request, Response};
pub use httpd::Server;
pub use installation::Installation;
pub use instance::Instance;
pub use load::{Load, Tally};
pub use setup::{under, Mpm, Setup};
pub use under_test::UnderTest;
pub use wait::until;
