//! From tables and board to the report of one viewer. Pure, but for what the caller lets it ask.

use std::collections::HashMap;

use passenger_shm::{GroupSnapshot, Load, ProcessSnapshot, ProcessState, Snapshot};

use super::board::{GroupNote, Notes, PreloaderNote, ProcessNote};
use super::report::{
    AgentReport, Enabled, GroupReport, InstanceReport, PreloaderReport, ProcessReport, Report,
};
use super::usage::Usage;
use super::viewer::Viewer;

/// Version of the report's meaning.
const FORMAT: u32 = 1;

/// What the report is made from besides tables and board.
pub struct Sources<'a> {
    /// Who looks.
    pub viewer: Viewer,
    /// The instance.
    pub instance: InstanceReport,
    /// The agent, as the watchdog sees it.
    pub agent: AgentReport,
    /// Now, in milliseconds of `CLOCK_MONOTONIC`.
    pub now_ms: u64,
    /// What a process costs.
    pub usage: &'a dyn Fn(i32) -> Usage,
}

/// Writes the report.
#[must_use]
pub fn compose(snapshot: &Snapshot, notes: &Notes, sources: Sources<'_>) -> Report {
    let known: HashMap<(u32, u32), &ProcessNote> = notes
        .processes
        .iter()
        .map(|note| ((note.slot, note.generation), note))
        .collect();
    let mut report = Report {
        format: FORMAT,
        own_apps_only: sources.viewer != Viewer::All,
        max: notes.max_pool_size,
        ..Report::default()
    };
    for entry in &snapshot.groups {
        let note = notes.groups.iter().find(|note| {
            (note.index, note.generation) == (entry.group.index(), entry.group.generation())
        });
        let unknown = GroupNote::default();
        let note = note.unwrap_or(&unknown);
        if !sources.viewer.may_see(note.facts.uid) {
            continue;
        }
        let mut group = from_note(note);
        if sources.agent.pid == Some(notes.agent_pid) {
            group.preloader = note
                .preloader
                .as_ref()
                .map(|note| preloader(note, &sources));
        }
        group.get_wait_list_size = entry.waiting.unwrap_or(0);
        group.oldest_wait_ms = entry.oldest_ms.unwrap_or(0);
        let waited = entry.waited.unwrap_or_default();
        group.waited_requests = waited.requests;
        group.waited_ms = waited.total_ms;
        group.longest_wait_ms = waited.longest_ms;
        group.max_request_queue_size = entry.params.queue_limit;
        group.code_generation = entry.params.code_generation;
        group.failed_starts_total = entry.spawn_failures;
        group.starts_total = note.tally.starts;
        group.crashes_total = note.tally.crashes;
        group.requests_total =
            note.tally.requests_of_ended + of_the_living(entry, snapshot, &known);
        for (process, load) in &snapshot.processes {
            let is_shown = process.state == ProcessState::Starting
                || sources.viewer.may_see(Some(process.uid));
            if process.group != entry.group || process.state == ProcessState::Dead || !is_shown {
                continue;
            }
            let name = (process.process.slot(), process.process.generation());
            let note = known.get(&name).copied();
            let shown = one_process(process, load.unwrap_or_default(), note, &sources);
            count(&mut group, &shown);
            group.processes.push(shown);
        }
        group.memory_saved = memory_saved(&group);
        report.get_wait_list_size += group.get_wait_list_size;
        report.process_count += group.enabled_process_count;
        report.capacity_used += u32::try_from(group.processes.len()).unwrap_or(u32::MAX);
        report.groups.push(group);
    }
    report.groups.sort_by(|a, b| a.name.cmp(&b.name));
    report.group_count = u32::try_from(report.groups.len()).unwrap_or(u32::MAX);
    report.instance = sources.instance;
    report.agent = sources.agent;
    report
}

/// Requests of the processes that the group's tally does not count yet. The tables must have been read before the notes:
/// then one that has just ended is in either, and in no case in both.
fn of_the_living(
    group: &GroupSnapshot,
    snapshot: &Snapshot,
    known: &HashMap<(u32, u32), &ProcessNote>,
) -> u64 {
    let of_it = snapshot
        .processes
        .iter()
        .filter(|(process, _)| process.group == group.group);
    let takes = of_it.filter_map(|(process, load)| {
        let note = known.get(&(process.process.slot(), process.process.generation()))?;
        let takes = load.unwrap_or_default().takes;
        note.counts.then(|| takes.saturating_sub(note.takes_before))
    });
    takes.sum()
}

fn preloader(note: &PreloaderNote, sources: &Sources<'_>) -> PreloaderReport {
    PreloaderReport {
        pid: note.pid,
        is_loading: note.is_loading,
        forks: note.forks,
        usage: (sources.usage)(note.pid),
    }
}

/// The kernel counts a page that several have in full in the resident memory of each, and in parts that add up to
/// one page in their proportional memory.
fn memory_saved(group: &GroupReport) -> Option<u64> {
    let forked = group
        .processes
        .iter()
        .filter(|process| process.forked_by != 0);
    let preloader = group.preloader.iter().map(|preloader| &preloader.usage);
    let sharing = forked.map(|process| &process.usage).chain(preloader);
    let saved: Vec<u64> = sharing
        .filter_map(|usage| Some(usage.rss?.saturating_sub(usage.pss?)))
        .collect();
    (!saved.is_empty()).then(|| saved.iter().sum())
}

fn from_note(note: &GroupNote) -> GroupReport {
    let facts = note.facts.clone();
    let name = if note.name.is_empty() {
        // The agent has made it this moment, or died before it could say more.
        "(an app that has just been found)".to_owned()
    } else {
        note.name.clone()
    };
    GroupReport {
        name,
        app_root: facts.app_root,
        app_type: facts.app_type,
        environment: facts.environment,
        base_uri: facts.base_uri,
        user: facts.user,
        uid: facts.uid,
        resisting_deployment_error: note.is_resisting,
        failed_starts: note.failed_starts,
        last_failure: note.last_failure.clone(),
        last_crash: note.last_crash.clone(),
        ..GroupReport::default()
    }
}

fn one_process(
    process: &ProcessSnapshot,
    load: Load,
    note: Option<&ProcessNote>,
    sources: &Sources<'_>,
) -> ProcessReport {
    let enabled = match process.state {
        ProcessState::Starting => Enabled::Starting,
        ProcessState::Live => Enabled::Enabled,
        ProcessState::Draining | ProcessState::Dead | ProcessState::Away => Enabled::Disabling,
    };
    let pid = match (process.pid, note) {
        (0, Some(note)) => note.pid,
        (pid, _) => pid,
    };
    let sessions = load.held.saturating_add(load.granted);
    let in_work = u64::from(sessions) + u64::from(load.orphans);
    let processed = note.map_or(0, |note| {
        load.takes.saturating_sub(note.takes_before + in_work)
    });
    let uptime_ms = match process.started_ms {
        0 => 0,
        started => sources.now_ms.saturating_sub(started),
    };
    ProcessReport {
        pid,
        gupid: process.process.to_string(),
        enabled,
        uid: process.uid,
        concurrency: process.concurrency,
        sessions,
        orphans: load.orphans,
        streams: load.streams,
        processed,
        uptime_seconds: uptime_ms / 1_000,
        spawn_ms: note.map_or(0, |note| note.spawn_ms),
        last_used: note.map_or(0, |note| note.last_used),
        code_generation: process.code_generation,
        forked_by: note.map_or(0, |note| note.forked_by),
        usage: if pid > 0 {
            (sources.usage)(pid)
        } else {
            Usage::default()
        },
    }
}

fn count(group: &mut GroupReport, process: &ProcessReport) {
    match process.enabled {
        Enabled::Starting => group.processes_being_spawned += 1,
        Enabled::Enabled => {
            group.enabled_process_count += 1;
            let is_old = process.code_generation != group.code_generation;
            group.restarting |= is_old && !group.resisting_deployment_error;
        }
        Enabled::Disabling => group.disabling_process_count += 1,
    }
}

#[cfg(test)]
mod tests {
    use passenger_shm::{Capacities, GroupParams, GroupRef, ProcessRef, Protocol};

    use super::super::board::GroupFacts;
    use super::*;

    fn group(index: u32, queue: u32) -> passenger_shm::GroupSnapshot {
        passenger_shm::GroupSnapshot {
            group: GroupRef::new(index, 2),
            params: GroupParams {
                queue_limit: 100,
                queue_time_ms: 0,
                code_generation: 3,
                code_wait_ms: 0,
                restart_mark: 1,
            },
            spawn_failures: 0,
            waiting: Some(queue),
            oldest_ms: Some(7),
            waited: Some(passenger_shm::Waited {
                requests: 4,
                total_ms: 900,
                longest_ms: 500,
            }),
        }
    }

    fn process(slot: u32, group: u32, uid: u32, state: ProcessState) -> ProcessSnapshot {
        ProcessSnapshot {
            process: ProcessRef::new(slot, 1),
            group: GroupRef::new(group, 2),
            state,
            pid: 100 + i32::try_from(slot).unwrap(),
            uid,
            concurrency: 1,
            protocol: Protocol::Binary,
            code_generation: 2,
            started_ms: 5_000,
            port: 0,
        }
    }

    fn tables() -> (Snapshot, Notes) {
        let note = |index: u32, name: &str, uid: u32| GroupNote {
            index,
            generation: 2,
            name: name.into(),
            facts: GroupFacts {
                uid: Some(uid),
                ..GroupFacts::default()
            },
            ..GroupNote::default()
        };
        let load = Load {
            held: 1,
            granted: 0,
            orphans: 1,
            streams: 2,
            takes: 50,
        };
        let snapshot = Snapshot {
            capacities: Capacities::for_httpd(1, 1, 1),
            config_generation: 1,
            heartbeat: 1,
            is_superseded: false,
            groups: vec![group(0, 3), group(1, 0)],
            processes: vec![
                (process(0, 0, 1000, ProcessState::Live), Some(load)),
                (process(1, 1, 1001, ProcessState::Live), Some(load)),
                (process(2, 0, 1000, ProcessState::Dead), None),
                (process(3, 0, 1000, ProcessState::Draining), None),
            ],
        };
        let notes = Notes {
            max_pool_size: 6,
            groups: vec![note(0, "alice", 1000), note(1, "bob", 1001)],
            processes: vec![ProcessNote {
                slot: 0,
                generation: 1,
                takes_before: 40,
                counts: true,
                ..ProcessNote::default()
            }],
            ..Notes::default()
        };
        (snapshot, notes)
    }

    fn seen_by(viewer: Viewer) -> Report {
        let (snapshot, notes) = tables();
        let sources = Sources {
            viewer,
            instance: InstanceReport::default(),
            agent: AgentReport::default(),
            now_ms: 8_500,
            usage: &|_| Usage::default(),
        };
        compose(&snapshot, &notes, sources)
    }

    #[test]
    fn root_sees_everything_and_an_owner_only_his_own() {
        let all = seen_by(Viewer::of(0, 0));
        let names: Vec<&str> = all.groups.iter().map(|g| g.name.as_str()).collect();
        assert_eq!(names, ["alice", "bob"]);
        assert!(!all.own_apps_only);
        let alices = seen_by(Viewer::of(1000, 0));
        assert_eq!(alices.groups, all.groups[..1]);
        assert!(alices.own_apps_only);
        assert_eq!((alices.group_count, alices.process_count), (1, 1));
        assert_eq!(seen_by(Viewer::of(4711, 0)).groups, []);
        assert_eq!(
            Viewer::of(4711, 4711),
            Viewer::All,
            "an instance without root"
        );
        assert!(!Viewer::Owner(0).may_see(None));
    }

    #[test]
    fn numbers_come_from_the_tables_and_count_what_is_done() {
        let report = seen_by(Viewer::All);
        let alice = &report.groups[0];
        assert_eq!((alice.get_wait_list_size, alice.oldest_wait_ms), (3, 7));
        let waited = (
            alice.waited_requests,
            alice.waited_ms,
            alice.longest_wait_ms,
        );
        assert_eq!(waited, (4, 900, 500));
        assert_eq!(alice.processes.len(), 2, "the dead one is not shown");
        assert_eq!(alice.disabling_process_count, 1);
        assert!(alice.restarting, "a process of old code takes requests");
        let process = &alice.processes[0];
        assert_eq!(
            (process.sessions, process.orphans, process.streams),
            (1, 1, 2)
        );
        assert_eq!(process.processed, 8, "50 taken, 40 before it, 2 in work");
        assert_eq!(process.uptime_seconds, 3);
        assert_eq!(report.capacity_used, 3);
    }

    #[test]
    fn a_process_that_ends_goes_from_its_own_count_to_the_tally() {
        let (mut snapshot, mut notes) = tables();
        let mut total = |notes: &Notes| {
            let sources = Sources {
                viewer: Viewer::All,
                instance: InstanceReport::default(),
                agent: AgentReport::default(),
                now_ms: 0,
                usage: &|_| Usage::default(),
            };
            snapshot.processes[0].0.state = ProcessState::Dead;
            compose(&snapshot, notes, sources).groups[0].requests_total
        };
        notes.groups[0].tally.requests_of_ended = 100;
        assert_eq!(total(&notes), 110, "dead, and not counted yet");
        notes.groups[0].tally.requests_of_ended = 110;
        notes.processes[0].counts = false;
        assert_eq!(total(&notes), 110);
        notes.processes.clear();
        assert_eq!(total(&notes), 110);
    }

    #[test]
    fn what_sharing_saves_is_what_is_counted_more_than_once() {
        let (snapshot, mut notes) = tables();
        notes.agent_pid = 7;
        notes.processes[0].forked_by = 77;
        notes.groups[0].preloader = Some(PreloaderNote {
            pid: 77,
            is_loading: false,
            forks: 1,
        });
        let saved = |agent_pid| {
            let sources = Sources {
                viewer: Viewer::All,
                instance: InstanceReport::default(),
                agent: AgentReport {
                    pid: agent_pid,
                    ..AgentReport::default()
                },
                now_ms: 0,
                usage: &|pid| Usage {
                    rss: Some(1_000),
                    pss: Some(if pid == 77 { 550 } else { 600 }),
                    ..Usage::default()
                },
            };
            let report = compose(&snapshot, &notes, sources);
            let saved = report.groups.iter().map(|group| group.memory_saved);
            let preloader = report.groups[0].preloader.as_ref().map(|p| p.pid);
            (preloader, saved.collect::<Vec<_>>())
        };
        // Bob's process has loaded the app itself, and so has Alice's second.
        assert_eq!(saved(Some(7)), (Some(77), vec![Some(850), None]));
        // That agent is dead, and its preloader with it.
        assert_eq!(saved(Some(8)), (None, vec![Some(400), None]));
    }

    #[test]
    fn a_group_without_a_note_is_shown_to_root_alone() {
        let (snapshot, _) = tables();
        let sources = |viewer| Sources {
            viewer,
            instance: InstanceReport::default(),
            agent: AgentReport::default(),
            now_ms: 0,
            usage: &|_| Usage::default(),
        };
        let notes = Notes::default();
        let root = compose(&snapshot, &notes, sources(Viewer::All));
        assert_eq!(root.group_count, 2);
        let owner = compose(&snapshot, &notes, sources(Viewer::Owner(1000)));
        assert_eq!(owner.group_count, 0);
    }
}
