//! Collects what one configuration pass says, while httpd's parent reads it.
//!
//! Every section that sets a directive of ours gets a numbered record; the parent later sends them
//! to the agent, and a request names the ones it was merged from. Only root's files are read at
//! that time: what `.htaccess` says at run time never gets here.
//!
//! The collection is freed before the module is unloaded ([`discard`]): a static that kept it would
//! leak at every restart.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use passenger_shm::messages as wire;

/// Everything one pass of the configuration said.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// Directives of global context, in file order.
    pub(crate) globals: Vec<wire::Directive>,
    /// Sections with directives of ours; number = position + 1.
    pub(crate) records: Vec<wire::Record>,
    /// The server each of them stands in.
    pub(crate) marks: Vec<ServerMark>,
    /// Sentences for the administrator.
    pub(crate) warnings: Vec<String>,
    /// Directives that nothing acts on yet, and where each stands first.
    pub(crate) not_yet: BTreeMap<&'static str, String>,
}

/// Tells one server of a configuration from another: its address, which is never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ServerMark(usize);

impl ServerMark {
    /// The mark of the server there.
    pub(crate) fn of<T>(server: *const T) -> Self {
        Self(server.addr())
    }
}

static COLLECTED: Mutex<Option<Collected>> = Mutex::new(None);

fn with<T>(body: impl FnOnce(&mut Collected) -> T) -> Option<T> {
    let mut guard = COLLECTED.lock().unwrap_or_else(PoisonError::into_inner);
    guard.as_mut().map(body)
}

/// Starts a pass with nothing in it.
pub(crate) fn begin() {
    *COLLECTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Collected::default());
}

/// Forgets the pass and frees its memory.
pub(crate) fn discard() {
    *COLLECTED.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Whether a pass is being collected. False at run time, and while httpd applies directives of a
/// module that it has not told `pre_config` yet.
pub(crate) fn has_begun() -> bool {
    with(|_| ()).is_some()
}

/// Gives a section of that server a record; returns its number (from 1), or 0 when no pass is being collected.
pub(crate) fn new_record(section: String, server: ServerMark) -> u32 {
    with(|collected| {
        let id = u32::try_from(collected.records.len() + 1).unwrap_or(u32::MAX);
        collected.records.push(wire::Record {
            id,
            section,
            server: 0,
            directives: Vec::new(),
        });
        collected.marks.push(server);
        id
    })
    .unwrap_or(0)
}

/// Adds a directive to a section's record.
pub(crate) fn note(record: u32, directive: wire::Directive) {
    with(|collected| {
        let index = usize::try_from(record).unwrap_or(0).checked_sub(1);
        if let Some(record) = index.and_then(|index| collected.records.get_mut(index)) {
            record.directives.push(directive);
        }
    });
}

/// Adds a directive of global context.
pub(crate) fn global(directive: wire::Directive) {
    with(|collected| collected.globals.push(directive));
}

/// Adds a sentence for the administrator.
pub(crate) fn warn(sentence: String) {
    with(|collected| collected.warnings.push(sentence));
}

/// Remembers that a directive was used that nothing acts on yet.
pub(crate) fn note_not_yet(name: &'static str, place: impl FnOnce() -> String) {
    with(|collected| {
        collected.not_yet.entry(name).or_insert_with(place);
    });
}

/// Looks at what was collected; `None` outside a pass.
pub(crate) fn with_collected<T>(body: impl FnOnce(&Collected) -> T) -> Option<T> {
    with(|collected| body(collected))
}

impl Collected {
    /// The one line about directives nothing acts on yet.
    pub(crate) fn not_yet_line(&self) -> Option<String> {
        if self.not_yet.is_empty() {
            return None;
        }
        let list: Vec<String> = self
            .not_yet
            .iter()
            .map(|(name, place)| format!("{name} ({place})"))
            .collect();
        Some(format!(
            "accepted, but nothing acts on it in this version yet: {}",
            list.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directive(name: &str) -> wire::Directive {
        wire::Directive {
            name: name.to_owned(),
            args: vec![],
            file: "f".to_owned(),
            line: 1,
        }
    }

    /// One test, because the collection is one per process.
    #[test]
    fn a_pass_from_begin_to_discard() {
        let mark = ServerMark::of(&raw const COLLECTED);
        assert_eq!(new_record("before".to_owned(), mark), 0);
        begin();
        assert_eq!(new_record("<VirtualHost a>".to_owned(), mark), 1);
        assert_eq!(new_record("<VirtualHost b>".to_owned(), mark), 2);
        note(2, directive("PassengerUser"));
        note(0, directive("PassengerLost"));
        note(3, directive("PassengerLost"));
        global(directive("PassengerRoot"));
        note_not_yet("PassengerTurbocaching", || "f:7".to_owned());
        note_not_yet("PassengerTurbocaching", || "f:9".to_owned());
        with_collected(|collected| {
            assert_eq!(collected.records.len(), 2);
            assert_eq!(collected.records[1].directives[0].name, "PassengerUser");
            assert_eq!(collected.globals.len(), 1);
            let line = collected.not_yet_line().expect("a line");
            assert!(line.ends_with("PassengerTurbocaching (f:7)"), "{line}");
        })
        .expect("a pass");
        begin();
        assert!(with_collected(|collected| collected.records.is_empty()).expect("a pass"));
        discard();
        assert!(!has_begun());
    }
}
