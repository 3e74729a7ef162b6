//! Bytes that come from a client, as far as httpd has left them to us.

use super::{damaged, fuzz};
use crate::config::{parse, Context, DIRECTIVES};
use crate::paths;
use crate::sticky;
use proptest::prelude::*;

#[test]
fn fuzz_cookies() {
    let pair = "( ?(_passenger_route|[a-z_]{1,20})=\"?[0-9a-fA-F]{14,18}\"?[;,]?)";
    let valid = prop::collection::vec(pair, 0..6).prop_map(|pairs| pairs.concat().into_bytes());
    fuzz(&damaged(valid), |bytes| {
        let found = sticky::route_in(&bytes, "_passenger_route");
        let hex = found.map(|route| format!("{route:016x}"));
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        prop_assert!(
            hex.is_none_or(|hex| text.contains(&hex)),
            "a route that nobody named"
        );
        Ok(())
    });
}

#[test]
fn fuzz_escaped_paths() {
    let valid = "(/|\\.\\.?|%[0-9a-fA-F]{0,2}|[!-~]|\\PC){0,60}".prop_map(String::into_bytes);
    fuzz(&damaged(valid), |bytes| {
        if let Some(meant) = paths::unescape(&bytes) {
            prop_assert!(meant.len() <= bytes.len());
            let is_plain = !bytes.contains(&b'%');
            prop_assert!(!is_plain || meant == bytes, "nothing to unescape");
        }
        Ok(())
    });
}

/// `.htaccess` belongs to a user, not to root.
#[test]
fn fuzz_values_of_htaccess() {
    let rows: Vec<_> = DIRECTIVES
        .iter()
        .filter(|row| matches!(row.context(), Context::Location(_)))
        .collect();
    let words = prop_oneof![
        "on|off|ON|oFF",
        "-?[0-9]{1,22}",
        "/[a-z/]{0,9}",
        "[ -~]{0,40}"
    ];
    let valid = words.prop_map(String::into_bytes);
    fuzz(
        &(any::<prop::sample::Index>(), damaged(valid)),
        |(row, bytes)| {
            let row = row.get(&rows);
            if let Err(sentence) = parse(row, &[&bytes, &bytes]) {
                prop_assert!(sentence.starts_with(row.name()), "{sentence}");
            }
            Ok(())
        },
    );
}
