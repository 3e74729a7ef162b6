//! A stream: an upgraded connection (WebSocket) that an app process has beside its requests. Owns that it is
//! counted for exactly as long as it lives.

use std::sync::Arc;

use crate::ids::ProcessRef;
use crate::params::ProcessState;
use crate::protocol::counter;

use super::{index_u32, Client, Worker};

/// An upgraded connection, counted in the tables until it is dropped. If its worker dies first, the watchdog
/// takes it out.
#[derive(Debug)]
pub struct Stream {
    worker: Arc<Worker>,
    client: usize,
    process: usize,
    generation: u32,
    is_counted: bool,
}

impl Stream {
    pub(super) fn open(client: &Client, process: usize, generation: u32) -> Stream {
        let mut stream = Stream {
            worker: Arc::clone(&client.worker),
            client: usize::from(client.id.slot()),
            process,
            generation,
            is_counted: false,
        };
        stream.is_counted = stream.count(counter::open);
        stream
    }

    /// The process at its other end.
    #[must_use]
    pub fn process(&self) -> ProcessRef {
        ProcessRef::new(index_u32(self.process), self.generation)
    }

    /// Where that process is in its life; `None`: it is gone.
    #[must_use]
    pub fn process_state(&self) -> Option<ProcessState> {
        let found = self.worker.tables.routes.process(self.process());
        found.and_then(|(_, word)| word.state())
    }

    fn count(
        &self,
        how: fn(&crate::sync::AtomicU64, &crate::sync::AtomicU64, u32) -> bool,
    ) -> bool {
        let traffic = &self.worker.tables.traffic;
        let counter = traffic.stream(self.client, self.process);
        match (counter, traffic.stream_total(self.process)) {
            (Some(counter), Some(total)) => how(counter, total, self.generation),
            _ => false,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_counted {
            // Not counted any more: its process is long gone and the slot somebody else's.
            let _ = self.count(counter::give_back);
        }
    }
}
