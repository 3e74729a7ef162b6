//! Threads for work that may block on somebody else's file system or name service. Few at a time, each only
//! for as long as there is work; and where the machine gives no thread, an error instead of a panic.
//!
//! One that is at its job for long hangs in a file system, perhaps for ever, and does not count: an app must not keep
//! the others from being started by a directory that does not answer.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many there may be at once that do not hang.
const MOST_THREADS: usize = 16;
/// How many there may be at once, whatever they do.
const MOST_OF_ALL: usize = 256;
/// From then on a job hangs.
const HANGS: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Work {
    waiting: VecDeque<Job>,
    threads: usize,
    /// When the jobs that are being done began.
    begun: BTreeMap<u64, Instant>,
    next: u64,
}

impl Work {
    /// Whether another thread may be started.
    fn has_room(&self) -> bool {
        let hanging = self
            .begun
            .values()
            .filter(|at| at.elapsed() >= HANGS)
            .count();
        self.threads < MOST_OF_ALL && self.threads - hanging.min(self.threads) < MOST_THREADS
    }
}

/// Hands work to helper threads.
#[derive(Clone, Default)]
pub(crate) struct Helpers(Arc<Mutex<Work>>);

impl std::fmt::Debug for Helpers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let work = self.work();
        let (threads, waiting) = (work.threads, work.waiting.len());
        write!(f, "Helpers({threads} threads, {waiting} jobs wait)")
    }
}

impl Helpers {
    /// Has a helper thread do that, sooner or later. Never blocks.
    ///
    /// # Errors
    /// When there is no helper thread and none can be started. The job is dropped.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut work = self.work();
        work.waiting.push_back(Box::new(job));
        if !work.has_room() {
            return Ok(());
        }
        let helpers = self.clone();
        let started = std::thread::Builder::new()
            .name("psgr-helper".to_owned())
            .spawn(move || helpers.work_off());
        match started {
            Ok(_) => work.threads += 1,
            // Those there are will get to it.
            Err(_) if work.threads > 0 => {}
            Err(e) => {
                work.waiting.pop_back();
                return Err(e);
            }
        }
        Ok(())
    }

    /// A helper thread's life.
    fn work_off(&self) {
        loop {
            let mut work = self.work();
            let Some(job) = work.waiting.pop_front() else {
                work.threads -= 1;
                return;
            };
            let number = work.next;
            work.next += 1;
            work.begun.insert(number, Instant::now());
            drop(work);
            // The hook has logged it; whoever waits for the result has a deadline.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            self.work().begun.remove(&number);
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // No code of others runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn more_jobs_than_threads_are_all_done_and_the_threads_end() {
        let helpers = Helpers::default();
        let (gate, opened) = mpsc::channel::<()>();
        let opened = Arc::new(Mutex::new(opened));
        let (done, results) = mpsc::channel();
        for number in 0..MOST_THREADS * 3 {
            let (opened, done) = (Arc::clone(&opened), done.clone());
            helpers
                .run(move || {
                    // Ends with an error when the gate is dropped; all threads wait here until then.
                    let _ = opened.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    done.send(number).unwrap();
                })
                .unwrap();
        }
        assert_eq!(helpers.work().threads, MOST_THREADS);
        drop(gate);
        let mut seen: Vec<usize> = (0..MOST_THREADS * 3)
            .map(|_| results.recv_timeout(PATIENCE).unwrap())
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..MOST_THREADS * 3).collect::<Vec<_>>());
        while helpers.work().threads > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn jobs_that_hang_keep_no_other_from_being_done() {
        let helpers = Helpers::default();
        let (gate, opened) = mpsc::channel::<()>();
        let opened = Arc::new(Mutex::new(opened));
        for _ in 0..MOST_THREADS {
            let opened = Arc::clone(&opened);
            let hang = move || {
                let _ = opened.lock().unwrap_or_else(PoisonError::into_inner).recv();
            };
            helpers.run(hang).unwrap();
        }
        let (done, result) = mpsc::channel();
        let again = done.clone();
        helpers.run(move || done.send(1).unwrap()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while helpers.work().begun.len() < MOST_THREADS {
            assert!(Instant::now() < deadline, "all are at it");
            std::thread::yield_now();
        }
        assert!(result.try_recv().is_err(), "nobody is free");
        let long_ago = Instant::now().checked_sub(HANGS).unwrap();
        helpers
            .work()
            .begun
            .values_mut()
            .for_each(|at| *at = long_ago);
        // With the next job there is somebody for both.
        helpers.run(move || again.send(2).unwrap()).unwrap();
        assert_eq!(result.recv_timeout(PATIENCE), Ok(1));
        assert_eq!(result.recv_timeout(PATIENCE), Ok(2));
        drop(gate);
        while helpers.work().threads > 0 {
            std::thread::yield_now();
        }
        assert!(helpers.work().begun.is_empty());
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let helpers = Helpers::default();
        helpers.run(|| panic!("on purpose")).unwrap();
        let (done, result) = mpsc::channel();
        helpers.run(move || done.send(()).unwrap()).unwrap();
        result.recv_timeout(PATIENCE).unwrap();
        while helpers.work().threads > 0 {
            std::thread::yield_now();
        }
    }
}
