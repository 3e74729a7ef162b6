//! Taking over what an earlier agent left: groups from `routes`, processes from `routes` and the store. What
//! serves goes on serving; what was only starting is ended, because nobody knows what it was told.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use passenger_shm::{GroupParams, GroupRef, ProcessRef, ProcessSnapshot, ProcessState};

use super::core::Agent;
use super::groups::Group;
use super::processes::{Phase, Process};
use super::restarts::RestartLook;
use super::sockets;
use super::start::StoredProcess;
use crate::config::Definition;
use crate::pool::{CodeWait, Event, GroupId, GroupLimits, ProcessId};
use crate::status::board::{GroupNote, ProcessNote};

impl Agent {
    pub(super) fn adopt(&mut self, stored: Vec<StoredProcess>) {
        self.view.adopt();
        let former = self.board.former();
        // Minimums only count when all processes are known, or new ones would be started at once.
        let mut limits = Vec::new();
        for (reference, params, definition) in self.view.groups() {
            match Definition::decode(&definition) {
                Ok(definition) => limits.push(self.adopt_group(
                    reference,
                    params,
                    definition,
                    former.groups.get(&reference),
                )),
                Err(e) => {
                    log::error!("[BUG] {reference} cannot be adopted: {e}");
                    self.view.remove_group(reference);
                }
            }
        }
        let mut found: HashMap<ProcessRef, ProcessSnapshot> = self
            .view
            .processes()
            .into_iter()
            .map(|s| (s.process, s))
            .collect();
        let served: Vec<ProcessRef> = stored
            .iter()
            .map(|process| process.reference)
            .filter(|reference| found.get(reference).is_some_and(serves))
            .collect();
        for path in sockets::remove_others(&self.instance_dir, &served) {
            log::debug!("removed {}, of a process that ended", path.display());
        }
        for process in stored {
            let snapshot = found.remove(&process.reference);
            let note = former.processes.get(&process.reference);
            self.adopt_process(process, snapshot.as_ref(), note);
        }
        self.say_what_was_adopted();
        for snapshot in found.into_values() {
            if snapshot.pid == 0 {
                log::info!("a process that was being started ended with the agent that did it");
            } else {
                log::warn!(
                    "app process {} ({}) is not in the store and not used any more",
                    snapshot.pid,
                    snapshot.process
                );
            }
            self.view.dead(snapshot.process);
            let note = former.processes.get(&snapshot.process);
            self.count_ended(&snapshot, note.filter(|note| note.counts));
            self.view.free_process(snapshot.process);
        }
        for event in limits {
            self.tell(event);
        }
    }

    /// The agent before died between the end of that process and its note.
    fn count_ended(&mut self, snapshot: &ProcessSnapshot, note: Option<&ProcessNote>) {
        let group = self.groups.by_reference(snapshot.group);
        let group = group.and_then(|id| self.groups.get_mut(id));
        if let (Some(group), Some(note)) = (group, note) {
            let takes = self.view.load(snapshot.process).takes;
            group.tally.requests_of_ended += takes.saturating_sub(note.takes_before);
        }
    }

    /// One line for each app: which of its processes go on as if nothing had happened.
    fn say_what_was_adopted(&self) {
        let mut adopted: BTreeMap<GroupId, Vec<String>> = BTreeMap::new();
        for (_, process) in self.processes.iter().filter(|(_, p)| p.is_serving()) {
            let of_group = adopted.entry(process.group).or_default();
            of_group.push(process.pid().to_string());
        }
        for (group, pids) in adopted {
            let group = self.groups.get(group);
            log::info!(
                "app {}: process {} goes on under this helper agent",
                group.map_or("?", |group| &group.name),
                pids.join(", ")
            );
        }
    }

    /// Returns the event that gives the group its limits.
    fn adopt_group(
        &mut self,
        reference: GroupRef,
        params: GroupParams,
        definition: Definition,
        note: Option<&GroupNote>,
    ) -> Event {
        let configuration = Arc::clone(&self.configuration);
        let registration = configuration.translate(&definition);
        let options = registration
            .as_ref()
            .and_then(|r| configuration.options(&r.chain).ok());
        if options.is_none() {
            // Its keys would keep workers from asking, and only asking makes it known again.
            self.view.remove_keys_of(reference);
        }
        let note = note.cloned().unwrap_or_else(|| GroupNote {
            name: format!("under {}", definition.registration.document_root),
            ..GroupNote::default()
        });
        let group = Group {
            reference,
            name: note.name,
            is_named: options.is_some(),
            registration: registration.filter(|_| options.is_some()),
            definition,
            configuration,
            options: options.unwrap_or_default(),
            code_generation: params.code_generation,
            code_wait: CodeWait::No,
            restart_mark: params.restart_mark,
            restart_look: RestartLook::default(),
            is_foreseen: false,
            failure: None,
            not_preloaded: None,
            failed_at: 0,
            former_failure: note.last_failure,
            failed_starts: note.failed_starts,
            is_resisting: note.is_resisting,
            last_crash: note.last_crash,
            tally: note.tally,
            app_log: Arc::default(),
            facts: note.facts,
            preparing_since: None,
        };
        let limits = group.limits();
        let id = self.groups.insert(group);
        let none = GroupLimits {
            min_instances: 0,
            ..limits
        };
        self.tell(Event::GroupAdded {
            group: id,
            limits: none,
        });
        Event::GroupChanged { group: id, limits }
    }

    fn adopt_process(
        &mut self,
        stored: StoredProcess,
        snapshot: Option<&ProcessSnapshot>,
        note: Option<&ProcessNote>,
    ) {
        let StoredProcess {
            reference,
            pid,
            pidfd,
            output,
            control,
        } = stored;
        let id = self.pool.new_process_id();
        let control = UnixStream::from(control);
        if let Err(e) = control.set_nonblocking(true) {
            log::error!("cannot listen to app process {pid}: {e}");
        }
        let parts = (Arc::new(pidfd), Arc::new(output), Arc::new(control));
        let group = snapshot.and_then(|s| self.groups.by_reference(s.group));
        let no_tail = Arc::new(Mutex::new(None));
        let mut body = self.body(id, pid, parts, group, &no_tail);
        body.is_command = snapshot.is_some_and(|s| s.port != 0);
        let takes = self.view.load(reference).takes;
        let mut process = Process {
            // While the app listens there nobody else can: it needs no port of ours.
            body: Some(body),
            // If its former agent has not noted it, what it had is not known, and it begins anew.
            takes_before: note
                .filter(|note| note.counts || snapshot.is_some_and(serves))
                .map_or(takes, |note| note.takes_before),
            takes_seen: takes,
            last_used: note.map_or(0, |note| note.last_used),
            spawn_ms: note.map_or(0, |note| note.spawn_ms),
            forked_by: note.map_or(0, |note| note.forked_by),
            ..Process::new(
                group.unwrap_or(GroupId(0)),
                reference,
                snapshot.map_or(0, |s| s.code_generation),
                Phase::Serving,
            )
        };
        let Some((snapshot, group)) = snapshot.zip(group).filter(|(s, _)| serves(s)) else {
            self.end_leftover(id, process);
            return;
        };
        process.is_ending = snapshot.state == ProcessState::Draining;
        process.is_attached = !process.is_ending;
        self.processes.insert(id, process);
        let newest = self
            .groups
            .get(group)
            .map_or(0, |group| group.code_generation);
        self.tell(Event::Adopted {
            group,
            process: id,
            concurrency: snapshot.concurrency,
            draining: snapshot.state == ProcessState::Draining,
            away: snapshot.state == ProcessState::Away,
            outdated: snapshot.code_generation != newest,
        });
        log::debug!("app process {pid} is adopted");
    }

    /// Not ready when its agent died, or dead and only its last output is left.
    fn end_leftover(&mut self, id: ProcessId, process: Process) {
        if let Some(body) = &process.body {
            if !body.pidfd.has_exited() {
                log::info!("process {} had not become ready and is ended", body.pid);
                body.kill_group();
            }
        }
        self.processes.insert(id, process);
        self.bury(id);
    }
}

fn serves(snapshot: &ProcessSnapshot) -> bool {
    matches!(
        snapshot.state,
        ProcessState::Live | ProcessState::Draining | ProcessState::Away
    )
}
