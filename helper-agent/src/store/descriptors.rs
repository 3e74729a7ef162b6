//! The descriptors of [`super::ToAgent::Start`], by name.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What an instance consists of, apart from configuration, workers and processes.
#[derive(Debug)]
pub struct StartDescriptors {
    /// Segment `routes`, read-write.
    pub routes: OwnedFd,
    /// Segment `routes`, read-only: what workers get.
    pub routes_read_only: OwnedFd,
    /// Segment `traffic`.
    pub traffic: OwnedFd,
    /// Eventfd that workers ring.
    pub doorbell: OwnedFd,
    /// Watchdog's end of the hello channel.
    pub hello: OwnedFd,
    /// Workers' end of the hello channel.
    pub hello_workers: OwnedFd,
    /// The instance's lock file; the lock belongs to this open file, whoever holds it.
    pub lock: OwnedFd,
    /// Image of the watchdog.
    pub watchdog_image: OwnedFd,
    /// Image of the agent.
    pub agent_image: OwnedFd,
    /// Our end of the channel to httpd's parent.
    pub parent_channel: OwnedFd,
    /// Pidfd of httpd's parent.
    pub parent_pidfd: OwnedFd,
    /// Writing end of the reserve: a queue with a copy of all this and of the store.
    pub reserve_write: OwnedFd,
    /// Reading end of the reserve.
    pub reserve_read: OwnedFd,
    /// What the agent notes beside the tables ([`crate::status::board`]).
    pub board: OwnedFd,
    /// Where tools ask for the status: the watchdog accepts.
    pub status: OwnedFd,
    /// Where tools ask for deeds: the agent accepts.
    pub admin: OwnedFd,
}

impl StartDescriptors {
    /// How many there are.
    pub const COUNT: usize = 16;

    /// How many of them the reserve keeps: all but the last four.
    pub const KEPT: usize = Self::COUNT - 4;

    /// All of them in the order they travel in: last what a new watchdog of httpd's parent has from it, and not
    /// from the reserve ([`StartDescriptors::KEPT`]).
    #[must_use]
    pub fn in_order(&self) -> [BorrowedFd<'_>; Self::COUNT] {
        [
            self.routes.as_fd(),
            self.routes_read_only.as_fd(),
            self.traffic.as_fd(),
            self.doorbell.as_fd(),
            self.hello.as_fd(),
            self.hello_workers.as_fd(),
            self.lock.as_fd(),
            self.watchdog_image.as_fd(),
            self.agent_image.as_fd(),
            self.board.as_fd(),
            self.status.as_fd(),
            self.admin.as_fd(),
            self.parent_channel.as_fd(),
            self.parent_pidfd.as_fd(),
            self.reserve_write.as_fd(),
            self.reserve_read.as_fd(),
        ]
    }

    /// Names descriptors that arrived in that order.
    ///
    /// # Errors
    /// `InvalidData` when their number is not [`StartDescriptors::COUNT`].
    pub fn from_order(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let fds: [OwnedFd; Self::COUNT] = fds.try_into().map_err(|fds: Vec<OwnedFd>| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "Start came with {} descriptors instead of {}",
                    fds.len(),
                    Self::COUNT
                ),
            )
        })?;
        let [routes, routes_read_only, traffic, doorbell, hello, hello_workers, lock, watchdog_image, agent_image, board, status, admin, parent_channel, parent_pidfd, reserve_write, reserve_read] =
            fds;
        Ok(Self {
            routes,
            routes_read_only,
            traffic,
            doorbell,
            hello,
            hello_workers,
            lock,
            watchdog_image,
            agent_image,
            parent_channel,
            parent_pidfd,
            reserve_write,
            reserve_read,
            board,
            status,
            admin,
        })
    }
}
