//! Agent, watchdog and tools.
