//! The report: what `passenger-status` shows, and byte for byte what `--show=json` prints. Names that the
//! original's XML has mean the same here; docs/tools.md lists all of them. Fields may be added, never change.

use serde::{Deserialize, Serialize};

use super::board::{CrashNote, FailureNote};
use super::usage::Usage;

/// An instance, as one viewer may see it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Version of this document's meaning.
    pub format: u32,
    /// The instance.
    pub instance: InstanceReport,
    /// Its helper agent.
    pub agent: AgentReport,
    /// Whether groups of other users may be missing.
    pub own_apps_only: bool,
    /// `PassengerMaxPoolSize`.
    pub max: u32,
    /// Number of groups that follow.
    pub group_count: u32,
    /// Processes of these groups that take requests.
    pub process_count: u32,
    /// These, and those that start or end: what counts against `max`.
    pub capacity_used: u32,
    /// Requests that wait, over all these groups.
    pub get_wait_list_size: u32,
    /// Applications.
    pub groups: Vec<GroupReport>,
}

/// What `properties.json` says, and who runs it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceReport {
    /// The random part of its directory's name.
    pub name: String,
    /// Its directory.
    pub directory: String,
    /// Version of the software that runs it.
    pub passenger_version: String,
    /// What httpd calls itself.
    pub server_software: String,
    /// PID of httpd's parent.
    pub server_pid: i32,
    /// PID of the watchdog.
    pub watchdog_pid: i32,
    /// When it began, in seconds since 1970.
    pub created_at: u64,
}

/// The agent, as the watchdog sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentReport {
    /// Its PID, if there is one.
    pub pid: Option<i32>,
    /// Whether it has said that it serves and has not been given up since.
    pub is_ready: bool,
    /// When it was started, in seconds since 1970.
    pub started_at: u64,
    /// How many agents of this watchdog have died before it.
    pub restarts: u32,
    /// How the last of them ended: completes "the helper agent …".
    pub last_end: Option<String>,
    /// When, in seconds since 1970.
    pub last_end_at: Option<u64>,
}

/// One application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub app_root: String,
    /// Its type.
    pub app_type: String,
    /// Name of its environment.
    pub environment: String,
    /// Base URI, empty for the root of the host.
    pub base_uri: String,
    /// User it runs as; empty before its first start.
    pub user: String,
    /// That user's id.
    pub uid: Option<u32>,
    /// Requests that were given to its processes since the app is served.
    pub requests_total: u64,
    /// Processes that have become ready since then.
    pub starts_total: u64,
    /// Processes that ended since then without having been asked to.
    pub crashes_total: u64,
    /// Requests that wait.
    pub get_wait_list_size: u32,
    /// How long the oldest of them has waited.
    pub oldest_wait_ms: u64,
    /// Requests that have waited since the app is served, those that gave up included.
    pub waited_requests: u64,
    /// How long all of them waited together, in milliseconds.
    pub waited_ms: u64,
    /// How long one of them waited at most, in milliseconds.
    pub longest_wait_ms: u64,
    /// Requests that may wait; 0 = as many as the queue has room for.
    pub max_request_queue_size: u32,
    /// Processes that take requests.
    pub enabled_process_count: u32,
    /// Processes that finish what they have.
    pub disabling_process_count: u32,
    /// Processes that start.
    pub processes_being_spawned: u32,
    /// How often the app was restarted, from 1; a process of a lower one has old code.
    pub code_generation: u32,
    /// Whether processes of old code serve and are to be replaced.
    pub restarting: bool,
    /// The new code does not start, and the old processes go on serving until the next restart.
    pub resisting_deployment_error: bool,
    /// Starts that failed since one succeeded.
    pub failed_starts: u32,
    /// Starts that failed since the app is known.
    pub failed_starts_total: u64,
    /// Why the last start failed, if none has succeeded since.
    pub last_failure: Option<FailureNote>,
    /// The last process that ended without having been asked to.
    pub last_crash: Option<CrashNote>,
    /// Who forks its processes, if anybody does; not one of its processes.
    pub preloader: Option<PreloaderReport>,
    /// What sharing memory saves preloader and forked processes, in kilobytes: the sum of what each has resident,
    /// without what of it is there once for several.
    pub memory_saved: Option<u64>,
    /// Its processes.
    pub processes: Vec<ProcessReport>,
}

/// A preloader.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PreloaderReport {
    /// Its PID.
    pub pid: i32,
    /// Whether it is still loading the app.
    pub is_loading: bool,
    /// Processes it has forked.
    pub forks: u32,
    /// What it costs.
    #[serde(flatten)]
    pub usage: Usage,
}

/// Where a process is in its life; the original's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Enabled {
    /// It starts; the original does not show these.
    #[default]
    Starting,
    /// Takes requests.
    Enabled,
    /// Finishes what it has, and ends.
    Disabling,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessReport {
    /// Its PID; 0 while its start is prepared.
    pub pid: i32,
    /// Its socket's name in `apps/`: slot and generation.
    pub gupid: String,
    /// Where it is in its life.
    pub enabled: Enabled,
    /// User id it runs as.
    pub uid: u32,
    /// Requests at once; 0 = unlimited.
    pub concurrency: u32,
    /// Requests it has.
    pub sessions: u32,
    /// Requests that it may still have although their clients are gone.
    pub orphans: u32,
    /// Upgraded connections (WebSockets) that are open.
    pub streams: u32,
    /// Requests it has finished.
    pub processed: u64,
    /// Since when it takes requests, in seconds.
    pub uptime_seconds: u64,
    /// How long its start took.
    pub spawn_ms: u64,
    /// When it got a request last, in seconds since 1970; 0 = never.
    pub last_used: u64,
    /// Which code it has loaded.
    pub code_generation: u32,
    /// PID of the preloader that forked it; 0 = it has loaded the app itself.
    pub forked_by: i32,
    /// What it costs.
    #[serde(flatten)]
    pub usage: Usage,
}
