//! `passenger-memory-stats`: what httpd, mod_passenger and the apps cost. Which process is what is not guessed from
//! names: the instance says which are its apps', and `/proc` says who is whose child.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

use super::arguments::MemoryArguments;
use super::process_table::ProcessTable;
use super::{client, registry, say, status_text, Failure, Outcome};
use crate::status::report::{GroupReport, Report};
use crate::status::usage::Usage;
use crate::sys::clock::LocalTime;

/// Version of the document's meaning.
const FORMAT: u32 = 1;

/// What is shown.
#[derive(Debug, Serialize)]
struct MemoryReport {
    format: u32,
    instances: Vec<String>,
    own_apps_only: bool,
    apache: Table,
    passenger: Table,
    apps: Table,
}

/// One kind of processes.
#[derive(Debug, Default, Serialize)]
struct Table {
    process_count: usize,
    /// Of how many of them the kernel does not tell us what they have for themselves.
    unknown_count: usize,
    private_dirty: u64,
    pss: u64,
    processes: Vec<Row>,
}

/// One process. Memory in kilobytes.
#[derive(Debug, Serialize)]
struct Row {
    pid: i32,
    ppid: i32,
    vmsize: u64,
    role: &'static str,
    /// The app that it belongs to, if it does.
    app: Option<String>,
    name: String,
    #[serde(flatten)]
    usage: Usage,
}

impl Table {
    fn of(rows: Vec<Row>) -> Self {
        let sum =
            |of: fn(&Usage) -> Option<u64>| rows.iter().filter_map(|row| of(&row.usage)).sum();
        Self {
            process_count: rows.len(),
            unknown_count: rows
                .iter()
                .filter(|row| row.usage.private_dirty.is_none())
                .count(),
            private_dirty: sum(|usage| usage.private_dirty),
            pss: sum(|usage| usage.pss),
            processes: rows,
        }
    }
}

/// The tool.
pub(super) fn memory_stats(arguments: &MemoryArguments) -> Outcome {
    let instances = match &arguments.instance {
        Some(prefix) => vec![registry::choose(Some(prefix))?],
        None => registry::all(),
    };
    if instances.is_empty() {
        return Err(Failure::absent(registry::nothing()));
    }
    let reports = instances.iter().map(client::status);
    let reports: Vec<Report> = reports.collect::<Result<_, _>>()?;
    let shown = sort_out(&reports, &ProcessTable::read(), &Usage::of);
    if arguments.json {
        let text = serde_json::to_string_pretty(&shown)
            .map_err(|e| Failure::unable(format!("cannot write the report: {e}")))?;
        say(&format!("{text}\n"))?;
    } else {
        let version = env!("CARGO_PKG_VERSION");
        let header = format!("Version: {version}\nDate   : {}\n\n", LocalTime::now());
        say(&(header + &render(&shown, !arguments.no_apache)))?;
    }
    Ok(0)
}

/// Who is what. `measure` asks the kernel; what it does not tell us the instance may have told.
fn sort_out(
    reports: &[Report],
    table: &ProcessTable,
    measure: &dyn Fn(i32) -> Usage,
) -> MemoryReport {
    let mut seen = BTreeSet::new();
    let mut row = |pid: i32, role, app: Option<&str>, told: Usage| -> Option<Row> {
        let entry = table.get(pid)?;
        // Two instances may be those of one httpd.
        seen.insert(pid).then(|| Row {
            pid,
            ppid: entry.parent,
            vmsize: entry.virtual_size,
            role,
            app: app.map(str::to_owned),
            name: entry.name.clone(),
            usage: better(measure(pid), told),
        })
    };
    let (mut apache, mut passenger, mut apps) = (Vec::new(), Vec::new(), Vec::new());
    for report in reports {
        let (watchdog, agent) = (report.instance.watchdog_pid, report.agent.pid);
        passenger.extend(row(watchdog, "watchdog", None, Usage::default()));
        passenger.extend(agent.and_then(|pid| row(pid, "helper agent", None, Usage::default())));
        let of_the_apps = known(&report.groups);
        for group in &report.groups {
            if let Some(preloader) = &group.preloader {
                passenger.extend(row(
                    preloader.pid,
                    "preloader",
                    Some(&group.name),
                    preloader.usage,
                ));
            }
            for process in &group.processes {
                let name = Some(group.name.as_str());
                apps.extend(row(process.pid, "app process", name, process.usage));
                let is_other = |pid: i32| of_the_apps.contains(&pid);
                for pid in table.with_descendants(&[process.pid], is_other) {
                    apps.extend(row(
                        pid,
                        "started by an app process",
                        name,
                        Usage::default(),
                    ));
                }
            }
        }
        let keepers = [watchdog, agent.unwrap_or(watchdog)];
        let owner = table.get(watchdog).map(|entry| entry.uid);
        for (pid, entry) in table.children_of(&keepers) {
            // Apps' processes are their children, too, also those of others that we are not told of.
            if Some(entry.uid) == owner && entry.short_name.starts_with("passenger-") {
                passenger.extend(row(pid, "helper", None, Usage::default()));
            }
        }
        let server = report.instance.server_pid;
        apache.extend(row(server, "httpd", None, Usage::default()));
        for pid in table.with_descendants(&[server], |pid| keepers.contains(&pid)) {
            apache.extend(row(pid, "started by httpd", None, Usage::default()));
        }
    }
    MemoryReport {
        format: FORMAT,
        instances: reports
            .iter()
            .map(|report| report.instance.name.clone())
            .collect(),
        own_apps_only: reports.iter().any(|report| report.own_apps_only),
        apache: Table::of(apache),
        passenger: Table::of(passenger),
        apps: Table::of(apps),
    }
}

/// Every process that a record of the instance names.
fn known(groups: &[GroupReport]) -> BTreeSet<i32> {
    let preloaders = groups
        .iter()
        .filter_map(|g| g.preloader.as_ref())
        .map(|p| p.pid);
    let processes = groups.iter().flat_map(|g| &g.processes).map(|p| p.pid);
    preloaders.chain(processes).collect()
}

/// What we were shown ourselves, filled up with what the instance was.
fn better(own: Usage, told: Usage) -> Usage {
    if own.private_dirty.is_some() {
        own
    } else if told.private_dirty.is_some() {
        told
    } else {
        own
    }
}

fn render(shown: &MemoryReport, with_apache: bool) -> String {
    let mut text = String::new();
    if with_apache {
        one_table("Apache processes", &shown.apache, &mut text);
    }
    one_table("Passenger processes", &shown.passenger, &mut text);
    one_table("App processes", &shown.apps, &mut text);
    let tables = [&shown.apache, &shown.passenger, &shown.apps];
    let unknown: usize = tables.iter().map(|table| table.unknown_count).sum();
    // Writing to a String cannot fail, here and below.
    if unknown > 0 {
        let _ = writeln!(
            text,
            "(?) The memory of {unknown} process(es) is not known: they belong to others, or have just ended. Root sees it."
        );
    }
    if shown.own_apps_only {
        text += "Only your apps are shown; root sees those of others.\n";
    }
    text
}

fn one_table(title: &str, table: &Table, text: &mut String) {
    let _ = writeln!(text, "---------- {title} ----------");
    let _ = writeln!(
        text,
        "{:<7}  {:<7}  {:>10}  {:>10}  {:>10}  Name",
        "PID", "PPID", "VMSize", "Private", "PSS"
    );
    for row in &table.processes {
        let (own, shared) = (megabytes(row.usage.private_dirty), megabytes(row.usage.pss));
        let name = match (&row.app, row.role) {
            (Some(app), "preloader") => format!("{} (preloader of {app})", row.name),
            _ => row.name.clone(),
        };
        let _ = writeln!(
            text,
            "{:<7}  {:<7}  {:>10}  {own:>10}  {shared:>10}  {}",
            row.pid,
            row.ppid,
            megabytes(Some(row.vmsize)),
            status_text::tame(&name)
        );
    }
    let doubt = if table.unknown_count > 0 { " (?)" } else { "" };
    let sum = |kilobytes| megabytes(Some(kilobytes));
    let _ = writeln!(text, "### Processes: {}", table.process_count);
    let _ = writeln!(
        text,
        "### Total private dirty RSS: {}{doubt}",
        sum(table.private_dirty)
    );
    let _ = writeln!(text, "### Total PSS: {}{doubt}\n", sum(table.pss));
}

/// In hundredths, without a fraction's rounding errors.
fn megabytes(kilobytes: Option<u64>) -> String {
    kilobytes.map_or_else(
        || "?".to_owned(),
        |kb| format!("{}.{:02} MB", kb / 1_024, kb % 1_024 * 100 / 1_024),
    )
}

#[cfg(test)]
mod tests {
    use super::super::process_table::Entry;
    use super::*;
    use crate::status::report::{AgentReport, InstanceReport, PreloaderReport, ProcessReport};

    /// httpd 10 with workers 11 and 12, watchdog 20, agent 21, log writer 22, preloader 30, apps 31 (adopted, so a
    /// child of the watchdog) and 32 with a child 33, and 40 of somebody who is not told of.
    fn table() -> ProcessTable {
        let entry = |parent, uid, short_name: &str| Entry {
            parent,
            uid,
            virtual_size: 2_048,
            short_name: short_name.to_owned(),
            name: format!("/bin/{short_name}"),
        };
        let entries = [
            (10, entry(1, 0, "apache2")),
            (11, entry(10, 33, "apache2")),
            (12, entry(10, 33, "apache2")),
            (20, entry(10, 0, "passenger-watch")),
            (21, entry(20, 0, "passenger-agent")),
            (22, entry(20, 0, "passenger-logs")),
            (30, entry(21, 1_000, "ruby")),
            (31, entry(20, 1_000, "ruby")),
            (32, entry(30, 1_000, "ruby")),
            (33, entry(32, 1_000, "convert\u{1b}[2J")),
            (40, entry(21, 2_000, "passenger-agent")),
            (50, entry(1, 0, "passenger-agent")),
        ];
        entries.into_iter().collect()
    }

    fn report() -> Report {
        let process = |pid| ProcessReport {
            pid,
            ..ProcessReport::default()
        };
        let group = GroupReport {
            name: "shop".into(),
            preloader: Some(PreloaderReport {
                pid: 30,
                ..PreloaderReport::default()
            }),
            processes: vec![process(0), process(31), process(32)],
            ..GroupReport::default()
        };
        Report {
            instance: InstanceReport {
                name: "abc".into(),
                server_pid: 10,
                watchdog_pid: 20,
                ..InstanceReport::default()
            },
            agent: AgentReport {
                pid: Some(21),
                ..AgentReport::default()
            },
            groups: vec![group],
            ..Report::default()
        }
    }

    fn measured(kilobytes: u64) -> Usage {
        Usage {
            private_dirty: Some(kilobytes),
            pss: Some(kilobytes * 2),
            ..Usage::default()
        }
    }

    fn pids(table: &Table) -> Vec<i32> {
        table.processes.iter().map(|row| row.pid).collect()
    }

    #[test]
    fn everybody_is_in_one_table_once_also_when_two_instances_have_one_httpd() {
        let reports = [report(), report()];
        let shown = sort_out(&reports, &table(), &|_| measured(512));
        assert_eq!(pids(&shown.apache), [10, 11, 12]);
        assert_eq!(pids(&shown.passenger), [20, 21, 30, 22]);
        assert_eq!(pids(&shown.apps), [31, 32, 33]);
        assert_eq!(
            (shown.apps.process_count, shown.apps.private_dirty),
            (3, 1_536)
        );
        assert_eq!(shown.apps.pss, 3_072);
    }

    #[test]
    fn what_is_not_told_is_marked_and_what_the_instance_told_is_used() {
        let mut told = report();
        told.own_apps_only = true;
        told.groups[0].processes[1].usage = measured(1_024);
        let shown = sort_out(&[told], &table(), &|_| Usage::default());
        assert_eq!(
            (shown.apps.private_dirty, shown.apps.unknown_count),
            (1_024, 2)
        );
        let text = render(&shown, true);
        for line in [
            "---------- Apache processes ----------\n",
            "31       20          2.00 MB     1.00 MB     2.00 MB  /bin/ruby\n",
            "32       30          2.00 MB           ?           ?  /bin/ruby\n",
            "/bin/ruby (preloader of shop)\n",
            "/bin/convert\u{fffd}[2J\n",
            "### Processes: 3\n### Total private dirty RSS: 1.00 MB (?)\n### Total PSS: 2.00 MB (?)\n",
            "The memory of 9 process(es) is not known",
            "Only your apps are shown",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert!(!render(&shown, false).contains("Apache"));
    }
}
