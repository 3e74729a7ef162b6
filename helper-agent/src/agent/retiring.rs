//! Processes that had their share: `PassengerMaxRequests` and `PassengerMemoryLimit` replace one, another
//! first; `PassengerMaxRequestTime` ends one whose request takes too long, `PassengerHardMemoryLimit` one that is
//! too large to wait. Looked at about once a second, so a process may get some requests more than its share, never
//! fewer.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use passenger_shm::{InExchange, ProcessRef};

use super::core::Agent;
use super::processes::Body;
use super::tasks::Happening;
use crate::pool::{Event, ProcessId};

/// Shortest time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// What one process has had so far.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Requests in execution, and when each was seen first.
    requests: HashMap<u64, Instant>,
    /// Whether the pool was told that it had enough.
    is_retired: bool,
    /// Whether it was killed for a request that took too long.
    is_overtime: bool,
    /// Whether a helper thread is measuring its memory.
    is_measuring: bool,
}

impl Share {
    /// Notes what is in execution; the limit in seconds that a request has exceeded, if one has. What its
    /// worker says wins over what is configured for the app.
    fn time_is_up(&mut self, current: &[InExchange], configured: u32) -> Option<u32> {
        let now = Instant::now();
        let is_current = |number: &u64| current.iter().any(|r| r.number == *number);
        self.requests.retain(|number, _| is_current(number));
        let mut exceeded = None;
        for request in current {
            let since = *self.requests.entry(request.number).or_insert(now);
            let limit = request.limit.unwrap_or(configured);
            let is_over = now.duration_since(since) >= Duration::from_secs(limit.into());
            if limit > 0 && is_over {
                exceeded = Some(limit);
            }
        }
        exceeded
    }
}

/// How long one of the requests in execution may take at most, in seconds; `None`: as long as it likes. Where nobody
/// knows them, what is configured for the app counts.
fn longest(current: &[InExchange], configured: u32) -> Option<u32> {
    let limits = current.iter().map(|r| r.limit.unwrap_or(configured));
    let is_endless = limits.clone().any(|limit| limit == 0);
    let longest = limits.max().unwrap_or(configured);
    (longest > 0 && !is_endless).then_some(longest)
}

/// When the last looks were.
#[derive(Debug, Default)]
pub(super) struct RetiringLook {
    last: Option<Instant>,
    measured: Option<Instant>,
    /// Processes of which a worker says that a request takes too long.
    pub(super) overdue: Vec<ProcessRef>,
}

impl Agent {
    /// Looks whether a process had its share.
    pub(super) fn look_for_retiring(&mut self) {
        if self
            .retiring
            .last
            .is_some_and(|last| last.elapsed() < PERIOD)
        {
            return;
        }
        self.retiring.last = Some(Instant::now());
        let mut enough = Vec::new();
        let mut overtime = Vec::new();
        for (id, process) in self.processes.iter_mut() {
            let Some(group) = self.groups.get(process.group) else {
                continue;
            };
            if !process.is_serving() {
                continue;
            }
            let options = &group.options;
            let count = process.takes(self.view.load(process.reference).takes);
            let share = &mut process.share;
            let limit = u64::from(options.max_requests);
            if limit > 0 && count >= limit && !share.is_retired && !process.is_ending {
                share.is_retired = true;
                enough.push((id, format!("had {count} requests")));
            }
            let unanswered = process.question.as_mut().map_or(0, |question| {
                question.looks += 1;
                question.looks
            });
            if share.is_overtime {
                continue;
            }
            let current = self.view.requests(process.reference);
            // Whoever does not even say what he executes has been at one of those requests all the time.
            let longest = longest(&current, options.max_request_time);
            if longest.is_some_and(|limit| unanswered > limit) {
                share.is_overtime = true;
                overtime.push((id, longest));
            } else if let Some(limit) = share.time_is_up(&current, options.max_request_time) {
                share.is_overtime = true;
                overtime.push((id, Some(limit)));
            }
        }
        for (id, reason) in enough {
            self.retire(id, &reason);
        }
        for (id, seconds) in overtime {
            self.end_overtime(id, seconds);
        }
        self.measure_memory();
    }

    fn retire(&mut self, id: ProcessId, reason: &str) {
        if let Some(process) = self.processes.get(id) {
            let group = self.groups.get(process.group);
            let name = group.map_or("?", |group| &group.name);
            log::info!(
                "app {name}: process {} {reason} and is replaced",
                process.pid()
            );
            self.tell(Event::Retire { process: id });
        }
    }

    /// Ends the processes that workers have complained about. Only who executes something at all can be late.
    pub(super) fn end_overdue(&mut self) {
        let named = std::mem::take(&mut self.retiring.overdue);
        let mut late = Vec::new();
        for (id, process) in self.processes.iter_mut() {
            let is_late = named.contains(&process.reference)
                && process.is_serving()
                && !process.share.is_overtime
                && !self.view.load(process.reference).is_idle();
            if is_late {
                process.share.is_overtime = true;
                late.push(id);
            }
        }
        for id in late {
            self.end_overtime(id, None);
        }
    }

    /// A client left a request. Where the process has seats the seat is an orphan and watched. One without limit is
    /// asked what it executes, and ends if it does not answer for as long as a request may take.
    pub(super) fn abandoned(&mut self, reference: ProcessRef) {
        let limited = |group: &super::groups::Group| group.options.max_request_time > 0;
        for (_, process) in self.processes.iter_mut() {
            let is_it = process.reference == reference && process.is_serving();
            if is_it && self.groups.get(process.group).is_some_and(limited) {
                process.is_abandoned = true;
            }
        }
    }

    fn end_overtime(&mut self, id: ProcessId, seconds: Option<u32>) {
        if let Some(process) = self.processes.get(id) {
            let group = self.groups.get(process.group);
            let name = group.map_or("?", |group| &group.name);
            log::error!(
                "app {name}: a request takes longer than {} (PassengerMaxRequestTime), process {} is killed",
                seconds.map_or_else(|| "it may".to_owned(), |seconds| format!("{seconds} s")),
                process.pid()
            );
            if self.is_inspected_first(id) {
                // No request comes to it any more, only to die with it.
                self.tell(Event::LeaveAsked { process: id });
            } else {
                self.with_body(id, Body::kill_group);
            }
        }
    }

    /// Has helper threads measure the processes whose memory is limited, each by itself: the kernel's answer can wait
    /// for a process that is stuck in a page fault, and the limits of the others are not to wait with it.
    fn measure_memory(&mut self) {
        let rate = Duration::from_secs(u64::from(self.configuration.global.measure_rate));
        let is_due = self
            .retiring
            .measured
            .is_none_or(|last| last.elapsed() >= rate);
        if !is_due {
            return;
        }
        let mut limited = Vec::new();
        for (id, process) in self.processes.iter() {
            let Some(group) = self.groups.get(process.group) else {
                continue;
            };
            // The hard limit is for those, too, that are to end and have a request left.
            let is_to_stay = !process.is_ending && !process.share.is_retired;
            let has_limit = (group.options.memory_limit > 0 && is_to_stay)
                || group.options.hard_memory_limit > 0;
            if has_limit && process.is_serving() && !process.share.is_measuring {
                limited.push((id, process.pid()));
            }
        }
        if limited.is_empty() {
            return;
        }
        self.retiring.measured = Some(Instant::now());
        for (id, pid) in limited {
            let out = self.happenings.clone();
            let begun = self.helpers.run(move || {
                let megabytes = private_megabytes(pid);
                let _ = out.blocking_send(Happening::Measured {
                    process: id,
                    megabytes,
                });
            });
            if let Err(e) = begun {
                log::debug!("cannot measure the memory of apps: {e}");
                return;
            }
            if let Some(process) = self.processes.get_mut(id) {
                process.share.is_measuring = true;
            }
        }
    }

    pub(super) fn on_measured(&mut self, id: ProcessId, megabytes: Option<u64>) {
        let Some(process) = self.processes.get_mut(id) else {
            return;
        };
        process.share.is_measuring = false;
        let (Some(group), Some(megabytes)) = (self.groups.get(process.group), megabytes) else {
            return;
        };
        let (limit, hard) = (group.options.memory_limit, group.options.hard_memory_limit);
        let is_over = |limit: u32| limit > 0 && megabytes > u64::from(limit);
        if is_over(hard) && process.is_serving() {
            log::error!(
                "app {}: process {} has {megabytes} MB, more than {hard} (PassengerHardMemoryLimit), and is killed",
                group.name,
                process.pid()
            );
            self.with_body(id, Body::kill_group);
        } else if is_over(limit)
            && process.is_serving()
            && !process.is_ending
            && !process.share.is_retired
        {
            process.share.is_retired = true;
            self.retire(
                id,
                &format!("has {megabytes} MB, more than {limit} (PassengerMemoryLimit),"),
            );
        }
    }
}

/// Memory that a process shares with nobody, swapped pages included.
fn private_megabytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    Some(private_kilobytes(&text) / 1024)
}

fn private_kilobytes(smaps_rollup: &str) -> u64 {
    let wanted = [
        "Private_Clean:",
        "Private_Dirty:",
        "Private_Hugetlb:",
        "Swap:",
    ];
    let mut sum = 0;
    for line in smaps_rollup.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next().is_some_and(|key| wanted.contains(&key)) {
            let size = words.next().and_then(|word| word.parse::<u64>().ok());
            sum += size.unwrap_or(0);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_has_as_long_as_the_longest_of_his_requests() {
        let longest_of = |limits: &[Option<u32>], configured| {
            let request = |(limit, number): (&Option<u32>, u64)| InExchange {
                number,
                limit: *limit,
            };
            let current: Vec<InExchange> = limits.iter().zip(0..).map(request).collect();
            longest(&current, configured)
        };
        assert_eq!(longest_of(&[], 30), Some(30));
        assert_eq!(longest_of(&[], 0), None);
        assert_eq!(longest_of(&[Some(0)], 30), None);
        assert_eq!(longest_of(&[Some(5), Some(0)], 30), None);
        assert_eq!(longest_of(&[Some(100), None], 30), Some(100));
        assert_eq!(longest_of(&[Some(5), None], 30), Some(30));
        assert_eq!(longest_of(&[Some(5)], 0), Some(5));
        assert_eq!(longest_of(&[Some(5), None], 0), None);
    }

    #[test]
    fn private_memory_is_what_would_be_free_without_the_process() {
        let text = "5600-7ffc ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nShared_Clean: 300 kB\n\
                    Private_Clean:       100 kB\nPrivate_Dirty:  400 kB\nSwap: 24 kB\nSwapPss: 24 kB\n";
        assert_eq!(private_kilobytes(text), 524);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(private_megabytes(own).is_some());
    }
}
