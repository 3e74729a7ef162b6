//! Shared memory of mod_passenger.
pub mod channel;
pub mod messages;
