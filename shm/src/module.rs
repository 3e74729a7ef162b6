//! What a worker process of httpd sees: `routes` read-only, `traffic`, the doorbell. Owns the mapping of
//! that process; requests go through a [`Client`].

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::client::{Client, Worker};
use crate::doorbell::Doorbell;
use crate::error::Error;
use crate::ids::{ClientId, GroupKey, GroupRef, ProcessRef};
use crate::params::{Capacities, GroupInfo, Port, ProcessState};
use crate::sync::{fence, Ordering};
use crate::tables::Tables;
use crate::traffic::Trust;

/// The shared memory of one instance, as a worker sees it. Cheap to share between threads.
#[derive(Debug, Clone)]
pub struct ModuleView {
    worker: Arc<Worker>,
}

impl ModuleView {
    /// Maps the segments. The descriptors of the segments may be closed afterwards; the doorbell's is
    /// kept.
    ///
    /// # Errors
    /// When they are not segments, or of another build: the text names both versions.
    pub fn attach(
        routes_read_only: BorrowedFd<'_>,
        traffic: BorrowedFd<'_>,
        doorbell: OwnedFd,
    ) -> Result<ModuleView, Error> {
        let tables = Tables::open(routes_read_only, false, traffic, Trust::Worker)?;
        let doorbell = Doorbell::new(doorbell)?;
        Ok(ModuleView {
            worker: Arc::new(Worker::new(tables, doorbell)),
        })
    }

    /// Key for [`GroupKey::of`].
    #[must_use]
    pub fn instance_key(&self) -> [u8; 16] {
        self.worker.tables.routes.instance_key()
    }

    /// Whether a newer instance serves, so that this worker should ask for its segments.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        // Relaxed: a flag that is asked again and again.
        self.worker
            .tables
            .routes
            .header()
            .superseded
            .load(Ordering::Relaxed)
            != 0
    }

    /// The configuration generation that the agent has taken.
    #[must_use]
    pub fn config_generation(&self) -> u64 {
        // Relaxed: a number that is compared, with nothing behind it.
        self.worker
            .tables
            .routes
            .header()
            .config_generation
            .load(Ordering::Relaxed)
    }

    /// The capacities of the instance.
    #[must_use]
    pub fn capacities(&self) -> Capacities {
        self.worker.tables.routes.capacities()
    }

    /// The group of a configuration, if the agent knows it already.
    #[must_use]
    pub fn find_group(&self, key: GroupKey) -> Option<GroupRef> {
        self.worker.tables.routes.find(key)
    }

    /// The settings of a group, `None` if it is gone: look for it again with [`ModuleView::find_group`].
    #[must_use]
    pub fn group(&self, group: GroupRef) -> Option<GroupInfo> {
        self.worker.tables.routes.group_info(group)
    }

    /// Where a process is in its life, `None` if its slot is unused or somebody else's by now.
    #[must_use]
    pub fn process_state(&self, process: ProcessRef) -> Option<ProcessState> {
        self.worker
            .tables
            .routes
            .process(process)
            .and_then(|(_, word)| word.state())
    }

    /// The port at 127.0.0.1 on which a process takes connections; `None` if it has a Unix socket, or is gone.
    #[must_use]
    pub fn port(&self, process: ProcessRef) -> Option<Port> {
        let routes = &self.worker.tables.routes;
        let read = || {
            let (slot, _) = routes.process(process)?;
            // Relaxed: the word is read again below.
            let number = slot.port.load(Ordering::Relaxed);
            // Relaxed: as above.
            let uid = slot.uid.load(Ordering::Relaxed);
            // PAIR(publish): a port of the slot's next process would show in the word now.
            fence(Ordering::Acquire);
            routes.process(process)?;
            let number = u16::try_from(number).ok().filter(|number| *number != 0)?;
            Some(Port { number, uid })
        };
        read()
    }

    /// Whether waiting for an answer of that process makes sense: false as soon as the agent says that
    /// it is dead, or its slot is somebody else's.
    #[must_use]
    pub fn is_live(&self, process: ProcessRef) -> bool {
        self.process_state(process)
            .is_some_and(|state| state != ProcessState::Dead)
    }

    /// The identity with which this worker process takes seats. One per process, granted by the
    /// watchdog; a forked copy of the process must ask for its own.
    #[must_use]
    pub fn client(&self, id: ClientId) -> Client {
        Client::new(Arc::clone(&self.worker), id)
    }
}
