//! A report as text, in the lines that users and their scripts know from the original, with ours after them.

use std::fmt::Write as _;

use crate::status::report::{AgentReport, Enabled, GroupReport, ProcessReport, Report};
use crate::sys::clock::LocalTime;

/// How it is to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Whether version, date and instance come first.
    pub(super) has_header: bool,
    /// Whether to show more than most want to know.
    pub(super) is_verbose: bool,
    /// Whether a terminal reads it.
    pub(super) has_colors: bool,
    /// Now, in seconds since 1970.
    pub(super) now: u64,
}

/// Apps and directories choose some words of a report, and root's terminal obeys control characters.
pub(super) fn tame(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

impl Look {
    fn heading(self, text: &str) -> String {
        if self.has_colors {
            format!("\x1b[44m\x1b[33m\x1b[1m----------- {text} -----------\x1b[0m\n")
        } else {
            format!("----------- {text} -----------\n")
        }
    }

    fn bold(self, text: &str) -> String {
        if self.has_colors {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn ago(self, at: u64) -> String {
        format!("{} ago", duration(self.now.saturating_sub(at)))
    }
}

/// The whole text.
pub(super) fn render(report: &Report, look: Look) -> String {
    let mut text = String::new();
    if look.has_header {
        header(report, &mut text);
    }
    general(report, look, &mut text);
    text.push('\n');
    text += &look.heading("Application groups");
    for group in &report.groups {
        one_group(group, look, &mut text);
    }
    if report.groups.is_empty() {
        text += if report.own_apps_only {
            "(no app of yours is running; root sees those of others)\n"
        } else {
            "(no app was used yet)\n"
        };
    }
    text
}

// Writing to a String cannot fail, here and below.
fn header(report: &Report, text: &mut String) {
    let instance = &report.instance;
    let _ = writeln!(text, "Version : {}", instance.passenger_version);
    let _ = writeln!(text, "Date    : {}", LocalTime::now());
    let _ = writeln!(
        text,
        "Instance: {} ({})\n",
        instance.name, instance.server_software
    );
}

fn general(report: &Report, look: Look, text: &mut String) {
    *text += &look.heading("General information");
    let _ = writeln!(text, "Max pool size : {}", report.max);
    let _ = writeln!(text, "App groups    : {}", report.group_count);
    let _ = writeln!(text, "Processes     : {}", report.capacity_used);
    let _ = writeln!(text, "Requests in top-level queue : 0");
    let _ = writeln!(text, "Helper agent  : {}", agent(&report.agent, look));
}

fn agent(agent: &AgentReport, look: Look) -> String {
    let mut text = match (agent.pid, agent.is_ready) {
        (Some(pid), true) => format!("PID {pid}, up {}", since(agent.started_at, look)),
        (Some(pid), false) => format!("PID {pid}, starting; apps are served meanwhile"),
        (None, _) => "none at this moment; apps are served meanwhile".to_owned(),
    };
    if agent.restarts > 0 {
        let times = match agent.restarts {
            1 => "once".to_owned(),
            n => format!("{n} times"),
        };
        let _ = write!(text, ", restarted {times}");
    }
    if let (Some(how), Some(at)) = (&agent.last_end, agent.last_end_at) {
        let _ = write!(text, " (the last {how} {})", look.ago(at));
    }
    text
}

fn since(at: u64, look: Look) -> String {
    duration(look.now.saturating_sub(at))
}

fn one_group(group: &GroupReport, look: Look, text: &mut String) {
    let _ = writeln!(text, "{}:", look.bold(&tame(&group.name)));
    let _ = writeln!(text, "  App root: {}", tame(&group.app_root));
    if !group.user.is_empty() {
        let _ = writeln!(text, "  User: {}", group.user);
    }
    if group.processes_being_spawned > 0 {
        let n = group.processes_being_spawned;
        let _ = writeln!(text, "  (spawning {n} new process(es)...)");
    }
    if group.resisting_deployment_error {
        *text +=
            "  (resisting a deployment error: the new code does not start, old processes serve)\n";
    } else if group.restarting {
        *text += "  (restarting...)\n";
    }
    let _ = write!(text, "  Requests in queue: {}", group.get_wait_list_size);
    if group.get_wait_list_size > 0 {
        let _ = write!(text, " (the oldest for {} ms)", group.oldest_wait_ms);
    }
    text.push('\n');
    if group.waited_requests > 0 {
        let (n, longest) = (group.waited_requests, group.longest_wait_ms);
        let average = group.waited_ms / n;
        let _ = writeln!(
            text,
            "  Have waited so far: {n} (for {average} ms on average, {longest} ms at most)"
        );
    }
    if look.is_verbose {
        let _ = writeln!(
            text,
            "  Type: {}   Code generation: {}",
            group.app_type, group.code_generation
        );
    }
    if let Some(failure) = &group.last_failure {
        let n = group.failed_starts.max(1);
        let (when, id) = (look.ago(failure.at), &failure.id);
        let _ = writeln!(
            text,
            "  Last start failed: {when}, {n} in a row (error {id})"
        );
        let _ = writeln!(text, "    {}", tame(&failure.summary));
    }
    if let Some(crash) = &group.last_crash {
        let _ = writeln!(
            text,
            "  Last crash: process {} {}, {}",
            crash.pid,
            crash.how,
            look.ago(crash.at)
        );
    }
    if let Some(preloader) = &group.preloader {
        let state = if preloader.is_loading {
            "loading the app"
        } else {
            "ready"
        };
        let _ = writeln!(
            text,
            "  Preloader: PID {}, {state}, {} forked, Memory: {}",
            preloader.pid,
            preloader.forks,
            megabytes(preloader.usage.private)
        );
    }
    if let Some(saved) = group.memory_saved {
        let _ = writeln!(text, "  Saved by shared memory: {}", megabytes(Some(saved)));
    }
    for process in &group.processes {
        one_process(process, group, look, text);
    }
    text.push('\n');
}

fn one_process(process: &ProcessReport, group: &GroupReport, look: Look, text: &mut String) {
    let pid = match process.pid {
        0 => "?".to_owned(),
        pid => pid.to_string(),
    };
    let uptime = duration(process.uptime_seconds);
    let (sessions, processed) = (process.sessions, process.processed);
    let _ = writeln!(
        text,
        "  * PID: {pid:<7} Sessions: {sessions:<7} Processed: {processed:<7} Uptime: {uptime}"
    );
    let usage = &process.usage;
    let cpu = usage
        .cpu
        .map_or_else(|| "?".to_owned(), |n| format!("{n}%"));
    let memory = megabytes(usage.private.or(usage.pss).or(usage.rss));
    let used = match process.last_used {
        0 => "never".to_owned(),
        at => look.ago(at),
    };
    let _ = writeln!(
        text,
        "    CPU: {cpu:<7} Memory  : {memory:<7} Last used: {used}"
    );
    let (rss, pss) = (megabytes(usage.rss), megabytes(usage.pss));
    let _ = writeln!(
        text,
        "    RSS: {rss:<7} PSS     : {pss:<7} Private  : {}",
        megabytes(usage.private)
    );
    match process.enabled {
        Enabled::Starting => *text += "    Starting...\n",
        Enabled::Disabling => *text += "    Shutting down...\n",
        Enabled::Enabled if process.code_generation != group.code_generation => {
            *text += "    Old code\n";
        }
        Enabled::Enabled => {}
    }
    if process.streams > 0 {
        let _ = writeln!(text, "    WebSockets: {}", process.streams);
    }
    if process.orphans > 0 {
        let n = process.orphans;
        let _ = writeln!(text, "    Still at {n} request(s) whose clients are gone");
    }
    if look.is_verbose {
        let limit = match process.concurrency {
            0 => "unlimited".to_owned(),
            n => n.to_string(),
        };
        let (name, uid, code) = (&process.gupid, process.uid, process.code_generation);
        let _ = writeln!(
            text,
            "    Socket: apps/{name}   UID: {uid}   Code: {code}   Concurrency: {limit}"
        );
        let _ = writeln!(text, "    Start took {} ms", process.spawn_ms);
    }
}

fn megabytes(kilobytes: Option<u64>) -> String {
    kilobytes.map_or_else(|| "?".to_owned(), |kb| format!("{}M", kb / 1024))
}

/// As the original: `3s`, `1m 2s`, `1h 0m 2s`, `2d 0h 0m 1s`.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let mut text = String::new();
    if days > 0 {
        let _ = write!(text, "{days}d ");
    }
    if hours > 0 {
        let _ = write!(text, "{}h ", hours % 24);
    }
    if minutes > 0 {
        let _ = write!(text, "{}m ", minutes % 60);
    }
    let _ = write!(text, "{}s", seconds % 60);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::board::{CrashNote, FailureNote};
    use crate::status::report::PreloaderReport;
    use crate::status::usage::Usage;

    const LOOK: Look = Look {
        has_header: false,
        is_verbose: false,
        has_colors: false,
        now: 1_000,
    };

    fn report() -> Report {
        let process = ProcessReport {
            pid: 12345,
            enabled: Enabled::Enabled,
            processed: 3,
            uptime_seconds: 62,
            last_used: 997,
            code_generation: 1,
            usage: Usage {
                cpu: Some(0),
                rss: Some(40 * 1024),
                pss: Some(25 * 1024),
                private: Some(21 * 1024),
                ..Usage::default()
            },
            ..ProcessReport::default()
        };
        let group = GroupReport {
            name: "/var/www/app (production)".into(),
            app_root: "/var/www/app".into(),
            code_generation: 1,
            processes: vec![process],
            ..GroupReport::default()
        };
        Report {
            max: 6,
            group_count: 1,
            capacity_used: 1,
            groups: vec![group],
            ..Report::default()
        }
    }

    #[test]
    fn the_familiar_lines() {
        let text = render(&report(), LOOK);
        let expected = "\
----------- General information -----------
Max pool size : 6
App groups    : 1
Processes     : 1
Requests in top-level queue : 0
Helper agent  : none at this moment; apps are served meanwhile

----------- Application groups -----------
/var/www/app (production):
  App root: /var/www/app
  Requests in queue: 0
  * PID: 12345   Sessions: 0       Processed: 3       Uptime: 1m 2s
    CPU: 0%      Memory  : 21M     Last used: 3s ago
    RSS: 40M     PSS     : 25M     Private  : 21M

";
        assert_eq!(text, expected);
    }

    #[test]
    fn who_waits_and_who_has_waited_is_told() {
        let mut report = report();
        let group = &mut report.groups[0];
        group.get_wait_list_size = 2;
        group.oldest_wait_ms = 35;
        (group.waited_requests, group.waited_ms) = (4, 90);
        group.longest_wait_ms = 60;
        let expected = "  Requests in queue: 2 (the oldest for 35 ms)\n  \
                        Have waited so far: 4 (for 22 ms on average, 60 ms at most)\n";
        let text = render(&report, LOOK);
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_a_preloader_saves_is_shown() {
        let mut report = report();
        let group = &mut report.groups[0];
        group.memory_saved = Some(120 * 1024);
        group.preloader = Some(PreloaderReport {
            pid: 77,
            forks: 3,
            usage: Usage {
                private: Some(5 * 1024),
                ..Usage::default()
            },
            ..PreloaderReport::default()
        });
        let expected =
            "  Preloader: PID 77, ready, 3 forked, Memory: 5M\n  Saved by shared memory: 120M\n";
        let text = render(&report, LOOK);
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut report = report();
        let group = &mut report.groups[0];
        group.resisting_deployment_error = true;
        group.code_generation = 2;
        group.failed_starts = 4;
        group.last_failure = Some(FailureNote {
            id: "abcd".into(),
            at: 940,
            step: "load".into(),
            summary: "The app could\u{1b}[2J not be started".into(),
        });
        group.last_crash = Some(CrashNote {
            pid: 7,
            at: 999,
            how: "was killed by SIGKILL".into(),
        });
        report.agent.restarts = 2;
        report.agent.last_end = Some("was killed by SIGKILL".into());
        report.agent.last_end_at = Some(990);
        let text = render(&report, LOOK);
        for words in [
            "resisting a deployment error",
            "Last start failed: 1m 0s ago, 4 in a row (error abcd)\n    The app could\u{fffd}[2J not be started\n",
            "Last crash: process 7 was killed by SIGKILL, 1s ago\n",
            "    Old code\n",
            "restarted 2 times (the last was killed by SIGKILL 10s ago)",
        ] {
            assert!(text.contains(words), "{words:?} is missing in {text}");
        }
    }

    #[test]
    fn times_as_the_original_writes_them() {
        let texts = [3, 62, 3_602, 172_801].map(duration);
        assert_eq!(texts, ["3s", "1m 2s", "1h 0m 2s", "2d 0h 0m 1s"]);
    }
}
