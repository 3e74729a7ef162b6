//! What can be seen of a running instance, also while its agent is dead.
//!
//! ```text
//!  agent ──writes──► board (memfd in the watchdog's store)      names, owners, last failures
//!        └─writes──► routes, traffic                            processes, seats, queues
//!                          │ read-only
//!  tool ──connects──► `status` socket ─► watchdog ──forks──► reporter ──one JSON document──► tool
//! ```
//!
//! The watchdog reads nothing from whoever connects. It starts a reporter (the agent's image, so of the
//! instance's own build) with the connection and the tables; the reporter asks the kernel who is at the
//! other end, shows root everything and anybody else the apps that run as him, and is gone.
//!
//! * `board.rs` – what the agent notes beside the tables, in a form that survives it;
//! * `report.rs` – the document, which is what `passenger-status --show=json` prints;
//! * `compose.rs` – from tables and board to the document, for one viewer;
//! * `usage.rs` – CPU and memory of a process, as the kernel tells;
//! * `viewer.rs` – who looks, and what he may see;
//! * `reporter.rs` – the reporter's program.

pub mod board;
pub mod compose;
pub mod report;
pub mod reporter;
pub mod usage;
pub mod viewer;

/// Name of the socket in the instance directory.
pub const SOCKET: &str = "status";
