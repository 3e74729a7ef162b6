//! The channel between watchdog and agent: what each says, and the descriptors that travel along.
//! The watchdog keeps a copy of all of it for the agent's successor; the agent keeps a copy of all that
//! the watchdog has, so that it can become the watchdog.

pub mod descriptors;
pub mod past;
pub mod protocol;

pub use descriptors::StartDescriptors;
pub use past::Past;
pub use protocol::{ToAgent, ToWatchdog};
