//! What a simulated machine is made of: dice, apps, processes, requests, and the shape of a schedule.

use std::collections::{BTreeSet, VecDeque};

use helper_agent::pool::{CodeWait, GroupId, GroupLimits, Rolling};

/// Random numbers that are the same for the same seed everywhere (Steele, Lea, Flood: SplitMix64).
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice that begin at a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n` − 1.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// From half of `n` to one and a half.
    pub(crate) fn around(&mut self, n: u64) -> u64 {
        n / 2 + self.below(n + 1)
    }
}

/// What a schedule is like.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(super) groups: u64,
    pub(super) pool: u32,
    pub(super) length_ms: u64,
    /// Between two bursts of one group, about.
    pub(super) gap_ms: u64,
    /// Most requests of a burst.
    pub(super) burst: u64,
    pub(super) boot_ms: u64,
    pub(super) service_ms: u64,
    pub(super) start_timeout_ms: u64,
    pub(super) has_faults: bool,
    pub(super) fault_gap_ms: u64,
    /// Nobody may wait longer.
    pub(super) patience_ms: u64,
}

impl Shape {
    /// Everything happens.
    pub(crate) fn stormy(seed: u64) -> Self {
        let mut dice = Dice::new(!seed);
        let (groups, pool) = (1 + dice.below(8), 1 + dice.below(6));
        let (burst, service_ms) = (1 + dice.below(12), 1 + dice.below(300));
        Self {
            groups,
            pool: u32::try_from(pool).unwrap_or(1),
            length_ms: 20_000 + dice.below(100_000),
            gap_ms: (200 + dice.below(4_000)).max(gap_ms(groups, pool, burst, service_ms)),
            burst,
            boot_ms: 20 + dice.below(3_000),
            service_ms,
            start_timeout_ms: 8_000,
            has_faults: true,
            fault_gap_ms: 300 + dice.below(5_000),
            // A group whose starts fail again and again is tried once a minute, and a stubborn process leaves after one.
            patience_ms: 240_000,
        }
    }

    /// Nothing breaks, and there is enough to do.
    pub(crate) fn fair(seed: u64) -> Self {
        let mut dice = Dice::new(!seed);
        let (groups, pool) = (2 + dice.below(12), 1 + dice.below(4));
        let (boot_ms, service_ms) = (20 + dice.below(1_000), 1 + dice.below(30));
        let burst = 1 + dice.below(6);
        Self {
            groups,
            pool: u32::try_from(pool).unwrap_or(1),
            length_ms: 60_000,
            gap_ms: (1_000 + dice.below(4_000)).max(gap_ms(groups, pool, burst, service_ms)),
            burst,
            boot_ms,
            service_ms,
            start_timeout_ms: 90_000,
            has_faults: false,
            fault_gap_ms: 0,
            patience_ms: (groups / pool + 2) * turn_ms(boot_ms, service_ms),
        }
    }

    /// Many more apps than places.
    pub(crate) fn crowd() -> Self {
        let (boot_ms, service_ms) = (200, 20);
        Self {
            groups: 200,
            pool: 20,
            length_ms: 60_000,
            gap_ms: 20_000,
            burst: 2,
            boot_ms,
            service_ms,
            start_timeout_ms: 90_000,
            has_faults: false,
            fault_gap_ms: 0,
            patience_ms: 12 * turn_ms(boot_ms, service_ms),
        }
    }
}

/// Between two bursts at least, so that even one process per place gets through all of them.
fn gap_ms(groups: u64, pool: u64, burst: u64, service_ms: u64) -> u64 {
    6 * burst * service_ms * groups.div_ceil(pool)
}

/// Longest that one group keeps the others waiting: its start, its residence, its last requests, its end.
fn turn_ms(boot_ms: u64, service_ms: u64) -> u64 {
    let (boot_ms, service_ms) = (2 * boot_ms, 2 * service_ms);
    boot_ms + 1_000_u64.max(2 * boot_ms) + 4 * service_ms + 500
}

/// One application.
#[derive(Debug)]
pub(crate) struct App {
    pub(super) limits: GroupLimits,
    pub(super) boot_ms: u64,
    pub(super) service_ms: u64,
    pub(super) concurrency: u32,
    pub(super) fails_per_mille: u64,
    pub(super) hangs_per_mille: u64,
    /// Its newest code does not start.
    pub(super) is_broken: bool,
    /// Counts restarts.
    pub(super) edition: u64,
    pub(super) code_wait: CodeWait,
    pub(super) queue: VecDeque<Request>,
}

impl App {
    pub(super) fn random(dice: &mut Dice, shape: &Shape) -> Self {
        let is_frail = shape.has_faults && dice.one_in(3);
        Self {
            limits: random_limits(dice),
            boot_ms: dice.around(shape.boot_ms),
            service_ms: dice.around(shape.service_ms),
            concurrency: u32::try_from(dice.below(5)).unwrap_or(1),
            fails_per_mille: if is_frail { 200 } else { 0 },
            hangs_per_mille: if is_frail { 50 } else { 0 },
            is_broken: false,
            edition: 0,
            code_wait: CodeWait::No,
            queue: VecDeque::new(),
        }
    }
}

/// What an administrator may write.
pub(crate) fn random_limits(dice: &mut Dice) -> GroupLimits {
    let small = |dice: &mut Dice, n| u32::try_from(dice.below(n)).unwrap_or(0);
    GroupLimits {
        min_instances: small(dice, 3),
        max_instances: small(dice, 4),
        confirmed: true,
        rolling: [Rolling::Auto, Rolling::On, Rolling::Off]
            [usize::try_from(dice.below(3)).unwrap_or(0)],
        resists_errors: dice.one_in(2),
    }
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Request {
    pub(super) number: u64,
    pub(super) since: u64,
}

/// Where a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not ready.
    Starting,
    /// Takes requests.
    Live,
    /// Takes no more.
    Draining,
    /// Asked to go, or killed.
    Asked,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(super) group: GroupId,
    pub(super) phase: Phase,
    pub(super) edition: u64,
    pub(super) concurrency: u32,
    pub(super) in_use: BTreeSet<u64>,
    pub(super) orphans: BTreeSet<u64>,
    pub(super) takes: u64,
}

impl Process {
    pub(super) fn new(group: GroupId, edition: u64) -> Self {
        Self {
            group,
            phase: Phase::Starting,
            edition,
            concurrency: 1,
            in_use: BTreeSet::new(),
            orphans: BTreeSet::new(),
            takes: 0,
        }
    }
}
