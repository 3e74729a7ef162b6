//! The message that tells the agent everything it may believe.

use passenger_shm::messages as wire;
use std::collections::HashMap;

use super::collect::{Collected, ServerMark};

/// What is not in our directives: facts of httpd and its servers.
pub(crate) struct Facts {
    /// httpd's configuration generation.
    pub(crate) generation: u64,
    /// What is installed.
    pub(crate) build: String,
    /// The running httpd.
    pub(crate) apache: wire::Apache,
    /// Its servers, the main one first.
    pub(crate) servers: Vec<wire::Server>,
    /// Their marks, in the same order.
    pub(crate) marks: Vec<ServerMark>,
    /// Directives of global context, paths absolute.
    pub(crate) global: Vec<wire::Directive>,
}

/// Puts both together.
pub(crate) fn snapshot(collected: &Collected, facts: Facts) -> wire::Config {
    // Tens of thousands of sections and servers are not unusual: looking each up in a list takes seconds.
    let places: HashMap<ServerMark, u32> = facts.marks.iter().copied().zip(0..).collect();
    let mut records = collected.records.clone();
    for (record, mark) in records.iter_mut().zip(&collected.marks) {
        // A server that httpd does not list gets no requests.
        record.server = places.get(mark).copied().unwrap_or(u32::MAX);
    }
    wire::Config {
        generation: facts.generation,
        build: facts.build,
        apache: facts.apache,
        global: facts.global,
        servers: facts.servers,
        records,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_names_the_server_it_stands_in() {
        let servers = [1u8, 2, 3];
        let mark = |index: usize| ServerMark::of(&raw const servers[index]);
        let mut collected = Collected::default();
        for (id, at) in [(1, 1), (2, 0), (3, 2)] {
            collected.records.push(wire::Record {
                id,
                section: String::new(),
                server: 0,
                directives: vec![],
            });
            collected.marks.push(mark(at));
        }
        let facts = Facts {
            generation: 1,
            build: String::new(),
            apache: wire::Apache {
                uid: 33,
                gid: 33,
                software: String::new(),
                mpm: String::new(),
                server_limit: 1,
                max_threads: 1,
            },
            servers: vec![],
            marks: vec![mark(0), mark(1)],
            global: vec![],
        };
        let config = snapshot(&collected, facts);
        let servers: Vec<u32> = config.records.iter().map(|record| record.server).collect();
        assert_eq!(servers, [1, 0, u32::MAX]);
    }
}
