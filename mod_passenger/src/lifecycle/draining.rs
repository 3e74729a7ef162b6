//! Instances that another build has replaced. Each ends its apps five seconds after their last requests by
//! itself ([`FromParent::Retire`]), and starts one again for a worker that asks. What is left of it, watchdog and agent,
//! ends with the last of its workers, or when there is no app process and none of those workers has done anything but
//! deliver for five seconds. That is for httpd's parent to know, which counts workers and reads the scoreboard.

use std::io;
use std::os::fd::OwnedFd;

use passenger_shm::channel::Channel;
use passenger_shm::messages::FromParent;

use super::birth::hear;
use super::instance::{say, tell_to_stop};
use crate::codes;
use crate::ffi::process;
use crate::ffi::retained::{self, Draining, MOST_DRAINING};
use crate::ffi::scoreboard::{self, Usage};

/// Workers that have had nothing to ask for so many seconds have nothing to ask any more: they accept no connections, and
/// close those that they have.
const QUIET_SECONDS: u64 = 5;

/// An instance was replaced; the generations are the first and the last of the workers that know it.
pub(super) fn begin(channel: OwnedFd, generations: (u64, u64)) {
    look(None);
    // A ninth upgrade while clients of the first still hold on: that one has to end.
    let all = retained::draining();
    if let Some(oldest) = all.first().filter(|_| all.len() >= MOST_DRAINING) {
        log::warn!(
            "{}: {} instances of earlier builds still drain: the oldest is told to stop",
            codes::DRAINING,
            all.len()
        );
        if let Ok(channel) = channel_of(oldest) {
            stop(&channel);
        }
        // Its watchdog goes on to its deadline, with the apps; only `stop` does not wait for it any more.
        oldest.forget();
    }
    let channel = Channel::from(channel);
    let told = channel
        .set_nonblocking(true)
        .and_then(|()| channel.send(&FromParent::Retire {}, &[]));
    if let Err(why) = told {
        log::error!(
            "{}: cannot tell the replaced instance that it was replaced ({why}): its apps stay as long as \
             its workers",
            codes::DRAINING
        );
    }
    if let Err(channel) = retained::add_draining(channel.into(), generations) {
        log::error!("[BUG] no room for a replaced instance: it is told to stop");
        stop(&Channel::from(channel));
    }
}

/// Looks at each: passes on what it says, and has it stop if it is of no use any more. `ended`: that generation of
/// httpd (counted from 0) has lost its last worker, though the scoreboard may still name it.
pub(super) fn look(ended: Option<u64>) {
    for draining in retained::draining() {
        let Ok(channel) = channel_of(&draining) else {
            continue;
        };
        if is_over(&channel) {
            draining.forget();
        } else if !draining.was_told() {
            release(&draining, &channel, ended);
        }
    }
}

/// Lets an instance go that its workers do not need. httpd counts generations from 0, configurations from 1.
fn release(draining: &Draining, channel: &Channel, ended: Option<u64>) {
    let own = draining.first.saturating_sub(1)..draining.last;
    let usage = scoreboard::usage(&own, ended);
    let now = process::monotonic_seconds();
    let quiet_since = draining.note_quiet(usage != Usage::Busy, now);
    if usage == Usage::Gone {
        stop(channel);
        draining.note_told();
    } else if quiet_since.is_some_and(|since| now - since >= QUIET_SECONDS) {
        // Its own word counts, too; if it is not the moment, there is another look in ten seconds.
        let _ = channel
            .set_nonblocking(true)
            .and_then(|()| channel.send(&FromParent::Dismiss {}, &[]));
    }
}

/// All channels, for the end of httpd.
pub(super) fn channels() -> Vec<Channel> {
    let all = retained::draining();
    all.iter().filter_map(|d| channel_of(d).ok()).collect()
}

fn channel_of(draining: &Draining) -> io::Result<Channel> {
    draining.channel().try_clone_to_owned().map(Channel::from)
}

fn stop(channel: &Channel) {
    if let Err(why) = tell_to_stop(channel) {
        log::error!(
            "{}: cannot tell the replaced instance to stop: {why}",
            codes::STOP
        );
    }
}

/// Whether nobody of it lives. Reads what it has said, which nobody waits for.
fn is_over(channel: &Channel) -> bool {
    if channel.set_nonblocking(true).is_err() {
        return false;
    }
    loop {
        match hear(channel) {
            Ok(Some(received)) => say(&received.message),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}
