//! What a process costs, as the kernel tells: CPU time since its start, memory. Absent where the kernel does not
//! tell us (another user's process, or one that has just ended).

use std::fs;

use serde::{Deserialize, Serialize};

/// CPU and memory of one process. Memory in kilobytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Share of one CPU since its start, in percent.
    pub cpu: Option<u32>,
    /// CPU time since its start, in milliseconds.
    pub cpu_ms: Option<u64>,
    /// Resident memory, shared pages included in full.
    pub rss: Option<u64>,
    /// Resident memory, shared pages by its share of them.
    pub pss: Option<u64>,
    /// Memory that would be free without it: shared with nobody, swapped pages included.
    pub private: Option<u64>,
    /// Resident memory that it has written and shares with nobody.
    pub private_dirty: Option<u64>,
    /// Swapped out.
    pub swap: Option<u64>,
}

impl Usage {
    /// What costs the kernel nothing to tell: for when there are too many processes to count pages.
    #[must_use]
    pub fn roughly_of(pid: i32) -> Self {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let stat = read("stat");
        Self {
            cpu: cpu(&stat, uptime_ticks()),
            cpu_ms: cpu_ticks(&stat).map(|ticks| ticks * MS_PER_TICK),
            rss: kilobytes(&read("status"), "VmRSS:"),
            ..Self::default()
        }
    }

    /// Asks the kernel. May wait for a process that is stuck in a page fault.
    #[must_use]
    pub fn of(pid: i32) -> Self {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let rollup = read("smaps_rollup").unwrap_or_default();
        let private = ["Private_Clean:", "Private_Dirty:", "Private_Hugetlb:"];
        let sums = private.map(|key| kilobytes(&rollup, key));
        let swap = kilobytes(&rollup, "Swap:");
        let stat = read("stat").unwrap_or_default();
        Self {
            cpu: cpu(&stat, uptime_ticks()),
            cpu_ms: cpu_ticks(&stat).map(|ticks| ticks * MS_PER_TICK),
            rss: kilobytes(&rollup, "Rss:")
                .or_else(|| kilobytes(&read("status").unwrap_or_default(), "VmRSS:")),
            pss: kilobytes(&rollup, "Pss:"),
            private_dirty: sums[1],
            private: sums[0].and(Some(sums.iter().chain([&swap]).copied().flatten().sum())),
            swap,
        }
    }
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// `USER_HZ` is 100 on every architecture that Linux has been ported to for twenty years.
const MS_PER_TICK: u64 = 10;

/// Clock ticks since boot.
fn uptime_ticks() -> Option<u64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let (seconds, rest) = text.split_once('.')?;
    let hundredths = rest.get(..2)?;
    Some(seconds.parse::<u64>().ok()? * 100 + hundredths.parse::<u64>().ok()?)
}

/// A field of `/proc/PID/stat`, numbered as in proc(5).
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let text = after_name.split_ascii_whitespace().nth(number - 3)?;
    text.parse().ok()
}

/// CPU time of a process: in user mode, and in the kernel.
fn cpu_ticks(stat: &str) -> Option<u64> {
    Some(field(stat, 14)? + field(stat, 15)?)
}

fn cpu(stat: &str, now: Option<u64>) -> Option<u32> {
    let used = cpu_ticks(stat)?;
    let alive = now?.saturating_sub(field(stat, 22)?).max(1);
    u32::try_from(used * 100 / alive).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_measured() {
        let usage = Usage::of(i32::try_from(std::process::id()).unwrap());
        assert!(usage.rss.is_some_and(|kb| kb > 100), "{usage:?}");
        assert!(usage.cpu.is_some(), "{usage:?}");
        assert!(usage.private <= usage.rss.max(usage.private));
        let roughly = Usage::roughly_of(i32::try_from(std::process::id()).unwrap());
        assert!(roughly.rss.is_some() && roughly.pss.is_none());
        assert_eq!(Usage::of(0), Usage::default());
    }

    #[test]
    fn cpu_is_used_time_by_lifetime_and_the_name_may_be_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 30 20 0 0 20 0 1 0 900 1 1";
        assert_eq!(cpu(stat, Some(1_000)), Some(50));
        assert_eq!(cpu(stat, Some(900)), Some(5_000), "just started");
        assert_eq!(cpu("", Some(1)), None);
        assert_eq!(cpu_ticks(stat), Some(50));
    }
}
