//! Threads for work that may block on somebody else's file system or name service. Few at a time, each only
//! for as long as there is work; and where the machine gives no thread, an error instead of a panic.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many there may be at once.
const MOST_THREADS: usize = 16;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Work {
    waiting: VecDeque<Job>,
    threads: usize,
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
        if work.threads >= MOST_THREADS {
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
            drop(work);
            // The hook has logged it; whoever waits for the result has a deadline.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
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
