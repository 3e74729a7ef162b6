//! The app-log process as the agent has it: started with the first log, told of each, started anew when it is gone.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
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
    pidfd: Pidfd,
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

    /// A pipe: what is written to it is written to that file.
    ///
    /// # Errors
    /// When there are no descriptors, or no process.
    pub fn open(&self, target: &Target) -> io::Result<OwnedFd> {
        let (read, write) = descriptor::pipe()?;
        let _ = descriptor::set_pipe_capacity(write.as_fd(), PIPE_BYTES);
        descriptor::set_nonblocking(write.as_fd(), true)?;
        let message = ToWriter::Open(target.clone());
        let mut running = self.running();
        if let Some(process) = running.as_ref() {
            match process.channel.send(&message, &[read.as_fd()]) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
                sent => return sent.map(|()| write),
            }
        }
        let process = running.insert(self.start()?);
        process.channel.send(&message, &[read.as_fd()])?;
        Ok(write)
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
        let Some(Running { channel, pidfd }) = self.running().take() else {
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
            pidfd: started.pidfd,
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
