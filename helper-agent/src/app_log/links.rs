//! The app-log process as the agent has it: started with the first log, told of each, started anew when it is gone.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use passenger_shm::channel::Channel;

use super::place::Target;
use super::writer::{ToWriter, CHANNEL_FD};
use crate::sys::descriptor;
use crate::sys::pidfd::Pidfd;
use crate::sys::spawn::{self, Program};
use crate::watchdog::takeover::own_environment;

/// Room in each log's pipe: what an app prints in a burst. Who is not root may get less.
const PIPE_BYTES: usize = 1 << 20;
/// One that ended is followed by another no sooner than so long after its own start: what ends each time ends with
/// each, and must not keep the machine busy.
const RESTART_PAUSE: Duration = Duration::from_secs(2);
/// How long the last lines may take to be written when the agent ends.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How the agent reaches the app-log process.
#[derive(Debug, Clone)]
pub struct Links(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    image: OwnedFd,
    oom_score_adj: Option<i32>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    channel: Channel,
    pid: i32,
    pidfd: Arc<Pidfd>,
    since: Instant,
}

/// The process that reads the pipe of a log.
#[derive(Debug)]
pub(super) struct Reader(Arc<Pidfd>);

impl Reader {
    pub(super) fn is_gone(&self) -> bool {
        self.0.has_exited()
    }

    #[cfg(test)]
    pub(super) fn of(pid: u32) -> Self {
        let pid = i32::try_from(pid).unwrap();
        Self(Arc::new(Pidfd::open(pid).unwrap()))
    }
}

/// A pipe for the lines of one log: the reading end, and the writing one, which never waits.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = descriptor::pipe()?;
    let _ = descriptor::set_pipe_capacity(write.as_fd(), PIPE_BYTES);
    descriptor::set_nonblocking(write.as_fd(), true)?;
    Ok((read, write))
}

impl Links {
    /// None runs yet; when one is needed it is this program, the agent's own.
    #[must_use]
    pub fn new(image: OwnedFd, oom_score_adj: Option<i32>) -> Self {
        Self(Arc::new(Inner {
            image,
            oom_score_adj,
            running: Mutex::default(),
        }))
    }

    /// Has the app-log process write what comes through that pipe to that file, after starting it if need be.
    ///
    /// # Errors
    /// `WouldBlock` when it is to be tried again in a moment; others when there is no process to be had.
    pub(super) fn open(&self, target: &Target, pipe: BorrowedFd<'_>) -> io::Result<Reader> {
        let message = ToWriter::Open(target.clone());
        let mut running = self.running();
        if let Some(process) = running.as_ref() {
            match process.channel.send(&message, &[pipe]) {
                Err(e) if has_ended(&e) => {}
                sent => return sent.map(|()| Reader(Arc::clone(&process.pidfd))),
            }
            if process.since.elapsed() < RESTART_PAUSE {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            log::warn!(
                "the app-log process {} has ended; another one goes on with the logs of apps",
                process.pid
            );
        }
        let process = running.insert(self.start()?);
        process.channel.send(&message, &[pipe])?;
        Ok(Reader(Arc::clone(&process.pidfd)))
    }

    /// The main log is another file from now on, and this much is said there.
    pub fn main_log(&self, log: &OwnedFd, level: u32) {
        if let Some(process) = self.running().as_ref() {
            let told = process
                .channel
                .send(&ToWriter::MainLog { level }, &[log.as_fd()]);
            if let Err(e) = told {
                log::debug!("the app-log process is not told of a new log: {e}");
            }
        }
    }

    /// Ends the process, whose last lines may take a moment. All pipes must be closed.
    pub fn end(&self) {
        let Some(Running { channel, pidfd, .. }) = self.running().take() else {
            return;
        };
        drop(channel);
        let deadline = Instant::now() + LAST_LINES;
        while !pidfd.has_exited() && Instant::now() < deadline {
            let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            // An interrupted wait is as good as one that timed out.
            let _ = nix::poll::poll(&mut fds, PollTimeout::from(100u8));
        }
    }

    fn start(&self) -> io::Result<Running> {
        let (ours, theirs) = Channel::pair()?;
        ours.set_nonblocking(true)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let log = crate::log::descriptor()?;
        let started = spawn::spawn(&Program {
            image: self.0.image.as_fd(),
            arguments: vec![
                CString::new("passenger-helper-agent")?,
                CString::new("--app-logs")?,
            ],
            // The time zone is in it.
            environment: own_environment(),
            descriptors: vec![
                (null.as_fd(), 0),
                (log.as_fd(), 1),
                (log.as_fd(), 2),
                (theirs.as_fd(), CHANNEL_FD),
            ],
            new_session: true,
            oom_score_adj: self.0.oom_score_adj,
            nofile: None,
        })?;
        log::debug!("started process {} for logs of apps", started.pid);
        Ok(Running {
            channel: ours,
            pid: started.pid,
            pidfd: Arc::new(started.pidfd),
            since: Instant::now(),
        })
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        // There is no state that a panic could leave half changed.
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody is at the other end of the channel. The kernel says it in the one way or the other, by what that end
/// had left unread.
fn has_ended(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}
