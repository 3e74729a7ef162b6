//! The running instance as httpd's parent knows it: starts it, hands it configurations, hears what
//! it says, and stops it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use passenger_shm::channel::{Channel, Received};
use passenger_shm::messages::{self as wire, FromParent, ToParent};

use super::{checks, handover, watch};
use crate::ffi::launch::Launch;
use crate::ffi::log::NOTICE;
use crate::ffi::retained::{self, Descriptors, Retained};
use crate::ffi::server::{self, Configuring};
use crate::{codes, config};

/// How long a new instance may take until it answers.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// What the parent waits beyond the deadline it gave the instance.
const STOP_GRACE: Duration = Duration::from_secs(2);
/// Descriptors beside a `Ready`.
const READY_DESCRIPTORS: usize = 4;

/// Whether there is an instance to stop.
pub(super) fn exists() -> bool {
    retained::get().is_some()
}

/// Hands the configuration to the running instance, or starts one.
///
/// Blocks (at most ten seconds) only if an instance must be started: the first time, after an
/// upgrade of the module, and after all of the instance died.
///
/// # Errors
/// A sentence for the administrator.
pub(super) fn start_or_configure(
    configuring: Configuring<'_>,
    config: &wire::Config,
) -> Result<(), String> {
    let file = handover::sealed(config)?;
    let log = handover::log(configuring)?;
    if let Some(instance) = retained::get() {
        listen(&instance);
    }
    // Again: what was heard may have been its end.
    if let Some(instance) = retained::get() {
        if instance.build == config.build {
            if instance.watchdog != 0 {
                watch(configuring.pconf, instance.watchdog);
            }
            return configure(config.generation, &file, &log);
        }
        log::info!(
            target: NOTICE,
            "{}: build {} replaces {}: a new instance starts, the one in {} ends with its last \
             worker",
            codes::STARTED, config.build, instance.build, instance.instance_dir
        );
        retire(config.generation);
    } else if let Some(unknown) = retained::take_channel() {
        // An instance of a build with another layout of retained data: nobody else can stop it.
        retained::set_draining(unknown, config.generation.saturating_sub(1));
    }
    start(configuring, config, &file, &log)
}

/// Lets the retained instance drain: it is told to stop when the last worker of the generations
/// that use it is gone.
fn retire(new_generation: u64) {
    if let Some(channel) = retained::take_channel() {
        retained::set_draining(channel, new_generation.saturating_sub(1));
    }
}

fn configure(generation: u64, file: &OwnedFd, log: &OwnedFd) -> Result<(), String> {
    let channel = channel().map_err(|e| format!("cannot use the watchdog's channel: {e}"))?;
    // Never wait: while the parent is in here nobody accepts connections.
    let sent = channel
        .set_nonblocking(true)
        .and_then(|()| {
            channel.send(
                &FromParent::Configure { generation },
                &[file.as_fd(), log.as_fd()],
            )
        })
        .map_err(|e| format!("cannot hand configuration {generation} to the watchdog: {e}"));
    if sent.is_ok() {
        log::debug!("{}: configuration {generation} handed over", codes::STARTED);
    }
    sent
}

// --- start --------------------------------------------------------------------------------------

fn start(
    configuring: Configuring<'_>,
    config: &wire::Config,
    file: &OwnedFd,
    log: &OwnedFd,
) -> Result<(), String> {
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
        .and_then(|()| await_ready(&ours));
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
        build: config.build.clone(),
        instance_dir,
    };
    let [routes, traffic, doorbell, hello] = descriptors;
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
    };
    retained::keep(&instance, descriptors);
    watch(configuring.pconf, pid);
    log::info!(
        target: NOTICE,
        "{}: mod_passenger {} started, instance {}, watchdog pid={pid}",
        codes::STARTED, instance.build, instance.instance_dir
    );
    Ok(())
}

/// Ends what was started but is not ready: whatever of it still listens hears the order to stop (an
/// agent that takes the watchdog's place, too).
fn abandon(channel: &Channel, pid: i32) {
    let _ = channel.send(&FromParent::Stop { deadline_ms: 0 }, &[]);
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

fn await_ready(channel: &Channel) -> Result<(String, [OwnedFd; READY_DESCRIPTORS]), String> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !channel.wait_readable(left).map_err(|e| cannot_hear(&e))? {
            return Err(format!(
                "the watchdog was not ready after {} seconds; its log says more",
                READY_TIMEOUT.as_secs()
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
fn hear(channel: &Channel) -> io::Result<Option<Received<ToParent>>> {
    match channel.recv::<ToParent>() {
        Err(why) if why.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        answer => answer,
    }
}

fn cannot_hear(why: &io::Error) -> String {
    format!("cannot hear what the watchdog says: {why}")
}

// --- while it runs ------------------------------------------------------------------------------

/// A duplicate of the retained channel; both share one socket.
fn channel() -> io::Result<Channel> {
    let fd = retained::channel().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
    fd.try_clone_to_owned().map(Channel::from)
}

/// Every few seconds: reports what the instance said since.
pub(crate) fn monitor() {
    if let Some(instance) = retained::get() {
        listen(&instance);
    }
}

/// Reads what is there without waiting. At end of file the instance is given up.
fn listen(instance: &Retained) {
    let Ok(channel) = channel() else { return };
    if channel.set_nonblocking(true).is_err() {
        return;
    }
    loop {
        match hear(&channel) {
            Ok(Some(received)) => say(&received.message),
            Ok(None) => {
                log::error!(
                    "{}: the instance in {} is gone, watchdog and agent: requests of apps are \
                     answered with 503 until httpd is restarted (`apachectl graceful` is enough)",
                    codes::INSTANCE_GONE,
                    instance.instance_dir
                );
                drop(retained::take_channel());
                return;
            }
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return,
            Err(why) => {
                log::error!("{}: {}", codes::CONFIGURE, cannot_hear(&why));
                return;
            }
        }
    }
}

fn say(message: &ToParent) {
    match message {
        ToParent::Configured { generation } => {
            log::info!("{}: configuration {generation} is in force", codes::STARTED);
        }
        ToParent::ConfigureRefused {
            generation,
            message,
        } => log::error!(
            "{}: configuration {generation} was refused, the one before stays in force: {message}",
            codes::REFUSED
        ),
        ToParent::Failed { message } => log::error!("{}: {message}", codes::START),
        // Again after a take-over: what we hold stays valid, the segments are the same.
        ToParent::Ready { instance_dir } => {
            log::debug!(
                "{}: the instance in {instance_dir} is ready",
                codes::STARTED
            );
        }
    }
}

/// The watchdog we started is gone. The agent turns into its successor; if there is none either, the
/// channel says so.
pub(crate) fn watchdog_died(pid: i32, status: i32) {
    if server::is_exiting() || retained::get().is_none_or(|instance| instance.watchdog != pid) {
        return;
    }
    retained::forget_watchdog();
    log::error!(
        "{}: the watchdog pid={pid} ended ({}); the agent takes its place",
        codes::WATCHDOG_DIED,
        describe(status)
    );
}

fn describe(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        return format!("signal {}", libc::WTERMSIG(status));
    }
    format!("exit status {}", libc::WEXITSTATUS(status))
}

/// The last worker of a generation is gone: an instance that served up to it may stop.
pub(crate) fn end_generation(generation: u64) {
    log::debug!("the last worker of generation {generation} is gone");
    // httpd counts these from 0, configurations from 1.
    if let Some(channel) = retained::take_draining(generation + 1) {
        let deadline_ms = u64::from(config::globals().shutdown_timeout) * 1000;
        let channel = Channel::from(channel);
        let sent = channel
            .set_nonblocking(true)
            .and_then(|()| channel.send(&FromParent::Stop { deadline_ms }, &[]));
        if let Err(why) = sent {
            log::error!(
                "{}: cannot tell the replaced instance to stop: {why}",
                codes::STOP
            );
        }
    }
}

// --- stop ---------------------------------------------------------------------------------------

/// httpd exits: has the instance end everything, and waits for it.
pub(super) fn stop() {
    let timeout = Duration::from_secs(u64::from(config::globals().shutdown_timeout));
    let draining = retained::take_draining(u64::MAX);
    let channels = [retained::take_channel(), draining];
    let deadline = Instant::now() + timeout + STOP_GRACE;
    let channels: Vec<Channel> = channels.into_iter().flatten().map(Channel::from).collect();
    for channel in &channels {
        let deadline_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        // An error means that it is gone already, which the wait below finds out.
        let _ = channel
            .set_nonblocking(true)
            .and_then(|()| channel.send(&FromParent::Stop { deadline_ms }, &[]));
    }
    for channel in &channels {
        if !await_end(channel, deadline) {
            log::error!(
                "{}: the instance did not end within {} seconds; httpd exits without it",
                codes::STOP,
                (timeout + STOP_GRACE).as_secs()
            );
        }
    }
}

/// Waits for the end of file; `false` when the deadline passed.
fn await_end(channel: &Channel, deadline: Instant) -> bool {
    loop {
        match hear(channel) {
            Ok(Some(received)) => say(&received.message),
            Ok(None) => return true,
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if !channel.wait_readable(left).unwrap_or(false) {
                    return false;
                }
            }
            Err(why) => {
                log::error!("{}: {}", codes::STOP, cannot_hear(&why));
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_all_descriptors() {
        let (ours, theirs) = Channel::pair().expect("pair");
        let ready = ToParent::Ready {
            instance_dir: "/run/x".to_owned(),
        };
        theirs.send(&ready, &[ours.as_fd()]).expect("send");
        let sentence = await_ready(&ours).expect_err("one descriptor is not enough");
        assert!(sentence.contains("1 descriptors, not 4"), "{sentence}");
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
        let (directory, _fds) = await_ready(&ours).expect("ready");
        assert_eq!(directory, "/run/x");
    }

    #[test]
    fn the_watchdogs_reason_is_passed_on() {
        let (ours, theirs) = Channel::pair().expect("pair");
        let failed = ToParent::Failed {
            message: "no room".to_owned(),
        };
        theirs.send(&failed, &[]).expect("send");
        assert_eq!(await_ready(&ours).expect_err("failed"), "no room");
        drop(theirs);
        assert!(await_ready(&ours)
            .expect_err("end of file")
            .contains("ended before"));
    }

    #[test]
    fn a_watchdog_that_dies_without_reading_ended() {
        let (ours, theirs) = Channel::pair().expect("pair");
        ours.send(&FromParent::Configure { generation: 1 }, &[])
            .expect("send");
        drop(theirs);
        assert!(await_ready(&ours)
            .expect_err("reset")
            .contains("ended before"));
    }

    #[test]
    fn the_end_is_awaited_through_late_messages() {
        let (ours, theirs) = Channel::pair().expect("pair");
        ours.set_nonblocking(true).expect("non-blocking");
        theirs
            .send(&ToParent::Configured { generation: 2 }, &[])
            .expect("send");
        assert!(!await_end(&ours, Instant::now()), "nothing ended yet");
        drop(theirs);
        assert!(await_end(&ours, Instant::now() + Duration::from_secs(5)));
    }
}
