//! Values that hold for all of httpd.

use std::borrow::Cow;

use passenger_shm::messages as wire;

use crate::ffi::published::Published;

/// Where overflow files go if neither `PassengerDataBufferDir` nor `TMPDIR` says so.
const TEMPORARY: &str = "/tmp";

/// What `PassengerRoot` and its siblings say, defaults applied. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Globals {
    /// Install prefix; empty if neither set nor to be found from the module's path.
    pub(crate) root: Cow<'static, str>,
    /// Seconds between looks at an app's files; 0 means at every request.
    pub(crate) stat_throttle_rate: u32,
    /// Directory for unnamed overflow files.
    pub(crate) data_buffer_dir: Cow<'static, str>,
    /// Parent of the instance directory; `None`: the watchdog's default.
    pub(crate) instance_registry_dir: Option<String>,
    /// Log of the agent and the apps; `None`: the main server's error log.
    pub(crate) log_file: Option<String>,
    /// Whether apps run as the owners of their files.
    pub(crate) user_switching: bool,
    /// User for apps that have none of their own.
    pub(crate) default_user: Cow<'static, str>,
    /// Group for apps that have none of their own.
    pub(crate) default_group: Option<String>,
    /// Seconds that apps may take to finish when httpd stops.
    pub(crate) shutdown_timeout: u32,
}

static DEFAULTS: Globals = Globals {
    root: Cow::Borrowed(""),
    stat_throttle_rate: 10,
    data_buffer_dir: Cow::Borrowed(TEMPORARY),
    instance_registry_dir: None,
    log_file: None,
    user_switching: true,
    default_user: Cow::Borrowed("nobody"),
    default_group: None,
    shutdown_timeout: 30,
};

static CURRENT: Published<Globals> = Published::new();

/// The values of the current configuration, or the defaults before there is one. Cheap; valid in
/// children for as long as they live.
pub(crate) fn globals() -> &'static Globals {
    CURRENT.get().unwrap_or(&DEFAULTS)
}

/// Makes these the current values. Only httpd's parent, while it configures itself.
pub(crate) fn publish(globals: Globals) {
    CURRENT.publish(globals);
}

/// Back to the defaults; frees the values. Only httpd's parent, between two configurations.
pub(crate) fn withdraw() {
    CURRENT.withdraw();
}

impl Globals {
    /// Reads the collected directives; a later one wins. `absolute` makes a path absolute.
    pub(crate) fn read(
        directives: &[wire::Directive],
        own_prefix: Option<String>,
        absolute: impl Fn(&str) -> String,
    ) -> Globals {
        let mut globals = DEFAULTS.clone();
        globals.root = Cow::Owned(own_prefix.unwrap_or_default());
        if let Ok(directory) = std::env::var("TMPDIR") {
            if directory.starts_with('/') {
                globals.data_buffer_dir = Cow::Owned(directory);
            }
        }
        for directive in directives {
            let Some(value) = directive.args.first() else {
                continue;
            };
            match directive.name.as_str() {
                "PassengerRoot" => globals.root = Cow::Owned(absolute(value)),
                "PassengerStatThrottleRate" => set(&mut globals.stat_throttle_rate, value),
                "PassengerDataBufferDir" => globals.data_buffer_dir = Cow::Owned(absolute(value)),
                "PassengerInstanceRegistryDir" => {
                    globals.instance_registry_dir = Some(absolute(value));
                }
                "PassengerLogFile" => globals.log_file = Some(absolute(value)),
                "PassengerUserSwitching" => globals.user_switching = value == "on",
                "PassengerDefaultUser" => globals.default_user = Cow::Owned(value.clone()),
                "PassengerDefaultGroup" => globals.default_group = Some(value.clone()),
                "PassengerShutdownTimeout" => set(&mut globals.shutdown_timeout, value),
                _ => {}
            }
        }
        globals
    }
}

/// The words were checked when they were parsed; one that is no number changes nothing.
fn set(number: &mut u32, word: &str) {
    if let Ok(value) = word.parse() {
        *number = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directive(name: &str, arg: &str) -> wire::Directive {
        wire::Directive {
            name: name.to_owned(),
            args: vec![arg.to_owned()],
            file: String::new(),
            line: 0,
        }
    }

    #[test]
    fn later_ones_win_and_paths_become_absolute() {
        let globals = Globals::read(
            &[
                directive("PassengerStatThrottleRate", "5"),
                directive("PassengerStatThrottleRate", "0"),
                directive("PassengerLogFile", "logs/app.log"),
                directive("PassengerUserSwitching", "off"),
            ],
            Some("/opt/passenger".to_owned()),
            |path| format!("/etc/apache2/{path}"),
        );
        assert_eq!(globals.stat_throttle_rate, 0);
        assert_eq!(
            globals.log_file.as_deref(),
            Some("/etc/apache2/logs/app.log")
        );
        assert_eq!(globals.root, "/opt/passenger");
        assert!(!globals.user_switching);
        assert_eq!(globals.shutdown_timeout, DEFAULTS.shutdown_timeout);
    }

    #[test]
    fn defaults_agree_with_the_table() {
        let default = |name| {
            super::super::directives::find(name)
                .expect("directive")
                .default()
        };
        assert_eq!(
            default("PassengerStatThrottleRate"),
            DEFAULTS.stat_throttle_rate.to_string()
        );
        assert_eq!(
            default("PassengerShutdownTimeout"),
            DEFAULTS.shutdown_timeout.to_string()
        );
        assert_eq!(default("PassengerDefaultUser"), DEFAULTS.default_user);
        assert_eq!(
            default("PassengerUserSwitching") == "on",
            DEFAULTS.user_switching
        );
    }
}
