//! What the loader tests are made of: an application process started as the agent would start it
//! ([`process`]) or forked by a preloader ([`worker`]), and a client for each of the two request protocols ([`client`]).

#![allow(
    dead_code,
    reason = "each of the loader test programs uses a part of this"
)]

pub(crate) mod apps;
pub(crate) mod binary;
pub(crate) mod client;
pub(crate) mod http;
pub(crate) mod process;
pub(crate) mod worker;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// No wait in these tests is longer; reaching it is a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// One of the languages with a loader of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Ruby,
    Python,
    /// Python again, through its other loader.
    Asgi,
    Node,
}

impl Language {
    /// `ruby`, `python`, `asgi` or `node`: the suffix of the fixture directories.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Language::Ruby => "ruby",
            Language::Python => "python",
            Language::Asgi => "asgi",
            Language::Node => "node",
        }
    }

    /// The interpreter, or `None` where the language is not installed. The one the distribution
    /// ships comes first, because its packages (`ruby-rack`) belong to it.
    pub(crate) fn interpreter(self) -> Option<PathBuf> {
        let program = match self {
            Language::Ruby => "ruby",
            Language::Python | Language::Asgi => "python3",
            Language::Node => "node",
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::iter::once(PathBuf::from("/usr/bin"))
            .chain(std::env::split_paths(&path))
            .map(|directory| directory.join(program))
            .find(|candidate| candidate.is_file())
    }

    pub(crate) fn loader(self) -> PathBuf {
        let file = match self {
            Language::Ruby => "rack-loader.rb",
            Language::Python => "wsgi-loader.py",
            Language::Asgi => "asgi-loader.py",
            Language::Node => "node-loader.js",
        };
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("loaders")
            .join(file)
    }

    pub(crate) fn startup_file(self) -> &'static str {
        match self {
            Language::Ruby => "config.ru",
            Language::Python => "passenger_wsgi.py",
            Language::Asgi => "passenger_asgi.py",
            Language::Node => "app.js",
        }
    }

    /// Whether its processes speak the binary protocol; otherwise HTTP.
    pub(crate) fn is_binary(self) -> bool {
        self != Language::Node
    }

    /// The directory of the application `<kind>-<language>` in `tests/apps`.
    pub(crate) fn app(self, kind: &str) -> PathBuf {
        let apps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/apps");
        apps.join(format!("{kind}-{}", self.name()))
    }
}

/// Makes one `#[test]` per language of each function named: of `all` languages, of those with a `binary` protocol, or of
/// those whose loader can preload (`forking`). The functions get the language.
#[allow(unused_macros, reason = "only some of the test programs have a suite")]
macro_rules! suite {
    ($($language:ident = $variant:ident: $($test:ident)*;)*) => {
        $(mod $language {
            $(#[test]
            fn $test() {
                super::$test(super::Language::$variant);
            })*
        })*
    };
    (all: $($all:ident)*; binary: $($binary:ident)*;) => {
        suite! {
            ruby = Ruby: $($all)* $($binary)*;
            python = Python: $($all)* $($binary)*;
            asgi = Asgi: $($all)*;
            node = Node: $($all)*;
        }
    };
    (forking: $($test:ident)*;) => {
        suite! { ruby = Ruby: $($test)*; python = Python: $($test)*; asgi = Asgi: $($test)*; }
    };
}
#[allow(unused_imports, reason = "only some of the test programs have a suite")]
pub(crate) use suite;

/// Returns when the condition holds; panics when that takes too long.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "that never became true");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
