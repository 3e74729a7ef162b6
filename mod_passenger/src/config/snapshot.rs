//! The message that tells the agent everything it may believe.

use passenger_shm::messages as wire;

use super::collect::Collected;

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
    /// Directives of global context, paths absolute.
    pub(crate) global: Vec<wire::Directive>,
}

/// Puts both together.
pub(crate) fn snapshot(collected: &Collected, facts: Facts) -> wire::Config {
    wire::Config {
        generation: facts.generation,
        build: facts.build,
        apache: facts.apache,
        global: facts.global,
        servers: facts.servers,
        records: collected.records.clone(),
    }
}
