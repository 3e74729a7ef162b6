//! Shared memory of mod_passenger.
pub mod channel;
pub mod messages;

mod agent;
mod error;
mod ids;
mod module;
mod params;
mod segment;
mod watchdog;

pub use agent::{AgentView, Orphan};
pub use error::Error;
pub use ids::{ClientId, GroupKey, GroupRef, ProcessRef, MAX_CLIENT_GENERATION};
pub use module::{Busy, Client, ModuleView, QueueFull, Seat, Waiter};
pub use params::{
    Capacities, GroupInfo, GroupParams, Hint, Load, ProcessParams, ProcessSnapshot, ProcessState,
    Protocol, Queue, MAX_DEFINITION_BYTES, STALE_GRANT,
};
pub use segment::{create_segments, layout_hash, SegmentFds};
pub use watchdog::{InspectView, Snapshot, Sweep, WatchdogView};
