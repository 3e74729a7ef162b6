//! Which module serves the apps: ours, Phusion Passenger's from its Debian package, or none.

use crate::stage;
use std::path::Path;

/// A contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnderTest {
    /// The staged build of this checkout.
    Ours,
    /// Debian's `libapache2-mod-passenger`.
    Passenger,
    /// httpd alone.
    Nothing,
}

impl UnderTest {
    /// The one that the environment names: `PASSENGER_UNDER_TEST=theirs` runs the tests against Phusion
    /// Passenger, to see that they ask for what users are used to. Otherwise ours.
    #[must_use]
    pub fn chosen() -> UnderTest {
        match std::env::var("PASSENGER_UNDER_TEST").as_deref() {
            Ok("theirs") => UnderTest::Passenger,
            _ => UnderTest::Ours,
        }
    }

    /// The lines that load and point out the module; it keeps its run-time files in `registry`. Ours is
    /// installed in `prefix`, or staged.
    #[must_use]
    pub(crate) fn configuration(self, registry: &Path, prefix: Option<&Path>) -> Vec<String> {
        let common = |module: &str, root: &str| {
            vec![
                format!("LoadModule passenger_module \"{module}\""),
                format!("PassengerRoot \"{root}\""),
                format!("PassengerInstanceRegistryDir \"{}\"", registry.display()),
                "PassengerRuby /usr/bin/ruby\nPassengerPython /usr/bin/python3".to_owned(),
                "PassengerNodejs /usr/bin/node\nPassengerStatThrottleRate 0".to_owned(),
            ]
        };
        match self {
            UnderTest::Ours => {
                let prefix = prefix.map_or_else(stage::prefix, Path::to_owned);
                let module = prefix.join("modules/mod_passenger.so");
                common(&module.to_string_lossy(), &prefix.to_string_lossy())
            }
            UnderTest::Passenger => {
                let mut lines = common(
                    "/usr/lib/apache2/modules/mod_passenger.so",
                    "/usr/lib/ruby/vendor_ruby/phusion_passenger/locations.ini",
                );
                lines.push("PassengerDisableSecurityUpdateCheck on".to_owned());
                lines.push("PassengerDisableAnonymousTelemetry on".to_owned());
                lines
            }
            UnderTest::Nothing => Vec::new(),
        }
    }
}
