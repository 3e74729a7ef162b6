//! Collects what one configuration pass says, while httpd's parent reads it.
//!
//! Every section that sets a directive of ours gets a numbered record; the parent later sends them
//! to the agent, and a request names the ones it was merged from. Only root's files are read at
//! that time: what `.htaccess` says at run time never gets here.
//!
//! The collection is freed before the module is unloaded ([`discard`]): a static that kept it would
//! leak at every restart.

use std::collections::BTreeMap;
use std::fmt;
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
    /// What there is to say about directives, each once however often it stands there.
    remarks: BTreeMap<Remark, Places>,
}

/// What there is to say about a directive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Remark {
    /// Nothing acts on it yet.
    NotYet(&'static str),
    /// Nothing ever will.
    Moot(&'static str),
    /// The original drops it, too.
    Obsolete(&'static str),
    /// An old name, and the one to write.
    OldName(&'static str, &'static str),
    /// A sentence that begins with what it is about, and how it goes on after the place.
    Other(String, String),
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Places {
    first: String,
    more: usize,
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.more {
            0 => write!(f, "({})", self.first),
            more => write!(f, "({} and {more} more)", self.first),
        }
    }
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

/// Adds something for the administrator.
pub(crate) fn remark(remark: Remark, place: impl FnOnce() -> String) {
    with(|collected| match collected.remarks.get_mut(&remark) {
        Some(places) => places.more += 1,
        None => {
            let first = place();
            collected.remarks.insert(remark, Places { first, more: 0 });
        }
    });
}

/// Looks at what was collected; `None` outside a pass.
pub(crate) fn with_collected<T>(body: impl FnOnce(&Collected) -> T) -> Option<T> {
    with(|collected| body(collected))
}

impl Collected {
    /// Sentences about what should be written otherwise.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.remarks
            .iter()
            .filter_map(|(remark, places)| match remark {
                Remark::NotYet(_) | Remark::Moot(_) => None,
                Remark::Obsolete(name) => Some(format!(
                    "{name} {places} is obsolete and has no effect: remove it"
                )),
                Remark::OldName(old, name) => {
                    Some(format!("{old} {places} is an old name: write {name}"))
                }
                Remark::Other(what, rest) => Some(format!("{what} {places} {rest}")),
            })
    }

    /// The one line about directives nothing acts on yet.
    pub(crate) fn not_yet_line(&self) -> Option<String> {
        let list = self.list(|remark| match remark {
            Remark::NotYet(name) => Some(name),
            _ => None,
        })?;
        Some(format!(
            "accepted, but nothing acts on it in this version yet: {list}"
        ))
    }

    /// The one line about directives nothing will ever act on.
    pub(crate) fn moot_line(&self) -> Option<String> {
        let list = self.list(|remark| match remark {
            Remark::Moot(name) => Some(name),
            _ => None,
        })?;
        Some(format!(
            "accepted, and without effect on purpose (docs/directives.md says why): {list}"
        ))
    }

    fn list(&self, name: impl Fn(&Remark) -> Option<&'static str>) -> Option<String> {
        let list: Vec<String> = self
            .remarks
            .iter()
            .filter_map(|(remark, places)| Some(format!("{} {places}", name(remark)?)))
            .collect();
        (!list.is_empty()).then(|| list.join(", "))
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
        remark(Remark::NotYet("PassengerTurbocaching"), || "f:7".to_owned());
        remark(Remark::NotYet("PassengerTurbocaching"), || unreachable!());
        let old = Remark::OldName("RailsEnv", "PassengerAppEnv");
        remark(old, || "f:8".to_owned());
        with_collected(|collected| {
            assert_eq!(collected.records.len(), 2);
            assert_eq!(collected.records[1].directives[0].name, "PassengerUser");
            assert_eq!(collected.globals.len(), 1);
            let line = collected.not_yet_line().expect("a line");
            assert!(
                line.ends_with("PassengerTurbocaching (f:7 and 1 more)"),
                "{line}"
            );
            assert_eq!(collected.moot_line(), None);
            let warnings: Vec<String> = collected.warnings().collect();
            assert_eq!(
                warnings,
                ["RailsEnv (f:8) is an old name: write PassengerAppEnv"]
            );
        })
        .expect("a pass");
        begin();
        assert!(with_collected(|collected| collected.records.is_empty()).expect("a pass"));
        discard();
        assert!(!has_begun());
    }
}
