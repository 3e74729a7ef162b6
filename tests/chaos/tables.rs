//! The shared memory of a running instance, as the harness may look at it: mapped read-only from the
//! descriptors of its watchdog.

use harness::processes::{self, ProcessId};
use harness::wait::{until_some, PATIENCE};
use harness::Instance;
use passenger_shm::{InspectView, Snapshot};
use std::fs::{self, File};
use std::os::fd::AsFd;

/// The tables as they are now. Needs the rights of the instance's owner.
///
/// # Panics
/// When the segments cannot be opened in time.
pub(crate) fn snapshot(instance: &Instance) -> Snapshot {
    // A watchdog that is killed meanwhile has a successor.
    let view = until_some("the segments of the instance", PATIENCE, || {
        let watchdog = instance.watchdog();
        let routes = segment(watchdog, "passenger-routes")?;
        let traffic = segment(watchdog, "passenger-traffic")?;
        InspectView::attach(routes.as_fd(), Some(traffic.as_fd())).ok()
    });
    view.snapshot()
}

fn segment(pid: ProcessId, name: &str) -> Option<File> {
    let wanted = format!("/memfd:{name} (deleted)");
    let number = processes::descriptors(pid)
        .into_iter()
        .find(|(_, link)| link.to_string_lossy() == wanted)?
        .0;
    fs::File::open(format!("/proc/{pid}/fd/{number}")).ok()
}
