//! What the watchdog itself takes from a configuration: log, registry, sizes. Everything else is the agent's.

use std::path::PathBuf;

use passenger_shm::messages::{Apache, Directive};
use passenger_shm::Capacities;
use serde::Deserialize;

use super::table::ConfigEntry;
use crate::hooks::Hooks;
use crate::instance;
use crate::sys::memfd;

/// Longest configuration document, in bytes.
const CONFIG_BYTES: usize = 64 * 1024 * 1024;

/// Processes that the pool may hold when the configuration does not say.
const DEFAULT_POOL_SIZE: u32 = 6;

/// How long apps may finish when the configuration does not say.
const DEFAULT_SHUTDOWN_SECONDS: u64 = 30;

/// What a configuration changes in a running watchdog.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Whether lines of apps say whose they are.
    pub(super) has_log_prefix: bool,
    /// How long apps may finish when httpd did not stop them in order.
    pub(super) shutdown_ms: u64,
}

/// The part of a configuration that concerns the watchdog.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    /// Build id of the module.
    pub(super) build: String,
    /// Facts of httpd.
    pub(super) apache: Apache,
    global: Vec<Directive>,
}

impl Head {
    /// Reads a configuration document, skipping everything else in it.
    pub(super) fn read(config: &ConfigEntry) -> Result<Self, String> {
        let text = memfd::contents_of(&config.document, CONFIG_BYTES)
            .map_err(|e| format!("cannot read configuration {}: {e}", config.generation))?;
        serde_json::from_slice(&text)
            .map_err(|e| format!("configuration {} is not readable: {e}", config.generation))
    }

    fn value(&self, name: &str) -> Option<&str> {
        let directive = self
            .global
            .iter()
            .rev()
            .find(|d| d.name.eq_ignore_ascii_case(name))?;
        directive.args.first().map(String::as_str)
    }

    /// Uses the log and the level of this configuration.
    pub(super) fn apply_log(&self, config: &ConfigEntry) {
        if let Ok(log) = config.log.try_clone() {
            crate::log::replace(log);
        }
        let level = self
            .value("PassengerLogLevel")
            .and_then(|text| text.parse().ok());
        crate::log::set_level(level.unwrap_or(3));
    }

    /// Programs that are run when something happens. httpd's parent has looked at the lines before.
    pub(super) fn hooks(&self) -> Hooks {
        Hooks::from_directives(&self.global).unwrap_or_else(|why| {
            log::error!("{why}");
            Hooks::default()
        })
    }

    /// What the watchdog does differently because of it.
    pub(super) fn settings(&self) -> Settings {
        let is_off = self
            .value("PassengerDisableLogPrefix")
            .is_some_and(|v| v.eq_ignore_ascii_case("on"));
        let seconds = self
            .value("PassengerShutdownTimeout")
            .and_then(|text| text.parse().ok());
        Settings {
            has_log_prefix: !is_off,
            shutdown_ms: seconds.unwrap_or(DEFAULT_SHUTDOWN_SECONDS) * 1000,
        }
    }

    /// Where instances live.
    pub(super) fn registry(&self) -> PathBuf {
        match self.value("PassengerInstanceRegistryDir") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => instance::default_registry(),
        }
    }

    /// How large the tables must be.
    pub(super) fn capacities(&self) -> Capacities {
        let pool = self
            .value("PassengerMaxPoolSize")
            .and_then(|text| text.parse().ok());
        let pool = pool.filter(|size| *size > 0).unwrap_or(DEFAULT_POOL_SIZE);
        Capacities::for_httpd(self.apache.server_limit, self.apache.max_threads, pool)
    }
}
