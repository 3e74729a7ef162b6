//! Shared memory of mod_passenger.
pub mod messages;
