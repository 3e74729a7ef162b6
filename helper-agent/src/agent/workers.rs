//! Connections of httpd's children: what they may ask, and their end.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromWorker, SpawnFailure, ToWorker};
use passenger_shm::{ClientId, GroupRef};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::core::{watch, Agent};
use super::start::{stored_worker, StoredWorker};
use super::tasks;

/// One of httpd's children.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) pid: i32,
    pub(super) connection: Arc<Channel>,
    pub(super) pidfd: OwnedFd,
    task: AbortHandle,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    pub(super) fn on_worker(&mut self, client: ClientId, pid: i32, fds: Vec<OwnedFd>) {
        match stored_worker(client, pid, fds) {
            Ok(worker) => self.add_worker(worker),
            Err(e) => log::error!("[BUG] worker {pid}: {e}"),
        }
    }

    pub(super) fn add_worker(&mut self, worker: StoredWorker) {
        let StoredWorker {
            client,
            pid,
            connection,
            pidfd,
        } = worker;
        let connection = Arc::new(connection);
        let listener = tasks::worker(
            client,
            pid,
            Arc::clone(&connection),
            self.happenings.clone(),
        );
        let task = watch(listener);
        let worker = Worker {
            pid,
            connection,
            pidfd,
            task,
        };
        self.workers
            .insert((client.slot(), client.generation()), worker);
    }

    pub(super) fn on_asked(
        &mut self,
        client: ClientId,
        message: FromWorker,
        reply: oneshot::Sender<ToWorker>,
    ) {
        match message {
            FromWorker::Register(registration) => self.register(registration, reply),
            FromWorker::WhySpawnFailed { group, generation } => {
                let failure = self.last_failure(GroupRef::new(group, generation));
                let _ = reply.send(ToWorker::SpawnFailure(failure));
            }
        }
        log::trace!("worker {}.{} asked", client.slot(), client.generation());
    }

    fn last_failure(&self, reference: GroupRef) -> SpawnFailure {
        let group = self
            .groups
            .by_reference(reference)
            .and_then(|id| self.groups.get(id));
        let known = group.and_then(|group| group.failure.clone());
        known.unwrap_or_else(|| SpawnFailure {
            id: "-".to_owned(),
            summary:
                "The app could not be started; the reason is in the log, from before the helper \
                      agent was restarted"
                    .to_owned(),
            step: "prepare".to_owned(),
            output: String::new(),
            advice: "Try again.".to_owned(),
            friendly: false,
            facts: Vec::new(),
            steps: Vec::new(),
            environment: Vec::new(),
        })
    }
}
