//! Numbers that whoever starts a harness can set in its environment.

use std::str::FromStr;

/// The number in that variable of the environment, or the default if there is none.
#[must_use]
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::setting;

    #[test]
    fn what_is_not_set_is_the_default() {
        assert_eq!(setting("PSGR_NOBODY_SETS_THIS", 7_u32), 7);
        // Cargo sets this one; it is no number.
        assert_eq!(setting("CARGO_PKG_NAME", 7_u64), 7);
    }
}
