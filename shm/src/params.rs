//! Values that cross the API: what a group, a process and a hint are made of. No shared memory here.

use serde::Serialize;
use std::time::Duration;

use crate::ids::{GroupRef, ProcessRef};

/// Longest definition of a group, in bytes.
pub const MAX_DEFINITION_BYTES: usize = 2048;

/// A grant that its waiter has not picked up for this long belongs to a stopped or dead worker:
/// the usual argument of `AgentView::revoke_stale_grants`.
pub const STALE_GRANT: Duration = Duration::from_secs(1);

/// Capacities of all tables; fixed when the segments are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capacities {
    /// Worker processes of httpd that may exist at once, all generations.
    pub clients: u16,
    /// Groups.
    pub groups: u16,
    /// Waiter cells per group.
    pub cells: u16,
    /// App processes of all groups.
    pub processes: u16,
    /// Seats per app process; an app with more concurrency uses that many.
    pub seats: u16,
    /// Entries of the key table, a power of two.
    pub keys: u32,
    /// Cells of the hint ring, a power of two.
    pub ring: u32,
}

impl Capacities {
    /// Capacities for an httpd: `server_limit` children, `max_threads` request threads over all of
    /// them, `max_pool_size` app processes.
    #[must_use]
    pub fn for_httpd(server_limit: u32, max_threads: u32, max_pool_size: u32) -> Capacities {
        let narrow = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        Capacities {
            // Old and new generations of children overlap during a graceful restart.
            clients: narrow(
                server_limit
                    .saturating_mul(2)
                    .saturating_add(64)
                    .min(32_768),
            ),
            groups: 256,
            cells: narrow(max_threads.clamp(64, 1024)),
            // Four times the pool: rolling restarts, drained processes, the next configuration.
            processes: narrow(max_pool_size.saturating_mul(4).clamp(64, 1024)),
            seats: 64,
            keys: 4096,
            ring: 1024,
        }
    }
}

/// What an app process speaks on its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Protocol {
    /// The binary framing of docs/protocols.md.
    Binary,
    /// HTTP/1.1.
    Http,
}

/// Where an app process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum ProcessState {
    /// Being spawned; takes no requests yet.
    Starting,
    /// Takes requests.
    Live,
    /// Finishes what it has, takes nothing new.
    Draining,
    /// Takes nothing new for a while and will be back: out-of-band work.
    Away,
    /// Ended; its words are being put in order.
    Dead,
}

/// The settings of a group that workers read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GroupParams {
    /// Requests that may wait, 0 = as many as there are cells.
    pub queue_limit: u32,
    /// How long a request may wait, in milliseconds, 0 = no limit.
    pub queue_time_ms: u32,
    /// Newest generation of the app's code: processes of it are preferred.
    pub code_generation: u32,
    /// How long a request is to wait for a process of that generation before it takes an older one, in
    /// milliseconds; `u32::MAX` = for as long as this says so.
    pub code_wait_ms: u32,
    /// [`restart_mark`] of the restart file that the agent acted upon last; 0 = it has not looked yet.
    pub restart_mark: u64,
}

/// What a worker must know of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GroupInfo {
    /// Requests that may wait, 0 = as many as there are cells.
    pub queue_limit: u32,
    /// How long a request may wait.
    pub queue_time: Option<Duration>,
    /// Spawns that have failed so far: a change while waiting means that the wait may be in vain.
    pub spawn_failures: u64,
    /// Newest generation of the app's code.
    pub code_generation: u32,
    /// How long a request is to wait for a process of that generation before it takes an older one, in
    /// milliseconds; `u32::MAX` = for as long as this says so.
    pub code_wait_ms: u32,
    /// [`restart_mark`] of the restart file that the agent acted upon last; 0 = it has not looked yet.
    pub restart_mark: u64,
}

/// What worker and agent compare to know whether a restart file was touched: its modification time in one
/// word. `None`: there is no such file.
#[must_use]
pub fn restart_mark(modified: Option<(i64, i64)>) -> u64 {
    // Nanoseconds need 30 bits, and 34 bits of seconds last until the year 2514. 1 is a file that is not
    // there; one of the Epoch's first nanosecond is taken for it.
    modified.map_or(1, |(seconds, nanoseconds)| {
        let mark = seconds << 30 | nanoseconds & ((1 << 30) - 1);
        u64::from_ne_bytes(mark.to_ne_bytes()).max(1)
    })
}

/// The facts of a process that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProcessParams {
    /// Its PID. For tools: nobody signals by it.
    pub pid: i32,
    /// The user it runs as.
    pub uid: u32,
    /// Requests at once, 0 = unlimited.
    pub concurrency: u32,
    /// What it speaks.
    pub protocol: Protocol,
    /// Generation of the code it has loaded.
    pub code_generation: u32,
    /// Its port at 127.0.0.1; 0 = it has a Unix socket.
    pub port: u16,
}

/// One app process as it stands in `routes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessSnapshot {
    /// Its name.
    pub process: ProcessRef,
    /// The group it works for.
    pub group: GroupRef,
    /// Where it is in its life.
    pub state: ProcessState,
    /// Its PID, 0 while starting.
    pub pid: i32,
    /// The user it runs as.
    pub uid: u32,
    /// Requests at once, 0 = unlimited.
    pub concurrency: u32,
    /// What it speaks.
    pub protocol: Protocol,
    /// Generation of the code it has loaded.
    pub code_generation: u32,
    /// When it was published, in milliseconds of `CLOCK_MONOTONIC`; 0 while starting.
    pub started_ms: u64,
    /// Its port at 127.0.0.1; 0 = it has a Unix socket.
    pub port: u16,
}

/// Where a process takes connections that has no Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The port at 127.0.0.1.
    pub number: u16,
    /// The user it runs as, whose the listening socket must be.
    pub uid: u32,
}

/// How busy a process is: the truth, counted from its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Load {
    /// Requests in exchange, counters of unlimited processes included.
    pub held: u32,
    /// Seats given to a waiter that has not picked them up yet.
    pub granted: u32,
    /// Seats whose worker is gone while the app may still compute.
    pub orphans: u32,
    /// Upgraded connections (WebSockets) that are open.
    pub streams: u32,
    /// Seats ever taken. Means nothing by itself: a change means "used since I last looked".
    pub takes: u64,
}

impl Load {
    /// Whether no request is or may be in that process. Streams are no requests.
    #[must_use]
    pub fn is_idle(self) -> bool {
        self.held == 0 && self.granted == 0 && self.orphans == 0
    }
}

/// What a worker sees of a process's business, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Its name.
    pub process: ProcessRef,
    /// Its PID.
    pub pid: i32,
    /// Requests at once, 0 = unlimited.
    pub concurrency: u32,
    /// Requests it has.
    pub busy: u32,
    /// How many of them are seats whose worker is gone.
    pub orphans: u32,
    /// Whether it runs the newest generation of the app's code.
    pub is_newest: bool,
}

/// How many requests wait for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Queue {
    /// Occupied waiter cells.
    pub length: u32,
    /// How long the oldest has waited.
    pub oldest: Duration,
}

/// What has waited in a group's queue since the group came into being, those that gave up included. For the
/// eye: workers write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Waited {
    /// Requests that found no free seat.
    pub requests: u64,
    /// How long all of them waited together, in milliseconds.
    pub total_ms: u64,
    /// How long one of them waited at most, in milliseconds.
    pub longest_ms: u64,
}

/// A request that a process has been given and may be executing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InExchange {
    /// Its number ([`crate::Seat::number`]).
    pub number: u64,
    /// Seconds that its worker says it may take, 0 = as long as it likes; `None`: its worker says nothing.
    pub limit: Option<u32>,
}

/// What a worker tells the agent. A hint, never an order: the agent looks at the tables and at the
/// processes themselves, and one that is lost is found there, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Hint {
    /// A request waits for a seat of that group.
    CapacityWanted(GroupRef),
    /// That process closed, refused or broke a connection.
    ProcessSuspect(ProcessRef),
    /// A restart file of that group changed.
    RestartTouched(GroupRef),
    /// A seat of that process became an orphan.
    Orphaned(ProcessRef),
    /// A request in that process, which takes requests without limit, takes longer than it may.
    Overdue(ProcessRef),
}
