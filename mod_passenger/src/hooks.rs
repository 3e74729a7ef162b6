//! Registers our hooks: one sentence each about when it runs.

/// Called once per configuration pass, after the library was loaded.
pub(crate) fn register() {}
