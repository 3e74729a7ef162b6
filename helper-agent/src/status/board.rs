//! The board: what the agent knows of apps and processes beyond the tables, as a JSON document in a memory
//! file that outlives it. One writer, the agent; readers may come at any moment and from a writer that died
//! in the middle they still get the document before.
//!
//! ```text
//! 0 sequence u64 │ … │ 4096 half 0 │ 4096 + HALF half 1
//! half: length u64 │ hash u64 │ bytes …            document n is in half n % 2
//! ```
//!
//! A new document goes to the half that the sequence does not name, then the sequence is moved. A reader that
//! is overtaken twice while it reads sees a wrong hash and reads again.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use crate::config::Application;
use crate::sys::memfd;

const HALVES_START: u64 = 4096;
/// Room for one document. Pages that were never written cost nothing.
const HALF_BYTES: u64 = 4 << 20;
const HEAD_BYTES: u64 = 16;
/// How often a reader tries before it says that the board is not readable.
const TRIES: usize = 5;

/// What the agent notes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// PID of the agent that wrote it.
    pub agent_pid: i32,
    /// When that agent started, in seconds since 1970.
    pub agent_started: u64,
    /// `PassengerMaxPoolSize`.
    pub max_pool_size: u32,
    /// Applications.
    pub groups: Vec<GroupNote>,
    /// Processes.
    pub processes: Vec<ProcessNote>,
}

/// One application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupNote {
    /// Slot in the group table.
    pub index: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// Its name.
    pub name: String,
    /// What is known of it since it was looked up, or last started.
    pub facts: GroupFacts,
    /// The new code does not start, and old processes serve.
    pub is_resisting: bool,
    /// Starts that failed since one succeeded.
    pub failed_starts: u32,
    /// Why the last start failed, if none has succeeded since.
    pub last_failure: Option<FailureNote>,
    /// The last process that ended without having been asked to.
    pub last_crash: Option<CrashNote>,
    /// Who forks its processes, if anybody does. Ends with the agent that notes it.
    pub preloader: Option<PreloaderNote>,
    /// What has happened so far.
    pub tally: Tally,
}

/// What only ever grows, for those who watch for a long time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Processes that have become ready.
    pub starts: u64,
    /// Processes that ended without having been asked to, once they were ready.
    pub crashes: u64,
    /// Requests that were given to processes which have ended.
    pub requests_of_ended: u64,
}

/// A preloader.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PreloaderNote {
    /// Its PID.
    pub pid: i32,
    /// Whether it is still loading the app.
    pub is_loading: bool,
    /// Processes it has forked.
    pub forks: u32,
}

/// What an application is and whose.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupFacts {
    /// Its directory.
    pub app_root: String,
    /// Its type.
    pub app_type: String,
    /// Name of its environment.
    pub environment: String,
    /// Base URI, empty for the root of the host.
    pub base_uri: String,
    /// User it runs as, once a start was prepared.
    pub user: String,
    /// That user's id: who may see and steer it besides root.
    pub uid: Option<u32>,
}

impl GroupFacts {
    /// What is known of an app that was found; not yet who it runs as.
    #[must_use]
    pub fn of(app: &Application) -> Self {
        Self {
            app_root: app.app_root.display().to_string(),
            app_type: app.kind.name.to_owned(),
            environment: app.options.app_env().to_owned(),
            base_uri: app.base_uri.clone(),
            ..Self::default()
        }
    }
}

/// A start that failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureNote {
    /// Id in log and error page.
    pub id: String,
    /// When, in seconds since 1970.
    pub at: u64,
    /// The step that failed.
    pub step: String,
    /// In one sentence.
    pub summary: String,
}

/// A process that ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CrashNote {
    /// Its PID.
    pub pid: i32,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Completes "process … ".
    pub how: String,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessNote {
    /// Slot in the process table.
    pub slot: u32,
    /// Generation of that slot.
    pub generation: u32,
    /// Its PID; 0 while its start is prepared.
    pub pid: i32,
    /// How long its start took, in milliseconds; 0 while it starts.
    pub spawn_ms: u64,
    /// Seats of its slot that were taken before it.
    pub takes_before: u64,
    /// When it was seen to have got a request last, in seconds since 1970.
    pub last_used: u64,
    /// PID of the preloader that forked it; 0 = it has loaded the app itself.
    pub forked_by: i32,
    /// Whether what its slot counts is its own: it is ready, and its requests are not in the group's [`Tally`] yet.
    pub counts: bool,
}

/// The memory file.
#[derive(Debug)]
pub struct Board {
    file: File,
}

impl Board {
    /// Makes an empty one.
    ///
    /// # Errors
    /// Those of `memfd_create` and sealing.
    pub fn create() -> io::Result<OwnedFd> {
        memfd::of_size(c"passenger board", HALVES_START + 2 * HALF_BYTES)
    }

    /// Reads or writes an existing one.
    #[must_use]
    pub fn open(fd: OwnedFd) -> Self {
        Self {
            file: File::from(fd),
        }
    }

    /// Replaces the document.
    ///
    /// # Errors
    /// `InvalidInput` when it is too long; what was there stays.
    pub fn write(&self, document: &[u8]) -> io::Result<()> {
        let length = document.len() as u64;
        if length > HALF_BYTES - HEAD_BYTES {
            let text = format!("{length} bytes do not fit on the board");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let next = self.sequence()?.wrapping_add(1);
        let start = half_of(next);
        self.file.write_all_at(document, start + HEAD_BYTES)?;
        let head = [length.to_ne_bytes(), hash(document).to_ne_bytes()].concat();
        self.file.write_all_at(&head, start)?;
        self.file.write_all_at(&next.to_ne_bytes(), 0)
    }

    /// The document as it is now; empty before the first was written.
    ///
    /// # Errors
    /// `InvalidData` when every try was overtaken by the writer.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        for _ in 0..TRIES {
            let sequence = self.sequence()?;
            if sequence == 0 {
                return Ok(Vec::new());
            }
            if let Some(document) = self.read_half(half_of(sequence))? {
                return Ok(document);
            }
        }
        let text = "the agent's board changes faster than it can be read";
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }

    /// The notes on it; none before the first were written.
    ///
    /// # Errors
    /// As [`Board::read`], and when the document is not understood.
    pub fn notes(&self) -> io::Result<Notes> {
        let document = self.read()?;
        if document.is_empty() {
            return Ok(Notes::default());
        }
        Ok(serde_json::from_slice(&document)?)
    }

    fn sequence(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn read_half(&self, start: u64) -> io::Result<Option<Vec<u8>>> {
        let (mut length, mut expected) = ([0; 8], [0; 8]);
        self.file.read_exact_at(&mut length, start)?;
        self.file.read_exact_at(&mut expected, start + 8)?;
        let length = u64::from_ne_bytes(length);
        if length > HALF_BYTES - HEAD_BYTES {
            return Ok(None);
        }
        let mut document = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut document, start + HEAD_BYTES)?;
        Ok((hash(&document) == u64::from_ne_bytes(expected)).then_some(document))
    }
}

fn half_of(sequence: u64) -> u64 {
    HALVES_START + (sequence % 2) * HALF_BYTES
}

/// Only compared between processes of one build.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boards() -> (Board, Board) {
        let fd = Board::create().unwrap();
        let other = fd.try_clone().unwrap();
        (Board::open(fd), Board::open(other))
    }

    #[test]
    fn what_was_written_is_read_and_an_empty_board_has_no_notes() {
        let (writer, reader) = boards();
        assert_eq!(reader.notes().unwrap(), Notes::default());
        for n in 1..5 {
            let notes = Notes {
                agent_pid: n,
                ..Notes::default()
            };
            writer.write(&serde_json::to_vec(&notes).unwrap()).unwrap();
            assert_eq!(reader.notes().unwrap(), notes);
        }
    }

    #[test]
    fn a_writer_that_dies_in_the_middle_leaves_the_document_before() {
        let (writer, reader) = boards();
        writer.write(b"{\"agent_pid\":1}").unwrap();
        writer.write(b"{\"agent_pid\":2}").unwrap();
        // The third got as far as its bytes, not to the sequence.
        let half = half_of(3);
        writer
            .file
            .write_all_at(b"garbage", half + HEAD_BYTES)
            .unwrap();
        assert_eq!(reader.notes().unwrap().agent_pid, 2);
    }

    #[test]
    fn what_is_too_long_is_refused_and_changes_nothing() {
        let (writer, reader) = boards();
        writer.write(b"{\"agent_pid\":1}").unwrap();
        let long = vec![b' '; usize::try_from(HALF_BYTES).unwrap()];
        assert!(writer.write(&long).is_err());
        assert_eq!(reader.notes().unwrap().agent_pid, 1);
    }

    #[test]
    fn readers_beside_a_writer_never_see_half_a_document() {
        let (writer, reader) = boards();
        let write = std::thread::spawn(move || {
            for n in 0..2_000usize {
                let text = format!("\"{}\"", "x".repeat(n % 700));
                writer.write(text.as_bytes()).unwrap();
            }
        });
        while !write.is_finished() {
            // Overtaken every time is possible, half a document is not.
            if let Ok(document) = reader.read() {
                let is_whole = document.is_empty() || document.ends_with(b"\"");
                assert!(is_whole, "{}", document.len());
            }
        }
        write.join().unwrap();
    }

    #[test]
    fn notes_of_another_build_are_understood_as_far_as_possible() {
        let notes: Notes =
            serde_json::from_str("{\"agent_pid\":5,\"unheard\":1,\"groups\":[{\"name\":\"x\"}]}")
                .unwrap();
        assert_eq!((notes.agent_pid, notes.groups[0].name.as_str()), (5, "x"));
    }
}
