//! Writing the board: what the agent knows beyond the tables, for those who look and for its successor.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use passenger_shm::{GroupRef, ProcessRef};

use super::core::Agent;
use super::groups::Group;
use super::processes::Process;
use crate::spawn::prepare::Prepared;
use crate::status::board::{Board, FailureNote, GroupFacts, GroupNote, Notes, ProcessNote};

/// Longest pause between a change and its note, and shortest between two notes.
const PERIODS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(100));
/// Longest text of one note, in bytes.
const TEXT_BYTES: usize = 2_048;

/// The agent's side of the board.
#[derive(Debug)]
pub(super) struct BoardWriter {
    board: Board,
    agent_pid: i32,
    agent_started: u64,
    written_at: Option<Instant>,
    written: Vec<u8>,
    is_changed: bool,
    is_urgent: bool,
    has_failed: bool,
}

impl BoardWriter {
    pub(super) fn new(board: Board) -> Self {
        Self {
            board,
            agent_pid: i32::try_from(std::process::id()).unwrap_or(0),
            agent_started: seconds_now(),
            written_at: None,
            written: Vec::new(),
            is_changed: true,
            is_urgent: true,
            has_failed: false,
        }
    }

    /// What the agent before has noted.
    pub(super) fn former(&self) -> Former {
        let notes = self.board.notes().unwrap_or_else(|e| {
            log::warn!("cannot read what the agent before had noted: {e}");
            Notes::default()
        });
        let groups = notes.groups.into_iter();
        let processes = notes.processes.into_iter();
        Former {
            groups: groups
                .map(|note| (GroupRef::new(note.index, note.generation), note))
                .collect(),
            processes: processes
                .map(|note| (ProcessRef::new(note.slot, note.generation), note))
                .collect(),
        }
    }

    /// Something changed that somebody may want to see soon.
    pub(super) fn touch(&mut self) {
        self.is_changed = true;
    }

    /// As [`BoardWriter::touch`], for what a successor could not find out by itself: noted at once.
    pub(super) fn touch_now(&mut self) {
        self.is_urgent = true;
    }

    /// Whether anything was noted since then.
    pub(super) fn is_newer_than(&self, moment: Instant) -> bool {
        self.written_at.is_some_and(|at| at > moment)
    }

    fn is_due(&self) -> bool {
        let (longest, shortest) = PERIODS;
        self.written_at.is_none_or(|at| {
            let age = at.elapsed();
            self.is_urgent || age >= longest || (self.is_changed && age >= shortest)
        })
    }

    fn write(&mut self, notes: &Notes) {
        self.written_at = Some(Instant::now());
        self.is_changed = false;
        self.is_urgent = false;
        let result = serde_json::to_vec(notes)
            .map_err(std::io::Error::from)
            .and_then(|text| {
                if text != self.written {
                    self.board.write(&text)?;
                    self.written = text;
                }
                Ok(())
            });
        match result {
            Ok(()) => self.has_failed = false,
            Err(e) if !self.has_failed => {
                self.has_failed = true;
                log::error!("passenger-status shows old news: cannot write the board: {e}");
            }
            Err(_) => {}
        }
    }
}

/// What an earlier agent noted, by what stands in the tables.
pub(super) struct Former {
    pub(super) groups: HashMap<GroupRef, GroupNote>,
    pub(super) processes: HashMap<ProcessRef, ProcessNote>,
}

/// Seconds since 1970.
pub(super) fn seconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

impl Group {
    /// A start was prepared: now it is known who it runs as.
    pub(super) fn learn(&mut self, prepared: &Prepared) {
        self.facts = GroupFacts {
            user: prepared.user.clone(),
            uid: Some(prepared.uid),
            ..prepared.about.clone()
        };
    }

    fn note(&self) -> GroupNote {
        let failure = self.failure.as_ref().map(|failure| FailureNote {
            id: failure.id.clone(),
            at: self.failed_at,
            step: failure.step.clone(),
            summary: shortened(&failure.summary),
        });
        GroupNote {
            index: self.reference.index(),
            generation: self.reference.generation(),
            name: self.name.clone(),
            facts: self.facts.clone(),
            is_resisting: self.is_resisting,
            failed_starts: self.failed_starts,
            last_failure: failure.or_else(|| self.former_failure.clone()),
            last_crash: self.last_crash.clone(),
            preloader: None,
            tally: self.tally,
        }
    }
}

impl Process {
    fn note(&self) -> ProcessNote {
        ProcessNote {
            slot: self.reference.slot(),
            generation: self.reference.generation(),
            pid: self.pid(),
            spawn_ms: self.spawn_ms,
            takes_before: self.takes_before,
            last_used: self.last_used,
            forked_by: self.forked_by,
            counts: self.is_serving(),
        }
    }
}

impl Agent {
    /// Brings the board up to date if it is time.
    pub(super) fn write_board(&mut self) {
        if !self.board.is_due() {
            return;
        }
        let notes = Notes {
            agent_pid: self.board.agent_pid,
            agent_started: self.board.agent_started,
            max_pool_size: self.configuration.global.max_pool_size,
            groups: self
                .groups
                .iter()
                .map(|(id, group)| GroupNote {
                    preloader: self.preloaders.note(id),
                    ..group.note()
                })
                .collect(),
            processes: self.processes.iter().map(|(_, p)| p.note()).collect(),
        };
        self.board.write(&notes);
    }
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
