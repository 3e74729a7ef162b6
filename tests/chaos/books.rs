//! The books of a server that nobody uses: which processes there are, which descriptors they have, which
//! seats are taken. What a run leaves behind shows in them.

use crate::tables;
use harness::wait::PATIENCE;
use harness::{processes, until, Language, Server};
use std::collections::BTreeMap;
use std::fs;

/// Processes of each app: its minimum, and there is no reason for more.
pub(crate) const PROCESSES: usize = 2;

/// Configurations the watchdog has at most: eight that are past, and the one in force.
const CONFIGURATIONS: (&str, usize) = ("/memfd:passenger-config (deleted)", 9);

/// What the descriptors of a process are, and how many of each.
type Kinds = BTreeMap<String, usize>;

/// The descriptors of everybody who stays.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Books(BTreeMap<String, Kinds>);

impl Books {
    /// Opens the books: with gracefuls, after which no worker of httpd has met an app yet, and all the past
    /// configurations are there that are kept.
    ///
    /// # Panics
    /// When the server does not come to rest.
    pub(crate) fn at_rest(server: &Server) -> Books {
        let before = server.workers();
        fill_past(server);
        until("the old workers to leave", PATIENCE * 2, || {
            let now = server.workers();
            before.iter().all(|pid| !now.contains(pid))
        });
        for language in Language::ALL {
            until(
                &format!("{PROCESSES} processes of {}", language.name()),
                PATIENCE * 2,
                || server.app_pids(language.name()).len() == PROCESSES,
            );
        }
        let expected = Language::ALL.len() * PROCESSES;
        until("every seat to be free", PATIENCE, || {
            let tables = tables::snapshot(&server.instance());
            let idle =
                |load: Option<passenger_shm::Load>| load.is_some_and(passenger_shm::Load::is_idle);
            tables.processes.len() == expected
                && tables.processes.iter().all(|(_, load)| idle(*load))
                && tables.groups.iter().all(|group| group.waiting == Some(0))
        });
        Books::now(server)
    }

    /// The books as they are.
    pub(crate) fn now(server: &Server) -> Books {
        Books(descriptors(server))
    }

    /// What is not as it was before, and what nobody knows.
    pub(crate) fn compare(&self, before: &Books, server: &Server) -> Vec<String> {
        let mut complaints = Vec::new();
        for (who, kinds) in &self.0 {
            let none = Kinds::new();
            let then = before.0.get(who).unwrap_or(&none);
            let mut names: Vec<_> = kinds.keys().chain(then.keys()).collect();
            names.sort();
            names.dedup();
            for kind in names {
                let count = |kinds: &Kinds| kinds.get(kind).copied().unwrap_or(0);
                if count(kinds) > count(then) {
                    complaints.push(format!(
                        "{who}: {} descriptors of {kind}, {} before",
                        count(kinds),
                        count(then)
                    ));
                }
            }
        }
        complaints.extend(strangers(server));
        let sockets = fs::read_dir(server.instance().directory().join("apps"));
        let sockets = sockets.map_or(0, Iterator::count);
        if sockets != Language::ALL.len() * PROCESSES {
            complaints.push(format!(
                "{sockets} sockets of apps in the instance directory"
            ));
        }
        complaints
    }

    /// How many descriptors each has.
    pub(crate) fn totals(&self) -> BTreeMap<&str, usize> {
        self.0
            .iter()
            .map(|(who, kinds)| (who.as_str(), kinds.values().sum()))
            .collect()
    }
}

/// Gracefuls until watchdog and agent have as many past configurations as they keep.
pub(crate) fn fill_past(server: &Server) {
    until("as many past configurations as are kept", PATIENCE, || {
        server.graceful();
        let instance = server.instance();
        [instance.watchdog(), instance.agent()].iter().all(|pid| {
            let kinds = kinds_of(*pid);
            kinds.get(CONFIGURATIONS.0) >= Some(&CONFIGURATIONS.1)
        })
    });
}

/// Processes that came out of this server and are nobody we know.
fn strangers(server: &Server) -> Vec<String> {
    let instance = server.instance();
    let mut known = vec![server.parent(), instance.watchdog(), instance.agent()];
    known.extend(server.workers());
    for language in Language::ALL {
        known.extend(server.app_pids(language.name()));
    }
    let all = server.survivors().into_iter();
    // An app's preloader stays while it may be needed.
    let is_preloader = |pid| processes::command_of(pid).starts_with("Passenger AppPreloader");
    all.filter(|pid| !known.contains(pid) && !is_preloader(*pid))
        .map(|pid| format!("process {pid} is nobody's: {}", processes::command_of(pid)))
        .collect()
}

fn descriptors(server: &Server) -> BTreeMap<String, Kinds> {
    let instance = server.instance();
    let mut all = BTreeMap::from([
        ("httpd's parent".to_owned(), kinds_of(server.parent())),
        ("watchdog".to_owned(), kinds_of(instance.watchdog())),
        ("agent".to_owned(), kinds_of(instance.agent())),
    ]);
    for language in Language::ALL {
        let mut kinds = Kinds::new();
        for pid in server.app_pids(language.name()) {
            for (kind, count) in kinds_of(pid) {
                *kinds.entry(kind).or_default() += count;
            }
        }
        all.insert(format!("{}'s processes", language.name()), kinds);
    }
    all
}

/// `socket:[4711]` and `socket:[4712]` are of one kind.
fn kinds_of(pid: processes::ProcessId) -> Kinds {
    let mut kinds = Kinds::new();
    for link in processes::open_files(pid) {
        let mut kind = link.to_string_lossy().into_owned();
        if kind.contains('[') {
            kind.retain(|c| !c.is_ascii_digit());
        }
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}
