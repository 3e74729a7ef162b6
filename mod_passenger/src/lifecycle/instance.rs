//! The running instance as httpd's parent knows it: hands it configurations, replaces it after an upgrade,
//! hears what it says, and stops it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use passenger_shm::channel::Channel;
use passenger_shm::messages::{self as wire, FromParent, ToParent};

use super::birth::{cannot_hear, hear, start};
use super::rebuild::rebuild;
use super::{draining, handover, hooks, suspended, watch};
use crate::ffi::log::NOTICE;
use crate::ffi::pool::Pool;
use crate::ffi::retained::{self, Retained};
use crate::ffi::server::{self, Configuring};
use crate::{codes, config};

/// How long a new instance may take until it answers.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one that replaces another may take: meanwhile nobody's connection is accepted.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(3);
/// What the parent waits beyond the deadline it gave the instance.
const STOP_GRACE: Duration = Duration::from_secs(4);
/// How long an agent that dies with its watchdog may take for it.
const END_TIMEOUT: Duration = Duration::from_millis(200);

/// Whether there is an instance to stop.
pub(super) fn exists() -> bool {
    retained::get().is_some()
}

/// Hands the configuration to the running instance, or starts one.
///
/// Blocks only if an instance must be started: at most ten seconds (and the time of hooks that are run then) the first
/// time and after all of the instance died, three after an upgrade of the module.
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
        listen(configuring.pconf, &instance);
    }
    // Again: what was heard may have been its end.
    if let Some(instance) = retained::get() {
        if instance.build == config.build {
            return go_on(configuring, config.generation, &instance, &file, &log);
        }
        return replace(configuring, config, &instance, &file, &log);
    }
    if let Some(unknown) = retained::take_channel() {
        // An instance of a build with another layout of retained data: nobody else can stop it.
        draining::begin(unknown, (1, config.generation.saturating_sub(1)));
    }
    let (hooks, _) = hooks::patience(&config.global);
    start(config, &file, &log, READY_TIMEOUT + hooks)?.keep(configuring);
    Ok(())
}

/// The running instance stays, with a new configuration.
fn go_on(
    configuring: Configuring<'_>,
    generation: u64,
    instance: &Retained,
    file: &OwnedFd,
    log: &OwnedFd,
) -> Result<(), String> {
    if instance.watchdog != 0 {
        watch(configuring.pconf, instance.watchdog);
    }
    configure(generation, file, log)
}

/// An upgrade: a new instance takes over, and the old one drains ([`draining`]). If the new one does not start the old one stays, for new workers, too.
fn replace(
    configuring: Configuring<'_>,
    config: &wire::Config,
    old: &Retained,
    file: &OwnedFd,
    log: &OwnedFd,
) -> Result<(), String> {
    match start(config, file, log, REPLACE_TIMEOUT) {
        Ok(new) => {
            log::info!(
                target: NOTICE,
                "{}: build {} replaces {}: the instance in {} ends after its last request",
                codes::STARTED, config.build, old.build, old.instance_dir
            );
            if let Some(channel) = retained::take_channel() {
                let last = config.generation.saturating_sub(1);
                draining::begin(channel, (old.generation, last));
            }
            new.keep(configuring);
            Ok(())
        }
        Err(why) => {
            log::error!(
                "{}: the installed build {} does not start ({why}): build {} goes on serving with the new \
                 configuration; install again, then `apachectl graceful`",
                codes::BROKEN_BUILD, config.build, old.build
            );
            go_on(configuring, config.generation, old, file, log)
        }
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

// --- while it runs ------------------------------------------------------------------------------

/// A duplicate of the retained channel; both share one socket.
fn channel() -> io::Result<Channel> {
    let fd = retained::channel().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
    fd.try_clone_to_owned().map(Channel::from)
}

/// Every few seconds: reports what the instance said since.
pub(crate) fn monitor(pconf: Pool<'_>) {
    if let Some(instance) = retained::get() {
        listen(pconf, &instance);
        suspended::look(&instance);
    }
    draining::look(None);
}

/// Reads what is there without waiting. At end of file nobody of the instance lives: another watchdog is
/// started, or else the instance is given up.
fn listen(pconf: Pool<'_>, instance: &Retained) {
    let Ok(channel) = channel() else { return };
    if channel.set_nonblocking(true).is_err() {
        return;
    }
    loop {
        match hear(&channel) {
            Ok(Some(received)) => say(&received.message),
            Ok(None) => {
                if let Err(why) = rebuild(pconf, instance) {
                    log::error!(
                        "{}: the instance in {} is gone, watchdog and agent ({why}): requests of apps \
                         are answered with 503 until httpd is restarted (`apachectl graceful` is enough)",
                        codes::INSTANCE_GONE,
                        instance.instance_dir
                    );
                    drop(retained::take_channel());
                }
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

/// Passes on what the instance says.
pub(super) fn say(message: &ToParent) {
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
pub(crate) fn watchdog_died(pconf: Pool<'_>, pid: i32, status: i32) {
    if server::is_exiting() || retained::get().is_none_or(|instance| instance.watchdog != pid) {
        return;
    }
    retained::forget_watchdog();
    log::error!(
        "{}: the watchdog pid={pid} {}; the agent takes its place",
        codes::WATCHDOG_DIED,
        describe(status)
    );
    // Unless it is gone, too, or ends because it had only just begun.
    let end = channel().map(|channel| channel.wait_readable(END_TIMEOUT));
    if let (Ok(Ok(true)), Some(instance)) = (end, retained::get()) {
        listen(pconf, &instance);
    }
}

fn describe(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        let number = libc::WTERMSIG(status);
        return match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        };
    }
    format!("exited with status {}", libc::WEXITSTATUS(status))
}

/// The last worker of a generation is gone.
pub(crate) fn end_generation(generation: u64) {
    log::debug!("the last worker of generation {generation} is gone");
    draining::look(Some(generation));
}

// --- stop ---------------------------------------------------------------------------------------

/// httpd exits: has the instance end everything, and waits for it.
pub(super) fn stop() {
    let timeout = Duration::from_secs(u64::from(config::globals().shutdown_timeout));
    let patience = timeout + STOP_GRACE + config::globals().stop_hooks;
    let deadline = Instant::now() + patience;
    if let Some(instance) = retained::get() {
        suspended::wake_at_once(&instance);
    }
    let mut channels = draining::channels();
    channels.extend(retained::take_channel().map(Channel::from));
    for channel in &channels {
        // An error means that it is gone already, which the wait below finds out.
        let _ = tell_to_stop(channel);
    }
    for channel in &channels {
        if !await_end(channel, deadline) {
            log::error!(
                "{}: the instance did not end within {} seconds; httpd exits without it",
                codes::STOP,
                patience.as_secs()
            );
        }
    }
}

/// The order to end everything, within the time that is configured.
pub(super) fn tell_to_stop(channel: &Channel) -> io::Result<()> {
    let deadline_ms = u64::from(config::globals().shutdown_timeout) * 1000;
    channel
        .set_nonblocking(true)
        .and_then(|()| channel.send(&FromParent::Stop { deadline_ms }, &[]))
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
