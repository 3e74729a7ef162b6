//! The tasks that watch descriptors and turn what they see into [`Happening`]s: store channel, worker
//! connections, control sockets, pidfds, output pipes. They own no decision; each ends with its descriptor.

use std::cell::RefCell;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use passenger_shm::channel::{discard, Channel};
use passenger_shm::messages::{FromWorker, Question, Registration, Reply, ToWorker};
use passenger_shm::ClientId;
use tokio::sync::{mpsc, oneshot};

use super::restarts::RestartFiles;
use crate::admin::{Answer, Request};
use crate::app_log::AppLog;
use crate::config::{Application, Configuration};
use crate::log as sink;
use crate::output::{Drained, LineDrain, Scratch, STALE};
use crate::pool::{GroupId, ProcessId};
use crate::spawn::diagnosis::Diagnosis;
use crate::spawn::dialogue::{self, Lines, Said};
use crate::spawn::fork::{self, Hello};
use crate::spawn::prepare::Prepared;
use crate::spawn::report::Tail;
use crate::status::viewer::Viewer;
use crate::store::ToAgent;
use crate::sys::pidfd::Pidfd;
use crate::sys::readiness::watch;

/// Something the loop must hear of.
#[derive(Debug)]
pub(super) enum Happening {
    /// The watchdog said something.
    Store(ToAgent, Vec<OwnedFd>),
    /// Something that the watchdog said could not be understood a moment ago.
    StoreMissed,
    /// The watchdog is gone.
    StoreClosed,
    /// A tool asks.
    Administered {
        viewer: Viewer,
        request: Request,
        reply: oneshot::Sender<Answer>,
    },
    /// A worker asks.
    Asked {
        client: ClientId,
        message: FromWorker,
        reply: oneshot::Sender<ToWorker>,
    },
    /// What a worker's registration means was found out.
    Found {
        ticket: u64,
        result: Result<Box<Application>, String>,
    },
    /// A helper thread found an app that is to run from the start.
    Foreseen {
        registration: Registration,
        configuration: Arc<Configuration>,
        app: Box<Application>,
    },
    /// A start may begin, or may not.
    Prepared {
        group: GroupId,
        process: ProcessId,
        result: Result<Box<Prepared>, String>,
    },
    /// A helper thread looked at an app's restart files; `None`: it found no app.
    SawRestartFiles {
        group: GroupId,
        files: Option<RestartFiles>,
    },
    /// A helper thread measured a process: megabytes of its own, if there is anything to measure.
    Measured {
        process: ProcessId,
        megabytes: Option<u64>,
    },
    /// A process said a line.
    Said {
        process: ProcessId,
        said: Result<Said, String>,
    },
    /// A command answered at its port.
    Answered { process: ProcessId },
    /// A helper thread looked whether a command's user still listens at its port.
    LookedAtPort {
        process: ProcessId,
        is_deserted: bool,
    },
    /// A process has ended.
    Exited { process: ProcessId },
    /// A process's control socket is read to its end.
    ControlClosed { process: ProcessId },
    /// A process's output is read to its end.
    OutputClosed { process: ProcessId },
    /// A process that a preloader was asked for says that it is there, or there will be none.
    Hello {
        process: ProcessId,
        heard: Result<Hello, String>,
    },
    /// A preloader does not fork.
    ForkOverdue { process: ProcessId },
    /// A start took too long.
    StartTimedOut { process: ProcessId },
    /// What a process does that did not get ready; nothing if that could not be found out.
    Diagnosed {
        process: ProcessId,
        diagnosis: Diagnosis,
    },
    /// A process that failed had its time to leave.
    Overdue { process: ProcessId },
    /// What a failed process printed has had its time to arrive.
    Conclude { process: ProcessId },
    /// A process whose request takes too long was there for those who look into it.
    Inspected { process: ProcessId },
}

/// Where happenings go.
pub(super) type Happenings = mpsc::Sender<Happening>;

/// Delivers `happening` after `delay`.
pub(super) fn after(
    delay: Duration,
    out: Happenings,
    happening: Happening,
) -> tokio::task::AbortHandle {
    let task = tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        let _ = out.send(happening).await;
    });
    task.abort_handle()
}

/// After a message was lost it is asked for again after this long: for want of descriptors it would be lost at once.
const MISSED_PAUSE: Duration = Duration::from_secs(1);

/// Reads the store channel to its end.
pub(super) async fn store(channel: Arc<Channel>, out: Happenings) -> io::Result<()> {
    let fd = watch(channel)?;
    let mut has_missed = None;
    loop {
        let mut guard = fd.readable().await?;
        match guard.try_io(|fd| fd.get_ref().get().recv::<ToAgent>()) {
            Err(_would_block) => {}
            Ok(Ok(Some(received))) => {
                let _ = out
                    .send(Happening::Store(received.message, received.fds))
                    .await;
            }
            Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData => {
                // No descriptors left for those that came with it, most likely. Later there may be some.
                log::error!("a message of the watchdog is lost, and asked for again: {e}");
                if has_missed.is_none_or(|at: Instant| at.elapsed() >= MISSED_PAUSE) {
                    has_missed = Some(Instant::now());
                    after(MISSED_PAUSE, out.clone(), Happening::StoreMissed);
                }
            }
            Ok(Ok(None) | Err(_)) => {
                let _ = out.send(Happening::StoreClosed).await;
                return Ok(());
            }
        }
    }
}

/// Questions that a worker may ask in a burst.
const WORKER_BURST: u32 = 200;
/// Pause for each question beyond.
const WORKER_PAUSE: Duration = Duration::from_millis(20);

/// Answers one worker's questions, one after the other. Ends when the worker closes its end or sends what
/// is not a message: it counts as hostile, and there is nothing more to say to it.
pub(super) async fn worker(
    client: ClientId,
    pid: i32,
    channel: Arc<Channel>,
    out: Happenings,
) -> io::Result<()> {
    let fd = watch(Arc::clone(&channel))?;
    let mut asked = 0;
    loop {
        let mut guard = fd.readable().await?;
        let Question { number, question } = match guard
            .try_io(|fd| fd.get_ref().get().recv::<Question>())
        {
            Err(_would_block) => continue,
            Ok(Ok(Some(received))) if received.fds.is_empty() => received.message,
            Ok(Ok(Some(received))) => {
                discard(received.fds);
                log::warn!(
                    "httpd worker {pid} is not heard any more: it sent descriptors that nobody asked for"
                );
                return Ok(());
            }
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(e)) => {
                log::warn!("httpd worker {pid} is not heard any more: {e}");
                return Ok(());
            }
        };
        asked += 1;
        if asked > WORKER_BURST {
            tokio::time::sleep(WORKER_PAUSE).await;
        }
        let (reply, answer) = oneshot::channel();
        let _ = out
            .send(Happening::Asked {
                client,
                message: question,
                reply,
            })
            .await;
        let Ok(answer) = answer.await else { continue };
        match channel.send(&Reply { number, answer }, &[]) {
            Ok(()) => {}
            // Late answers fill its queue; it reads them with its next question, and asks this one again.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                log::warn!("httpd worker {pid} does not read its answers: {e}");
                return Ok(());
            }
        }
    }
}

/// Reads a process's control socket until it ends or breaks the protocol.
pub(super) async fn control(
    process: ProcessId,
    socket: Arc<UnixStream>,
    out: Happenings,
) -> io::Result<()> {
    let result = control_lines(process, socket, &out).await;
    let _ = out.send(Happening::ControlClosed { process }).await;
    result
}

async fn control_lines(
    process: ProcessId,
    socket: Arc<UnixStream>,
    out: &Happenings,
) -> io::Result<()> {
    let fd = watch(socket)?;
    let mut lines = Lines::default();
    loop {
        let mut guard = fd.readable().await?;
        let mut buffer = [0; 2048];
        let Ok(read) = guard.try_io(|fd| fd.get_ref().get().read(&mut buffer)) else {
            continue;
        };
        let length = match read {
            Ok(0) | Err(_) => return Ok(()),
            Ok(length) => length,
        };
        let complete = match lines.push(&buffer[..length]) {
            Ok(complete) => complete,
            Err(text) => {
                let _ = out
                    .send(Happening::Said {
                        process,
                        said: Err(text),
                    })
                    .await;
                return Ok(());
            }
        };
        for line in complete {
            let said = dialogue::parse(&line);
            let is_broken = said.is_err();
            let _ = out.send(Happening::Said { process, said }).await;
            if is_broken {
                return Ok(());
            }
        }
    }
}

/// Waits for the hello of a process that a preloader was asked for.
pub(super) async fn hello(
    process: ProcessId,
    socket: Arc<UnixStream>,
    out: Happenings,
) -> io::Result<()> {
    // Not watched any more when it is told: the next to watch it is the one who reads its lines.
    let heard = hear(socket).await.map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => "it did not fork".to_owned(),
        io::ErrorKind::InvalidData => "what it forked did not say hello".to_owned(),
        _ => format!("what it forked cannot be heard: {e}"),
    });
    let _ = out.send(Happening::Hello { process, heard }).await;
    Ok(())
}

async fn hear(socket: Arc<UnixStream>) -> io::Result<Hello> {
    let fd = watch(socket)?;
    loop {
        let mut guard = fd.readable().await?;
        if let Ok(heard) = guard.try_io(|fd| fork::hear(fd.get_ref().get())) {
            return heard;
        }
    }
}

/// Waits for a process's end.
pub(super) async fn exit(process: ProcessId, pidfd: Arc<Pidfd>, out: Happenings) -> io::Result<()> {
    let fd = watch(pidfd)?;
    let _ = fd.readable().await?;
    let _ = out.send(Happening::Exited { process }).await;
    Ok(())
}

/// The last lines of a process that is starting; `None` once it is ready.
pub(super) type SharedTail = Arc<Mutex<Option<Tail>>>;

thread_local! {
    /// All drains share one pipe and buffer; it is empty between calls.
    static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
}

/// Where what a process prints goes to.
pub(super) struct Outlet {
    /// Whether lines say whose they are (`PassengerDisableLogPrefix`).
    pub(super) has_prefix: bool,
    /// Name of the app, empty if it is not known.
    pub(super) app: String,
    pub(super) pid: i32,
    /// The app's own log; what it does not take goes to the main one.
    pub(super) app_log: Arc<AppLog>,
    /// Gets a copy while the process starts.
    pub(super) tail: SharedTail,
}

/// What stands before each line.
struct Prefixes {
    main_log: String,
    own_log: String,
}

impl Outlet {
    fn prefixes(&self) -> Prefixes {
        let (app, pid) = (&self.app, self.pid);
        let own_log = match self.has_prefix {
            true => format!("App {pid} output: "),
            false => String::new(),
        };
        let main_log = match (self.has_prefix, app.is_empty()) {
            (true, false) => format!("[{app}] {own_log}"),
            (true, true) | (false, _) => own_log.clone(),
        };
        Prefixes { main_log, own_log }
    }
}

/// Reads a process's output to its end, into the log and, while it starts, into the tail.
pub(super) async fn output(
    process: ProcessId,
    pipe: Arc<OwnedFd>,
    outlet: Outlet,
    out: Happenings,
) -> io::Result<()> {
    let fd = watch(Arc::clone(&pipe))?;
    let mut drain = LineDrain::new("");
    let prefixes = outlet.prefixes();
    loop {
        match drain_once(&mut drain, &pipe, &outlet, &prefixes) {
            Ok(Drained::More) => {
                tokio::task::yield_now().await;
                continue;
            }
            Ok(Drained::Waiting) => {}
            Ok(Drained::Closed) => break,
            Err(e) => {
                log::error!("cannot read the output of an app: {e}");
                break;
            }
        }
        let patience = if drain.has_unfinished_line() {
            STALE
        } else {
            Duration::MAX
        };
        if let Ok(guard) = tokio::time::timeout(patience, fd.readable()).await {
            // The next edge counts: an unfinished line keeps the pipe readable.
            guard?.clear_ready();
        }
    }
    let _ = out.send(Happening::OutputClosed { process }).await;
    Ok(())
}

fn drain_once(
    drain: &mut LineDrain,
    pipe: &OwnedFd,
    outlet: &Outlet,
    prefixes: &Prefixes,
) -> io::Result<Drained> {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.is_none() {
            *scratch = Some(Scratch::new()?);
        }
        let Some(scratch) = scratch else {
            return Ok(Drained::Waiting);
        };
        drain.drain(pipe.as_fd(), scratch, &mut |line| {
            if !outlet.app_log.line(&prefixes.own_log, line) {
                // A full disk must not stop the app; there is nobody to tell.
                let _ = sink::app_output(&format!("{}{line}", prefixes.main_log));
            }
            if let Some(tail) = &mut *outlet.tail.lock().unwrap_or_else(PoisonError::into_inner) {
                tail.push(line);
            }
        })
    })
}
