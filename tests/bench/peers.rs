//! Which versions took part: figures without them cannot be compared with anything.

use serde_json::{json, Value};
use std::fmt;
use std::process::Command;

/// Debian's packages of everything that is measured, or measures. uvloop and httptools are uvicorn's own choice where
/// they are installed; without them it runs on slower parts, and its figures mean less.
const PACKAGES: [&str; 9] = [
    "apache2-bin",
    "libapache2-mod-passenger",
    "ruby",
    "python3",
    "nodejs",
    "python3-uvicorn",
    "python3-uvloop",
    "python3-httptools",
    "wrk",
];

/// Names and versions.
pub(crate) struct Peers(Vec<(&'static str, String)>);

impl Peers {
    /// Asks the packages' database.
    pub(crate) fn installed() -> Peers {
        Peers(PACKAGES.map(|package| (package, version(package))).to_vec())
    }

    /// As an object, by name.
    pub(crate) fn to_json(&self) -> Value {
        self.0
            .iter()
            .map(|(name, version)| ((*name).to_owned(), json!(version)))
            .collect()
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self
            .0
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        write!(f, "{}", all.join(", "))
    }
}

fn version(package: &str) -> String {
    let asked = Command::new("dpkg-query")
        .args(["-W", "-f", "${Version}", package])
        .output();
    match asked {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        _ => "not from a package".to_owned(),
    }
}
