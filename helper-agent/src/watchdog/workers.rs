//! httpd's workers: identities for those that ask, sweeping for those that died.

use std::io;
use std::os::fd::AsFd;

use passenger_shm::channel::{Channel, Peer, Received};
use passenger_shm::messages::{Hello, ToWorker};
use passenger_shm::ClientId;

use super::core::{Source, Watchdog};
use super::outbox::Item;
use super::table::WorkerEntry;
use crate::store::ToAgent;
use crate::sys::descriptor;
use crate::sys::epoll::Trigger;
use crate::sys::pidfd::Pidfd;

/// Hellos that are answered before others get their turn.
const HELLOS_PER_TURN: usize = 32;

impl Watchdog {
    /// Answers workers.
    pub(super) fn on_hello(&mut self) {
        for _ in 0..HELLOS_PER_TURN {
            match self.hello.recv::<Hello>() {
                Ok(Some(received)) => self.welcome(received),
                // Our own copy of the workers' end keeps it open; nothing to wait for otherwise.
                Ok(None) => return,
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::InvalidData => {
                        log::warn!("a worker sent what is not a message: {e}");
                    }
                    _ => {
                        log::error!("cannot read from the workers' channel: {e}");
                        return;
                    }
                },
            }
        }
    }

    fn welcome(&mut self, received: Received<Hello>) {
        let Some(peer) = received.peer else {
            log::error!("a worker's hello came without the sender's identity; ignored");
            return;
        };
        let Some(connection) = received.fds.into_iter().next().map(Channel::from) else {
            log::warn!(
                "process {} said hello without a connection; ignored",
                peer.pid
            );
            return;
        };
        let pid = peer.pid;
        if let Err(message) = self.admit(peer, &connection) {
            log::warn!("worker {pid} gets no identity: {message}");
            refuse(&connection, message);
        }
    }

    fn admit(&mut self, peer: Peer, connection: &Channel) -> Result<(), String> {
        if self.ending.is_some() {
            return Err("the instance is stopping".to_owned());
        }
        let pid = peer.pid;
        let pidfd = identify(peer, connection)?;
        let client = self.table.workers.free_identity(pid)?;
        let copy = connection.as_fd().try_clone_to_owned();
        let connection_of_agent = copy.map_err(|e| format!("no descriptor is free: {e}"))?;
        let entry = WorkerEntry {
            pid,
            connection: connection_of_agent,
            pidfd,
            token: 0,
        };
        self.add_worker(client, entry)
            .map_err(|e| format!("cannot watch process {pid}: {e}"))?;
        // The agent first: once welcome, the worker may register at once.
        self.tell_agent(Item::Worker(client));
        let welcome = ToWorker::Welcome {
            slot: client.slot(),
            generation: client.generation(),
        };
        if let Err(e) = connection.send(&welcome, &[]) {
            log::debug!("cannot welcome worker {pid}: {e}");
        }
        Ok(())
    }

    /// Notes a worker and watches for its death.
    pub(super) fn add_worker(
        &mut self,
        client: ClientId,
        mut entry: WorkerEntry,
    ) -> io::Result<()> {
        let source = Source::WorkerDeath(client);
        entry.token = self
            .events
            .add(entry.pidfd.as_fd(), source, Trigger::Readable)?;
        self.table.workers.insert(client, entry);
        Ok(())
    }

    /// A worker is dead: its seats become orphans, its cells and counters are freed.
    pub(super) fn on_worker_death(&mut self, client: ClientId) {
        let Some(entry) = self.table.workers.remove(client) else {
            return;
        };
        self.events.remove(entry.pidfd.as_fd(), entry.token);
        let swept = self.view.sweep(client);
        if swept.orphaned + swept.cells + swept.counters > 0 {
            log::info!(
                "worker {} died in the middle of its work: {} seats orphaned, {} waiter cells and {} \
                 counters freed",
                entry.pid,
                swept.orphaned,
                swept.cells,
                swept.counters
            );
        } else {
            log::debug!("worker {} is gone", entry.pid);
        }
        let (slot, generation) = (client.slot(), client.generation());
        self.tell_agent(Item::Plain(ToAgent::WorkerGone { slot, generation }));
    }
}

/// The sender's pidfd. Where the kernel does not send it with the message, its number may have been
/// reused; then its connection, which only it had, is closed.
fn identify(peer: Peer, connection: &Channel) -> Result<Pidfd, String> {
    if let Some(pidfd) = peer.pidfd {
        return Ok(Pidfd::from(pidfd));
    }
    let pidfd = Pidfd::open(peer.pid).map_err(|e| format!("process {}: {e}", peer.pid))?;
    let events = descriptor::poll_now(connection.as_fd(), 0).unwrap_or(libc::POLLHUP);
    if events & libc::POLLHUP != 0 {
        return Err(format!("process {} is gone", peer.pid));
    }
    Ok(pidfd)
}

fn refuse(connection: &Channel, message: String) {
    // A worker that is gone needs no answer, and nobody waits for one that does not read.
    let _ = connection.set_nonblocking(true);
    let _ = connection.send(&ToWorker::Unwelcome { message }, &[]);
}
