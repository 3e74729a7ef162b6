//! What a hook's program is told: its environment, which holds nothing else. Names and messages may come from apps or
//! from those who ask for them, so they are cut and have no control characters.

use std::ffi::CString;

use passenger_shm::hooks::Hook;

/// Longest value, in bytes.
const LONGEST: usize = 2_000;

/// Where programs are looked for that a program calls.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables of our own environment that change what a program says, but not what it does.
const KEPT: [&str; 3] = ["TZ", "LANG", "LC_ALL"];

/// What is known of the occasion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The app's directory.
    pub(crate) app_root: Option<String>,
    /// Name of its group.
    pub(crate) app_group_name: Option<String>,
    /// The app process.
    pub(crate) process_pid: Option<i32>,
    /// What went wrong, in a sentence.
    pub(crate) error_message: Option<String>,
    /// Names it in the log.
    pub(crate) error_id: Option<String>,
    /// How many requests were refused since the last time.
    pub(crate) rejected_requests: Option<u64>,
}

impl Facts {
    /// The whole environment of the programs.
    pub(crate) fn environment(&self, hook: Hook) -> Vec<CString> {
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        let pid = self.process_pid.and_then(|pid| u64::try_from(pid).ok());
        let told = [
            ("PATH", Some(PATH.to_owned())),
            ("PASSENGER_HOOK_NAME", Some(hook.name().to_owned())),
            ("PASSENGER_APP_ROOT", self.app_root.clone()),
            ("PASSENGER_APP_GROUP_NAME", self.app_group_name.clone()),
            ("PASSENGER_PROCESS_PID", number(pid)),
            ("PASSENGER_ERROR_MESSAGE", self.error_message.clone()),
            ("PASSENGER_ERROR_ID", self.error_id.clone()),
            (
                "PASSENGER_REJECTED_REQUESTS",
                number(self.rejected_requests),
            ),
        ];
        let kept = KEPT.map(|name| (name, std::env::var(name).ok()));
        let known = told.into_iter().chain(kept);
        known
            .filter_map(|(name, value)| CString::new(format!("{name}={}", tidy(&value?))).ok())
            .collect()
    }
}

/// One line without surprises.
fn tidy(value: &str) -> String {
    let mut tidy = String::new();
    for c in value.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if tidy.len() + c.len_utf8() > LONGEST {
            break;
        }
        tidy.push(c);
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(facts: &Facts, hook: Hook) -> Vec<String> {
        let environment = facts.environment(hook);
        let text = environment.into_iter().map(|v| v.into_string().unwrap());
        let is_ours = |v: &String| v.starts_with("PASSENGER_") || v.starts_with("PATH=");
        text.filter(is_ours).collect()
    }

    #[test]
    fn a_program_is_told_what_is_known_and_nothing_else() {
        let path = format!("PATH={PATH}");
        let name = "PASSENGER_HOOK_NAME=before_watchdog_shutdown".to_owned();
        let told = environment(&Facts::default(), Hook::BeforeWatchdogShutdown);
        assert_eq!(told, [path.clone(), name]);
        let facts = Facts {
            app_root: Some("/srv/a".into()),
            app_group_name: Some("/srv/a (production)".into()),
            process_pid: Some(17),
            error_message: Some("it does not start".into()),
            error_id: Some("c0ffee00".into()),
            rejected_requests: Some(3),
        };
        let told = environment(&facts, Hook::SpawnFailed);
        let expected = [
            path.as_str(),
            "PASSENGER_HOOK_NAME=spawn_failed",
            "PASSENGER_APP_ROOT=/srv/a",
            "PASSENGER_APP_GROUP_NAME=/srv/a (production)",
            "PASSENGER_PROCESS_PID=17",
            "PASSENGER_ERROR_MESSAGE=it does not start",
            "PASSENGER_ERROR_ID=c0ffee00",
            "PASSENGER_REJECTED_REQUESTS=3",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_apps_say_is_one_line_of_limited_length() {
        let facts = Facts {
            error_message: Some("a\nb\0c\x1b[2Jd".to_owned() + &"é".repeat(LONGEST)),
            ..Facts::default()
        };
        let told = environment(&facts, Hook::SpawnFailed);
        let message = told
            .iter()
            .find(|v| v.starts_with("PASSENGER_ERROR_MESSAGE="));
        let message = message.unwrap().split_once('=').unwrap().1;
        assert!(message.starts_with("a b c [2Jdé"), "{message}");
        assert!((LONGEST - 1..=LONGEST).contains(&message.len()));
    }
}
