//! The pool's vocabulary: what it is told ([`Event`]) and what it wants done ([`Command`]).
//! Plain data only. Time arrives as [`Millis`] beside each event; the pool never looks at a clock.

/// Milliseconds on a clock that never goes back; only differences mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// The moment `ms` milliseconds later.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One application as the pool knows it. Chosen by the rim and never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// One process of an application, from the wish to start it until it is reaped. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// Limits of the whole pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Most processes at once over all groups, those that start or end included.
    pub max_processes: u32,
    /// Unused for so long, a process beyond the minimum is ended. `None` = never.
    pub idle_ms: Option<u64>,
    /// A process that ends keeps its streams for so long: workers say good-bye to their clients meanwhile.
    pub stream_drain_ms: u64,
    /// A process that ends keeps requests for so long. `None` = for ever.
    pub request_drain_ms: Option<u64>,
}

/// Limits of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Processes kept although nobody uses them.
    pub min_instances: u32,
    /// Most processes of this group; 0 = as many as the pool has.
    pub max_instances: u32,
    /// Whether the configuration now in force still names this group. An unconfirmed group goes
    /// on serving, loses its minimum, and is forgotten once its processes were idle long enough.
    pub confirmed: bool,
    /// Whether requests wait for the new code after a restart.
    pub rolling: Rolling,
    /// Whether old processes stay when the new code does not start.
    pub resists_errors: bool,
}

/// Who is served by which code while a restart is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rolling {
    /// A request waits for the new code for a moment if the app usually starts that fast, and is then
    /// served by an old process.
    #[default]
    Auto,
    /// No request waits; old processes serve until the new are ready.
    On,
    /// Every request waits for the new code.
    Off,
}

/// How long requests are to wait for a process of the newest code although older ones have room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CodeWait {
    /// Not at all.
    #[default]
    No,
    /// So many milliseconds each.
    Briefly(u32),
    /// Until the pool says otherwise.
    Always,
}

/// A group's queue as seen in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueSeen {
    /// Occupied waiter cells.
    pub waiting: u32,
    /// How long the oldest of them has waited, in milliseconds.
    pub oldest_ms: u64,
}

/// A process's seats as seen in the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LoadSeen {
    /// Seats held by or granted to workers.
    pub in_use: u32,
    /// Seats whose worker went away while the app may still be computing.
    pub orphans: u32,
    /// Upgraded connections that are open.
    pub streams: u32,
    /// Counts the takes of this process: more of them than seats in use means that it has finished one.
    pub takes: u64,
}

/// One look at the tables. What it does not mention keeps its last value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// Queues of groups.
    pub queues: Vec<(GroupId, QueueSeen)>,
    /// Seats of processes.
    pub loads: Vec<(ProcessId, LoadSeen)>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The pool's limits are these from now on.
    Configured(PoolLimits),
    /// A group came into being.
    GroupAdded {
        /// Its id.
        group: GroupId,
        /// Its limits.
        limits: GroupLimits,
    },
    /// A group's limits are these from now on.
    GroupChanged {
        /// Its id.
        group: GroupId,
        /// Its limits.
        limits: GroupLimits,
    },
    /// A process of a former agent was found alive.
    Adopted {
        /// The group it serves.
        group: GroupId,
        /// Its id.
        process: ProcessId,
        /// Requests at once; 0 = unlimited.
        concurrency: u32,
        /// Whether the former agent had already taken it out of routing.
        draining: bool,
        /// Whether the former agent had taken it out of routing for out-of-band work.
        away: bool,
        /// Whether it is from before the group's last restart.
        outdated: bool,
    },
    /// Replace every process of the group, one after the other, without a gap in service.
    Restart {
        /// The group.
        group: GroupId,
    },
    /// The same, and nobody waits for the new code, whatever the group's limits say.
    Roll {
        /// The group.
        group: GroupId,
    },
    /// The configuration in force certainly does not name this group any more: what is left of it ends as
    /// soon as the workers of before do not use it.
    GroupGone {
        /// The group.
        group: GroupId,
    },
    /// Replace this process: it had its share of requests or memory. It serves until another is ready.
    Retire {
        /// The process.
        process: ProcessId,
    },
    /// Somebody is about to need a seat of this group.
    Demand {
        /// The group.
        group: GroupId,
    },
    /// The rim looked at the tables.
    Looked(Observation),
    /// A process that was starting takes requests now.
    SpawnReady {
        /// The process.
        process: ProcessId,
        /// Requests at once; 0 = unlimited.
        concurrency: u32,
        /// Whether the app's code was loaded for it. If it was forked from what was loaded before, the time it took
        /// says nothing of how long new code takes.
        has_loaded: bool,
    },
    /// A process could not start; nothing of it is left.
    SpawnFailed {
        /// The process.
        process: ProcessId,
    },
    /// A process was killed from outside while it started, which says nothing about the app; nothing of it is
    /// left.
    SpawnKilled {
        /// The process.
        process: ProcessId,
    },
    /// A process ended and was reaped.
    Exited {
        /// The process.
        process: ProcessId,
    },
    /// A process asked to get no more requests.
    LeaveAsked {
        /// The process.
        process: ProcessId,
    },
    /// A response of a process asked for out-of-band work.
    WorkWanted {
        /// The process.
        process: ProcessId,
    },
    /// A process is done with its out-of-band work.
    WorkDone {
        /// The process.
        process: ProcessId,
    },
    /// End everything; after so many milliseconds by force.
    Stop {
        /// Milliseconds until force.
        deadline_ms: u64,
    },
    /// Time passed.
    Tick,
}

/// What the rim is to do. Each is carried out at once; what becomes of it comes back as an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Start a process; ends in `SpawnReady`, `SpawnFailed`, `SpawnKilled` or `Exited`.
    Spawn {
        /// The group it will serve.
        group: GroupId,
        /// Its id.
        process: ProcessId,
    },
    /// Take a process out of routing; requests it has go on.
    Drain {
        /// The process.
        process: ProcessId,
    },
    /// Take a process out of routing for a while; requests it has go on.
    Rest {
        /// The process.
        process: ProcessId,
    },
    /// Tell it to do its out-of-band work; ends in `WorkDone` or `Exited`.
    Work {
        /// The process.
        process: ProcessId,
    },
    /// Put it back into routing.
    Resume {
        /// The process.
        process: ProcessId,
    },
    /// Its work took too long; it is ended. For the log.
    WorkOverdue {
        /// The process.
        process: ProcessId,
    },
    /// The group's only process wants out-of-band work, and there may be no other. For the log, said once.
    CannotWork {
        /// The group.
        group: GroupId,
    },
    /// A process that ends still has requests after the time that it has for them; it is ended with them. For the
    /// log.
    DrainOverdue {
        /// The process.
        process: ProcessId,
    },
    /// Say `stop` on its control socket: finish what was sent, then exit.
    AskToStop {
        /// The process.
        process: ProcessId,
    },
    /// SIGTERM to the process.
    Terminate {
        /// The process.
        process: ProcessId,
    },
    /// SIGKILL to its process group.
    Kill {
        /// The process.
        process: ProcessId,
    },
    /// Tell workers how long requests of this group wait for the newest code.
    AwaitCode {
        /// The group.
        group: GroupId,
        /// How long.
        wait: CodeWait,
    },
    /// The new code does not start; old processes go on serving until the next restart. Said once.
    KeptOld {
        /// The group.
        group: GroupId,
    },
    /// Tell the group's waiters that a spawn failed.
    NoteFailure {
        /// The group.
        group: GroupId,
    },
    /// The group is gone: no processes, no waiters, no configuration.
    Forget {
        /// The group.
        group: GroupId,
    },
    /// After `Stop`: no process is left.
    Finished,
}
