//! What a worker process has of the instance: its view of the segments, its identity in them, and
//! its connection to the agent ([`link`]).
//!
//! `child_init` only takes the descriptors the parent left and starts the thread that watches the
//! parent. Attaching happens with the first request of an app, so that workers which serve none
//! cost nothing, and so that nothing is made before the fork.

mod link;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromWorker, Registration, SpawnFailure, ToWorker};
use passenger_shm::{Client, ClientId, GroupKey, GroupRef, ModuleView};

use crate::ffi::published::Published;
use crate::ffi::{forked, retained, server};
use crate::upstream::connection::ConnectionCache;
use crate::{codes, parent_watch};
use link::{Link, NoAnswer};

/// Connections that one question is tried on.
const CONNECTIONS: usize = 5;
/// After a failed attempt, requests fail at once for this long instead of queueing up behind it.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Process slots a connection cache has room for; the most any instance has.
const PROCESS_SLOTS: usize = 1024;
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
    id: ClientId,
    /// One call at a time.
    link: Mutex<Link>,
    /// Set when the watchdog knows this process by another identity now.
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
    // PAIR(lost): sees what `Worker::reconnect` stored; a late look costs one failed call.
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
    let (link, id) = Link::open(&inheritance.hello)?;
    forked::mark().map_err(|e| format!("cannot guard its identity against copies: {e}"))?;
    log::debug!("worker attached to {}", inheritance.instance_dir.display());
    Ok(Worker {
        client: view.client(id),
        id,
        view,
        connections: ConnectionCache::new(inheritance.instance_dir.join("apps"), PROCESS_SLOTS),
        software: server::banner(),
        link: Mutex::new(link),
        is_lost: AtomicBool::new(false),
    })
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
            other => Err(out_of_step(&other)),
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
                log::error!("{}: {}", codes::ATTACH, out_of_step(&other));
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

    /// Asks the agent something.
    fn call(&self, question: &FromWorker) -> Result<ToWorker, String> {
        let mut link = self.link.lock();
        for _ in 0..CONNECTIONS {
            if link.is_broken() {
                self.reconnect(&mut link)?;
            }
            match link.ask(question) {
                Ok(answer) => return Ok(answer),
                // The agent may not even know of this connection: another one for the next question.
                Err(NoAnswer::Late(why)) => {
                    return Err(format!("the agent does not answer: {why}"));
                }
                Err(NoAnswer::Broken(why)) => {
                    log::debug!("the connection to the agent broke: {why}");
                }
            }
        }
        Err("the connection to the agent breaks again and again".to_owned())
    }

    /// Says hello again. The segments stay the same, and so does the identity: seats that are taken stay taken.
    fn reconnect(&self, link: &mut Link) -> Result<(), String> {
        let inheritance = INHERITANCE
            .get()
            .ok_or_else(|| WorkerError::NoInstance.to_string())?;
        let (another, id) = Link::open(&inheritance.hello)?;
        if id != self.id {
            // PAIR(lost): `current` reads it without the lock.
            self.is_lost.store(true, Ordering::Release);
            return Err(
                "this worker's identity has changed; the next request has the new one".into(),
            );
        }
        *link = another;
        Ok(())
    }
}

/// What can only be a mistake of ours.
fn out_of_step(answer: &ToWorker) -> String {
    format!("[BUG] the agent answered another question: {answer:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_instance_the_reason_says_where_to_look() {
        let error = get().err().expect("no instance in a unit test");
        assert_eq!(error, WorkerError::NoInstance);
        assert!(error.to_string().contains("error log"));
    }
}
