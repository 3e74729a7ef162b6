//! httpd's parent: new configurations, the order to stop, and its death.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passenger_shm::messages::{FromParent, ToParent};

use super::core::Watchdog;
use super::outbox::Item;
use super::settings::Head;
use super::table::{ConfigEntry, ProcessEntry};
use crate::store::ToAgent;

impl Watchdog {
    /// Reads what the parent says.
    pub(super) fn on_parent(&mut self) {
        loop {
            match self.parent.recv::<FromParent>() {
                Ok(Some(received)) => {
                    // Children of httpd inherit the channel for a moment; they are not obeyed.
                    let sender = received.peer.as_ref().map_or(0, |peer| peer.pid);
                    if sender == self.parent_pid {
                        self.on_parent_message(&received.message, received.fds);
                    } else {
                        log::warn!("process {sender} sent a message on httpd's channel; ignored");
                    }
                }
                Ok(None) => {
                    self.unwatch_parent();
                    self.begin_stop(self.settings.shutdown_ms, "httpd closed its channel");
                    return;
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::ConnectionReset => {}
                    io::ErrorKind::InvalidData => {
                        log::error!("httpd sent what is not a message: {e}");
                    }
                    _ => {
                        log::error!("cannot read from httpd: {e}");
                        self.unwatch_parent();
                        return;
                    }
                },
            }
        }
    }

    fn unwatch_parent(&mut self) {
        self.events.remove(self.parent.as_fd(), self.parent_token);
    }

    fn on_parent_message(&mut self, message: &FromParent, fds: Vec<OwnedFd>) {
        match *message {
            FromParent::Rebuild {} => {
                log::error!("[BUG] httpd's parent wants to rebuild what lives");
            }
            FromParent::Retire {} => self.retire(),
            FromParent::Dismiss {} => self.dismiss(),
            FromParent::Stop { deadline_ms } => self.begin_stop(deadline_ms, "httpd is stopping"),
            FromParent::Configure { generation } => {
                if let Err(message) = self.on_configure(generation, fds) {
                    log::error!("{message}; the configuration before stays");
                    self.tell_parent(
                        &ToParent::ConfigureRefused {
                            generation,
                            message,
                        },
                        &[],
                    );
                }
            }
        }
    }

    /// Another build has taken over.
    pub(super) fn retire(&mut self) {
        if !std::mem::replace(&mut self.is_retired, true) {
            self.tell_agent(Item::Plain(ToAgent::Retire));
        }
    }

    /// None of the workers asks for anything. Requests and streams that are under way have a process.
    fn dismiss(&mut self) {
        let is_idle = |entry: &ProcessEntry| entry.pidfd.has_exited();
        if self.is_retired && self.table.processes.values().all(is_idle) {
            self.begin_stop(
                self.settings.shutdown_ms,
                "no worker needs this build any more",
            );
        }
    }

    fn on_configure(&mut self, generation: u64, fds: Vec<OwnedFd>) -> Result<(), String> {
        let config = ConfigEntry::from_fds(generation, fds)?;
        let head = Head::read(&config)?;
        head.apply_log(&config);
        self.settings = head.settings();
        self.hooks.configured = head.hooks();
        let document = config.document.as_fd();
        self.reserve
            .put_config(generation, [document, config.log.as_fd()]);
        // One that comes while the agent is away or busy was in force all the same: httpd has workers with it.
        if let Some(overtaken) = self.table.pending.replace(config) {
            self.table
                .past
                .add(overtaken.generation, overtaken.document);
        }
        self.tell_agent(Item::Pending(generation));
        Ok(())
    }

    /// Its pidfd says that it is dead.
    pub(super) fn on_parent_death(&mut self) {
        self.events
            .remove(self.parent_death.as_fd(), self.parent_death_token);
        let reason = format!("httpd's parent {} is gone without a word", self.parent_pid);
        self.begin_stop(self.settings.shutdown_ms, &reason);
    }

    /// Says that workers may come; whether that worked.
    pub(super) fn tell_parent_ready(&self) -> bool {
        let message = ToParent::Ready {
            instance_dir: self.instance_dir.to_string_lossy().into_owned(),
        };
        let d = &self.descriptors;
        self.tell_parent(
            &message,
            &[
                d.routes_read_only.as_fd(),
                d.traffic.as_fd(),
                d.doorbell.as_fd(),
                d.hello_workers.as_fd(),
                d.reserve_write.as_fd(),
                d.reserve_read.as_fd(),
                d.watchdog_image.as_fd(),
            ],
        )
    }

    /// Sends without waiting: the parent reads its answers when it finds the time.
    pub(super) fn tell_parent(&self, message: &ToParent, fds: &[BorrowedFd<'_>]) -> bool {
        match self.parent.send(message, fds) {
            Ok(()) => true,
            Err(e) => {
                log::warn!("cannot answer httpd's parent {}: {e}", self.parent_pid);
                false
            }
        }
    }
}
