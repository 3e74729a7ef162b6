//! A worker's way out when httpd's parent dies without a word (`kill -9`, the OOM killer).
//!
//! httpd's own workers then go on accepting for ever, and event's ignore SIGTERM. So each worker has
//! a thread that waits for the parent's pidfd (a pipe would not tell: the siblings hold it open),
//! closes the listeners, lets requests finish for a bounded time and ends the process.

use std::time::{Duration, Instant};

use crate::codes;
use crate::ffi::{process, scoreboard};

/// How long requests that are being served may take to finish.
const SERVING_TIME: Duration = Duration::from_secs(30);
/// How long a connection may take to say what it wants: httpd counts one that has not sent
/// anything yet as busy, too.
const READING_TIME: Duration = Duration::from_secs(2);
/// Between two looks at the scoreboard.
const LOOK: Duration = Duration::from_millis(50);

/// Starts the thread. From `child_init` only. What goes wrong is said, and the worker does without.
pub(crate) fn start(parent: i32) {
    let pidfd = match process::pidfd(parent) {
        Ok(pidfd) => pidfd,
        Err(why) => {
            log::error!(
                "{}: cannot watch httpd's parent pid={parent} ({why}): this worker would outlive it",
                codes::ORPHANED
            );
            return;
        }
    };
    // The number could belong to another process already: then the parent is gone by now.
    let is_gone = i32::try_from(std::os::unix::process::parent_id()) != Ok(parent);
    let watch = move || {
        if !is_gone && !process::wait_readable(&pidfd, None) {
            return;
        }
        leave(parent);
    };
    if let Err(why) = process::spawn_signal_blocked("psgr-parent", watch) {
        log::error!(
            "{}: cannot start the thread that watches httpd's parent: {why}",
            codes::ORPHANED
        );
    }
}

fn leave(parent: i32) -> ! {
    process::close_listeners();
    log::warn!(
        "{}: httpd's parent pid={parent} is gone; this worker finishes its requests and ends",
        codes::ORPHANED
    );
    let start = Instant::now();
    loop {
        let (reading, serving) = scoreboard::busy_threads();
        let waited = start.elapsed();
        let is_busy = serving > 0 || (reading > 0 && waited < READING_TIME);
        if !is_busy || waited > SERVING_TIME {
            process::exit_now();
        }
        std::thread::sleep(LOOK);
    }
}
