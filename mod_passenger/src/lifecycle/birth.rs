//! A new instance: starts the watchdog and waits until it says that the agent is ready.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use passenger_shm::channel::{Channel, Received};
use passenger_shm::messages::{self as wire, FromParent, ToParent};

use super::instance::say;
use super::{checks, watch};
use crate::ffi::launch::Launch;
use crate::ffi::log::NOTICE;
use crate::ffi::retained::{self, Descriptors, Retained};
use crate::ffi::server::{self, Configuring};
use crate::{codes, config};

/// Descriptors beside a `Ready`.
const READY_DESCRIPTORS: usize = 7;

/// An instance that is up and not yet retained.
pub(super) struct Started(Retained, Descriptors);

impl Started {
    /// From now on workers use it. What was retained before must have been given up.
    pub(super) fn keep(self, configuring: Configuring<'_>) {
        let Started(instance, descriptors) = self;
        retained::keep(&instance, descriptors);
        watch(configuring.pconf, instance.watchdog);
        log::info!(
            target: NOTICE,
            "{}: mod_passenger {} started, instance {}, watchdog pid={}",
            codes::STARTED, instance.build, instance.instance_dir, instance.watchdog
        );
    }
}

/// Starts an instance and waits until it is ready.
///
/// # Errors
/// A sentence: what failed.
pub(super) fn start(
    config: &wire::Config,
    file: &OwnedFd,
    log: &OwnedFd,
    patience: Duration,
) -> Result<Started, String> {
    let program = checks::watchdog(&config::globals().root);
    let c_program = CString::new(program.as_os_str().as_bytes())
        .map_err(|_| format!("the path {} contains a NUL byte", program.display()))?;
    let (ours, theirs) = Channel::pair().map_err(|e| format!("cannot create a channel: {e}"))?;
    let parent = i32::try_from(std::process::id()).unwrap_or(0);
    let pid = Launch {
        program: &c_program,
        name: c"passenger-watchdog",
        variable: ("PASSENGER_PARENT_PID", parent.to_string()),
        channel: theirs.as_fd(),
        log: log.as_fd(),
        directory: &server::core_directory(),
    }
    .run()
    .map_err(|why| format!("cannot start {}: {why}", program.display()))?;
    // Only the watchdog may hold the far end: its end of file is the sign of its death.
    drop(theirs);
    let configure = FromParent::Configure {
        generation: config.generation,
    };
    let ready = ours
        .send(&configure, &[file.as_fd(), log.as_fd()])
        .map_err(|e| format!("cannot send the configuration to the watchdog: {e}"))
        .and_then(|()| await_ready(&ours, patience));
    let (instance_dir, descriptors) = ready.inspect_err(|_| abandon(&ours, pid))?;
    if instance_dir.len() >= retained::PATH_BYTES {
        return Err(format!(
            "the path of the instance directory is too long: {instance_dir}; \
             name a shorter PassengerInstanceRegistryDir"
        ));
    }
    let instance = Retained {
        watchdog: pid,
        parent,
        generation: config.generation,
        build: config.build.clone(),
        instance_dir,
    };
    let [routes, traffic, doorbell, hello, reserve_write, reserve_read, image] = descriptors;
    // Workers must not hang in a hello to a watchdog that does not read.
    let hello = Channel::from(hello);
    hello
        .set_nonblocking(true)
        .map_err(|e| format!("cannot prepare the hello channel: {e}"))?;
    let descriptors = Descriptors {
        channel: ours.into(),
        routes,
        traffic,
        doorbell,
        hello: hello.into(),
        reserve: [reserve_write, reserve_read, image],
    };
    Ok(Started(instance, descriptors))
}

/// What was started but is not ready has so long to tidy up.
const PARTING: Duration = Duration::from_secs(2);

/// Ends what was started but is not ready: whatever of it still listens hears the order to stop (an
/// agent that takes the watchdog's place, too), and is killed only if that takes it long: it has a directory
/// to remove. Blocks for [`PARTING`] at most.
pub(super) fn abandon(channel: &Channel, pid: i32) {
    let _ = channel.send(&FromParent::Stop { deadline_ms: 0 }, &[]);
    let deadline = Instant::now() + PARTING;
    let is_readable = || {
        let left = deadline.saturating_duration_since(Instant::now());
        channel.wait_readable(left).unwrap_or(false)
    };
    while is_readable() && matches!(hear(channel), Ok(Some(_))) {}
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Waits until an instance is ready; returns its directory and what it sent.
///
/// # Errors
/// A sentence: why it is not.
pub(super) fn await_ready(
    channel: &Channel,
    patience: Duration,
) -> Result<(String, [OwnedFd; READY_DESCRIPTORS]), String> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !channel.wait_readable(left).map_err(|e| cannot_hear(&e))? {
            return Err(format!(
                "the watchdog was not ready after {} seconds; its log says more",
                patience.as_secs()
            ));
        }
        match hear(channel).map_err(|e| cannot_hear(&e))? {
            None => {
                return Err("the watchdog ended before it was ready; its log says why".to_owned())
            }
            Some(Received {
                message: ToParent::Failed { message },
                ..
            }) => return Err(message),
            Some(Received {
                message: ToParent::Ready { instance_dir },
                fds,
                ..
            }) => {
                let count = fds.len();
                let fds = <[OwnedFd; READY_DESCRIPTORS]>::try_from(fds).map_err(|_| {
                    format!("the watchdog sent {count} descriptors, not {READY_DESCRIPTORS}")
                })?;
                return Ok((instance_dir, fds));
            }
            Some(Received { message, .. }) => say(&message),
        }
    }
}

/// The next message; `None` at the end. A far end that closes with unread messages resets the channel.
pub(super) fn hear(channel: &Channel) -> io::Result<Option<Received<ToParent>>> {
    match channel.recv::<ToParent>() {
        Err(why) if why.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        answer => answer,
    }
}

pub(super) fn cannot_hear(why: &io::Error) -> String {
    format!("cannot hear what the watchdog says: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn ready_needs_all_descriptors() {
        let (ours, theirs) = Channel::pair().expect("pair");
        let ready = ToParent::Ready {
            instance_dir: "/run/x".to_owned(),
        };
        theirs.send(&ready, &[ours.as_fd()]).expect("send");
        let sentence = await_ready(&ours, PATIENCE).expect_err("one descriptor is not enough");
        assert!(sentence.contains("1 descriptors, not 7"), "{sentence}");
    }

    #[test]
    fn ready_comes_with_its_descriptors_after_other_news() {
        let (ours, theirs) = Channel::pair().expect("pair");
        theirs
            .send(&ToParent::Configured { generation: 1 }, &[])
            .expect("send");
        let ready = ToParent::Ready {
            instance_dir: "/run/x".to_owned(),
        };
        theirs
            .send(&ready, &[ours.as_fd(); READY_DESCRIPTORS])
            .expect("send");
        let (directory, _fds) = await_ready(&ours, PATIENCE).expect("ready");
        assert_eq!(directory, "/run/x");
    }

    #[test]
    fn the_watchdogs_reason_is_passed_on() {
        let (ours, theirs) = Channel::pair().expect("pair");
        let failed = ToParent::Failed {
            message: "no room".to_owned(),
        };
        theirs.send(&failed, &[]).expect("send");
        assert_eq!(await_ready(&ours, PATIENCE).expect_err("failed"), "no room");
        drop(theirs);
        assert!(await_ready(&ours, PATIENCE)
            .expect_err("end of file")
            .contains("ended before"));
    }

    #[test]
    fn a_watchdog_that_dies_without_reading_ended() {
        let (ours, theirs) = Channel::pair().expect("pair");
        ours.send(&FromParent::Configure { generation: 1 }, &[])
            .expect("send");
        drop(theirs);
        assert!(await_ready(&ours, PATIENCE)
            .expect_err("reset")
            .contains("ended before"));
    }
}
