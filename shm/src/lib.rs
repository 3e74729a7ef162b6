//! Shared memory of mod_passenger: two segments that httpd's workers, the agent and the watchdog map, and the
//! channels on which they find each other.
//!
//! ```text
//!   worker (ModuleView, Client)      agent (AgentView)          watchdog (WatchdogView)
//!        │ reads        │ seats, cells,   │ writes   │ repairs       │ reads      │ sweeps the
//!        │              │ counters, hints │          │               │            │ words of the dead
//!        ▼              ▼                 ▼          ▼               ▼            ▼
//!   ┌─────────┐   ┌─────────┐        ┌─────────┐ ┌─────────┐    ┌─────────┐  ┌─────────┐
//!   │ routes  │   │ traffic │        │ routes  │ │ traffic │    │ routes  │  │ traffic │
//!   └─────────┘   └─────────┘        └─────────┘ └─────────┘    └─────────┘  └─────────┘
//! ```
//!
//! A request takes a seat of an app process by one compare-and-swap, waits in a cell of the group's queue
//! if there is none, and gives the seat back by one compare-and-swap. Nothing here ever waits for a
//! process that may be dead or stopped, nothing in a segment is a pointer, and all-zero is a harmless
//! value of every word.
//!
//! | module | what |
//! |---|---|
//! | `layout`, `segment`, `raw` | every shared struct, making and mapping the segments, bounds |
//! | `protocol` | the algorithms over single words, each under `loom` |
//! | `routes`, `traffic`, `tables` | the mapped segments |
//! | `module`, `client`, `agent`, `watchdog`, `inspect` | what each process may do |
//! | `channel`, `messages` | datagrams with descriptors between the processes |
//! | `hooks` | which programs of root's may be named as hooks |
//!
//! Why atomics work between processes and on read-only pages is said in `sync`. Orderings name their
//! partners as `PAIR(label)`. What this crate never does: HTTP, Apache, policy, signals, files (but for the rule of `hooks`,
//! which both sides apply).

#[cfg(not(loom))]
mod agent;
#[cfg(not(loom))]
pub mod channel;
#[cfg(not(loom))]
mod client;
#[doc(hidden)]
pub mod clock;
#[cfg(not(loom))]
mod doorbell;
#[cfg(not(loom))]
mod error;
#[doc(hidden)]
pub mod futex;
pub mod hooks;
mod ids;
#[cfg(not(loom))]
mod inspect;
#[cfg(not(loom))]
mod layout;
pub mod messages;
#[cfg(not(loom))]
mod module;
mod params;
#[doc(hidden)]
pub mod protocol;
#[cfg(not(loom))]
mod raw;
#[cfg(not(loom))]
mod routes;
#[cfg(not(loom))]
mod segment;
#[doc(hidden)]
pub mod sync;
#[cfg(not(loom))]
mod tables;
#[cfg(not(loom))]
mod traffic;
#[cfg(not(loom))]
mod watchdog;

pub use ids::{ClientId, GroupKey, GroupRef, ProcessRef, MAX_CLIENT_GENERATION};
pub use params::{
    restart_mark, Capacities, GroupInfo, GroupParams, Hint, InExchange, Load, Occupancy, Port,
    ProcessParams, ProcessSnapshot, ProcessState, Protocol, Queue, Waited, MAX_DEFINITION_BYTES,
    STALE_GRANT,
};

#[cfg(not(loom))]
pub use {
    agent::{AgentView, Orphan},
    client::{Busy, Client, OffRoute, QueueFull, Seat, Stream, Waiter},
    error::Error,
    inspect::{GroupSnapshot, InspectView, Snapshot},
    layout::layout_hash,
    module::ModuleView,
    segment::{create_doorbell, create_segments, SegmentFds},
    watchdog::{Sweep, WatchdogView},
};
