//! Codes of our log lines: `PSGR` and four digits, never reused, each explained in the guide.
//! A code stands first in its line, so that operators and tests can look for it.
//!
//! 01xx: httpd's parent and the workers' attachment (here); 02xx: requests (`error.rs`).

/// A panic was caught at the border to httpd.
pub(crate) const PANIC: &str = "PSGR0101";
/// The configuration cannot work; httpd does not start.
pub(crate) const CONFIG: &str = "PSGR0102";
/// Something in the configuration deserves attention.
pub(crate) const CONFIG_WARNING: &str = "PSGR0103";
/// Directives that nothing acts on yet.
pub(crate) const NOT_YET: &str = "PSGR0104";
/// The instance could not be started.
pub(crate) const START: &str = "PSGR0105";
/// An instance was started or has taken a configuration.
pub(crate) const STARTED: &str = "PSGR0106";
/// A new configuration could not be handed over; the one before stays.
pub(crate) const CONFIGURE: &str = "PSGR0107";
/// The agent refused a configuration; the one before stays.
pub(crate) const REFUSED: &str = "PSGR0108";
/// The watchdog we started ended.
pub(crate) const WATCHDOG_DIED: &str = "PSGR0109";
/// The whole instance is gone while httpd runs.
pub(crate) const INSTANCE_GONE: &str = "PSGR0110";
/// The instance did not end in time when httpd stopped.
pub(crate) const STOP: &str = "PSGR0111";
/// A worker could not attach to the instance.
pub(crate) const ATTACH: &str = "PSGR0112";
/// A worker saw its parent die and leaves.
pub(crate) const ORPHANED: &str = "PSGR0113";
