//! What happens to the simulated world, chosen at random.

use helper_agent::pool::Rolling;
use proptest::prelude::*;

/// What may happen to the world in one step.
#[derive(Debug, Clone)]
pub(crate) enum Chance {
    Arrive {
        group: u64,
    },
    Serve,
    Abandon {
        process: usize,
    },
    Upgrade {
        process: usize,
    },
    HangUp {
        process: usize,
    },
    SpawnSucceeds {
        process: usize,
        concurrency: u32,
    },
    SpawnFails {
        process: usize,
    },
    Crash {
        process: usize,
    },
    Obey {
        process: usize,
    },
    Leave {
        process: usize,
    },
    WantWork {
        process: usize,
    },
    FinishWork {
        process: usize,
    },
    Restart {
        group: u64,
    },
    Retire {
        process: usize,
    },
    Limits {
        group: u64,
        min: u32,
        max: u32,
        confirmed: bool,
        rolling: Rolling,
        resists: bool,
    },
    Resize {
        max: u32,
    },
    Pass {
        ms: u64,
    },
}

pub(crate) fn rolling() -> impl Strategy<Value = Rolling> {
    prop_oneof![Just(Rolling::Auto), Just(Rolling::On), Just(Rolling::Off)]
}

pub(crate) fn chance() -> impl Strategy<Value = Chance> {
    let group = 0..4u64;
    let process = any::<usize>();
    prop_oneof![
        6 => group.clone().prop_map(|group| Chance::Arrive { group }),
        6 => Just(Chance::Serve),
        1 => process.prop_map(|process| Chance::Abandon { process }),
        2 => process.prop_map(|process| Chance::Upgrade { process }),
        1 => process.prop_map(|process| Chance::HangUp { process }),
        5 => (process, 0..4u32).prop_map(|(process, concurrency)| Chance::SpawnSucceeds {
            process,
            concurrency
        }),
        2 => process.prop_map(|process| Chance::SpawnFails { process }),
        1 => process.prop_map(|process| Chance::Crash { process }),
        4 => process.prop_map(|process| Chance::Obey { process }),
        1 => process.prop_map(|process| Chance::Leave { process }),
        4 => process.prop_map(|process| Chance::WantWork { process }),
        3 => process.prop_map(|process| Chance::FinishWork { process }),
        1 => group.clone().prop_map(|group| Chance::Restart { group }),
        1 => process.prop_map(|process| Chance::Retire { process }),
        1 => (group, 0..3u32, 0..4u32, any::<bool>(), rolling(), any::<bool>())
            .prop_map(|(group, min, max, confirmed, rolling, resists)| {
                Chance::Limits { group, min, max, confirmed, rolling, resists }
            }),
        1 => (1..5u32).prop_map(|max| Chance::Resize { max }),
        6 => prop_oneof![1..50u64, 500..3_000u64, 60_000..400_000u64]
            .prop_map(|ms| Chance::Pass { ms }),
    ]
}
