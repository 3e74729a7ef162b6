//! What a worker process has of the instance: its view of the segments, its identity in them, and
//! its connection to the agent.
//!
//! `child_init` only takes the descriptors the parent left and starts the thread that watches the
//! parent. Attaching happens with the first request of an app, so that workers which serve none
//! cost nothing, and so that nothing is made before the fork.

use std::fmt;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{
    FromWorker, Hello, Question, Registration, Reply, SpawnFailure, ToWorker,
};
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
    id: ClientId,
    /// One call at a time.
    link: Mutex<Link>,
    /// Set when the watchdog knows this process by another identity now.
    is_lost: AtomicBool,
}

/// The connection to the agent.
struct Link {
    channel: Channel,
    /// Number of the last question.
    asked: u64,
    /// Since when it is of no use: broken, or nobody answers. The next question says hello first.
    broken: Option<Instant>,
}

/// Why there is no answer; a sentence.
enum NoAnswer {
    /// Nobody has answered in time.
    Late(String),
    /// The connection cannot be used any more; nobody has read the question, or nobody can answer it.
    Broken(String),
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
    let (channel, id) = introduce(&inheritance.hello)?;
    forked::mark().map_err(|e| format!("cannot guard its identity against copies: {e}"))?;
    log::debug!("worker attached to {}", inheritance.instance_dir.display());
    Ok(Worker {
        client: view.client(id),
        id,
        view,
        connections: ConnectionCache::new(inheritance.instance_dir.join("apps"), PROCESS_SLOTS),
        software: server::banner(),
        instance_dir: inheritance.instance_dir.clone(),
        link: Mutex::new(Link {
            channel,
            asked: 0,
            broken: None,
        }),
        is_lost: AtomicBool::new(false),
    })
}

/// Says hello to the watchdog; returns this worker's own connection and identity.
fn introduce(hello: &Channel) -> Result<(Channel, ClientId), String> {
    let (ours, theirs) = Channel::pair().map_err(|e| format!("cannot create a channel: {e}"))?;
    // An agent that does not read must not hold whoever asks it beyond the time that asking may take.
    ours.set_nonblocking(true)
        .map_err(|e| format!("cannot set up a channel: {e}"))?;
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
/// does not know of it. Answers to questions before are skipped.
fn ask(channel: &Channel, number: u64, question: &FromWorker) -> Result<ToWorker, NoAnswer> {
    let question = Question {
        number,
        question: question.clone(),
    };
    let deadline = Instant::now() + CALL_TIMEOUT;
    let (mut asked, mut ask_at) = (0, Instant::now());
    loop {
        let now = Instant::now();
        if now >= deadline {
            let seconds = CALL_TIMEOUT.as_secs();
            return Err(NoAnswer::Late(format!(
                "no answer after {seconds} seconds, asked {asked} times"
            )));
        }
        if now >= ask_at {
            match channel.send(&question, &[]) {
                Ok(()) => asked += 1,
                // It has not even read what it was asked before.
                Err(why) if why.kind() == ErrorKind::WouldBlock => {}
                Err(why) => return Err(NoAnswer::Broken(format!("cannot ask the agent: {why}"))),
            }
            ask_at = now + ASK_AGAIN;
        }
        match channel.wait_readable(ask_at.min(deadline).saturating_duration_since(now)) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(why) => {
                return Err(NoAnswer::Broken(format!(
                    "cannot wait for the answer: {why}"
                )))
            }
        }
        match channel.recv::<Reply>() {
            Ok(Some(received)) if received.message.number == number => {
                return Ok(received.message.answer)
            }
            Ok(Some(_late)) => {}
            Ok(None) => return Err(NoAnswer::Broken("the connection has ended".to_owned())),
            Err(why) if why.kind() == ErrorKind::WouldBlock => {}
            Err(why) => return Err(NoAnswer::Broken(format!("cannot read the answer: {why}"))),
        }
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
            if link.broken.is_some() {
                self.reconnect(&mut link)?;
            }
            link.asked += 1;
            match ask(&link.channel, link.asked, question) {
                Ok(answer) => return Ok(answer),
                // The agent may not even know of this connection: another one for the next question.
                Err(NoAnswer::Late(why)) => {
                    link.broken = Some(Instant::now());
                    return Err(format!("the agent does not answer: {why}"));
                }
                Err(NoAnswer::Broken(why)) => {
                    log::debug!("the connection to the agent broke: {why}");
                    link.broken = Some(Instant::now());
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
        let (channel, id) = introduce(&inheritance.hello)?;
        if id != self.id {
            // PAIR(lost): `current` reads it without the lock.
            self.is_lost.store(true, Ordering::Release);
            return Err(
                "this worker's identity has changed; the next request has the new one".into(),
            );
        }
        link.channel = channel;
        link.broken = None;
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
    use std::thread;

    /// Plays the watchdog for one hello.
    fn watchdog(far: Channel, answer: ToWorker) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let hello = far.recv::<Hello>().expect("recv").expect("a hello");
            let own = Channel::from(hello.fds.into_iter().next().expect("a descriptor"));
            own.send(&answer, &[]).expect("answer");
        })
    }

    fn why() -> FromWorker {
        FromWorker::WhySpawnFailed {
            group: 3,
            generation: 1,
        }
    }

    fn reply(number: u64, group: u32) -> Reply {
        let generation = 1;
        let answer = ToWorker::Registered { group, generation };
        Reply { number, answer }
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
            let first = theirs.recv::<Question>().expect("recv").expect("asked");
            let again = theirs.recv::<Question>().expect("recv").expect("again");
            assert_eq!(first.message, again.message);
            theirs.send(&reply(9, 3), &[]).expect("answer");
            theirs
        });
        let answer = ask(&ours, 9, &why());
        assert!(matches!(answer, Ok(ToWorker::Registered { group: 3, .. })));
        agents.join().expect("the agents");
    }

    #[test]
    fn an_answer_that_comes_late_is_not_taken_for_the_next_questions() {
        let (ours, theirs) = Channel::pair().expect("pair");
        theirs.send(&reply(4, 1), &[]).expect("a late answer");
        theirs.send(&reply(4, 1), &[]).expect("and again");
        theirs.send(&reply(5, 2), &[]).expect("the answer");
        let answer = ask(&ours, 5, &why());
        assert!(matches!(answer, Ok(ToWorker::Registered { group: 2, .. })));
        drop(theirs);
        assert!(matches!(ask(&ours, 6, &why()), Err(NoAnswer::Broken(_))));
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
