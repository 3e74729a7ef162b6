//! What the agent is told: the store when it starts, and afterwards what happens. Kept in a queue that is
//! sent as far as its channel has room, so that an agent that does not read cannot stop the watchdog.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use passenger_shm::channel::Channel;
use passenger_shm::ClientId;

use super::core::Watchdog;
use super::table::ProcessKey;
use crate::store::ToAgent;
use crate::sys::epoll::Trigger;

/// Something to send. Descriptors are looked up when it is sent: what has gone by then is skipped.
#[derive(Debug)]
pub(super) enum Item {
    Start,
    Past(u64),
    Config,
    Pending(u64),
    Worker(ClientId),
    Process(ProcessKey),
    StoreEnd,
    Plain(ToAgent),
}

impl Watchdog {
    /// What a new agent is told, in this order.
    pub(super) fn whole_store(&self) -> Vec<Item> {
        let mut items = vec![Item::Start];
        items.extend(self.table.past.iter().map(|(past, _)| Item::Past(past)));
        items.push(Item::Config);
        items.extend(self.table.workers.clients().map(Item::Worker));
        items.extend(self.table.processes.keys().copied().map(Item::Process));
        if self.is_retired {
            items.push(Item::Plain(ToAgent::Retire));
        }
        items.push(Item::StoreEnd);
        items.push(Item::Plain(ToAgent::Beat));
        let exited = self.table.processes.values().filter_map(|entry| {
            let status = entry.exited?;
            Some(Item::Plain(ToAgent::ChildExited {
                pid: entry.pid,
                status,
            }))
        });
        items.extend(exited);
        items.extend(
            self.table
                .pending
                .as_ref()
                .map(|config| Item::Pending(config.generation)),
        );
        items
    }

    /// Tells the agent, if there is one; a later one learns it from the store.
    pub(super) fn tell_agent(&mut self, item: Item) {
        if let Some(agent) = &mut self.agent {
            agent.push(item);
        }
    }

    /// Tells the agent once more what it may have missed. To know a worker twice does no harm.
    pub(super) fn tell_again(&mut self) {
        let pending = self.table.pending.iter();
        let mut items: Vec<Item> = pending
            .map(|config| Item::Pending(config.generation))
            .collect();
        items.extend(self.table.workers.clients().map(Item::Worker));
        for item in items {
            self.tell_agent(item);
        }
    }

    /// Says that this loop runs, unless the agent has not even read what was said before.
    pub(super) fn beat(&mut self) {
        if let Some(agent) = self.agent.as_mut().filter(|agent| agent.outbox.is_empty()) {
            agent.push(Item::Plain(ToAgent::Beat));
        }
    }

    /// Sends what the agent's channel has room for.
    pub(super) fn flush_outbox(&mut self) {
        let Some(mut agent) = self.agent.take() else {
            return;
        };
        let (is_end_sent, result) = self.send_queued(&agent.channel, &mut agent.outbox);
        if is_end_sent {
            agent.has_store = true;
            self.unwatch_outputs();
        }
        let waits = match result {
            Ok(()) => false,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
            Err(e) => {
                // Its end is closed: it is dying, and its pidfd tells when.
                log::debug!("cannot tell helper agent {}: {e}", agent.pid);
                agent.outbox.clear();
                false
            }
        };
        if waits != agent.waits_for_room && !agent.channel_ended {
            agent.waits_for_room = waits;
            let trigger = if waits {
                Trigger::ReadableOrWritable
            } else {
                Trigger::Readable
            };
            let channel = agent.channel.as_fd();
            if let Err(e) = self.events.change(channel, agent.channel_token, trigger) {
                log::error!("cannot wait for helper agent {}: {e}", agent.pid);
            }
        }
        self.agent = Some(agent);
    }

    /// Sends what the channel has room for, and whether the store's end was in it: from there on the outputs
    /// are the agent's to read.
    pub(super) fn send_queued(
        &self,
        channel: &Channel,
        outbox: &mut VecDeque<Item>,
    ) -> (bool, io::Result<()>) {
        let mut is_end_sent = false;
        while let Some(item) = outbox.front() {
            if let Some((message, fds)) = self.resolve(item) {
                if let Err(e) = channel.send(&message, &fds) {
                    return (is_end_sent, Err(e));
                }
                is_end_sent |= message == ToAgent::StoreEnd;
            }
            outbox.pop_front();
        }
        (is_end_sent, Ok(()))
    }

    /// A message with its descriptors; `None` if what it is about has gone.
    fn resolve(&self, item: &Item) -> Option<(ToAgent, Vec<BorrowedFd<'_>>)> {
        Some(match item {
            Item::Start => (
                ToAgent::Start {
                    instance_dir: self.instance_dir.to_string_lossy().into_owned(),
                    parent_pid: self.parent_pid,
                    watchdog_generation: self.generation,
                    oom_score_adj: self.originals.oom_score_adj,
                },
                self.descriptors.in_order().to_vec(),
            ),
            Item::Past(generation) => {
                let document = self.table.past.document(*generation)?;
                let generation = *generation;
                (ToAgent::PastConfig { generation }, vec![document.as_fd()])
            }
            Item::Config => {
                let config = &self.table.config;
                (
                    ToAgent::Config {
                        generation: config.generation,
                    },
                    vec![config.document.as_fd(), config.log.as_fd()],
                )
            }
            Item::Pending(generation) => {
                let pending = self.table.pending.as_ref();
                let Some(config) = pending.filter(|c| c.generation == *generation) else {
                    return self.resolve(&Item::Past(*generation));
                };
                (
                    ToAgent::Config {
                        generation: config.generation,
                    },
                    vec![config.document.as_fd(), config.log.as_fd()],
                )
            }
            Item::Worker(client) => {
                let entry = self.table.workers.get(*client)?;
                (
                    ToAgent::Worker {
                        slot: client.slot(),
                        generation: client.generation(),
                        pid: entry.pid,
                    },
                    vec![entry.connection.as_fd(), entry.pidfd.as_fd()],
                )
            }
            Item::Process(key) => {
                let entry = self.table.processes.get(key)?;
                let (slot, generation) = *key;
                (
                    ToAgent::Process {
                        slot,
                        generation,
                        pid: entry.pid,
                    },
                    entry.descriptors().to_vec(),
                )
            }
            Item::StoreEnd => (ToAgent::StoreEnd, Vec::new()),
            Item::Plain(message) => (message.clone(), Vec::new()),
        })
    }
}
