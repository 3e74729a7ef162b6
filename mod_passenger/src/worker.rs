//! What a worker process has of the instance: its view of the segments, its identity in them, and
//! its connection to the agent.
//!
//! `child_init` only takes the descriptors the parent left and starts the thread that watches the
//! parent. Attaching happens with the first request of an app, so that workers which serve none
//! cost nothing, and so that nothing is made before the fork.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromWorker, Hello, Registration, SpawnFailure, ToWorker};
use passenger_shm::{Client, ClientId, GroupKey, GroupRef, ModuleView};

use crate::ffi::published::Published;
use crate::ffi::{forked, retained, server};
use crate::upstream::connection::ConnectionCache;
use crate::{codes, parent_watch};

/// How long the watchdog may take to welcome a worker.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the agent may take to answer; it may have to be restarted first.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long without an answer the question may have died with the agent that read it.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Connections that one question is tried on.
const CONNECTIONS: usize = 5;
/// After a failed attempt, requests fail at once for this long instead of queueing up behind it.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Process slots a connection cache has room for; the most any instance has.
const PROCESS_SLOTS: usize = 1024;
/// Between two looks whether the hello channel has room.
const HELLO_PAUSE: Duration = Duration::from_millis(10);

/// A worker that is attached to the instance.
pub(crate) struct Worker {
    /// The instance's tables.
    pub(crate) view: ModuleView,
    /// Takes seats in this worker's name.
    pub(crate) client: Client,
    /// Idle connections to app processes.
    pub(crate) connections: ConnectionCache,
    /// What `SERVER_SOFTWARE` says.
    pub(crate) software: String,
    /// The instance's directory.
    #[allow(dead_code)] // for the admin pages to come
    pub(crate) instance_dir: PathBuf,
    /// One call at a time.
    channel: Mutex<Channel>,
    /// Set when a call failed in a way that leaves the connection useless.
    is_lost: AtomicBool,
}

/// Why there is no worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WorkerError {
    /// httpd's parent has started none.
    NoInstance,
    /// It could not be attached; the reason.
    Attach(String),
    /// This process is a copy that another module has forked from a worker.
    Copy,
}

impl fmt::Display for WorkerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerError::NoInstance => f.write_str(
                "this worker knows no instance of mod_passenger: httpd's error log says why it \
                 could not be started",
            ),
            WorkerError::Copy => f.write_str(
                "this process was forked from a worker by something else in httpd and cannot serve apps",
            ),
            WorkerError::Attach(reason) => {
                write!(
                    f,
                    "this worker cannot join the instance of mod_passenger: {reason}"
                )
            }
        }
    }
}

/// What the parent left this worker process.
struct Inheritance {
    instance_dir: PathBuf,
    routes: OwnedFd,
    traffic: OwnedFd,
    doorbell: OwnedFd,
    hello: Channel,
}

/// Set in `child_init`, read when attaching.
static INHERITANCE: Published<Inheritance> = Published::new();
/// Whether this process is a worker; the parent never sets it (except under `httpd -X`).
static IS_CHILD: AtomicBool = AtomicBool::new(false);
/// The attached worker. A lost one is left behind, not freed: requests may still use it.
static CURRENT: RwLock<Option<&'static Worker>> = RwLock::new(None);
/// Taken while attaching; when the last attempt failed, and why.
static ATTEMPT: Mutex<Option<(Instant, WorkerError)>> = Mutex::new(None);

/// Whether `child_init` ran here in a process of its own.
pub(crate) fn is_child() -> bool {
    // Relaxed: set before this process has a second thread.
    IS_CHILD.load(Ordering::Relaxed)
}

/// In each new worker process, before its threads.
pub(crate) fn child_init() {
    let Some((instance, [routes, traffic, doorbell, hello])) = retained::inherit() else {
        return;
    };
    let is_own_process = u32::try_from(instance.parent) != Ok(std::process::id());
    // Relaxed: as in `is_child`.
    IS_CHILD.store(is_own_process, Ordering::Relaxed);
    INHERITANCE.publish(Inheritance {
        instance_dir: PathBuf::from(instance.instance_dir),
        routes,
        traffic,
        doorbell,
        hello: Channel::from(hello),
    });
    if is_own_process {
        parent_watch::start(instance.parent);
    }
}

/// This worker, attached if it is not yet. Does not block once attached; otherwise up to
/// five seconds for the first request, while the others wait with it.
///
/// # Errors
/// See [`WorkerError`]; a later request tries again.
pub(crate) fn get() -> Result<&'static Worker, WorkerError> {
    // Before any lock: a thread that does not exist in the copy may hold it.
    if forked::is_copy() {
        return Err(WorkerError::Copy);
    }
    if let Some(worker) = current() {
        return Ok(worker);
    }
    let mut attempt = ATTEMPT.lock();
    // Somebody else may have attached while this thread waited for its turn.
    if let Some(worker) = current() {
        return Ok(worker);
    }
    if let Some((failed, error)) = attempt.as_ref() {
        if failed.elapsed() < RETRY_PAUSE {
            return Err(error.clone());
        }
    }
    match attach() {
        Ok(worker) => {
            let worker: &'static Worker = Box::leak(Box::new(worker));
            *CURRENT.write() = Some(worker);
            *attempt = None;
            Ok(worker)
        }
        Err(error) => {
            log::error!("{}: {error}", codes::ATTACH);
            *attempt = Some((Instant::now(), error.clone()));
            Err(error)
        }
    }
}

fn current() -> Option<&'static Worker> {
    // PAIR(lost): sees what `Worker::call` stored; a late look costs one failed call.
    (*CURRENT.read()).filter(|worker| !worker.is_lost.load(Ordering::Acquire))
}

fn attach() -> Result<Worker, WorkerError> {
    let inheritance = INHERITANCE.get().ok_or(WorkerError::NoInstance)?;
    join(inheritance).map_err(WorkerError::Attach)
}

fn join(inheritance: &Inheritance) -> Result<Worker, String> {
    let doorbell = inheritance
        .doorbell
        .try_clone()
        .map_err(|e| format!("cannot duplicate the doorbell's descriptor: {e}"))?;
    let (routes, traffic) = (inheritance.routes.as_fd(), inheritance.traffic.as_fd());
    let view = ModuleView::attach(routes, traffic, doorbell).map_err(|e| e.to_string())?;
    let (channel, id) = introduce(&inheritance.hello)?;
    forked::mark().map_err(|e| format!("cannot guard its identity against copies: {e}"))?;
    log::debug!("worker attached to {}", inheritance.instance_dir.display());
    Ok(Worker {
        client: view.client(id),
        view,
        connections: ConnectionCache::new(inheritance.instance_dir.join("apps"), PROCESS_SLOTS),
        software: server::banner(),
        instance_dir: inheritance.instance_dir.clone(),
        channel: Mutex::new(channel),
        is_lost: AtomicBool::new(false),
    })
}

/// Says hello to the watchdog; returns this worker's own connection and identity.
fn introduce(hello: &Channel) -> Result<(Channel, ClientId), String> {
    let (ours, theirs) = Channel::pair().map_err(|e| format!("cannot create a channel: {e}"))?;
    let deadline = Instant::now() + WELCOME_TIMEOUT;
    // The channel is shared with all other workers and never blocks: it may be full of them.
    loop {
        match hello.send(&Hello::Worker {}, &[theirs.as_fd()]) {
            Ok(()) => break,
            Err(why)
                if why.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                std::thread::sleep(HELLO_PAUSE);
            }
            Err(why) => return Err(format!("cannot say hello to the watchdog: {why}")),
        }
    }
    drop(theirs);
    let left = deadline.saturating_duration_since(Instant::now());
    match receive(&ours, left)? {
        ToWorker::Welcome { slot, generation } => Ok((ours, ClientId::new(slot, generation))),
        ToWorker::Unwelcome { message } => Err(message),
        other => Err(format!("the watchdog answered a hello with {other:?}")),
    }
}

/// Asks, and asks again after a while: an agent that was killed may have read the question, and its successor
/// does not know of it. Returns how often it was asked.
fn ask(channel: &Channel, question: &FromWorker) -> (u32, Result<ToWorker, String>) {
    let deadline = Instant::now() + CALL_TIMEOUT;
    let mut asked = 0;
    loop {
        if let Err(why) = channel.send(question, &[]) {
            return (asked, Err(format!("cannot ask the agent: {why}")));
        }
        asked += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        if left > ASK_AGAIN && matches!(channel.wait_readable(ASK_AGAIN), Ok(false)) {
            continue;
        }
        let answer = receive(channel, left);
        return (
            asked,
            answer.map_err(|why| format!("{why}, asked {asked} times")),
        );
    }
}

/// The next message, or a sentence why there is none.
fn receive(channel: &Channel, timeout: Duration) -> Result<ToWorker, String> {
    match channel.wait_readable(timeout) {
        Ok(true) => {}
        Ok(false) => {
            return Err(format!(
                "no answer after {} seconds",
                timeout.as_secs_f32().ceil()
            ))
        }
        Err(why) => return Err(format!("cannot wait for the answer: {why}")),
    }
    match channel.recv() {
        Ok(Some(received)) => Ok(received.message),
        Ok(None) => Err("the instance has ended".to_owned()),
        Err(why) => Err(format!("cannot read the answer: {why}")),
    }
}

impl Worker {
    /// The group that serves a configuration. Asks the agent only if the key table does not know.
    ///
    /// # Errors
    /// A sentence: why the agent refuses it, or why it could not be asked. Blocks at most ten
    /// seconds (plus those of callers before this one).
    pub(crate) fn register(&self, registration: &Registration) -> Result<GroupRef, String> {
        let key = GroupKey::of(registration, self.view.instance_key());
        if let Some(group) = self.view.find_group(key) {
            return Ok(group);
        }
        match self.call(&FromWorker::Register(registration.clone()))? {
            ToWorker::Registered { group, generation } => Ok(GroupRef::new(group, generation)),
            ToWorker::RegisterRefused { message } => Err(message),
            other => Err(self.out_of_step(&other)),
        }
    }

    /// Why the group's last spawn failed, as far as the agent still knows.
    pub(crate) fn why_spawn_failed(&self, group: GroupRef) -> Option<SpawnFailure> {
        let question = FromWorker::WhySpawnFailed {
            group: group.index(),
            generation: group.generation(),
        };
        match self.call(&question) {
            Ok(ToWorker::SpawnFailure(failure)) => Some(failure),
            Ok(ToWorker::RegisterRefused { message }) => {
                log::debug!("the agent knows no spawn failure: {message}");
                None
            }
            Ok(other) => {
                log::error!("{}: {}", codes::ATTACH, self.out_of_step(&other));
                None
            }
            Err(why) => {
                log::error!(
                    "{}: cannot ask why the app does not start: {why}",
                    codes::ATTACH
                );
                None
            }
        }
    }

    /// Asks the agent something. After an error the connection is given up: a late answer would be
    /// taken for the next question's.
    fn call(&self, question: &FromWorker) -> Result<ToWorker, String> {
        if let Some(answer) = self.call_here(question) {
            return answer;
        }
        // Given up while this thread waited for its turn: others have a new connection by now, or get one here.
        for _ in 0..CONNECTIONS {
            let fresh = get().map_err(|why| why.to_string())?;
            if let Some(answer) = fresh.call_here(question) {
                return answer;
            }
        }
        Err("the connection to the agent breaks again and again".to_owned())
    }

    /// As [`Worker::call`]; `None` if this connection was given up before the question was asked.
    fn call_here(&self, question: &FromWorker) -> Option<Result<ToWorker, String>> {
        let channel = self.channel.lock();
        // PAIR(lost): stored under the same lock.
        if self.is_lost.load(Ordering::Acquire) {
            return None;
        }
        let (asked, answer) = ask(&channel, question);
        if asked > 1 {
            // The other answers may still come, and would be taken for the next question's.
            // PAIR(lost): as below.
            self.is_lost.store(true, Ordering::Release);
        }
        Some(answer.map_err(|why| {
            // PAIR(lost): `current` reads it without the lock.
            self.is_lost.store(true, Ordering::Release);
            format!("the agent does not answer: {why}")
        }))
    }

    fn out_of_step(&self, answer: &ToWorker) -> String {
        // PAIR(lost): as in `call`.
        self.is_lost.store(true, Ordering::Release);
        format!("[BUG] the agent answered another question: {answer:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Plays the watchdog for one hello.
    fn watchdog(far: Channel, answer: ToWorker) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let hello = far.recv::<Hello>().expect("recv").expect("a hello");
            let own = Channel::from(hello.fds.into_iter().next().expect("a descriptor"));
            own.send(&answer, &[]).expect("answer");
        })
    }

    #[test]
    fn a_welcome_gives_the_identity() {
        let (hello, far) = Channel::pair().expect("pair");
        let watchdog = watchdog(
            far,
            ToWorker::Welcome {
                slot: 5,
                generation: 9,
            },
        );
        let (_channel, id) = introduce(&hello).expect("welcome");
        assert_eq!((id.slot(), id.generation()), (5, 9));
        watchdog.join().expect("watchdog");
    }

    #[test]
    fn a_question_that_died_with_its_reader_is_asked_again() {
        let (ours, theirs) = Channel::pair().expect("pair");
        let agents = thread::spawn(move || {
            // The first one reads it and dies.
            theirs.recv::<FromWorker>().expect("recv").expect("asked");
            theirs.recv::<FromWorker>().expect("recv").expect("again");
            let answer = ToWorker::Registered {
                group: 3,
                generation: 1,
            };
            theirs.send(&answer, &[]).expect("answer");
            theirs
        });
        let question = FromWorker::WhySpawnFailed {
            group: 3,
            generation: 1,
        };
        let (asked, answer) = ask(&ours, &question);
        assert_eq!(asked, 2);
        assert!(matches!(answer, Ok(ToWorker::Registered { group: 3, .. })));
        agents.join().expect("the agents");
    }

    #[test]
    fn the_reason_of_an_unwelcome_is_passed_on() {
        let (hello, far) = Channel::pair().expect("pair");
        let answer = ToWorker::Unwelcome {
            message: "all 96 slots are taken".to_owned(),
        };
        let watchdog = watchdog(far, answer);
        assert_eq!(
            introduce(&hello).expect_err("unwelcome"),
            "all 96 slots are taken"
        );
        watchdog.join().expect("watchdog");
    }

    #[test]
    fn a_dead_watchdog_is_an_error() {
        let (hello, far) = Channel::pair().expect("pair");
        drop(far);
        assert!(introduce(&hello)
            .expect_err("dead")
            .contains("cannot say hello"));
    }

    #[test]
    fn without_an_instance_the_reason_says_where_to_look() {
        let error = get().err().expect("no instance in a unit test");
        assert_eq!(error, WorkerError::NoInstance);
        assert!(error.to_string().contains("error log"));
    }
}
