//! A start after watchdog and agent have died together: httpd's parent hands over the reserve, in which
//! everything is. Workers keep their identities and connections, apps their pipes and sockets; none of
//! them has noticed anything. The apps have another parent now, and it cannot be changed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use passenger_shm::channel::Channel;
use passenger_shm::ClientId;

use super::core::Watchdog;
use super::reserve::{mark_number, Found, Reserve};
use super::settings::Head;
use super::start::{Basis, Parts};
use super::table::{ConfigEntry, WorkerEntry};
use crate::store::StartDescriptors;
use crate::sys::pidfd::Pidfd;

pub(super) fn rebuild(
    basis: Basis<'_>,
    parent: Pidfd,
    fds: Vec<OwnedFd>,
) -> Result<Watchdog, String> {
    let unreadable = |e: std::io::Error| format!("cannot read the reserve: {e}");
    let [write, read] = <[OwnedFd; 2]>::try_from(fds)
        .map_err(|fds| format!("the reserve came with {} descriptors, not 2", fds.len()))?;
    let copies = (write.try_clone(), read.try_clone());
    let mut reserve = Reserve::new(copies.0.map_err(unreadable)?, copies.1.map_err(unreadable)?)
        .map_err(unreadable)?;
    let Found {
        instance_dir,
        watchdog_generation,
        descriptors,
        mut configs,
        workers,
        processes,
    } = reserve.find(mark_number(0)).map_err(unreadable)?;
    // Watchdogs that end on purpose remove it: there is nothing to go on with, and httpd's next graceful makes
    // another instance.
    if !Path::new(&instance_dir).join("apps").is_dir() {
        return Err(format!(
            "the instance directory {instance_dir} was removed, so its watchdog ended on purpose"
        ));
    }
    let (generation, [document, log]) = configs
        .pop_last()
        .ok_or("there is no configuration in the reserve")?;
    let config = ConfigEntry {
        generation,
        document,
        log,
    };
    let head = Head::read(&config)?;
    head.apply_log(&config);
    let parent_channel = basis.channel.as_fd().try_clone_to_owned();
    let mut all = Vec::from(descriptors);
    all.extend([
        parent_channel.map_err(unreadable)?,
        parent.into(),
        write,
        read,
    ]);
    let mut watchdog = Parts {
        signals: basis.signals,
        originals: basis.originals,
        descriptors: StartDescriptors::from_order(all).map_err(unreadable)?,
        settings: head.settings(),
        hooks: head.hooks(),
        config,
        parent_pid: basis.parent_pid,
        generation: watchdog_generation + 1,
    }
    .assemble(PathBuf::from(instance_dir))?;
    for (past, [document, _log]) in configs {
        watchdog.table.past.add(past, document);
    }
    // The living first: the counters of a dead one's slot may belong to its living heir by now.
    let mut dead = Vec::new();
    for ((slot, generation), (pid, [connection, pidfd])) in workers {
        let client = ClientId::new(slot, generation);
        let pidfd = Pidfd::from(pidfd);
        if pidfd.has_exited() {
            dead.push(client);
        } else {
            watchdog.adopt_worker(client, pid, connection, pidfd);
        }
    }
    for client in dead {
        let has_heir = |heir: ClientId| heir.slot() == client.slot();
        if !watchdog.table.workers.clients().any(has_heir) {
            watchdog.view.sweep(client);
        }
    }
    for (key, (pid, app, fds)) in processes {
        watchdog.adopt_process(key, pid, app, fds);
    }
    watchdog.watch_outputs();
    watchdog.renew_reserve();
    watchdog.told_parent = watchdog.tell_parent_ready();
    log::warn!(
        "watchdog and helper agent had died both; process {} goes on with {} app processes and {} workers",
        std::process::id(),
        watchdog.table.processes.len(),
        watchdog.table.workers.clients().count()
    );
    Ok(watchdog)
}

impl Watchdog {
    fn adopt_worker(&mut self, client: ClientId, pid: i32, connection: OwnedFd, pidfd: Pidfd) {
        let added = Channel::foreign(connection).and_then(|connection| {
            let entry = WorkerEntry {
                pid,
                connection,
                pidfd,
                token: 0,
            };
            self.add_worker(client, entry)
        });
        if let Err(e) = added {
            log::error!("cannot take over worker {pid}: {e}");
        }
    }
}
