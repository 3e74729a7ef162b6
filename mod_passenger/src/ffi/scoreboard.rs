//! httpd's scoreboard: what its processes and threads are at. Memory that all of them write without locks, so
//! everything is read as a copy and may be a moment old.

use std::ops::Range;

use super::bindings::{
    ap_generation_t, ap_scoreboard_image, pid_t, SERVER_BUSY_DNS, SERVER_BUSY_KEEPALIVE,
    SERVER_BUSY_LOG, SERVER_BUSY_READ, SERVER_BUSY_WRITE,
};

/// What workers are at, of which no new ones come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// There are none.
    Gone,
    /// They only deliver what is finished, or wait for clients to hang up: none has a thread at anything else.
    /// What the event MPM does without a thread is in the board, but only renewed when something times out.
    Quiet,
    /// One has a request, or waits for one.
    Busy,
}

/// What stands in the board of one process.
struct Process {
    pid: pid_t,
    generation: ap_generation_t,
}

/// What stands in the board of one thread.
struct Thread {
    pid: pid_t,
    generation: ap_generation_t,
    status: u32,
}

/// How many of this process' threads serve a request; `(reading, serving)`. What httpd's scoreboard
/// says, so it holds for requests that never reach us, too.
pub(crate) fn busy_threads() -> (u32, u32) {
    let (mut reading, mut serving) = (0, 0);
    // SAFETY: a system call without arguments.
    let own = unsafe { libc::getpid() };
    for_each(|process, threads| {
        if process.pid != own {
            return;
        }
        threads(&mut |thread| match thread.status {
            SERVER_BUSY_READ => reading += 1,
            SERVER_BUSY_WRITE | SERVER_BUSY_LOG | SERVER_BUSY_DNS => serving += 1,
            _ => {}
        });
    });
    (reading, serving)
}

/// What the workers of those generations are at; the ones of `ended` are gone, whatever the board says.
pub(crate) fn usage(generations: &Range<u64>, ended: Option<u64>) -> Usage {
    let counts = |generation: ap_generation_t| {
        u64::try_from(generation).is_ok_and(|own| generations.contains(&own) && Some(own) != ended)
    };
    let (mut is_there, mut is_busy) = (false, false);
    for_each(|process, threads| {
        if process.pid != 0 && counts(process.generation) {
            is_there = true;
        }
        threads(&mut |thread| {
            // A process that ends may have lost its place to another one, but for its threads.
            let (pid, generation) = match thread.pid {
                0 => (process.pid, process.generation),
                pid => (pid, thread.generation),
            };
            if pid != 0 && counts(generation) && asks_or_may(thread.status) {
                (is_there, is_busy) = (true, true);
            }
        });
    });
    match (is_there, is_busy) {
        (false, _) => Usage::Gone,
        (true, false) => Usage::Quiet,
        (true, true) => Usage::Busy,
    }
}

fn asks_or_may(status: u32) -> bool {
    matches!(
        status,
        SERVER_BUSY_READ
            | SERVER_BUSY_WRITE
            | SERVER_BUSY_KEEPALIVE
            | SERVER_BUSY_LOG
            | SERVER_BUSY_DNS
    )
}

/// Shows each process with a way to see its threads.
fn for_each(mut show: impl FnMut(&Process, &mut dyn FnMut(&mut dyn FnMut(Thread)))) {
    // SAFETY: NULL, or the scoreboard, mapped for as long as the process lives.
    let Some(board) = (unsafe { ap_scoreboard_image.as_ref() }) else {
        return;
    };
    // SAFETY: set once, before the children are forked.
    let Some(global) = (unsafe { board.global.as_ref() }) else {
        return;
    };
    let limits = (
        usize::try_from(global.server_limit),
        usize::try_from(global.thread_limit),
    );
    let (Ok(servers), Ok(threads)) = limits else {
        return;
    };
    for server in 0..servers {
        // SAFETY: `parent` has server_limit entries; other processes write it, so it is copied.
        let copy = unsafe { board.parent.add(server).read_volatile() };
        let process = Process {
            pid: copy.pid,
            generation: copy.generation,
        };
        // SAFETY: `servers` has server_limit rows.
        let row = unsafe { *board.servers.add(server) };
        show(&process, &mut |look| {
            for thread in 0..threads {
                // SAFETY: a row has thread_limit entries.
                let entry = unsafe { row.add(thread) };
                // SAFETY: as above; other processes write it, so each field is copied.
                let (pid, generation, status) = unsafe {
                    (
                        (&raw const (*entry).pid).read_volatile(),
                        (&raw const (*entry).generation).read_volatile(),
                        (&raw const (*entry).status).read_volatile(),
                    )
                };
                look(Thread {
                    pid,
                    generation,
                    status: status.into(),
                });
            }
        });
    }
}
