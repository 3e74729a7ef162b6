//! The watchdog: a small single-threaded process between httpd's parent and the agent.
//!
//! ```text
//!  httpd's parent ──parent channel, pidfd──►┌──────────┐──store channel, pidfd──► agent
//!  workers ──hello channel, pidfds─────────►│ watchdog │◄─output pipes── apps (while no agent reads)
//!                                           └──────────┘
//! ```
//!
//! It starts and restarts the agent, keeps every descriptor a successor needs, gives workers their
//! identities and sweeps dead ones, and ends everything at the end. It decides nothing about apps, parses
//! nothing an app or worker wrote except one word ("hello"), and allocates little.
//!
//! | file | owns |
//! |---|---|
//! | `start` | the way from `exec` to the loop, fresh or by take-over |
//! | `core` | the loop: sources, timers |
//! | `settings` | what it takes from the configuration for itself |
//! | `outbox` | what the agent is told |
//! | `parent`, `workers`, `agent`, `output` | what happens on each kind of channel |
//! | `status` | starting a reporter for whoever connects to the status socket |
//! | `supervisor` | when to start, abort, kill the agent (pure) |
//! | `table` | what is kept for the agent's successor |
//! | `hooks` | programs that are run at httpd's start and stop |
//! | `shutdown`, `stop` | asking for the end; enforcing it |
//! | `takeover`, `succession` | how an agent becomes the watchdog: before and after its `exec` |
//! | `reserve`, `rebuild` | a copy of the store in case both die; how httpd's parent starts another then |

mod agent;
mod core;
mod hooks;
mod outbox;
mod output;
mod parent;
mod rebuild;
mod reserve;
mod settings;
mod shutdown;
mod start;
mod status;
pub mod stop;
mod succession;
pub mod supervisor;
pub mod table;
pub mod takeover;
mod workers;

pub use start::main;
