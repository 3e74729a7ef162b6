//! Codes of our log lines: `PSGR` and four digits, never reused, each explained in the guide.
//! A code stands first in its line, so that operators and tests can look for it.

/// A panic was caught at the border to httpd.
pub(crate) const PANIC: &str = "PSGR0101";
