//! What the watchdog keeps for the agent's successor: configuration, workers, app processes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passenger_shm::channel::Channel;
use passenger_shm::ClientId;

use crate::output::LineDrain;
use crate::store::Past;
use crate::sys::pidfd::Pidfd;
use crate::sys::process::ExitStatus;

/// A configuration as httpd's parent sent it.
#[derive(Debug)]
pub struct ConfigEntry {
    /// httpd's configuration generation.
    pub generation: u64,
    /// Sealed memfd of a JSON `Config`.
    pub document: OwnedFd,
    /// The log that belongs to it.
    pub log: OwnedFd,
}

impl ConfigEntry {
    /// A configuration from the two descriptors that came with its message.
    pub(super) fn from_fds(generation: u64, fds: Vec<OwnedFd>) -> Result<Self, String> {
        let count = fds.len();
        let [document, log]: [OwnedFd; 2] = fds
            .try_into()
            .map_err(|_| format!("configuration {generation} came with {count} descriptors"))?;
        Ok(Self {
            generation,
            document,
            log,
        })
    }
}

/// A worker that has an identity.
#[derive(Debug)]
pub struct WorkerEntry {
    /// Its PID, for the log.
    pub pid: i32,
    /// Our end of its connection, for the agent and its successors.
    pub connection: Channel,
    /// Tells its death.
    pub pidfd: Pidfd,
    /// Its number in the event loop.
    pub token: u64,
}

/// Slot and generation of an app process.
pub type ProcessKey = (u32, u32);

/// An app process.
#[derive(Debug)]
pub struct ProcessEntry {
    /// Its PID.
    pub pid: i32,
    /// Name of its app.
    pub app: String,
    /// The process.
    pub pidfd: Pidfd,
    /// Read end of its output pipe.
    pub output: OwnedFd,
    /// Our end of its control socket.
    pub control: OwnedFd,
    /// Number of its output in the event loop, while it is read here.
    pub token: Option<u64>,
    /// Reads the output while no agent does.
    pub drain: LineDrain,
    /// How it ended, if it was our child then.
    pub exited: Option<ExitStatus>,
}

impl ProcessEntry {
    /// What a successor needs of it: pidfd, output, control socket.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [
            self.pidfd.as_fd(),
            self.output.as_fd(),
            self.control.as_fd(),
        ]
    }
}

/// Identities of workers: which slots are taken, and which generation each had last.
#[derive(Debug)]
pub struct Workers {
    entries: BTreeMap<u16, (u16, WorkerEntry)>,
    last_generation: Vec<u16>,
}

impl Workers {
    /// No worker yet, that many slots, generations counted from a random one: those of a watchdog that
    /// died are not known to its successor.
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub fn new(slots: u16) -> io::Result<Self> {
        let mut seed = [0; 2];
        crate::sys::process::random_bytes(&mut seed)?;
        let first = u16::from_ne_bytes(seed) & passenger_shm::MAX_CLIENT_GENERATION;
        Ok(Self {
            entries: BTreeMap::new(),
            last_generation: vec![first; usize::from(slots)],
        })
    }

    /// The identity of that process: the one it has, because a worker that gave its connection up says
    /// hello again, or else a free one.
    ///
    /// # Errors
    /// Says why there is none.
    pub fn identity_for(&mut self, pid: i32) -> Result<ClientId, String> {
        // A dead process of the same number has not been swept yet.
        let held = self
            .entries
            .iter()
            .find(|(_, (_, entry))| entry.pid == pid && !entry.pidfd.has_exited());
        if let Some((slot, (generation, _))) = held {
            return Ok(ClientId::new(*slot, *generation));
        }
        let slots = self.last_generation.len();
        let free = (0u16..)
            .take(slots)
            .find(|slot| !self.entries.contains_key(slot));
        let Some(slot) = free else {
            return Err(format!("all {slots} worker slots are taken"));
        };
        let Some(last) = self.last_generation.get_mut(usize::from(slot)) else {
            return Err(format!("there is no slot {slot}"));
        };
        // Zero is what empty words say.
        *last = if *last >= passenger_shm::MAX_CLIENT_GENERATION {
            1
        } else {
            *last + 1
        };
        Ok(ClientId::new(slot, *last))
    }

    /// Notes who has an identity.
    pub fn insert(&mut self, client: ClientId, entry: WorkerEntry) {
        if let Some(last) = self.last_generation.get_mut(usize::from(client.slot())) {
            *last = client.generation();
        }
        self.entries
            .insert(client.slot(), (client.generation(), entry));
    }

    /// The worker with that identity.
    #[must_use]
    pub fn get(&self, client: ClientId) -> Option<&WorkerEntry> {
        let (generation, entry) = self.entries.get(&client.slot())?;
        (*generation == client.generation()).then_some(entry)
    }

    /// Frees an identity.
    pub fn remove(&mut self, client: ClientId) -> Option<WorkerEntry> {
        self.get(client)?;
        self.entries.remove(&client.slot()).map(|(_, entry)| entry)
    }

    /// All workers.
    pub fn iter(&self) -> impl Iterator<Item = (ClientId, &WorkerEntry)> {
        self.entries
            .iter()
            .map(|(slot, (generation, entry))| (ClientId::new(*slot, *generation), entry))
    }

    /// All identities that are taken.
    pub fn clients(&self) -> impl Iterator<Item = ClientId> + '_ {
        self.entries
            .iter()
            .map(|(slot, (generation, _))| ClientId::new(*slot, *generation))
    }
}

/// The store.
#[derive(Debug)]
pub struct Table {
    /// The configuration that the agent has taken, or takes first.
    pub config: ConfigEntry,
    /// A newer one that the agent has not answered yet.
    pub pending: Option<ConfigEntry>,
    /// Those before.
    pub past: Past,
    /// Workers.
    pub workers: Workers,
    /// App processes.
    pub processes: BTreeMap<ProcessKey, ProcessEntry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: i32) -> WorkerEntry {
        let own = i32::try_from(std::process::id()).unwrap();
        let connection = crate::sys::descriptor::doorbell().unwrap();
        WorkerEntry {
            pid,
            connection: Channel::from(connection),
            pidfd: Pidfd::open(own).unwrap(),
            token: 0,
        }
    }

    #[test]
    fn an_identity_is_never_given_twice_and_slots_run_out() {
        let mut workers = Workers::new(2).unwrap();
        let one = workers.identity_for(1).unwrap();
        workers.insert(one, entry(1));
        let two = workers.identity_for(2).unwrap();
        workers.insert(two, entry(2));
        assert_ne!(one.slot(), two.slot());
        assert!(workers
            .identity_for(3)
            .unwrap_err()
            .contains("all 2 worker slots"));
        assert!(workers.remove(one).is_some());
        assert!(workers.remove(one).is_none());
        let three = workers.identity_for(3).unwrap();
        assert_eq!(three.slot(), one.slot());
        assert_ne!(three.generation(), one.generation());
        assert_ne!(three.generation(), 0);
        assert!(workers.get(one).is_none());
    }

    #[test]
    fn a_process_keeps_its_identity_however_often_it_says_hello() {
        let mut workers = Workers::new(2).unwrap();
        let first = workers.identity_for(7).unwrap();
        for _ in 0..10 {
            workers.insert(first, entry(7));
            assert_eq!(workers.identity_for(7), Ok(first));
        }
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let mut dead = entry(7);
        dead.pidfd = Pidfd::open(ended.id().try_into().unwrap()).unwrap();
        ended.wait().unwrap();
        workers.insert(first, dead);
        assert_ne!(workers.identity_for(7), Ok(first), "another process");
    }
}
