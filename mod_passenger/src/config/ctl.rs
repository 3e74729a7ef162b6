//! `PassengerCtl`: low-level options of the original's watchdog and core, by their own names.
//!
//! Most are what a directive sets, too, and are taken for it here, with its rules. Hooks are written in no other way.
//! The rest steers parts that do not exist here (or not yet), which is said once.

use passenger_shm::hooks::{self, Hook};

use super::directive::{Directive, Kind};
use super::directives::DIRECTIVES;
use super::parse::{parse, Value};

/// What a line comes to.
#[derive(Debug)]
pub(crate) enum Ctl<'a> {
    /// As if that directive were written with that value.
    Set(&'static Directive, Value<'a>),
    /// As if nothing were written: an empty text.
    Nothing,
    /// It names programs that are run when something happens; agent and watchdog read the line as it is.
    Hook,
    /// It has no effect; why, as the end of a sentence that begins with the option.
    NoEffect(&'static str),
}

/// Options whose names say nothing of their directives.
const NAMES: [(&str, &str); 7] = [
    ("log_target", "PassengerLogFile"),
    ("controller_socket_backlog", "PassengerSocketBacklog"),
    (
        "controller_file_buffered_channel_buffer_dir",
        "PassengerDataBufferDir",
    ),
    ("default_environment", "PassengerAppEnv"),
    ("default_min_processes", "PassengerMinInstances"),
    ("config_manifest", "PassengerDumpConfigManifest"),
    (
        "core_file_descriptor_log_file",
        "PassengerFileDescriptorLogFile",
    ),
];

/// Options that nothing here has a use for, by the beginnings of their names, and why. The first match counts.
const WITHOUT_EFFECT: [(&str, &str); 16] = [
    ("hook_", "has no effect: there is no hook of that name"),
    (
        "vary_turbocache",
        "has no effect: there is no turbocache in this version yet",
    ),
    (
        "default_app_file_descriptor_ulimit",
        "has no effect: apps get httpd's own limit (LimitNOFILE of its service)",
    ),
    (
        "app_file_descriptor_ulimit",
        "has no effect: apps get httpd's own limit (LimitNOFILE of its service)",
    ),
    (
        "file_descriptor_ulimit",
        "has no effect: the agent raises its own limit as far as it may",
    ),
    (
        "core_file_descriptor_ulimit",
        "has no effect: the agent raises its own limit as far as it may",
    ),
    (
        "default_abort_websockets",
        "has no effect: PassengerWebSocketDrainTime says how WebSockets end",
    ),
    (
        "app_output_log_level",
        "has no effect: what apps print is logged at every level",
    ),
    (
        "prestart_urls",
        "has no effect: write one PassengerPreStart for each URL",
    ),
    (
        "controller_",
        "has no effect: requests pass no controller here, httpd's workers talk to the apps",
    ),
    ("core_", "has no effect: there is no core process here"),
    (
        "watchdog_",
        "has no effect: watchdog and agent have no API server; docs/tools.md has the tools",
    ),
    (
        "security_update_checker",
        "has no effect: nothing here calls anybody",
    ),
    (
        "telemetry_collector",
        "has no effect: nothing here calls anybody",
    ),
    (
        "admin_panel_",
        "has no effect: nothing here sends anything to a panel elsewhere",
    ),
    (
        "default_",
        "has no effect here, and no directive of its own",
    ),
];

/// Takes a line apart.
///
/// # Errors
/// A sentence, when the option is a directive's and its value breaks that directive's rules.
pub(crate) fn ctl<'a>(key: &str, value: &'a str) -> Result<Ctl<'a>, String> {
    if Hook::of_option(key).is_some() {
        if value.is_empty() {
            return Ok(Ctl::Nothing);
        }
        let written = hooks::commands(value);
        return written
            .map(|_| Ctl::Hook)
            .map_err(|why| format!("PassengerCtl {key}: {why}"));
    }
    let Some(directive) = directive_of(key) else {
        let known = WITHOUT_EFFECT
            .iter()
            .find(|(beginning, _)| key.starts_with(beginning));
        return Ok(Ctl::NoEffect(known.map_or(
            "is no option that is known here, and has no effect",
            |(_, why)| why,
        )));
    };
    // The original reads values as JSON where they are.
    let word = match (directive.kind(), value) {
        (Kind::Flag, "true") => "on",
        (Kind::Flag, "false") => "off",
        _ => value,
    };
    let value =
        parse(directive, &[word.as_bytes()]).map_err(|why| format!("PassengerCtl {key}: {why}"))?;
    Ok(value.map_or(Ctl::Nothing, |value| Ctl::Set(directive, value)))
}

/// The directive that sets the same: `max_pool_size`, and `default_app_env` for what apps may have their own of.
fn directive_of(key: &str) -> Option<&'static Directive> {
    let named = |name: &str| {
        let mut rows = DIRECTIVES.iter();
        rows.find(|row| row.name().eq_ignore_ascii_case(name))
            .filter(|row| !matches!(row.kind(), Kind::Pair | Kind::Ignored))
    };
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == key) {
        return named(name);
    }
    let like = |key: &str| named(&format!("Passenger{}", key.replace('_', "")));
    like(key).or_else(|| like(key.strip_prefix("default_")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(key: &str, value: &str) -> String {
        match ctl(key, value) {
            Ok(Ctl::Set(directive, value)) => {
                format!("{} {}", directive.name(), value.to_args().join(" "))
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn an_option_that_a_directive_sets_is_taken_for_it() {
        for (key, value, meant) in [
            ("max_pool_size", "9", "PassengerMaxPoolSize 9"),
            ("stat_throttle_rate", "0", "PassengerStatThrottleRate 0"),
            ("user_switching", "false", "PassengerUserSwitching off"),
            (
                "show_version_in_header",
                "on",
                "PassengerShowVersionInHeader on",
            ),
            ("default_user", "www-data", "PassengerDefaultUser www-data"),
            ("default_ruby", "ruby3", "PassengerDefaultRuby ruby3"),
            ("default_nodejs", "node20", "PassengerNodejs node20"),
            (
                "default_sticky_sessions",
                "true",
                "PassengerStickySessions on",
            ),
            ("default_environment", "staging", "PassengerAppEnv staging"),
            ("log_target", "/var/log/p", "PassengerLogFile /var/log/p"),
        ] {
            assert_eq!(name_of(key, value), meant);
        }
        for (key, name) in NAMES {
            assert!(
                super::directive_of(key).is_some_and(|d| d.name() == name),
                "{key}"
            );
        }
    }

    #[test]
    fn a_value_that_its_directive_refuses_is_an_error_that_names_both() {
        assert_eq!(
            ctl("max_pool_size", "0").unwrap_err(),
            "PassengerCtl max_pool_size: PassengerMaxPoolSize must be at least 1, not 0"
        );
        assert!(ctl("user_switching", "1").is_err());
    }

    #[test]
    fn a_hook_names_programs_by_absolute_paths() {
        assert!(matches!(
            ctl(
                "hook_spawn_failed",
                "/usr/local/sbin/page; /usr/local/sbin/mail"
            ),
            Ok(Ctl::Hook)
        ));
        assert!(matches!(ctl("hook_spawn_failed", ""), Ok(Ctl::Nothing)));
        for (value, why) in [("page", "absolute path"), (";", "no program")] {
            let sentence = ctl("hook_attached_process", value).unwrap_err();
            assert!(
                sentence.starts_with("PassengerCtl hook_attached_process: ")
                    && sentence.contains(why),
                "{sentence}"
            );
        }
    }

    #[test]
    fn an_option_of_a_part_that_is_not_here_says_why_it_has_no_effect() {
        let why = |key: &str| match ctl(key, "x") {
            Ok(Ctl::NoEffect(why)) => why,
            other => panic!("{key}: {other:?}"),
        };
        assert!(why("hook_spawned").contains("no hook of that name"));
        assert!(why("controller_threads").contains("controller"));
        assert!(why("default_app_file_descriptor_ulimit").contains("LimitNOFILE"));
        assert!(
            why("ctl").contains("no option"),
            "PassengerCtl itself is none"
        );
        assert!(why("no_such_thing").contains("no option"));
        assert!(why("analytics_log_user").contains("no option"), "obsolete");
        assert!(matches!(ctl("default_group", ""), Ok(Ctl::Nothing)));
    }
}
