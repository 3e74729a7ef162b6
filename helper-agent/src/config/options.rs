//! What is configured for one application: records merged in the order of a worker's chain, later ones
//! winning, with the defaults of the reference applied when a value is asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use passenger_shm::messages::{Directive, Record};

use super::value;
use crate::apps::{AppType, Preloading};
use crate::pool::Rolling;

/// Options of one application. Absent means: nobody wrote the directive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppOptions {
    /// `PassengerRuby`.
    pub ruby: Option<String>,
    /// `PassengerPython`.
    pub python: Option<String>,
    /// `PassengerNodejs`.
    pub nodejs: Option<String>,
    /// `PassengerAppRoot`.
    pub app_root: Option<String>,
    /// `PassengerAppType`.
    pub app_type: Option<String>,
    /// `PassengerAppStartCommand`: a line for the shell.
    pub start_command: Option<String>,
    /// `PassengerMeteorAppSettings`, relative to the app root unless absolute.
    pub meteor_settings: Option<String>,
    /// `PassengerStartupFile`, relative to the app root.
    pub startup_file: Option<String>,
    /// `PassengerAppGroupName`.
    pub group_name: Option<String>,
    /// `PassengerUser`.
    pub user: Option<String>,
    /// `PassengerGroup`.
    pub group: Option<String>,
    /// `PassengerBaseURI`: all of the last section that has one.
    pub base_uris: BTreeSet<String>,
    /// `PassengerRestartDir`, relative to the app root unless absolute.
    pub restart_dir: Option<String>,
    /// `PassengerAppLogFile`, relative to the app root unless absolute.
    pub app_log_file: Option<String>,
    /// `PassengerRollingRestarts`.
    pub rolling: Rolling,
    resists_errors: Option<bool>,
    /// `PassengerMaxRequests`; 0 = no limit.
    pub max_requests: u32,
    /// `PassengerMemoryLimit` in megabytes; 0 = no limit.
    pub memory_limit: u32,
    /// `PassengerHardMemoryLimit` in megabytes; 0 = no limit.
    pub hard_memory_limit: u32,
    /// `PassengerMaxRequestTime` in seconds; 0 = no limit.
    pub max_request_time: u32,
    /// `PassengerMaxInstances`; 0 = no limit of its own.
    pub max_instances: u32,
    app_env: Option<String>,
    min_instances: Option<u32>,
    start_timeout: Option<u32>,
    max_queue: Option<u32>,
    max_queue_time: Option<u32>,
    friendly: Option<bool>,
    force_concurrency: Option<i64>,
    threads: Option<u32>,
    is_threaded: Option<bool>,
    is_smart: Option<bool>,
    max_preloader_idle: Option<u32>,
    loads_shell_variables: Option<bool>,
    preloads_bundler: Option<bool>,
}

impl AppOptions {
    /// Merges records in order, the last one winning.
    ///
    /// # Errors
    /// When a directive has an impossible value; the text names file and line.
    pub fn merge<'r>(records: impl IntoIterator<Item = &'r Record>) -> Result<Self, String> {
        let mut options = Self::default();
        for record in records {
            let mut base_uris = BTreeSet::new();
            for directive in &record.directives {
                options.set(directive, &mut base_uris)?;
            }
            // A set is replaced by the inner section's, not extended.
            if !base_uris.is_empty() {
                options.base_uris = base_uris;
            }
        }
        Ok(options)
    }

    /// Directives that do not concern spawning are the module's business and ignored here.
    fn set(&mut self, it: &Directive, base_uris: &mut BTreeSet<String>) -> Result<(), String> {
        match it.name.as_str() {
            "PassengerRuby" => self.ruby = value::optional_text(it)?,
            "PassengerPython" => self.python = value::optional_text(it)?,
            "PassengerNodejs" => self.nodejs = value::optional_text(it)?,
            "PassengerAppRoot" => self.app_root = value::optional_text(it)?,
            "PassengerAppType" => self.app_type = value::optional_text(it)?,
            "PassengerAppStartCommand" => self.start_command = value::optional_text(it)?,
            "PassengerMeteorAppSettings" => self.meteor_settings = value::optional_text(it)?,
            "PassengerStartupFile" => self.startup_file = value::optional_text(it)?,
            "PassengerAppGroupName" => self.group_name = value::optional_text(it)?,
            "PassengerUser" => self.user = value::optional_text(it)?,
            "PassengerGroup" => self.group = value::optional_text(it)?,
            "PassengerAppEnv" => self.app_env = value::optional_text(it)?,
            "PassengerBaseURI" => {
                base_uris.extend(it.args.iter().filter(|uri| *uri != "/").cloned());
            }
            "PassengerMinInstances" => self.min_instances = Some(value::count(it, 0)?),
            "PassengerMaxInstances" => self.max_instances = value::count(it, 0)?,
            "PassengerRestartDir" => self.restart_dir = value::optional_text(it)?,
            "PassengerAppLogFile" => self.app_log_file = value::optional_text(it)?,
            "PassengerRollingRestarts" => {
                self.rolling = match value::text(it)?.to_ascii_lowercase().as_str() {
                    "on" => Rolling::On,
                    "off" => Rolling::Off,
                    _ => Rolling::Auto,
                };
            }
            "PassengerResistDeploymentErrors" => {
                self.resists_errors = match value::text(it)?.to_ascii_lowercase().as_str() {
                    "on" => Some(true),
                    "off" => Some(false),
                    _ => None,
                };
            }
            "PassengerMaxRequests" => self.max_requests = value::count(it, 0)?,
            "PassengerMemoryLimit" => self.memory_limit = value::count(it, 0)?,
            "PassengerHardMemoryLimit" => self.hard_memory_limit = value::count(it, 0)?,
            "PassengerMaxRequestTime" => self.max_request_time = value::count(it, 0)?,
            "PassengerSpawnMethod" => {
                // The older names mean the same: smart-lv2, conservative.
                self.is_smart = Some(value::text(it)?.to_ascii_lowercase().starts_with("smart"));
            }
            "PassengerMaxPreloaderIdleTime" => {
                self.max_preloader_idle = Some(value::count(it, 0)?);
            }
            "PassengerStartTimeout" => self.start_timeout = Some(value::count(it, 1)?),
            "PassengerMaxRequestQueueSize" => self.max_queue = Some(value::count(it, 0)?),
            "PassengerMaxRequestQueueTime" => self.max_queue_time = Some(value::count(it, 0)?),
            "PassengerFriendlyErrorPages" => self.friendly = Some(value::flag(it)?),
            "PassengerForceMaxConcurrentRequestsPerProcess" => {
                self.force_concurrency = Some(value::number(it, -1)?);
            }
            "PassengerLoadShellEnvvars" => self.loads_shell_variables = Some(value::flag(it)?),
            "PassengerPreloadBundler" => self.preloads_bundler = Some(value::flag(it)?),
            "PassengerThreadCount" => self.threads = Some(value::count(it, 0)?),
            "PassengerConcurrencyModel" => {
                self.is_threaded = Some(value::text(it)?.eq_ignore_ascii_case("thread"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Name of the environment; `production` by default.
    #[must_use]
    pub fn app_env(&self) -> &str {
        self.app_env.as_deref().unwrap_or("production")
    }

    /// Processes kept once the app was used; 1 by default.
    #[must_use]
    pub fn min_instances(&self) -> u32 {
        self.min_instances.unwrap_or(1)
    }

    /// Whether the app is to run before anybody asks for it: where somebody wrote a minimum.
    #[must_use]
    pub fn starts_in_advance(&self) -> bool {
        self.min_instances.is_some_and(|n| n > 0)
    }

    /// Whether the login shell of the app's user sets up its environment; it does by default.
    #[must_use]
    pub fn loads_shell_variables(&self) -> bool {
        self.loads_shell_variables.unwrap_or(true)
    }

    /// Whether Ruby loads Bundler before anything else; it does not by default.
    #[must_use]
    pub fn preloads_bundler(&self) -> bool {
        self.preloads_bundler.unwrap_or(false)
    }

    /// Budget of a whole start; 90 s by default.
    #[must_use]
    pub fn start_timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.start_timeout.unwrap_or(90)))
    }

    /// Requests that may wait; 100 by default, 0 = as many as the queue has room for.
    #[must_use]
    pub fn max_queue(&self) -> u32 {
        self.max_queue.unwrap_or(100)
    }

    /// How long a request may wait, in milliseconds; 0 = as long as its client does.
    #[must_use]
    pub fn max_queue_time_ms(&self) -> u64 {
        u64::from(self.max_queue_time.unwrap_or(0)) * 1_000
    }

    /// Whether the browser may see why the app does not start: by default in development only.
    #[must_use]
    pub fn is_friendly(&self) -> bool {
        self.friendly.unwrap_or(self.app_env() == "development")
    }

    /// Whether old processes stay when new code does not start: by default everywhere but in development,
    /// where the error page is what is wanted.
    #[must_use]
    pub fn resists_errors(&self) -> bool {
        self.resists_errors
            .unwrap_or(self.app_env() != "development")
    }

    /// Requests at once that a process is to get whatever it says itself; 0 = unlimited.
    #[must_use]
    pub fn forced_concurrency(&self) -> Option<u32> {
        self.force_concurrency.and_then(|n| u32::try_from(n).ok())
    }

    /// Threads that the loader is asked to run.
    #[must_use]
    pub fn threads(&self) -> u32 {
        if self.is_threaded.unwrap_or(false) {
            self.threads.unwrap_or(1).max(1)
        } else {
            1
        }
    }

    /// Whether a preloader loads an app of that type, and forks its processes.
    #[must_use]
    pub fn preloads(&self, kind: &AppType) -> bool {
        match kind.preloading {
            Preloading::Never => false,
            Preloading::IfAsked => self.is_smart.unwrap_or(false),
            Preloading::ByDefault => self.is_smart.unwrap_or(true),
        }
    }

    /// How long a preloader is kept after it forked last; 300 s by default, `None` = for ever.
    #[must_use]
    pub fn max_preloader_idle(&self) -> Option<Duration> {
        let seconds = self.max_preloader_idle.unwrap_or(300);
        (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
    }

    /// Whether processes started with `other` may go on serving under these options: everything that
    /// a process is made from is equal.
    #[must_use]
    pub fn spawns_like(&self, other: &Self) -> bool {
        let essence = |options: &Self| Self {
            min_instances: None,
            max_instances: 0,
            start_timeout: None,
            max_queue: None,
            max_queue_time: None,
            friendly: None,
            max_requests: 0,
            memory_limit: 0,
            hard_memory_limit: 0,
            max_request_time: 0,
            restart_dir: None,
            app_log_file: None,
            rolling: Rolling::default(),
            resists_errors: None,
            max_preloader_idle: None,
            base_uris: BTreeSet::new(),
            ..options.clone()
        };
        essence(self) == essence(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u32, directives: &[(&str, &str)]) -> Record {
        let directives = directives
            .iter()
            .zip(1..)
            .map(|((name, arg), line)| Directive {
                name: (*name).into(),
                args: vec![(*arg).into()],
                file: "f".into(),
                line,
            })
            .collect();
        Record {
            id,
            section: String::new(),
            server: 0,
            directives,
        }
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let options = AppOptions::merge([]).unwrap();
        assert_eq!(options.app_env(), "production");
        assert_eq!(options.min_instances(), 1);
        assert_eq!(options.start_timeout(), Duration::from_secs(90));
        assert_eq!(options.max_queue(), 100);
        assert_eq!(options.forced_concurrency(), None);
        assert_eq!(options.threads(), 1);
        assert!(!options.is_friendly());
    }

    #[test]
    fn later_records_win_and_sets_are_replaced() {
        let records = [
            record(
                1,
                &[("PassengerAppEnv", "staging"), ("PassengerBaseURI", "/a")],
            ),
            record(
                2,
                &[
                    ("PassengerMinInstances", "3"),
                    ("PassengerStartupFile", "x"),
                ],
            ),
            record(
                3,
                &[
                    ("PassengerAppEnv", "development"),
                    ("PassengerStartupFile", ""),
                    ("PassengerBaseURI", "/b"),
                    ("PassengerBaseURI", "/c"),
                    ("PassengerBaseURI", "/"),
                    ("PassengerSomethingElse", "ignored"),
                ],
            ),
        ];
        let options = AppOptions::merge(&records).unwrap();
        assert_eq!(options.app_env(), "development");
        assert!(options.is_friendly());
        assert_eq!(options.min_instances(), 3);
        assert_eq!(options.startup_file, None, "an empty text counts as absent");
        let uris: Vec<&str> = options.base_uris.iter().map(String::as_str).collect();
        assert_eq!(uris, ["/b", "/c"]);
    }

    #[test]
    fn impossible_values_are_refused_with_their_place() {
        let wrong = AppOptions::merge(&[record(1, &[("PassengerStartTimeout", "0")])]);
        assert!(wrong.unwrap_err().contains("(f line 1)"));
    }

    #[test]
    fn only_ruby_is_preloaded_where_nobody_says_so() {
        let preloads = |method: &[(&str, &str)], kind| {
            let options = AppOptions::merge(&[record(1, method)]).unwrap();
            options.preloads(AppType::by_name(kind).unwrap())
        };
        let said = |method| [("PassengerSpawnMethod", method)];
        assert!(preloads(&[], "rack") && !preloads(&[], "wsgi") && !preloads(&[], "asgi"));
        for smart in ["smart", "Smart", "smart-lv2"] {
            assert!(preloads(&said(smart), "rack") && preloads(&said(smart), "wsgi"));
            assert!(!preloads(&said(smart), "node"), "it has no fork");
        }
        for direct in ["direct", "conservative"] {
            assert!(!preloads(&said(direct), "rack") && !preloads(&said(direct), "wsgi"));
        }
    }

    #[test]
    fn a_preloader_that_is_kept_for_ever_has_no_idle_time() {
        let idle = |directives: &[(&str, &str)]| {
            let options = AppOptions::merge(&[record(1, directives)]).unwrap();
            options.max_preloader_idle()
        };
        assert_eq!(idle(&[]), Some(Duration::from_secs(300)));
        assert_eq!(idle(&[("PassengerMaxPreloaderIdleTime", "0")]), None);
    }

    #[test]
    fn limits_alone_do_not_make_a_process_outdated() {
        let old = AppOptions::merge(&[record(1, &[("PassengerMinInstances", "1")])]).unwrap();
        let new = AppOptions::merge(&[record(1, &[("PassengerMinInstances", "2")])]).unwrap();
        let other = AppOptions::merge(&[record(1, &[("PassengerRuby", "/opt/ruby")])]).unwrap();
        assert!(new.spawns_like(&old));
        assert!(!other.spawns_like(&old));
    }
}
