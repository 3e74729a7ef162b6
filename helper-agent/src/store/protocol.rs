//! Messages of the store channel (`docs/protocols.md`, section 2). Descriptors travel beside a message in
//! the order its variant lists.
//!
//! Order of a start: `Start`, `PastConfig`s, `Config`, one `Worker` and one `Process` for each that is known,
//! `StoreEnd`, then what happens. Until it has read `StoreEnd` an agent must not read from output pipes:
//! the watchdog still does, and two readers would lose lines.

use serde::{Deserialize, Serialize};

use crate::sys::process::ExitStatus;

/// From the watchdog to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// First message. Descriptors: [`super::StartDescriptors`].
    Start {
        /// Absolute path of the instance directory.
        instance_dir: String,
        /// httpd's parent.
        parent_pid: i32,
        /// 1 for the first watchdog of this instance, one more after each take-over.
        watchdog_generation: u32,
        /// `oom_score_adj` of httpd, from which that of apps is made.
        oom_score_adj: Option<i32>,
    },
    /// A configuration to take; answered by [`ToWatchdog::Ready`] or [`ToWatchdog::ConfigRefused`].
    /// Descriptors: sealed memfd of a JSON `Config`, the log.
    Config {
        /// httpd's configuration generation.
        generation: u64,
    },
    /// A configuration that was in force before the one in use, oldest first; after [`ToAgent::StoreEnd`] one
    /// that another has overtaken on its way. Descriptor: sealed memfd of a JSON `Config`.
    PastConfig {
        /// httpd's configuration generation.
        generation: u64,
    },
    /// A worker has an identity. Descriptors: our end of its connection, its pidfd.
    Worker {
        /// Client slot.
        slot: u16,
        /// Generation of that slot.
        generation: u16,
        /// Its PID, for log lines.
        pid: i32,
    },
    /// That worker is dead and its words are swept.
    WorkerGone {
        /// Client slot.
        slot: u16,
        /// Generation of that slot.
        generation: u16,
    },
    /// An app process that an earlier agent left. Only before [`ToAgent::StoreEnd`]. Descriptors: pidfd,
    /// read end of its output pipe, our end of its control socket.
    Process {
        /// Process slot.
        slot: u32,
        /// Generation of that slot.
        generation: u32,
        /// Its PID.
        pid: i32,
    },
    /// That was the store; from here on output pipes are the agent's to read.
    StoreEnd,
    /// A process of the store that is a child of the watchdog, since its agent died, has ended.
    ChildExited {
        /// Its PID.
        pid: i32,
        /// How it ended.
        status: ExitStatus,
    },
    /// The watchdog's loop runs; said once a second.
    Beat,
    /// Another instance has taken over: let every app end soon after its last request. Again, before
    /// [`ToAgent::StoreEnd`], for each later agent.
    Retire,
    /// End everything, say [`ToWatchdog::Stopped`], exit with status 0.
    Stop {
        /// How long apps may finish what they are doing, in milliseconds.
        deadline_ms: u64,
    },
}

/// From the agent to the watchdog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWatchdog {
    /// Adopted, and serving with the configuration of that generation. Said once after the start and once
    /// for each further [`ToAgent::Config`].
    Ready {
        /// Generation of the configuration.
        generation: u64,
    },
    /// An app process is about to be; said before it may exec. Descriptors: pidfd, read end of its output
    /// pipe, our end of its control socket.
    Process {
        /// Process slot.
        slot: u32,
        /// Generation of that slot.
        generation: u32,
        /// Its PID.
        pid: i32,
        /// Name of its app, for what it prints while there is no agent.
        app: String,
    },
    /// That process is gone and its output is read to the end.
    Forget {
        /// Process slot.
        slot: u32,
        /// Generation of that slot.
        generation: u32,
    },
    /// The configuration cannot be used; the one before stays.
    ConfigRefused {
        /// Generation of the refused configuration.
        generation: u64,
        /// Why, for the administrator.
        message: String,
    },
    /// A message could not be taken, for want of descriptors: workers and a configuration that waits are told again.
    Missed,
    /// All apps have ended; the agent exits with status 0 next.
    Stopped,
}
