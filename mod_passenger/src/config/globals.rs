//! Values that hold for all of httpd.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use passenger_shm::messages as wire;

use crate::ffi::published::Published;

/// Where overflow files go if neither `PassengerDataBufferDir` nor `TMPDIR` says so.
const TEMPORARY: &str = "/tmp";

/// What `PassengerRoot` and its siblings say, defaults applied. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Globals {
    /// httpd's configuration generation these values belong to.
    pub(crate) generation: u64,
    /// Install prefix; empty if neither set nor to be found from the module's path.
    pub(crate) root: PathBuf,
    /// Seconds between looks at an app's files; 0 means at every request.
    pub(crate) stat_throttle_rate: u32,
    /// Directory for unnamed overflow files.
    pub(crate) data_buffer_dir: PathBuf,
    /// Parent of the instance directory; `None`: the watchdog's default.
    pub(crate) instance_registry_dir: Option<PathBuf>,
    /// Log of the agent and the apps; `None`: the main server's error log.
    pub(crate) log_file: Option<PathBuf>,
    /// Whether apps run as the owners of their files.
    pub(crate) user_switching: bool,
    /// User for apps that have none of their own.
    pub(crate) default_user: String,
    /// Group for apps that have none of their own.
    pub(crate) default_group: Option<String>,
    /// Seconds that apps may take to finish when httpd stops.
    pub(crate) shutdown_timeout: u32,
    /// How much longer than that httpd waits for them, because of what it has run at its stop.
    pub(crate) stop_hooks: Duration,
    /// Bytes of a response that are held back for a slow client.
    pub(crate) response_high_watermark: u64,
    /// Whether `X-Powered-By` names the version.
    pub(crate) show_version_in_header: bool,
    /// Seconds between pings to a silent WebSocket client; 0: none.
    pub(crate) websocket_ping_interval: u32,
    /// Seconds that WebSockets may take to close when their worker process ends.
    pub(crate) websocket_drain_time: u32,
}

/// Directives of global context whose argument is a path; relative ones are below `ServerRoot`.
const PATHS: [&str; 7] = [
    "PassengerRoot",
    "PassengerLogFile",
    "PassengerDataBufferDir",
    "PassengerInstanceRegistryDir",
    "PassengerSpawnDir",
    "PassengerFileDescriptorLogFile",
    "PassengerDumpConfigManifest",
];

/// The same directives with absolute paths: watchdog and agent know no `ServerRoot`.
pub(crate) fn with_absolute_paths(
    directives: &[wire::Directive],
    absolute: impl Fn(&str) -> PathBuf,
) -> Vec<wire::Directive> {
    let mut directives = directives.to_vec();
    for directive in &mut directives {
        if PATHS.contains(&directive.name.as_str()) {
            for path in &mut directive.args {
                *path = absolute(path).to_string_lossy().into_owned();
            }
        }
    }
    directives
}

impl Default for Globals {
    fn default() -> Self {
        Globals {
            generation: 0,
            root: PathBuf::new(),
            stat_throttle_rate: 10,
            data_buffer_dir: PathBuf::from(TEMPORARY),
            instance_registry_dir: None,
            log_file: None,
            user_switching: true,
            default_user: "nobody".to_owned(),
            default_group: None,
            shutdown_timeout: 30,
            stop_hooks: Duration::ZERO,
            response_high_watermark: 128 * 1024 * 1024,
            show_version_in_header: true,
            websocket_ping_interval: 30,
            websocket_drain_time: 10,
        }
    }
}

/// Used only by code that runs before httpd was configured, which is unit tests.
static UNCONFIGURED: OnceLock<Globals> = OnceLock::new();

static CURRENT: Published<Globals> = Published::new();

/// The values of the current configuration, or the defaults before there is one. Cheap; valid in
/// children for as long as they live.
pub(crate) fn globals() -> &'static Globals {
    CURRENT
        .get()
        .unwrap_or_else(|| UNCONFIGURED.get_or_init(Globals::default))
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
    /// Reads the directives, paths absolute; a later one wins.
    pub(crate) fn read(
        generation: u64,
        directives: &[wire::Directive],
        own_prefix: Option<PathBuf>,
    ) -> Globals {
        let root = own_prefix.unwrap_or_default();
        let mut globals = Globals {
            generation,
            root,
            ..Globals::default()
        };
        if let Ok(directory) = std::env::var("TMPDIR") {
            if directory.starts_with('/') {
                globals.data_buffer_dir = PathBuf::from(directory);
            }
        }
        for directive in directives {
            let Some(value) = directive.args.first() else {
                continue;
            };
            match directive.name.as_str() {
                "PassengerRoot" => globals.root = PathBuf::from(value),
                "PassengerStatThrottleRate" => set(&mut globals.stat_throttle_rate, value),
                "PassengerDataBufferDir" => globals.data_buffer_dir = PathBuf::from(value),
                "PassengerInstanceRegistryDir" => {
                    globals.instance_registry_dir = Some(PathBuf::from(value));
                }
                "PassengerLogFile" => globals.log_file = Some(PathBuf::from(value)),
                "PassengerUserSwitching" => globals.user_switching = value == "on",
                "PassengerDefaultUser" => globals.default_user = value.clone(),
                "PassengerDefaultGroup" => globals.default_group = Some(value.clone()),
                "PassengerResponseBufferHighWatermark" => {
                    set(&mut globals.response_high_watermark, value);
                }
                "PassengerShowVersionInHeader" => globals.show_version_in_header = value == "on",
                "PassengerWebSocketPingInterval" => {
                    set(&mut globals.websocket_ping_interval, value);
                }
                "PassengerWebSocketDrainTime" => set(&mut globals.websocket_drain_time, value),
                "PassengerShutdownTimeout" => set(&mut globals.shutdown_timeout, value),
                _ => {}
            }
        }
        globals
    }
}

/// The words were checked when they were parsed; one that is no number changes nothing.
fn set<T: FromStr>(number: &mut T, word: &str) {
    if let Ok(value) = word.parse() {
        *number = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
        let written = [
            directive("PassengerStatThrottleRate", "5"),
            directive("PassengerStatThrottleRate", "0"),
            directive("PassengerLogFile", "logs/app.log"),
            directive("PassengerDefaultUser", "logs/app.log"),
            directive("PassengerUserSwitching", "off"),
        ];
        let directives = with_absolute_paths(&written, |path| Path::new("/etc/apache2").join(path));
        let globals = Globals::read(3, &directives, Some(PathBuf::from("/opt/passenger")));
        assert_eq!(globals.default_user, "logs/app.log");
        assert_eq!((globals.generation, globals.stat_throttle_rate), (3, 0));
        assert_eq!(
            globals.log_file.as_deref(),
            Some(Path::new("/etc/apache2/logs/app.log"))
        );
        assert_eq!(globals.root, Path::new("/opt/passenger"));
        assert!(!globals.user_switching);
        assert_eq!(
            globals.shutdown_timeout,
            Globals::default().shutdown_timeout
        );
    }

    #[test]
    fn defaults_agree_with_the_table() {
        let row = |name| {
            super::super::directives::find(name)
                .expect("directive")
                .default()
        };
        let ours = Globals::default();
        assert_eq!(
            row("PassengerStatThrottleRate"),
            ours.stat_throttle_rate.to_string()
        );
        assert_eq!(
            row("PassengerShutdownTimeout"),
            ours.shutdown_timeout.to_string()
        );
        assert_eq!(row("PassengerDefaultUser"), ours.default_user);
        assert_eq!(row("PassengerUserSwitching") == "on", ours.user_switching);
        let watermark = ours.response_high_watermark.to_string();
        assert_eq!(row("PassengerResponseBufferHighWatermark"), watermark);
        let (ping, drain) = (ours.websocket_ping_interval, ours.websocket_drain_time);
        assert_eq!(row("PassengerWebSocketPingInterval"), ping.to_string());
        assert_eq!(row("PassengerWebSocketDrainTime"), drain.to_string());
    }
}
