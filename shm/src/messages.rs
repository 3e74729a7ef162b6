//! The messages of every channel that crosses a crate: httpd's parent ↔ watchdog, worker ↔ watchdog
//! and worker ↔ agent. One JSON document per `SOCK_SEQPACKET` datagram; descriptors travel beside it as
//! `SCM_RIGHTS` in the order each variant lists. `docs/protocols.md` is the prose to this file.
//!
//! JSON because none of this is on the fast path: a worker says hello once in its life and registers
//! each configuration once.

use serde::{de::DeserializeOwned, Deserialize, Serialize};

/// Largest datagram any channel accepts, in bytes. A longer one is refused by the receiver.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// From httpd's parent to the watchdog. Only datagrams whose `SCM_CREDENTIALS` name that very
/// parent are obeyed: its children inherit the descriptor over `fork`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromParent {
    /// A configuration was read. Descriptors: a sealed memfd holding a JSON [`Config`], and the log
    /// (opened for appending). The first one starts the instance.
    Configure {
        /// httpd's configuration generation (`AP_SQ_CONFIG_GEN`).
        generation: u64,
    },
    /// The first message to a watchdog that takes over what another one left, because nobody else
    /// lives who could. Descriptors: both ends of the reserve, as they came with [`ToParent::Ready`].
    Rebuild {},
    /// Another build has taken over: no worker will come any more. Each app ends five seconds after its last
    /// request, and is started again if one of the workers there are asks for it.
    /// What this and the next two say must never change: they go from one build to another.
    Retire {},
    /// After [`FromParent::Retire`], again and again: none of those workers seems to have anything to ask any
    /// more. When there is no app process, that was all: end, and close this channel.
    Dismiss {},
    /// httpd is stopping: end everything, then close this channel.
    Stop {
        /// How long apps may finish what they are doing, in milliseconds.
        deadline_ms: u64,
    },
}

/// From the watchdog to httpd's parent. End of file means: instance gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToParent {
    /// The agent answers and workers may come. Descriptors: `routes` read-only, `traffic`
    /// read-write, doorbell, the workers' end of the hello channel; for [`FromParent::Rebuild`] the
    /// writing and the reading end of the reserve and the image of the watchdog.
    Ready {
        /// Absolute path of the instance directory.
        instance_dir: String,
    },
    /// The instance could not start; the text is for the administrator.
    Failed {
        /// What failed, on which path, and what to do.
        message: String,
    },
    /// The agent took the configuration of that generation.
    Configured {
        /// The generation of the [`FromParent::Configure`] this answers.
        generation: u64,
    },
    /// The agent refused that configuration and keeps the one before.
    ConfigureRefused {
        /// The generation of the [`FromParent::Configure`] this answers.
        generation: u64,
        /// Why, for the administrator.
        message: String,
    },
}

/// From a worker to the watchdog, on the inherited hello channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// "I exist." Descriptor: the far end of the worker's own `SOCK_SEQPACKET` pair, on which the
    /// answer and everything later arrives. Who it is comes from `SCM_CREDENTIALS`, not from here.
    Worker {},
}

/// A question of a worker to the agent. An answer that came too late is recognised by its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Grows with each question of a worker; one that is asked again keeps its number.
    pub number: u64,
    /// What it asks.
    pub question: FromWorker,
}

/// An answer of the agent to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Number of the question.
    pub number: u64,
    /// What it answers.
    pub answer: ToWorker,
}

/// From a worker to the agent, on the worker's own connection, in a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// "Which group serves this configuration?"
    Register(Registration),
    /// "Why did that group's last spawn fail?"
    WhySpawnFailed {
        /// Index of the group in `routes`.
        group: u32,
        /// Generation of that slot.
        generation: u32,
    },
}

/// To a worker: the first message comes from the watchdog, all others, each in a [`Reply`], from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The worker's identity in `traffic`.
    Welcome {
        /// Client slot.
        slot: u16,
        /// Generation of that slot, 12 bits.
        generation: u16,
    },
    /// No identity to be had; try again with a later request.
    Unwelcome {
        /// Why.
        message: String,
    },
    /// Answer to [`FromWorker::Register`]: the group is in `routes` and its key in the key table.
    Registered {
        /// Index of the group in `routes`.
        group: u32,
        /// Generation of that slot.
        generation: u32,
    },
    /// The agent will not run this: trust rule, no such app, unknown type…
    RegisterRefused {
        /// A sentence for the log and, in development, the browser.
        message: String,
    },
    /// Answer to [`FromWorker::WhySpawnFailed`].
    SpawnFailure(SpawnFailure),
}

/// What a worker says about the application a request belongs to. The agent believes none of it
/// beyond what the records of that generation allow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Registration {
    /// Configuration generation the chain's numbers belong to.
    pub generation: u64,
    /// Numbers of the records ([`Record::id`]) that merged into this request's configuration, in
    /// merge order: later ones win.
    pub chain: Vec<u32>,
    /// `DocumentRoot` (or context document root) the URL was mapped with.
    pub document_root: String,
    /// Base URI the app lives under; empty for the root of the host.
    pub base_uri: String,
}

/// Why an app does not start, as shown to the browser (details in development only) and the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnFailure {
    /// Short id that is also in the log line.
    pub id: String,
    /// One sentence.
    pub summary: String,
    /// Step that failed, e.g. `load`.
    pub step: String,
    /// Tail of what the process printed.
    pub output: String,
    /// What to try.
    pub advice: String,
    /// Whether the details above may be shown to the browser.
    pub friendly: bool,
    /// Facts in display order: user, directory, command…
    pub facts: Vec<(String, String)>,
    /// The steps that were begun, in order.
    pub steps: Vec<StepTaken>,
    /// The variables the process was started with; those whose value may be a secret have none.
    pub environment: Vec<(String, Option<String>)>,
}

/// A step of a start that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTaken {
    /// Its name.
    pub name: String,
    /// How long it took, or has taken when the start failed.
    pub milliseconds: u64,
}

/// Everything the agent may believe: written by root while httpd's parent read its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// httpd's configuration generation.
    pub generation: u64,
    /// Build id of the module; the agent refuses another build's.
    pub build: String,
    /// Facts of the httpd we run in.
    pub apache: Apache,
    /// Directives of global context, in file order.
    pub global: Vec<Directive>,
    /// All servers, main server first.
    pub servers: Vec<Server>,
    /// All sections with directives of ours.
    pub records: Vec<Record>,
}

/// Facts about the running httpd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apache {
    /// Uid its workers run as.
    pub uid: u32,
    /// Gid its workers run as.
    pub gid: u32,
    /// `ap_get_server_banner`.
    pub software: String,
    /// Name of the MPM: `event`, `worker`, `prefork`…
    pub mpm: String,
    /// `AP_MPMQ_HARD_LIMIT_DAEMONS`.
    pub server_limit: u32,
    /// Most request threads there can be at once over all children.
    pub max_threads: u32,
}

/// One directive as written, under its canonical name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Canonical name (aliases resolved), e.g. `PassengerMaxPoolSize`.
    pub name: String,
    /// Arguments; flags are `on` or `off`.
    pub args: Vec<String>,
    /// File it stands in.
    pub file: String,
    /// Line in that file.
    pub line: u32,
}

/// One virtual host or the main server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// `ServerName`, may be empty.
    pub name: String,
    /// `DocumentRoot`, resolved by httpd.
    pub document_root: String,
    /// Environment set at this level by `SetEnv`, in file order.
    pub env: Vec<(String, String)>,
}

/// One configuration section that sets directives of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number, from 1. Zero is never a record: it marks what came from `.htaccess`.
    pub id: u32,
    /// Section as written, e.g. `<VirtualHost *:80>` or empty for the main server.
    pub section: String,
    /// Position in [`Config::servers`] of the server it stands in: 0 for what is outside virtual hosts and
    /// can apply to all of them.
    pub server: u32,
    /// What it sets.
    pub directives: Vec<Directive>,
}

/// A message as bytes, or the reason why it cannot travel.
///
/// # Errors
/// When the JSON is longer than [`MAX_MESSAGE_BYTES`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, String> {
    let bytes = serde_json::to_vec(message).map_err(|e| format!("cannot encode message: {e}"))?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(format!(
            "message of {} bytes is longer than the channel's limit of {MAX_MESSAGE_BYTES}",
            bytes.len()
        ));
    }
    Ok(bytes)
}

/// Reads a message that a peer sent.
///
/// # Errors
/// When the bytes are not a message of that type; the text names the offset.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("not a message of this channel: {e}"))
}

/// A [`Config`] as the bytes of its memfd (no length limit).
///
/// # Errors
/// When a string in it cannot be JSON.
pub fn encode_config(config: &Config) -> Result<Vec<u8>, String> {
    serde_json::to_vec(config).map_err(|e| format!("cannot encode configuration: {e}"))
}
