//! Single decisions of the pool, told as short stories: the words they are told with. Random schedules are in
//! `tests/pool_properties/`.

mod ending;
mod restarts;
mod scaling;
mod sharing;
mod starts;
mod work;

use super::*;

const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);

fn pool(max: u32) -> Pool {
    Pool::new(PoolLimits {
        max_processes: max,
        idle_ms: Some(300_000),
        stream_drain_ms: 10_000,
        request_drain_ms: Some(600_000),
    })
}

fn limits(min: u32) -> GroupLimits {
    GroupLimits {
        min_instances: min,
        max_instances: 0,
        confirmed: true,
        rolling: Rolling::On,
        resists_errors: true,
    }
}

fn add(pool: &mut Pool, now: u64, group: GroupId, min: u32) -> Vec<Command> {
    pool.handle(
        Millis(now),
        Event::GroupAdded {
            group,
            limits: limits(min),
        },
    )
}

fn waits(pool: &mut Pool, now: u64, group: GroupId, waiting: u32, oldest_ms: u64) -> Vec<Command> {
    let queues = vec![(group, QueueSeen { waiting, oldest_ms })];
    pool.handle(
        Millis(now),
        Event::Looked(Observation {
            queues,
            loads: vec![],
        }),
    )
}

fn busy(pool: &mut Pool, now: u64, process: ProcessId, in_use: u32, orphans: u32) -> Vec<Command> {
    let loads = vec![(
        process,
        LoadSeen {
            in_use,
            orphans,
            streams: 0,
            takes: 7,
        },
    )];
    pool.handle(
        Millis(now),
        Event::Looked(Observation {
            queues: vec![],
            loads,
        }),
    )
}

fn ready(pool: &mut Pool, now: u64, process: ProcessId) -> Vec<Command> {
    pool.handle(
        Millis(now),
        Event::SpawnReady {
            process,
            concurrency: 1,
            has_loaded: true,
        },
    )
}

fn spawned(commands: &[Command]) -> Vec<ProcessId> {
    let spawned = |c: &Command| match c {
        Command::Spawn { process, .. } => Some(*process),
        _ => None,
    };
    commands.iter().filter_map(spawned).collect()
}

fn one(commands: &[Command]) -> ProcessId {
    match spawned(commands)[..] {
        [process] => process,
        _ => panic!("expected exactly one spawn, got {commands:?}"),
    }
}

fn streams(pool: &mut Pool, now: u64, process: ProcessId, streams: u32) -> Vec<Command> {
    let seen = LoadSeen {
        streams,
        takes: 7,
        ..LoadSeen::default()
    };
    let look = Observation {
        queues: vec![],
        loads: vec![(process, seen)],
    };
    pool.handle(Millis(now), Event::Looked(look))
}
