//! Our table against the catalogue of the original's directives (Passenger 6.0.24, sections 1.2 to 1.6 of the reference),
//! written down again: what is there exists here, in the same contexts, of the same kind, with the same default.

use super::directive::{Context, Directive, Kind, Override, Status};
use super::directives::{find, DIRECTIVES};

/// Name, context, kind, default (`-`: prose, or none).
const REFERENCE: &str = "\
PassengerRoot global text -
PassengerCtl global pair -
PassengerDumpConfigManifest global text -
PassengerDefaultRuby global text ruby
PassengerLogLevel global int>=0 3
PassengerLogFile global text -
PassengerDisableLogPrefix global flag off
PassengerSocketBacklog global int>=0 2048
PassengerFileDescriptorLogFile global text -
PassengerMaxPoolSize global int>=1 6
PassengerPoolIdleTime global int>=0 300
PassengerMaxInstancesPerApp global int>=0 0
PassengerResponseBufferHighWatermark global int>=0 134217728
PassengerUserSwitching global flag on
PassengerDefaultUser global text nobody
PassengerDefaultGroup global text -
PassengerDataBufferDir global text -
PassengerInstanceRegistryDir global text -
PassengerSpawnDir global text -
PassengerDisableSecurityUpdateCheck global flag off
PassengerSecurityUpdateCheckProxy global text -
PassengerDisableAnonymousTelemetry global flag off
PassengerAnonymousTelemetryProxy global text -
PassengerStatThrottleRate global int 10
PassengerPreStart global set -
PassengerTurbocaching global flag on
PassengerShowVersionInHeader global flag on
PassengerAdminPanelUrl global text -
PassengerAdminPanelAuthType global text basic
PassengerAdminPanelUsername global text -
PassengerAdminPanelPassword global text -
PassengerRuby app text PassengerDefaultRuby
PassengerPython app text python
PassengerNodejs app text node
PassengerMeteorAppSettings app text -
PassengerBaseURI app set -
PassengerAppEnv app text production
PassengerAppType app text -
PassengerAppStartCommand app text -
PassengerStartupFile app text -
PassengerAppRoot app text -
PassengerAppGroupName app text -
PassengerRestartDir app text tmp
PassengerMinInstances app int>=0 1
PassengerMaxRequests app int>=0 0
PassengerUser app text -
PassengerGroup app text -
PassengerStartTimeout app int>=1 90
PassengerMaxRequestQueueSize app int>=0 100
PassengerMaxPreloaderIdleTime app int>=0 300
PassengerLoadShellEnvvars app flag on
PassengerPreloadBundler app flag off
PassengerSpawnMethod app text -
PassengerDirectInstanceRequestAddress app text 127.0.0.1
PassengerFriendlyErrorPages app flag -
PassengerCustomErrorPage app text -
PassengerForceMaxConcurrentRequestsPerProcess app int -1
PassengerMonitorLogFile app set -
PassengerLveMinUid app int>=0 500
PassengerEnabled location flag on
PassengerErrorOverride location flag off
PassengerHighPerformance location flag off
PassengerBufferUpload location flag on
PassengerBufferResponse location flag off
PassengerStickySessions location flag off
PassengerStickySessionsCookieName location text _passenger_route
PassengerStickySessionsCookieAttributes location text SameSite=Lax; Secure;
PassengerAllowEncodedSlashes options flag off
PassengerFlyWith global text -
PassengerMemoryLimit app int>=0 0
PassengerHardMemoryLimit app int>=0 -
PassengerAnalyticsCollectionRate global int -
PassengerMaxInstances app int>=0 -
PassengerRollingRestarts app flag -
PassengerResistDeploymentErrors app flag -
PassengerDebugger app flag -
PassengerConcurrencyModel app text process
PassengerThreadCount app int>=0 1
PassengerMaxRequestTime location int>=0 0
PassengerMaxRequestQueueTime location int>=0 -
PassengerAppLogFile app text -";

/// Old name, new name.
const ALIASES: &str = "\
RailsEnv PassengerAppEnv
RackEnv PassengerAppEnv
RailsRuby PassengerRuby
PassengerDebugLogFile PassengerLogFile
RailsMaxPoolSize PassengerMaxPoolSize
RailsMaxInstancesPerApp PassengerMaxInstancesPerApp
RailsPoolIdleTime PassengerPoolIdleTime
RailsUserSwitching PassengerUserSwitching
RailsDefaultUser PassengerDefaultUser
RailsAppSpawnerIdleTime PassengerMaxPreloaderIdleTime
RailsBaseURI PassengerBaseURI
RackBaseURI PassengerBaseURI
RailsSpawnMethod PassengerSpawnMethod";

/// Name, context.
const OBSOLETE: &str = "\
RailsSpawnServer global
RailsAllowModRewrite global
RailsFrameworkSpawnerIdleTime global
PassengerUseGlobalQueue app
PassengerAnalyticsLogUser global
PassengerAnalyticsLogGroup global
UnionStationGatewayAddress global
UnionStationGatewayPort global
UnionStationGatewayCert global
UnionStationProxyAddress global
UnionStationKey app
UnionStationSupport app
UnionStationFilter options";

/// Where ours differs on purpose: name, what it is here, why.
const DIFFERENCES: [(&str, &str, &str); 8] = [
    (
        "PassengerPython",
        "app text python3",
        "systems of today have no \"python\"",
    ),
    (
        "PassengerStatThrottleRate",
        "global int>=0 10",
        "time does not run backwards",
    ),
    (
        "PassengerTurbocaching",
        "global flag off",
        "there is none yet",
    ),
    (
        "PassengerDisableSecurityUpdateCheck",
        "global flag on",
        "there is none",
    ),
    (
        "PassengerDisableAnonymousTelemetry",
        "global flag on",
        "there is none",
    ),
    (
        "PassengerAnalyticsCollectionRate",
        "global int>=1 4",
        "every 0 seconds is always",
    ),
    (
        "PassengerForceMaxConcurrentRequestsPerProcess",
        "app int>=-1 -1",
        "-2 means nothing",
    ),
    (
        "PassengerThreadCount",
        "app int>=1 1",
        "no thread serves nobody",
    ),
];

fn context(row: &Directive) -> &'static str {
    match row.context() {
        Context::Global => "global",
        Context::Application => "app",
        Context::Location(Override::Any) => "location",
        Context::Location(Override::Options) => "options",
    }
}

fn kind(row: &Directive) -> String {
    match row.kind() {
        Kind::Flag => "flag".to_owned(),
        Kind::Int { min, .. } => format!("int>={min}"),
        Kind::Text | Kind::Token => "text".to_owned(),
        Kind::Texts | Kind::BaseUri => "set".to_owned(),
        // With "auto" as the default; the original's words are taken, too.
        Kind::OneOf(words) if words.contains(&"on") => "flag".to_owned(),
        Kind::OneOf(_) => "text".to_owned(),
        Kind::Pair => "pair".to_owned(),
        Kind::Ignored => "ignored".to_owned(),
    }
}

#[test]
fn every_directive_of_the_original_is_here_and_means_the_same() {
    let mut seen = 0;
    for line in REFERENCE.lines() {
        let mut words = line.splitn(4, ' ');
        let mut next = || words.next().expect("four words");
        let (name, where_, what, default) = (next(), next(), next(), next());
        let row = find(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(row.name(), name);
        let own_default = if default == "-" { "-" } else { row.default() };
        let own = format!("{} {} {own_default}", context(row), kind(row));
        let expected = match DIFFERENCES.iter().find(|(known, ..)| *known == name) {
            Some((_, difference, _)) if default == "-" => {
                format!("{} -", difference.rsplit_once(' ').expect("words").0)
            }
            Some((_, difference, _)) => (*difference).to_owned(),
            None => format!("{where_} {what} {default}"),
        };
        assert_eq!(own, expected, "{name}");
        assert_ne!(row.status(), Status::Obsolete, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 81);
}

#[test]
fn every_old_name_leads_to_the_new_one() {
    for line in ALIASES.lines() {
        let (old, new) = line.split_once(' ').expect("two names");
        assert_eq!(find(old).map(Directive::name), Some(new), "{old}");
    }
    let aliases = DIRECTIVES
        .iter()
        .map(|row| (1..).map_while(|n| row.c_name(n)).count());
    assert_eq!(aliases.sum::<usize>(), ALIASES.lines().count());
}

#[test]
fn what_the_original_drops_is_dropped() {
    for line in OBSOLETE.lines() {
        let (name, where_) = line.split_once(' ').expect("name and context");
        let row = find(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(
            (row.status(), context(row)),
            (Status::Obsolete, where_),
            "{name}"
        );
    }
    let obsolete = DIRECTIVES
        .iter()
        .filter(|row| row.status() == Status::Obsolete);
    assert_eq!(obsolete.count(), OBSOLETE.lines().count());
}

#[test]
fn what_nothing_acts_on_says_why() {
    for row in DIRECTIVES {
        let is_silent = matches!(row.status(), Status::NotYet | Status::Moot);
        assert_eq!(is_silent, !row.why().is_empty(), "{}", row.name());
    }
}
