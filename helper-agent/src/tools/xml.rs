//! A report as the XML that exporters and plugins for the original read: the same elements where there is the same, none
//! where there is not.

use std::fmt::{Display, Write as _};

use super::process_table::ProcessTable;
use super::seconds_now;
use super::status_text::{duration, tame};
use crate::status::report::{Enabled, GroupReport, ProcessReport, Report};

const MICROSECONDS: u64 = 1_000_000;

/// What the report does not say.
#[derive(Debug)]
pub(super) struct Around {
    processes: ProcessTable,
    /// In seconds since 1970.
    now: u64,
}

impl Around {
    /// As it is now.
    pub(super) fn now() -> Self {
        Self {
            processes: ProcessTable::read(),
            now: seconds_now(),
        }
    }
}

/// A document that is being written.
#[derive(Debug, Default)]
struct Xml {
    text: String,
    depth: usize,
}

impl Xml {
    /// An element with others in it.
    fn nest(&mut self, name: &str, attributes: &str, fill: impl FnOnce(&mut Self)) {
        self.line(&format!("<{name}{attributes}>"));
        self.depth += 1;
        fill(self);
        self.depth -= 1;
        self.line(&format!("</{name}>"));
    }

    /// An element with a text in it.
    fn leaf(&mut self, name: &str, text: &dyn Display) {
        let text = escaped(&text.to_string());
        self.line(&format!("<{name}>{text}</{name}>"));
    }

    /// The same, where there is a text.
    fn maybe(&mut self, name: &str, text: Option<impl Display>) {
        if let Some(text) = text {
            self.leaf(name, &text);
        }
    }

    fn line(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:1$}{text}", "", self.depth * 2);
    }
}

/// Apps choose their names, and two characters that are no control characters may not be in XML at all.
fn escaped(text: &str) -> String {
    let text = tame(text).replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// The whole document.
pub(super) fn render(report: &Report, around: &Around) -> String {
    let mut xml = Xml::default();
    xml.line("<?xml version=\"1.0\" encoding=\"utf-8\"?>");
    xml.nest("info", " version=\"3\"", |xml| {
        xml.leaf("passenger_version", &&report.instance.passenger_version);
        xml.leaf("group_count", &report.groups.len());
        xml.leaf(
            "process_count",
            &report
                .groups
                .iter()
                .map(|g| shown(g).count())
                .sum::<usize>(),
        );
        xml.leaf("max", &report.max);
        xml.leaf("capacity_used", &report.capacity_used);
        // Every request waits in the queue of its app.
        xml.leaf("get_wait_list_size", &0);
        xml.nest("supergroups", "", |xml| {
            for group in &report.groups {
                xml.nest("supergroup", "", |xml| {
                    xml.leaf("name", &&group.name);
                    xml.leaf("state", &"READY");
                    xml.leaf("get_wait_list_size", &0);
                    xml.leaf("capacity_used", &group.processes.len());
                    xml.nest("group", " default=\"true\"", |xml| {
                        one_group(xml, group, around);
                    });
                });
            }
        });
    });
    xml.text
}

/// The original does not know processes that have not started yet.
fn shown(group: &GroupReport) -> impl Iterator<Item = &ProcessReport> {
    group
        .processes
        .iter()
        .filter(|p| p.enabled != Enabled::Starting)
}

fn one_group(xml: &mut Xml, group: &GroupReport, around: &Around) {
    xml.leaf("name", &&group.name);
    xml.leaf("component_name", &"default");
    what_it_is(xml, group);
    xml.leaf("enabled_process_count", &group.enabled_process_count);
    xml.leaf("disabling_process_count", &group.disabling_process_count);
    xml.leaf("disabled_process_count", &0);
    xml.leaf("capacity_used", &group.processes.len());
    xml.leaf("get_wait_list_size", &group.get_wait_list_size);
    xml.leaf("disable_wait_list_size", &0);
    xml.leaf("processes_being_spawned", &group.processes_being_spawned);
    if group.processes_being_spawned > 0 {
        xml.line("<spawning/>");
    }
    if group.restarting {
        xml.line("<restarting/>");
    }
    xml.leaf("life_status", &"ALIVE");
    xml.leaf("user", &&group.user);
    xml.maybe("uid", group.uid);
    xml.nest("options", "", |xml| {
        xml.leaf("app_group_name", &&group.name);
        what_it_is(xml, group);
        xml.leaf("base_uri", &&group.base_uri);
    });
    xml.nest("processes", "", |xml| {
        for process in shown(group) {
            xml.nest("process", "", |xml| one_process(xml, process, around));
        }
    });
}

fn what_it_is(xml: &mut Xml, group: &GroupReport) {
    xml.leaf("app_root", &&group.app_root);
    xml.leaf("app_type", &&group.app_type);
    xml.leaf("environment", &&group.environment);
}

fn one_process(xml: &mut Xml, process: &ProcessReport, around: &Around) {
    let ready_at = around.now.saturating_sub(process.uptime_seconds) * MICROSECONDS;
    let began_at = ready_at.saturating_sub(process.spawn_ms * 1_000);
    let last_used = match process.last_used {
        0 => ready_at / MICROSECONDS,
        at => at,
    };
    xml.leaf("pid", &process.pid);
    xml.leaf("gupid", &&process.gupid);
    xml.leaf("concurrency", &process.concurrency);
    xml.leaf("sessions", &process.sessions);
    xml.leaf("busyness", &busyness(process));
    xml.leaf("processed", &process.processed);
    xml.leaf("spawner_creation_time", &began_at);
    xml.leaf("spawn_start_time", &began_at);
    xml.leaf("spawn_end_time", &ready_at);
    xml.leaf("last_used", &(last_used * MICROSECONDS));
    xml.leaf(
        "last_used_desc",
        &format!("{} ago", duration(around.now.saturating_sub(last_used))),
    );
    xml.leaf("uptime", &duration(process.uptime_seconds));
    let (life, enabled) = match process.enabled {
        Enabled::Disabling => ("SHUTDOWN_TRIGGERED", "DISABLING"),
        Enabled::Starting | Enabled::Enabled => ("ALIVE", "ENABLED"),
    };
    xml.leaf("life_status", &life);
    xml.leaf("enabled", &enabled);
    let usage = &process.usage;
    if usage.rss.is_some() {
        xml.leaf("has_metrics", &"true");
    }
    xml.maybe("cpu", usage.cpu);
    xml.maybe("rss", usage.rss);
    xml.maybe("pss", usage.pss);
    xml.maybe("private_dirty", usage.private_dirty);
    xml.maybe("swap", usage.swap);
    let real = usage
        .private_dirty
        .map(|dirty| dirty + usage.swap.unwrap_or(0));
    xml.maybe("real_memory", real);
    if let Some(entry) = around.processes.get(process.pid) {
        xml.leaf("vmsize", &entry.virtual_size);
        xml.leaf("process_group_id", &process.pid);
        xml.leaf("command", &&entry.name);
    }
}

/// From 0 to the greatest number, for those that take only so many requests.
fn busyness(process: &ProcessReport) -> u64 {
    let sessions = u64::from(process.sessions);
    match u64::from(process.concurrency) {
        0 => sessions,
        most => sessions * u64::from(i32::MAX.unsigned_abs()) / most,
    }
}

#[cfg(test)]
mod tests {
    use super::super::process_table::Entry;
    use super::*;
    use crate::status::usage::Usage;

    fn around() -> Around {
        let entry = Entry {
            virtual_size: 4_096,
            name: "ruby a<b".into(),
            ..Entry::default()
        };
        Around {
            processes: [(7, entry)].into_iter().collect(),
            now: 1_000,
        }
    }

    fn report() -> Report {
        let process = ProcessReport {
            pid: 7,
            enabled: Enabled::Enabled,
            concurrency: 2,
            sessions: 1,
            uptime_seconds: 62,
            spawn_ms: 1_500,
            usage: Usage {
                rss: Some(40),
                private_dirty: Some(10),
                swap: Some(5),
                ..Usage::default()
            },
            ..ProcessReport::default()
        };
        let starting = ProcessReport::default();
        let group = GroupReport {
            name: "R&D".into(),
            uid: Some(33),
            processes_being_spawned: 1,
            processes: vec![process, starting],
            ..GroupReport::default()
        };
        Report {
            max: 6,
            capacity_used: 2,
            groups: vec![group],
            ..Report::default()
        }
    }

    #[test]
    fn the_elements_that_exporters_read() {
        let text = render(&report(), &around());
        for line in [
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<info version=\"3\">\n",
            "  <process_count>1</process_count>\n  <max>6</max>\n  <capacity_used>2</capacity_used>\n",
            "      <group default=\"true\">\n        <name>R&amp;D</name>\n",
            "<processes_being_spawned>1</processes_being_spawned>\n        <spawning/>\n",
            "<uid>33</uid>",
            "<spawn_start_time>936500000</spawn_start_time>",
            "<spawn_end_time>938000000</spawn_end_time>",
            "<busyness>1073741823</busyness>",
            "<last_used_desc>1m 2s ago</last_used_desc>",
            "<uptime>1m 2s</uptime>",
            "<has_metrics>true</has_metrics>",
            "<real_memory>15</real_memory>",
            "<vmsize>4096</vmsize>",
            "<command>ruby a&lt;b</command>",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert_eq!(text.matches("<process>").count(), 1, "{text}");
        assert!(!text.contains("<cpu>"), "not known, so not told: {text}");
    }

    #[test]
    fn what_is_opened_is_closed() {
        let text = render(&report(), &around());
        let mut open = Vec::new();
        for tag in text
            .split('<')
            .skip(2)
            .filter_map(|part| part.split('>').next())
        {
            let name = tag.split(' ').next().unwrap_or_default();
            if let Some(closed) = name.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed), "{text}");
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?} in {text}");
    }
}
