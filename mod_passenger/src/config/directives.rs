//! THE table: every directive httpd shall accept, with what it takes, where it may stand, what
//! holds without it, and whether something acts on it yet.
//!
//! httpd's command table, the parser, the start-up notices and the tests all derive from it. The
//! rows follow the groups of Passenger's reference. It is long because it is a table.

use std::ffi::CStr;

use super::directive::{Context, Directive, Kind, Override};

const fn global(n: &'static CStr, k: Kind, d: &'static str, h: &'static CStr) -> Directive {
    Directive::new(n, k, Context::Global, d, h)
}

const fn app(n: &'static CStr, k: Kind, d: &'static str, h: &'static CStr) -> Directive {
    Directive::new(n, k, Context::Application, d, h)
}

const fn location(n: &'static CStr, k: Kind, d: &'static str, h: &'static CStr) -> Directive {
    Directive::new(n, k, Context::Location(Override::Any), d, h)
}

const fn obsolete(n: &'static CStr, context: Context) -> Directive {
    let help = c"obsolete; has no effect";
    Directive::new(n, Kind::Ignored, context, "none", help).obsolete()
}

const fn at_least(min: i64) -> Kind {
    Kind::Int {
        min,
        max: u32::MAX as i64,
    }
}

const APP_TYPES: Kind = Kind::OneOf(&[
    "ruby", "rack", "python", "wsgi", "asgi", "node", "nodejs", "meteor",
]);
const SPAWN_METHODS: Kind = Kind::OneOf(&["smart", "smart-lv2", "direct", "conservative"]);
const AUTO_ON_OFF: Kind = Kind::OneOf(&["auto", "on", "off"]);
const CONCURRENCY_MODELS: Kind = Kind::OneOf(&["process", "thread"]);

const CALLS_NOBODY: &str = "nothing here calls anybody";
const NO_PANEL: &str = "nothing here sends anything to a panel elsewhere";

/// Finds a row by any of its names, case-insensitively as httpd does.
#[cfg(test)]
pub(crate) fn find(name: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|row| {
        (0..)
            .map_while(|index| row.c_name(index))
            .any(|known| known.to_bytes().eq_ignore_ascii_case(name.as_bytes()))
    })
}

use Kind::{BaseUri, Flag, Pair, Text, Texts};

/// The table.
#[rustfmt::skip]
pub(crate) static DIRECTIVES: &[Directive] = &[
    // --- all of httpd -------------------------------------------------------------------------
    global(c"PassengerRoot", Text, "found from the module's own path",
        c"directory that mod_passenger was installed to").built(),
    global(c"PassengerCtl", Pair, "none",
        c"a low-level option of the watchdog or agent: name and value").built(),
    global(c"PassengerDumpConfigManifest", Text, "none",
        c"file that the configuration is written to as JSON at start").built(),
    global(c"PassengerDefaultRuby", Text, "ruby",
        c"Ruby interpreter where PassengerRuby is not set").built(),
    global(c"PassengerLogLevel", Kind::Int { min: 0, max: 7 }, "3",
        c"how much the agent logs: 0 (critical only) to 7 (everything)")
        .built(),
    global(c"PassengerLogFile", Text, "the main server's ErrorLog",
        c"file for the agent's and the apps' output")
        .alias(&[c"PassengerDebugLogFile"]).built(),
    global(c"PassengerDisableLogPrefix", Flag, "off",
        c"whether lines of apps appear in the log without a prefix").built(),
    global(c"PassengerSocketBacklog", at_least(0), "2048",
        c"how many connections may wait at an app process' socket").built(),
    global(c"PassengerFileDescriptorLogFile", Text, "none",
        c"debug log of every descriptor that is opened or closed")
        .moot("`ls -l /proc/PID/fd` and `strace -e trace=%desc` show it without a log"),
    global(c"PassengerMaxPoolSize", at_least(1), "6",
        c"most app processes at a time, over all apps")
        .alias(&[c"RailsMaxPoolSize"]).built(),
    global(c"PassengerPoolIdleTime", at_least(0), "300",
        c"seconds after which an idle app process is stopped; 0 means never")
        .alias(&[c"RailsPoolIdleTime"]).built(),
    global(c"PassengerMaxInstancesPerApp", at_least(0), "0",
        c"most processes of one app; 0 means no limit")
        .alias(&[c"RailsMaxInstancesPerApp"]).built(),
    global(c"PassengerResponseBufferHighWatermark", at_least(0), "134217728",
        c"bytes of a response that are buffered for a slow client").built(),
    global(c"PassengerWebSocketPingInterval", at_least(0), "30",
        c"seconds of silence before a WebSocket client is pinged; 0 means never")
        .built(),
    global(c"PassengerWebSocketDrainTime", at_least(0), "10",
        c"seconds that WebSockets have to close when their app or worker process ends")
        .built(),
    global(c"PassengerDrainTime", at_least(0), "600",
        c"seconds the requests of an ending process have; 0 means no limit")
        .built(),
    global(c"PassengerUserSwitching", Flag, "on",
        c"whether an app runs as the owner of its startup file (needs root)")
        .alias(&[c"RailsUserSwitching"]).built(),
    global(c"PassengerDefaultUser", Text, "nobody",
        c"user of apps whose own user cannot be used")
        .alias(&[c"RailsDefaultUser"]).built(),
    global(c"PassengerDefaultGroup", Text, "the default user's primary group",
        c"group of apps whose own user cannot be used").built(),
    global(c"PassengerDataBufferDir", Text, "$TMPDIR or /tmp",
        c"directory for requests and responses too large for memory").built(),
    global(c"PassengerInstanceRegistryDir", Text, "/run/passenger-instreg for root",
        c"directory that holds the instance directory").built(),
    global(c"PassengerSpawnDir", Text, "none",
        c"parent of spawn work directories, of which there are none here").moot("starts need no directory: what they say goes through sockets"),
    global(c"PassengerDisableSecurityUpdateCheck", Flag, "on",
        c"there is no update check").moot(CALLS_NOBODY),
    global(c"PassengerSecurityUpdateCheckProxy", Text, "none",
        c"there is no update check").moot(CALLS_NOBODY),
    global(c"PassengerDisableAnonymousTelemetry", Flag, "on",
        c"there is no telemetry").moot(CALLS_NOBODY),
    global(c"PassengerAnonymousTelemetryProxy", Text, "none",
        c"there is no telemetry").moot(CALLS_NOBODY),
    global(c"PassengerStatThrottleRate", at_least(0), "10",
        c"seconds between looks at an app's files and restart.txt").built(),
    global(c"PassengerPreStart", Texts, "none",
        c"URL that is requested after start, so that its app is spawned").built(),
    global(c"PassengerTurbocaching", Flag, "off",
        c"whether cacheable responses are served from shared memory")
        .not_yet("mod_cache does it meanwhile, for this module as for others"),
    global(c"PassengerShowVersionInHeader", Flag, "on",
        c"whether X-Powered-By names the version").built(),
    global(c"PassengerAdminPanelUrl", Text, "none",
        c"there is no outside admin panel").moot(NO_PANEL),
    global(c"PassengerAdminPanelAuthType", Text, "basic",
        c"there is no outside admin panel").moot(NO_PANEL),
    global(c"PassengerAdminPanelUsername", Text, "none",
        c"there is no outside admin panel").moot(NO_PANEL),
    global(c"PassengerAdminPanelPassword", Text, "none",
        c"there is no outside admin panel").moot(NO_PANEL),
    global(c"PassengerShutdownTimeout", Kind::Int { min: 0, max: 3600 }, "30",
        c"seconds that apps may take to finish when httpd stops").built(),

    // --- apps ---------------------------------------------------------------------------------
    app(c"PassengerRuby", Text, "PassengerDefaultRuby",
        c"Ruby interpreter").alias(&[c"RailsRuby"]).built(),
    app(c"PassengerPython", Text, "python3",
        c"Python interpreter").built(),
    app(c"PassengerNodejs", Text, "node",
        c"Node.js interpreter").built(),
    app(c"PassengerMeteorAppSettings", Text, "none",
        c"settings file of a Meteor app in development").built(),
    app(c"PassengerBaseURI", BaseUri, "none",
        c"URI below which an app lives")
        .alias(&[c"RailsBaseURI", c"RackBaseURI"])
        .sets(|c, p, v| c.add_base_uri(p, v.text())).built(),
    app(c"PassengerAppEnv", Text, "production",
        c"environment name of the app: RAILS_ENV, RACK_ENV, WSGI_ENV, NODE_ENV")
        .alias(&[c"RailsEnv", c"RackEnv"])
        .sets(|c, _, v| c.app_env = Some(v.text())).built(),
    app(c"PassengerAppType", APP_TYPES, "detected from the app's files",
        c"rack (ruby), wsgi (python), asgi, node (nodejs) or meteor")
        .sets(|c, _, v| c.app_type = Some(v.text())).built(),
    app(c"PassengerAppStartCommand", Text, "none",
        c"shell command of a generic app, which listens on $PORT")
        .sets(|c, _, v| c.app_start_command = Some(v.text())).built(),
    app(c"PassengerStartupFile", Text, "by app type",
        c"file that starts the app, relative to the app root")
        .sets(|c, _, v| c.startup_file = Some(v.text())).built(),
    app(c"PassengerAppRoot", Text, "parent of the public directory",
        c"root directory of the app")
        .sets(|c, _, v| c.app_root = Some(v.text())).built(),
    app(c"PassengerXSendfilePath", Texts, "none",
        c"directory beside the app's own that X-Sendfile may name files in")
        .sets(|c, p, v| c.add_sendfile_path(p, v.text())).built(),
    app(c"PassengerAppGroupName", Text, "<app root> (<environment>)",
        c"name of the app; virtual hosts with the same name share processes")
        .sets(|c, _, v| c.app_group_name = Some(v.text())).built(),
    app(c"PassengerRestartDir", Text, "tmp",
        c"directory of restart.txt, relative to the app root")
        .sets(|c, _, v| c.restart_dir = Some(v.text())).built(),
    app(c"PassengerMinInstances", at_least(0), "1",
        c"processes kept once the app was used").built(),
    app(c"PassengerMaxRequests", at_least(0), "0",
        c"requests after which a process is replaced; 0 means never").built(),
    app(c"PassengerUser", Text, "owner of the startup file",
        c"user the app runs as").built(),
    app(c"PassengerGroup", Text, "the user's primary group",
        c"group the app runs as; !STARTUP_FILE! means the startup file's").built(),
    app(c"PassengerStartTimeout", at_least(1), "90",
        c"seconds an app may take to start").built(),
    app(c"PassengerMaxRequestQueueSize", at_least(0), "100",
        c"requests that may wait for the app; 0 means no limit")
        .sets(|c, _, v| c.max_request_queue_size = Some(v.number())).built(),
    app(c"PassengerMaxPreloaderIdleTime", at_least(0), "300",
        c"seconds after which an idle preloader is stopped; 0 means never")
        .alias(&[c"RailsAppSpawnerIdleTime"]).built(),
    app(c"PassengerLoadShellEnvvars", Flag, "on",
        c"whether the user's login shell sets up the environment").built(),
    app(c"PassengerPreloadBundler", Flag, "off",
        c"whether Ruby is started with -r bundler/setup").built(),
    app(c"PassengerSpawnMethod", SPAWN_METHODS, "smart for Ruby, direct otherwise",
        c"smart (preload the app, then fork) or direct")
        .alias(&[c"RailsSpawnMethod"]).built(),
    app(c"PassengerDirectInstanceRequestAddress", Text, "127.0.0.1",
        c"address of the debugging socket of Ruby processes")
        .moot("processes have no debugging port; the app's own socket serves httpd alone"),
    app(c"PassengerFriendlyErrorPages", Flag, "on if PassengerAppEnv is development",
        c"whether the browser sees why an app does not start")
        .sets(|c, _, v| c.friendly_error_pages = Some(v.flag())).built(),
    app(c"PassengerCustomErrorPage", Text, "none",
        c"HTML file shown when an app does not start")
        .sets(|c, _, v| c.custom_error_page = Some(v.text())).built(),
    app(c"PassengerForceMaxConcurrentRequestsPerProcess", Kind::Int { min: -1, max: u32::MAX as i64 }, "-1",
        c"requests a process gets at once; 0 means no limit, -1 what it says itself").built(),
    app(c"PassengerMonitorLogFile", Texts, "none",
        c"log file shown in the outside admin panel, of which there is none").moot(NO_PANEL),
    app(c"PassengerLveMinUid", at_least(0), "500",
        c"least uid that is put into a CloudLinux LVE")
        .moot("CloudLinux's LVE does not exist where this runs; limits are those of httpd's service"),

    // --- locations ----------------------------------------------------------------------------
    location(c"PassengerEnabled", Flag, "on",
        c"whether apps are looked for here")
        .sets(|c, _, v| c.enabled = Some(v.flag())).built(),
    location(c"PassengerErrorOverride", Flag, "off",
        c"whether httpd's error documents replace the app's")
        .sets(|c, _, v| c.error_override = Some(v.flag())).built(),
    location(c"PassengerHighPerformance", Flag, "off",
        c"whether requests of an app skip .htaccess and other modules")
        .sets(|c, _, v| c.high_performance = Some(v.flag())).built(),
    location(c"PassengerBufferUpload", Flag, "on",
        c"whether a request body is read in full before the app gets it")
        .sets(|c, _, v| c.buffer_upload = Some(v.flag())).built(),
    location(c"PassengerBufferResponse", Flag, "off",
        c"whether a response is sent only when the app has finished it")
        .sets(|c, _, v| c.buffer_response = Some(v.flag())).built(),
    location(c"PassengerStickySessions", Flag, "off",
        c"whether a client is sent to the same process again")
        .sets(|c, _, v| c.sticky_sessions = Some(v.flag())).built(),
    location(c"PassengerStickySessionsCookieName", Kind::Token, "_passenger_route",
        c"name of the cookie of sticky sessions")
        .sets(|c, _, v| c.sticky_cookie_name = Some(v.text())).built(),
    location(c"PassengerStickySessionsCookieAttributes", Text, "SameSite=Lax; Secure;",
        c"attributes of the cookie of sticky sessions")
        .sets(|c, _, v| c.sticky_cookie_attributes = Some(v.text())).built(),
    Directive::new(c"PassengerAllowEncodedSlashes", Flag, Context::Location(Override::Options), "off",
        c"whether the app sees %2F as the client sent it")
        .sets(|c, _, v| c.allow_encoded_slashes = Some(v.flag())).built(),

    // --- sold separately by the original ------------------------------------------------------
    global(c"PassengerFlyWith", Text, "none",
        c"socket of an agent that was started separately").enterprise()
        .not_yet("watchdog and agent already outlive `graceful`, upgrades and each other"),
    app(c"PassengerMemoryLimit", at_least(0), "0",
        c"megabytes after which a process is replaced; 0 means no limit").enterprise().built(),
    app(c"PassengerHardMemoryLimit", at_least(0), "0",
        c"megabytes after which a process is killed; 0 means no limit").enterprise().built(),
    global(c"PassengerAnalyticsCollectionRate", at_least(1), "4",
        c"seconds between looks at the processes' memory").enterprise().built(),
    app(c"PassengerMaxInstances", at_least(0), "0",
        c"most processes of this app; 0 means no limit").enterprise().built(),
    app(c"PassengerRollingRestarts", AUTO_ON_OFF, "auto",
        c"whether old processes serve during a restart; auto: after a second")
        .enterprise().built(),
    app(c"PassengerResistDeploymentErrors", AUTO_ON_OFF, "auto",
        c"whether old processes stay if new ones do not start; auto: in production")
        .enterprise().built(),
    app(c"PassengerDebugger", Flag, "off",
        c"whether Ruby processes can be debugged").enterprise()
        .moot("an app can open its debugger itself: `require \"debug/open_nonstop\"`"),
    app(c"PassengerConcurrencyModel", CONCURRENCY_MODELS, "process",
        c"process (one request per process) or thread").enterprise().built(),
    app(c"PassengerThreadCount", at_least(1), "1",
        c"threads per process where the concurrency model is thread").enterprise().built(),
    location(c"PassengerRequestQueueOverflowStatusCode", Kind::Int { min: 400, max: 599 }, "503",
        c"status of a request that finds the queue full, or has waited too long")
        .sets(|c, _, v| c.queue_overflow_status = Some(v.number())).built(),
    location(c"PassengerMaxRequestTime", at_least(0), "0",
        c"seconds a request may take; 0 means no limit")
        .sets(|c, _, v| c.max_request_time = Some(v.number())).enterprise().built(),
    location(c"PassengerMaxRequestQueueTime", at_least(0), "0",
        c"seconds a request may wait for the app; 0 means no limit")
        .sets(|c, _, v| c.max_request_queue_time = Some(v.number())).enterprise().built(),
    app(c"PassengerAppLogFile", Text, "PassengerLogFile",
        c"file for this app's output, relative to the app root").enterprise().built(),

    // --- no effect in the original either -----------------------------------------------------
    obsolete(c"RailsSpawnServer", Context::Global),
    obsolete(c"RailsAllowModRewrite", Context::Global),
    obsolete(c"RailsFrameworkSpawnerIdleTime", Context::Global),
    obsolete(c"PassengerUseGlobalQueue", Context::Application),
    obsolete(c"PassengerAnalyticsLogUser", Context::Global),
    obsolete(c"PassengerAnalyticsLogGroup", Context::Global),
    obsolete(c"UnionStationGatewayAddress", Context::Global),
    obsolete(c"UnionStationGatewayPort", Context::Global),
    obsolete(c"UnionStationGatewayCert", Context::Global),
    obsolete(c"UnionStationProxyAddress", Context::Global),
    obsolete(c"UnionStationKey", Context::Application),
    obsolete(c"UnionStationSupport", Context::Application),
    obsolete(c"UnionStationFilter", Context::Location(Override::Options)),
];

#[cfg(test)]
#[path = "directives_tests.rs"]
mod tests;
