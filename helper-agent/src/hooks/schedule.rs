//! How many hooks run at once and how many wait: an app that fails a hundred times a second must not become a hundred
//! programs. Pure: runs are started and ended by others.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use passenger_shm::hooks::Hook;

use super::{Facts, Programs};
use crate::pool::{GroupId, ProcessId};

/// How many run at once.
const MOST_AT_ONCE: usize = 4;
/// How many wait for that.
const MOST_WAITING: usize = 64;
/// How long drops are counted before they are told.
const DROP_PERIOD: Duration = Duration::from_secs(60);
/// How much longer than its programs may take a runner may be there: it ends them itself, and then only itself.
const GRACE: Duration = Duration::from_secs(10);

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// What has happened.
    pub(crate) hook: Hook,
    /// What is run.
    pub(crate) programs: Programs,
    /// What they are told.
    pub(crate) facts: Facts,
    /// The app whose full queue it tells of.
    pub(crate) rejected_by: Option<GroupId>,
    /// The process that is killed after it.
    pub(crate) condemned: Option<ProcessId>,
}

/// A job whose runner is there.
#[derive(Debug)]
struct Run {
    job: Job,
    overdue: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    waiting: VecDeque<Job>,
    /// By the PIDs of their runners.
    running: BTreeMap<i32, Run>,
    dropped: u64,
    /// When the first of these was noticed.
    dropping_since: Option<Instant>,
}

impl Schedule {
    /// One more. An error: there is no room, and it is given back.
    pub(crate) fn add(&mut self, job: Job) -> Result<(), Box<Job>> {
        if !self.has_room() {
            self.dropped += 1;
            return Err(Box::new(job));
        }
        self.waiting.push_back(job);
        Ok(())
    }

    /// The one to start now.
    pub(crate) fn next(&mut self) -> Option<Job> {
        if self.running.len() >= MOST_AT_ONCE {
            return None;
        }
        self.waiting.pop_front()
    }

    /// Its runner is there.
    pub(crate) fn started(&mut self, runner: i32, job: Job, now: Instant) {
        let limit = Duration::from_secs(job.hook.seconds().into()) + GRACE;
        let overdue = now + limit;
        self.running.insert(runner, Run { job, overdue });
    }

    /// A child has ended: the job, if it was a runner.
    pub(crate) fn ended(&mut self, pid: i32) -> Option<Job> {
        self.running.remove(&pid).map(|run| run.job)
    }

    /// Runners that do not end by themselves. They count no more.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> Vec<(i32, Job)> {
        let is_due = |(_, run): &(&i32, &Run)| now >= run.overdue;
        let due = self.running.iter().filter(is_due).map(|(pid, _)| *pid);
        let due: Vec<i32> = due.collect();
        let run = |pid| Some((pid, self.running.remove(&pid)?.job));
        due.into_iter().filter_map(run).collect()
    }

    /// Whether a run for that app's full queue is under way or waits.
    pub(crate) fn tells_of(&self, group: GroupId) -> bool {
        let running = self.running.values().map(|run| &run.job);
        let mut all = running.chain(&self.waiting);
        all.any(|job| job.rejected_by == Some(group))
    }

    /// Whether one more may wait.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < MOST_WAITING
    }

    /// How many were dropped: told when none waits any more, or after [`DROP_PERIOD`].
    pub(crate) fn take_dropped(&mut self, now: Instant) -> Option<u64> {
        if self.dropped == 0 {
            return None;
        }
        let since = *self.dropping_since.get_or_insert(now);
        if !self.waiting.is_empty() && now < since + DROP_PERIOD {
            return None;
        }
        self.dropping_since = None;
        Some(std::mem::take(&mut self.dropped))
    }

    /// Whether nothing runs or waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// What runs, and how many wait.
    pub(crate) fn left(&self) -> (Vec<(i32, Hook)>, usize) {
        let running = self.running.iter().map(|(pid, run)| (*pid, run.job.hook));
        (running.collect(), self.waiting.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(hook: Hook) -> Job {
        Job {
            hook,
            programs: Programs {
                paths: vec!["/bin/true".into()],
                place: String::new(),
            },
            facts: Facts::default(),
            rejected_by: None,
            condemned: None,
        }
    }

    #[test]
    fn a_few_run_and_the_others_wait_in_order() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for pid in 0..=6 {
            let mut job = job(Hook::AttachedProcess);
            job.facts.process_pid = Some(pid);
            schedule.add(job).unwrap();
        }
        for runner in 0..4 {
            let job = schedule.next().unwrap();
            assert_eq!(job.facts.process_pid, Some(runner));
            schedule.started(100 + runner, job, now);
        }
        assert_eq!(schedule.next(), None);
        assert_eq!(schedule.left().1, 3);
        assert!(schedule.ended(7).is_none(), "no runner");
        assert!(schedule.ended(102).is_some());
        assert_eq!(schedule.next().unwrap().facts.process_pid, Some(4));
        assert!(!schedule.is_empty());
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_once() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        for _ in 0..MOST_WAITING {
            assert!(schedule.has_room());
            schedule.add(job(Hook::SpawnFailed)).unwrap();
        }
        assert!(!schedule.has_room());
        assert!(schedule.add(job(Hook::SpawnFailed)).is_err());
        assert!(schedule.add(job(Hook::SpawnFailed)).is_err());
        assert_eq!(
            schedule.take_dropped(now),
            None,
            "there is no end of it yet"
        );
        schedule.next().unwrap();
        assert_eq!(schedule.take_dropped(now), None, "others still wait");
        assert_eq!(schedule.take_dropped(now + DROP_PERIOD), Some(2));
        assert_eq!(schedule.take_dropped(now + DROP_PERIOD), None);
        schedule.add(job(Hook::SpawnFailed)).unwrap();
        assert!(schedule.add(job(Hook::SpawnFailed)).is_err());
        while schedule.next().is_some() {}
        assert_eq!(schedule.take_dropped(now), Some(1));
    }

    #[test]
    fn a_runner_that_hangs_gives_its_place_up() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.started(7, job(Hook::SpawnFailed), now);
        schedule.started(8, job(Hook::SpawnFailed), now + GRACE);
        let limit = Duration::from_secs(Hook::SpawnFailed.seconds().into());
        assert_eq!(schedule.take_overdue(now + limit), []);
        let due = schedule.take_overdue(now + limit + GRACE);
        assert_eq!(due.len(), 1);
        assert_eq!(due[0].0, 7);
        assert!(schedule.ended(7).is_none() && schedule.ended(8).is_some());
        assert!(schedule.is_empty());
    }

    #[test]
    fn one_run_at_a_time_tells_of_a_full_queue() {
        let mut schedule = Schedule::default();
        let of = |group| Job {
            rejected_by: Some(GroupId(group)),
            ..job(Hook::QueueFullError)
        };
        schedule.add(of(1)).unwrap();
        schedule.started(7, of(2), Instant::now());
        assert!(schedule.tells_of(GroupId(1)) && schedule.tells_of(GroupId(2)));
        assert!(!schedule.tells_of(GroupId(3)));
        schedule.ended(7);
        assert!(!schedule.tells_of(GroupId(2)));
    }
}
