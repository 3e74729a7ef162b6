//! Watchdog and agent have died together. Everything they had is in the reserve, whose two ends this
//! process holds without ever reading it: another watchdog goes on from there. Workers and apps keep what
//! they have and notice nothing.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use passenger_shm::channel::Channel;
use passenger_shm::messages::FromParent;

use super::birth::{abandon, await_ready};
use super::watch;
use crate::codes;
use crate::ffi::launch::{Image, Launch};
use crate::ffi::pool::Pool;
use crate::ffi::retained::{self, Retained};
use crate::ffi::server;

/// How long the new watchdog may take; meanwhile httpd's parent looks after no worker.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Starts a watchdog in the place of the dead one.
///
/// # Errors
/// A sentence: why the instance is lost.
pub(super) fn rebuild(pconf: Pool<'_>, instance: &Retained) -> Result<(), String> {
    let [write, read, image] =
        retained::reserve().ok_or("httpd's parent has no second copy of what they had")?;
    let (ours, theirs) = Channel::pair().map_err(|e| format!("cannot create a channel: {e}"))?;
    // The very program of this instance: what is installed may be newer.
    let image = Image::of(image).map_err(|e| format!("cannot use the watchdog's image: {e}"))?;
    let pid = Launch {
        program: image.path(),
        name: c"passenger-watchdog",
        variable: ("PASSENGER_PARENT_PID", instance.parent.to_string()),
        channel: theirs.as_fd(),
        log: io::stderr().as_fd(),
        directory: &server::core_directory(),
    }
    .run()
    .map_err(|why| format!("cannot start another watchdog: {why}"))?;
    drop(theirs);
    let answer = ours
        .send(&FromParent::Rebuild {}, &[write, read])
        .map_err(|e| format!("cannot hand the reserve to the watchdog: {e}"))
        .and_then(|()| await_ready(&ours, TIMEOUT));
    let _ready = answer.inspect_err(|_| abandon(&ours, pid))?;
    retained::replace_watchdog(ours.into(), pid);
    watch(pconf, pid);
    log::error!(
        "{}: watchdog and agent in {} had died both; watchdog pid={pid} goes on with what they had",
        codes::REBUILT,
        instance.instance_dir
    );
    Ok(())
}
