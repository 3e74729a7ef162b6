//! httpd's workers: identities for those that ask, sweeping for those that died.

use std::io;
use std::os::fd::AsFd;

use passenger_shm::channel::{discard, Channel, Peer, Received};
use passenger_shm::messages::{Hello, ToWorker};
use passenger_shm::ClientId;

use super::core::{Source, Watchdog};
use super::outbox::Item;
use super::table::WorkerEntry;
use crate::store::ToAgent;
use crate::sys::descriptor;
use crate::sys::epoll::Trigger;
use crate::sys::pidfd::Pidfd;
use crate::sys::tree;

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
            discard(received.fds);
            return;
        };
        let pid = peer.pid;
        let mut fds = received.fds;
        let first = if fds.len() == 1 { fds.pop() } else { None };
        discard(fds);
        let Some(Ok(connection)) = first.map(Channel::foreign) else {
            log::warn!("process {pid} said hello without a connection of its own; ignored");
            return;
        };
        match self.identity_for(peer, &connection) {
            Ok((client, pidfd)) => self.admit(client, pid, pidfd, connection),
            Err(message) => {
                log::warn!("worker {pid} gets no identity: {message}");
                // A worker that is gone needs no answer, and nobody waits for one that does not read.
                let _ = connection.send(&ToWorker::Unwelcome { message }, &[]);
            }
        }
    }

    fn identity_for(
        &mut self,
        peer: Peer,
        connection: &Channel,
    ) -> Result<(ClientId, Pidfd), String> {
        if self.ending.is_some() {
            return Err("the instance is stopping".to_owned());
        }
        let pid = peer.pid;
        let pidfd = identify(peer, connection)?;
        if !is_of_httpd(pid, &pidfd, self.parent_pid) {
            return Err("it is not a child of httpd's parent".to_owned());
        }
        Ok((self.table.workers.identity_for(pid)?, pidfd))
    }

    fn admit(&mut self, client: ClientId, pid: i32, pidfd: Pidfd, connection: Channel) {
        if let Some(before) = self.table.workers.remove(client) {
            self.events.remove(before.pidfd.as_fd(), before.token);
            self.on_reserve_garbage();
        }
        let entry = WorkerEntry {
            pid,
            connection,
            pidfd,
            token: 0,
        };
        if let Err(e) = self.add_worker(client, entry) {
            log::error!("cannot watch worker {pid}: {e}");
            return;
        }
        if let Some(entry) = self.table.workers.get(client) {
            let fds = [entry.connection.as_fd(), entry.pidfd.as_fd()];
            self.reserve.put_worker(client, pid, fds);
        }
        // The agent first: once welcome, the worker may register at once.
        self.tell_agent(Item::Worker(client));
        self.flush_outbox();
        let welcome = ToWorker::Welcome {
            slot: client.slot(),
            generation: client.generation(),
        };
        let entry = self.table.workers.get(client);
        if let Some(Err(e)) = entry.map(|entry| entry.connection.send(&welcome, &[])) {
            log::debug!("cannot welcome worker {pid}: {e}");
        }
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
        if swept.orphaned + swept.cells + swept.counters + swept.streams > 0 {
            log::info!(
                "worker {} died in the middle of its work: {} seats orphaned, {} waiter cells, {} counters \
                 and {} streams freed",
                entry.pid,
                swept.orphaned,
                swept.cells,
                swept.counters,
                swept.streams
            );
        } else {
            log::debug!("worker {} is gone", entry.pid);
        }
        let (slot, generation) = (client.slot(), client.generation());
        self.tell_agent(Item::Plain(ToAgent::WorkerGone { slot, generation }));
        self.on_reserve_garbage();
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

/// Whether that is a process which httpd's parent forked, or httpd's only process. What workers fork in
/// their turn inherits the channel, but gets no identity: one hostile worker could take all there are.
fn is_of_httpd(pid: i32, pidfd: &Pidfd, parent: i32) -> bool {
    let is_child = pid == parent || tree::Entry::of(pid).is_some_and(|e| e.parent == parent);
    // Asked last: as long as it lives, what was read about its number was read about it.
    is_child && !pidfd.has_exited()
}
