//! A report as metrics, in a text that is both OpenMetrics and what Prometheus' own format allows: gauges and counters
//! only, no units, no times. docs/tools.md lists the names; they stay.

use super::openmetrics::{self, Family, Kind, Labels};
use crate::status::report::{Enabled, GroupReport, ProcessReport, Report};
use crate::status::usage::Usage;

/// How a figure of an app comes about.
type OfGroup = fn(&GroupReport) -> Option<f64>;

/// Figures of the apps. Those of two apps of one name are added.
const OF_APPS: &[(&str, Kind, &str, OfGroup)] = &[
    (
        "passenger_app_busy_seats",
        Kind::Gauge,
        "Requests that processes of the app are at.",
        |group| sum(&group.processes, |p| Some(f64::from(p.sessions))),
    ),
    (
        "passenger_app_seats",
        Kind::Gauge,
        "Requests that the app's ready processes can be at; absent where one takes any number.",
        |group| {
            sum(ready(group), |p| {
                (p.concurrency > 0).then_some(f64::from(p.concurrency))
            })
        },
    ),
    (
        "passenger_app_websockets",
        Kind::Gauge,
        "Upgraded connections that are open.",
        |group| sum(&group.processes, |p| Some(f64::from(p.streams))),
    ),
    (
        "passenger_app_queue_requests",
        Kind::Gauge,
        "Requests that wait for a process.",
        |group| Some(f64::from(group.get_wait_list_size)),
    ),
    (
        "passenger_app_queue_limit",
        Kind::Gauge,
        "Requests that may wait.",
        |group| (group.max_request_queue_size > 0).then(|| f64::from(group.max_request_queue_size)),
    ),
    (
        "passenger_app_queued_requests",
        Kind::Counter,
        "Requests that had to wait for a process, those that gave up included.",
        |group| Some(whole(group.waited_requests)),
    ),
    (
        "passenger_app_queue_wait_seconds",
        Kind::Counter,
        "How long requests have waited for a process, together.",
        |group| Some(seconds(group.waited_ms)),
    ),
    (
        "passenger_app_requests",
        Kind::Counter,
        "Requests that were given to processes of the app.",
        |group| Some(whole(group.requests_total)),
    ),
    (
        "passenger_app_starts",
        Kind::Counter,
        "Processes that have become ready.",
        |group| Some(whole(group.starts_total)),
    ),
    (
        "passenger_app_failed_starts",
        Kind::Counter,
        "Starts of processes that have failed.",
        |group| Some(whole(group.failed_starts_total)),
    ),
    (
        "passenger_app_crashes",
        Kind::Counter,
        "Processes that ended without having been asked to.",
        |group| Some(whole(group.crashes_total)),
    ),
    (
        "passenger_app_restarts",
        Kind::Counter,
        "Restarts of the app.",
        |group| Some(f64::from(group.code_generation.saturating_sub(1))),
    ),
    (
        "passenger_app_old_code_processes",
        Kind::Gauge,
        "Ready processes that were started before the app's last restart.",
        |group| {
            let is_old = |p: &&ProcessReport| p.code_generation != group.code_generation;
            Some(count(ready(group).filter(is_old)))
        },
    ),
    (
        "passenger_app_failing_starts",
        Kind::Gauge,
        "Starts that have failed since one succeeded.",
        |group| Some(f64::from(group.failed_starts)),
    ),
];

/// States of processes, by their names here.
const STATES: [(&str, Enabled); 3] = [
    ("starting", Enabled::Starting),
    ("ready", Enabled::Enabled),
    ("ending", Enabled::Disabling),
];

/// A kind of memory, in kilobytes.
type OfUsage = fn(&Usage) -> Option<u64>;

/// Kinds of memory, by their names here.
const MEMORY: [(&str, OfUsage); 4] = [
    ("resident", |usage| usage.rss),
    ("proportional", |usage| usage.pss),
    ("private", |usage| usage.private),
    ("swapped", |usage| usage.swap),
];

/// The whole text.
pub(super) fn render(report: &Report) -> String {
    let mut families = of_the_instance(report);
    // One that has only just been found has no name yet.
    let groups: Vec<&GroupReport> = report
        .groups
        .iter()
        .filter(|group| !group.app_root.is_empty())
        .collect();
    families.push(processes(&groups));
    families.extend(OF_APPS.iter().map(|(name, kind, help, of)| {
        let samples = groups
            .iter()
            .filter_map(|group| Some((app(group), of(group)?)));
        Family::new(name, *kind, help, samples)
    }));
    families.extend([memory(&groups), cpu(&groups)]);
    let mut text = String::new();
    for family in &families {
        family.write(&mut text);
    }
    text + openmetrics::END
}

fn of_the_instance(report: &Report) -> Vec<Family> {
    let one = |name, kind, help, value| Family::new(name, kind, help, [(Labels::new(), value)]);
    let about = vec![
        ("version", report.instance.passenger_version.clone()),
        ("server", report.instance.server_software.clone()),
    ];
    let begin = report.instance.created_at;
    vec![
        Family::new(
            "passenger_instance",
            Kind::Gauge,
            "Always 1; the labels say what runs.",
            [(about, 1.0)],
        ),
        one(
            "passenger_instance_start_time_seconds",
            Kind::Gauge,
            "When the instance began, in seconds since 1970.",
            whole(begin),
        ),
        one(
            "passenger_pool_processes",
            Kind::Gauge,
            "Processes of any kind: what counts against the maximum.",
            f64::from(report.capacity_used),
        ),
        one(
            "passenger_pool_max_processes",
            Kind::Gauge,
            "PassengerMaxPoolSize.",
            f64::from(report.max),
        ),
        one(
            "passenger_agent_ready",
            Kind::Gauge,
            "Whether the helper agent works; without it apps are served, but none is started.",
            f64::from(u8::from(report.agent.is_ready)),
        ),
        one(
            "passenger_agent_restarts",
            Kind::Counter,
            "Helper agents that have died and were replaced.",
            f64::from(report.agent.restarts),
        ),
    ]
}

fn processes(groups: &[&GroupReport]) -> Family {
    let samples = groups.iter().flat_map(|group| {
        STATES.iter().map(|(name, state)| {
            let labels = [app(group), vec![("state", (*name).to_owned())]].concat();
            (
                labels,
                count(group.processes.iter().filter(|p| p.enabled == *state)),
            )
        })
    });
    Family::new(
        "passenger_app_processes",
        Kind::Gauge,
        "Processes of the app, by what they are at.",
        samples,
    )
}

fn memory(groups: &[&GroupReport]) -> Family {
    let samples = groups.iter().flat_map(|group| {
        let preloader = group.preloader.iter().map(|preloader| preloader.usage);
        let of_processes = group
            .processes
            .iter()
            .filter(|p| p.pid > 0)
            .map(|p| p.usage);
        let usages: Vec<Usage> = preloader.chain(of_processes).collect();
        MEMORY.iter().filter_map(move |(name, of)| {
            let kilobytes = sum(&usages, |usage| of(usage).map(whole))?;
            let labels = [app(group), vec![("kind", (*name).to_owned())]].concat();
            Some((labels, kilobytes * 1_024.0))
        })
    });
    Family::new(
        "passenger_app_memory_bytes",
        Kind::Gauge,
        "Memory of the app's processes and its preloader; absent where it is not known of all of them.",
        samples,
    )
}

/// By the place in the pool and not by PID: there are only so many.
fn cpu(groups: &[&GroupReport]) -> Family {
    let samples = groups.iter().flat_map(|group| {
        group.processes.iter().filter_map(|process| {
            let slot = process.gupid.split('.').next().unwrap_or_default();
            let labels = [app(group), vec![("slot", slot.to_owned())]].concat();
            Some((labels, seconds(process.usage.cpu_ms?)))
        })
    });
    Family::new(
        "passenger_process_cpu_seconds",
        Kind::Counter,
        "CPU time of the process in that place of the pool; begins anew with the next one.",
        samples,
    )
}

fn app(group: &GroupReport) -> Labels {
    vec![("app", group.name.clone())]
}

fn ready(group: &GroupReport) -> impl Iterator<Item = &ProcessReport> {
    group
        .processes
        .iter()
        .filter(|p| p.enabled == Enabled::Enabled)
}

/// Nothing, where one of them is not known.
fn sum<T>(items: impl IntoIterator<Item = T>, of: impl Fn(T) -> Option<f64>) -> Option<f64> {
    items.into_iter().map(of).sum()
}

fn count(items: impl Iterator) -> f64 {
    whole(items.count() as u64)
}

/// Exact up to 2^53: a thousand requests a second for 285,000 years.
#[allow(clippy::cast_precision_loss)]
fn whole(number: u64) -> f64 {
    number as f64
}

fn seconds(milliseconds: u64) -> f64 {
    whole(milliseconds) / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::report::{AgentReport, PreloaderReport};

    fn process(slot: u32, enabled: Enabled) -> ProcessReport {
        ProcessReport {
            pid: 7,
            gupid: format!("{slot}.9"),
            enabled,
            concurrency: 2,
            sessions: 1,
            code_generation: 2,
            usage: Usage {
                cpu_ms: Some(1_250),
                rss: Some(100),
                pss: Some(50),
                private: Some(40),
                ..Usage::default()
            },
            ..ProcessReport::default()
        }
    }

    fn group(name: &str) -> GroupReport {
        GroupReport {
            name: name.into(),
            app_root: "/srv/a".into(),
            waited_ms: 1_500,
            waited_requests: 3,
            requests_total: 12_345_678,
            code_generation: 3,
            processes: vec![process(0, Enabled::Enabled), process(4, Enabled::Disabling)],
            ..GroupReport::default()
        }
    }

    fn rendered(groups: Vec<GroupReport>) -> String {
        let report = Report {
            max: 6,
            groups,
            agent: AgentReport {
                restarts: 2,
                ..AgentReport::default()
            },
            ..Report::default()
        };
        render(&report)
    }

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(
                text.lines().any(|l| l == *line),
                "{line:?} is not in {text}"
            );
        }
    }

    #[test]
    fn figures_with_the_names_that_stay() {
        let text = rendered(vec![group("shop")]);
        assert_lines(
            &text,
            &[
                "# TYPE passenger_app_requests counter",
                "passenger_app_requests_total{app=\"shop\"} 12345678",
                "passenger_app_queue_wait_seconds_total{app=\"shop\"} 1.5",
                "passenger_app_queued_requests_total{app=\"shop\"} 3",
                "passenger_app_processes{app=\"shop\",state=\"ready\"} 1",
                "passenger_app_processes{app=\"shop\",state=\"ending\"} 1",
                "passenger_app_processes{app=\"shop\",state=\"starting\"} 0",
                "passenger_app_busy_seats{app=\"shop\"} 2",
                "passenger_app_seats{app=\"shop\"} 2",
                "passenger_app_restarts_total{app=\"shop\"} 2",
                "passenger_app_old_code_processes{app=\"shop\"} 1",
                "passenger_app_memory_bytes{app=\"shop\",kind=\"resident\"} 204800",
                "passenger_process_cpu_seconds_total{app=\"shop\",slot=\"4\"} 1.25",
                "passenger_agent_restarts_total 2",
                "passenger_pool_max_processes 6",
            ],
        );
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        assert!(!text.contains("swapped"), "not known, so not told: {text}");
    }

    #[test]
    fn two_apps_of_one_name_are_one_and_names_break_nothing() {
        let mut bad = group("a\"} 1\n\\evil");
        bad.preloader = Some(PreloaderReport::default());
        let text = rendered(vec![group("shop"), group("shop"), bad]);
        assert_lines(
            &text,
            &[
                "passenger_app_requests_total{app=\"shop\"} 24691356",
                "passenger_app_restarts_total{app=\"a\\\"} 1\u{fffd}\\\\evil\"} 2",
            ],
        );
        let memory = "passenger_app_memory_bytes{app=\"a";
        assert!(
            !text.contains(memory),
            "the preloader's is not known: {text}"
        );
    }

    #[test]
    fn an_app_without_a_name_yet_and_seats_without_number_are_left_out() {
        let mut nameless = group("(an app that has just been found)");
        nameless.app_root.clear();
        let mut unlimited = group("shop");
        unlimited.processes[0].concurrency = 0;
        let text = rendered(vec![nameless, unlimited]);
        assert!(!text.contains("just been found"), "{text}");
        assert!(!text.contains("passenger_app_seats"), "{text}");
    }
}
