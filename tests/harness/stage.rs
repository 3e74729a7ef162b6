//! Where the build under test is installed: the staged prefix that `make stage` fills.

use std::path::{Path, PathBuf};

/// The staged prefix: `PASSENGER_STAGE`, else `stage` in cargo's target directory.
///
/// # Panics
/// When nothing is installed there; the message says how to get it.
#[must_use]
pub fn prefix() -> PathBuf {
    let chosen = std::env::var_os("PASSENGER_STAGE")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
            target
                .unwrap_or_else(|| repository().join("target"))
                .join("stage")
        });
    let module = chosen.join("modules/mod_passenger.so");
    assert!(
        module.exists(),
        "{} is missing: run `make stage` first, or `make test`",
        module.display()
    );
    chosen
}

/// The checkout this harness was built from.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}
