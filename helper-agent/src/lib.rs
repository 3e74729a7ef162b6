//! Agent and watchdog: the two processes that work beside httpd so that a request never waits for them.
//!
//! ```text
//!  httpd's parent ─► passenger-watchdog ─► passenger-helper-agent ─► spawn shim ─► app process
//!                    keeps descriptors,    pool, registrations,      becomes the
//!                    restarts, ends        spawns, orphans           app's user
//! ```
//!
//! Neither ever touches a request: workers find app processes in shared memory (`passenger_shm`). The agent
//! starts only what root configured ([`config`]), never as root ([`spawn`]).
//!
//! | module | owns |
//! |---|---|
//! | [`agent`] | the agent's loop: everything that happens becomes an event of the pool |
//! | [`pool`] | who is started, kept, replaced and ended: pure, without I/O or clock |
//! | [`spawn`] | from an application to a process that is ready, or a report why not |
//! | [`config`], [`apps`] | what was configured, for which applications, of which types |
//! | [`watchdog`] | the watchdog: store of descriptors, restarts, the end of everything |
//! | [`store`] | what the two say to each other |
//! | [`status`], [`admin`] | what can be seen of an instance, and asked of its agent |
//! | [`tools`] | the command-line tools |
//! | [`instance`], [`output`], [`log`], [`app_log`] | the instance directory, reading what apps print, the logs |
//! | [`hooks`] | programs of root's that are run when something happens |
//! | `loaders` | the instance's own copy of the loaders |
//! | [`cgroup`] | the control group of the apps, where there may be one |
//! | [`sys`] | what the standard library lacks of Linux: the only `unsafe` |
#![deny(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod app_log;
pub mod apps;
pub mod cgroup;
pub mod config;
mod helpers;
pub mod hooks;
pub mod instance;
mod loaders;
pub mod log;
mod log_output;
pub mod output;
pub mod pool;
pub mod prestart;
pub mod spawn;
mod starvation;
pub mod status;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
pub mod tools;
pub mod watchdog;
