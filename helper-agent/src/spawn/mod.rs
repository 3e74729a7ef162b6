//! Starting an app process: from an application and its configuration to a process that says `ready`, or to
//! a report that tells the administrator why it did not.
//!
//! ```text
//!  agent                                     shim (this program, one thread)            loader
//!  prepare: who, what, with which variables
//!  launch: bind socket, pipes, fork ───────► waits for `go`
//!  deposit the descriptors in the store
//!  `go` ───────────────────────────────────► step prepare · user · directory · exec ──► step load · listen
//!  dialogue, captured output, deadline ◄────────────────────────────────────────────── ready
//! ```
//!
//! * `order.rs` – what the shim is told; `prepare.rs` makes it (may block), `identity.rs` says as whom (`accounts.rs`: of which users,
//!   `ownership.rs`: whose the startup file is), `environment.rs` with which variables;
//! * `command.rs` – apps without a loader, `port.rs` – where they listen;
//! * `launch.rs` – the agent's side of the fork;
//! * `login_shell.rs` – the interpreter by way of the user's login shell;
//! * `shim.rs` – the child's side, between fork and the loader;
//! * `dialogue.rs` – the lines of the control socket;
//! * `fork.rs` – the same for a process that a preloader forks;
//! * `report.rs` – a failure in words; `diagnosis.rs` – what a process that does not get ready is doing.

pub mod accounts;
pub mod command;
pub mod diagnosis;
pub mod dialogue;
pub mod environment;
pub mod fork;
pub mod identity;
pub mod launch;
pub mod login_shell;
pub mod order;
pub mod ownership;
pub mod port;
pub mod prepare;
pub mod report;
pub mod shim;
