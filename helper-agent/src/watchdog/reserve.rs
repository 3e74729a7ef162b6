//! A second copy of the store, for the case that watchdog and agent die together: descriptors that lie in
//! the queue of a socket whose both ends httpd's parent holds, too. It never reads them, but they keep
//! segments, sockets and pipes open, so that neither workers nor apps notice anything, and a new watchdog
//! that the parent starts finds everything there (`rebuild`).
//!
//! Our end of the parent's channel is not in it: its end of file is how the parent notices.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};
use passenger_shm::channel::{discard, Channel};
use passenger_shm::ClientId;
use serde::{Deserialize, Serialize};

use super::core::Watchdog;
use super::table::{ProcessEntry, ProcessKey};
use crate::store::StartDescriptors;
use crate::sys::pidfd::Pidfd;

/// Room for the messages: about a kilobyte each, two copies of a large instance.
const QUEUE_BYTES: usize = 16 << 20;

/// What no longer counts is cleared away when there is more of it than this, and than of the rest.
const MOST_GARBAGE: usize = 64;

/// A message in the queue, with the descriptors that its variant lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Kept {
    /// The first [`KEPT`] of [`StartDescriptors`].
    Instance {
        instance_dir: String,
        watchdog_generation: u32,
    },
    /// Document and log.
    Config { generation: u64 },
    /// Connection and pidfd.
    Worker {
        slot: u16,
        generation: u16,
        pid: i32,
    },
    /// Pidfd, output, control socket.
    Process {
        slot: u32,
        generation: u32,
        pid: i32,
        app: String,
    },
    /// Put there by a reader, to know where it began.
    Mark { number: u64 },
}

/// How many of the start's descriptors are kept: all but the parent's channel and pidfd, and the reserve
/// itself.
const KEPT: usize = StartDescriptors::KEPT;

/// What a new watchdog finds.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) instance_dir: String,
    pub(super) watchdog_generation: u32,
    pub(super) descriptors: [OwnedFd; KEPT],
    /// By generation: the last is in use.
    pub(super) configs: BTreeMap<u64, [OwnedFd; 2]>,
    pub(super) workers: BTreeMap<(u16, u16), (i32, [OwnedFd; 2])>,
    pub(super) processes: BTreeMap<ProcessKey, (i32, String, [OwnedFd; 3])>,
}

/// Both ends of the queue.
#[derive(Debug)]
pub(super) struct Reserve {
    write: Channel,
    read: Channel,
    garbage: usize,
    /// Something did not fit into it.
    is_incomplete: bool,
    has_complained: bool,
}

impl Reserve {
    /// An empty one: write end, read end.
    pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let (write, read) = Channel::pair()?;
        // What is allowed to everybody is too little for a large instance; better than nothing.
        if setsockopt(&write, sockopt::SndBufForce, &QUEUE_BYTES).is_err() {
            let _ = setsockopt(&write, sockopt::SndBuf, &QUEUE_BYTES);
        }
        Ok((write.into(), read.into()))
    }

    /// The one behind these ends.
    pub(super) fn new(write: OwnedFd, read: OwnedFd) -> io::Result<Self> {
        let (write, read) = (Channel::from(write), Channel::from(read));
        write.set_nonblocking(true)?;
        read.set_nonblocking(true)?;
        Ok(Self {
            write,
            read,
            garbage: 0,
            is_incomplete: false,
            has_complained: false,
        })
    }

    /// Keeps what the instance consists of.
    pub(super) fn put_instance(&mut self, dir: &str, generation: u32, all: &StartDescriptors) {
        let message = Kept::Instance {
            instance_dir: dir.to_owned(),
            watchdog_generation: generation,
        };
        let fds = all.in_order();
        self.put(&message, fds.get(..KEPT).unwrap_or_default());
    }

    /// Keeps a configuration; the newest is the one in use.
    pub(super) fn put_config(&mut self, generation: u64, fds: [BorrowedFd<'_>; 2]) {
        self.put(&Kept::Config { generation }, &fds);
    }

    /// Keeps a worker.
    pub(super) fn put_worker(&mut self, client: ClientId, pid: i32, fds: [BorrowedFd<'_>; 2]) {
        let (slot, generation) = (client.slot(), client.generation());
        let message = Kept::Worker {
            slot,
            generation,
            pid,
        };
        self.put(&message, &fds);
    }

    /// Keeps an app process.
    pub(super) fn put_process(&mut self, key: ProcessKey, entry: &ProcessEntry) {
        let (slot, generation) = key;
        let message = Kept::Process {
            slot,
            generation,
            pid: entry.pid,
            app: entry.app.clone(),
        };
        self.put(&message, &entry.descriptors());
    }

    fn put(&mut self, message: &Kept, fds: &[BorrowedFd<'_>]) {
        let sent = self.write.send(message, fds);
        self.is_incomplete |= sent.is_err();
        match sent {
            Ok(()) => {}
            // Everything else goes on; said once, not for each of a thousand processes.
            Err(e) if !self.has_complained => {
                self.has_complained = true;
                log::warn!(
                    "cannot keep a second copy of a descriptor ({e}): if watchdog and agent die at the \
                     same time, something will be lost"
                );
            }
            Err(e) => log::debug!("cannot keep a second copy of a descriptor: {e}"),
        }
    }

    /// Something that is kept does not count any more. Returns whether there is so much of that beside
    /// `living` things that all should be put anew, see [`Reserve::renew`].
    pub(super) fn add_garbage(&mut self, living: usize) -> bool {
        self.garbage += 1;
        self.is_incomplete || self.garbage > MOST_GARBAGE.max(living)
    }

    /// Puts everything anew: `put` does, and what was there before is dropped after that. Where both do not fit at
    /// once it is dropped before, so that for a moment there is less than everything.
    pub(super) fn renew(&mut self, number: u64, mut put: impl FnMut(&mut Self)) {
        let mark = Kept::Mark { number };
        self.is_incomplete = false;
        match self.write.send(&mark, &[]) {
            Ok(()) => {
                put(self);
                self.clear(Some(&mark));
            }
            Err(e) => {
                log::debug!("the second copy of the store is full: {e}");
                self.is_incomplete = true;
            }
        }
        if self.is_incomplete {
            self.clear(None);
            self.is_incomplete = false;
            put(self);
        }
        self.garbage = 0;
    }

    /// Drops what is there, up to that message.
    fn clear(&self, until: Option<&Kept>) {
        let mut of_workers = Vec::new();
        loop {
            match self.read.recv::<Kept>() {
                Ok(Some(received)) => {
                    if matches!(received.message, Kept::Worker { .. }) {
                        of_workers.extend(received.fds);
                    }
                    if Some(&received.message) == until {
                        break;
                    }
                }
                // No descriptor was left for those that came with it: they are out of it all the same.
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
                Ok(None) | Err(_) => break,
            }
        }
        // Workers may make closing theirs slow. All at once: there are only so many threads for that.
        discard(of_workers);
    }

    /// All that is there. It stays there: whoever is killed in the middle of this has taken out one message
    /// at most.
    pub(super) fn find(&mut self, number: u64) -> io::Result<Found> {
        let mark = Kept::Mark { number };
        self.write.send(&mark, &[])?;
        let (mut instance, mut configs) = (None, BTreeMap::new());
        let mut workers = BTreeMap::new();
        let mut twice = Vec::new();
        let mut processes: BTreeMap<ProcessKey, (i32, String, [OwnedFd; 3])> = BTreeMap::new();
        loop {
            let received = match self.read.recv::<Kept>() {
                Ok(Some(received)) => received,
                Ok(None) => return Err(io::Error::other("its writing end is closed")),
                // No descriptor was left for those that came with it. All the others go on.
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    log::error!(
                        "a process, a worker or a configuration is lost with the watchdog that had it: {e}; is \
                         RLIMIT_NOFILE too low?"
                    );
                    continue;
                }
                Err(e) => return Err(e),
            };
            if received.message == mark {
                break;
            }
            let borrowed: Vec<BorrowedFd<'_>> = received.fds.iter().map(AsFd::as_fd).collect();
            self.put(&received.message, &borrowed);
            let (message, fds) = (received.message, received.fds);
            match message {
                Kept::Instance {
                    instance_dir,
                    watchdog_generation,
                } => {
                    instance = Some((instance_dir, watchdog_generation, exactly(fds)?));
                }
                Kept::Config { generation } => {
                    configs.insert(generation, exactly(fds)?);
                }
                Kept::Worker {
                    slot,
                    generation,
                    pid,
                } => {
                    let before = workers.insert((slot, generation), (pid, exactly(fds)?));
                    twice.extend(before.into_iter().flat_map(|(_, fds)| fds));
                }
                Kept::Process {
                    slot,
                    generation,
                    pid,
                    app,
                } => {
                    processes.insert((slot, generation), (pid, app, exactly(fds)?));
                }
                Kept::Mark { .. } => {}
            }
        }
        discard(twice);
        let missing = || io::Error::other("it lacks what the instance consists of");
        let (instance_dir, watchdog_generation, descriptors) = instance.ok_or_else(missing)?;
        // Dead workers stay: they may not have been swept.
        processes.retain(|_, (_, _, [pidfd, ..])| is_running(pidfd));
        Ok(Found {
            instance_dir,
            watchdog_generation,
            descriptors,
            configs,
            workers,
            processes,
        })
    }
}

impl Watchdog {
    /// Something in the reserve does not count any more.
    pub(super) fn on_reserve_garbage(&mut self) {
        let living = self.table.workers.clients().count() + self.table.processes.len();
        if self.reserve.add_garbage(living) {
            self.renew_reserve();
        }
    }

    /// Puts everything that is kept into the reserve, and nothing else.
    pub(super) fn renew_reserve(&mut self) {
        self.reserve_renewals += 1;
        let number = mark_number(self.reserve_renewals);
        let (table, descriptors) = (&self.table, &self.descriptors);
        let (directory, generation) = (self.instance_dir.to_string_lossy(), self.generation);
        self.reserve.renew(number, |reserve| {
            reserve.put_instance(&directory, generation, descriptors);
            let config = &table.config;
            for (generation, document) in table.past.iter() {
                reserve.put_config(generation, [document, config.log.as_fd()]);
            }
            for config in std::iter::once(config).chain(&table.pending) {
                reserve.put_config(
                    config.generation,
                    [config.document.as_fd(), config.log.as_fd()],
                );
            }
            for (client, entry) in table.workers.iter() {
                reserve.put_worker(
                    client,
                    entry.pid,
                    [entry.connection.as_fd(), entry.pidfd.as_fd()],
                );
            }
            for (key, entry) in &table.processes {
                reserve.put_process(*key, entry);
            }
        });
    }
}

/// No two marks in a queue are the same, whoever put them there.
pub(super) fn mark_number(count: u32) -> u64 {
    u64::from(std::process::id()) << 32 | u64::from(count)
}

fn is_running(pidfd: &OwnedFd) -> bool {
    pidfd
        .try_clone()
        .is_ok_and(|copy| !Pidfd::from(copy).has_exited())
}

fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    let count = fds.len();
    fds.try_into().map_err(|_| {
        let text = format!("a message in it has {count} descriptors instead of {N}");
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_full_reserve_is_emptied_and_has_everything_again() {
        const SMALL: usize = 16 * 1024;
        let (write, read) = Channel::pair().unwrap();
        setsockopt(&write, sockopt::SndBuf, &SMALL).unwrap();
        let mut reserve = Reserve::new(write.into(), read.into()).unwrap();
        let null = File::open("/dev/null").unwrap();
        let fds = [null.as_fd(), null.as_fd()];
        let mut generation = 0;
        while !reserve.is_incomplete {
            generation += 1;
            reserve.put_config(generation, fds);
        }
        assert!(reserve.add_garbage(10_000), "it is to be put anew at once");
        // More than half of it: the old and the new do not fit at once.
        let many = generation * 2 / 3;
        reserve.renew(7, |reserve| {
            for generation in 1..=many {
                reserve.put_config(generation, fds);
            }
        });
        assert!(!reserve.is_incomplete);
        reserve.renew(8, |reserve| reserve.put_config(99, fds));
        let mut kept = Vec::new();
        while let Ok(Some(received)) = reserve.read.recv::<Kept>() {
            kept.push(received.message);
        }
        assert_eq!(kept, [Kept::Config { generation: 99 }]);
    }

    #[test]
    fn what_cannot_be_read_costs_nobody_else() {
        let (write, read) = Reserve::pair().unwrap();
        let mut reserve = Reserve::new(write, read).unwrap();
        let null = File::open("/dev/null").unwrap();
        let instance = Kept::Instance {
            instance_dir: "/nowhere".to_owned(),
            watchdog_generation: 3,
        };
        reserve.put(&instance, &[null.as_fd(); KEPT]);
        reserve.put_config(1, [null.as_fd(); 2]);
        // As one whose descriptors are lost.
        reserve.write.send(&"nonsense", &[]).unwrap();
        reserve.put_config(2, [null.as_fd(); 2]);
        for number in [1, 2] {
            let found = reserve.find(number).unwrap();
            assert_eq!(found.watchdog_generation, 3);
            assert_eq!(found.configs.into_keys().collect::<Vec<_>>(), [1, 2]);
        }
    }
}
