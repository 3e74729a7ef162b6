//! httpd's parent, from its first look at the configuration to its exit.
//!
//! httpd reads its configuration twice when it starts. `AP_SQ_CONFIG_GEN` tells the passes apart:
//!
//! | generation | when | we |
//! |---|---|---|
//! | 0 | first pass, and `-t`, `graceful`… on the command line | check, on the console; start nothing |
//! | 1 | second pass, in the final process | start the instance and wait for it; may refuse |
//! | 2… | restarts | hand the configuration over; never wait for it, never fail |
//!
//! A restart unloads this library. So in the parent: no thread, no thread-local with a destructor,
//! and every static is emptied by [`on_pconf_cleared`].

mod birth;
mod checks;
mod draining;
mod handover;
mod hooks;
mod instance;
mod manifest;
mod rebuild;
mod suspended;

use passenger_shm::messages as wire;

use crate::config::{self, Collected, Globals};
use crate::ffi::pool::Pool;
use crate::ffi::server::{self, Configuring};
use crate::ffi::{barrier, log as sink, process};
use crate::{codes, worker};

pub(crate) use instance::{end_generation, monitor, watchdog_died};

/// httpd must not start (or, from a command line, must not go on); the reason was said.
pub(crate) struct Refused;

/// Before the directives: a clean slate.
pub(crate) fn pre_config(configuring: Configuring<'_>) -> Result<(), Refused> {
    sink::install();
    barrier::install_hook();
    config::begin();
    configuring.pconf.on_cleanup(on_pconf_cleared);
    Ok(())
}

/// After the directives: everything that needs no process of ours, so that `httpd -t`,
/// `apachectl graceful` and the first pass of a start say it on the console.
pub(crate) fn check_config(configuring: Configuring<'_>) -> Result<(), Refused> {
    let generation = server::generation();
    let globals = config::with_collected(|collected| {
        if generation == 0 {
            let say = |line: String| sink::console(log::Level::Warn, format_args!("{line}"));
            report(collected, say, say);
        }
        read_globals(configuring, generation, collected)
    });
    config::publish(globals.unwrap_or_default());
    if generation > 1 {
        // An error from here would end httpd; `post_config` says what is wrong. A hook is not worth that: without
        // its program it does not run, and says so again whenever it would.
        for problem in config::with_collected(checks::hooks).unwrap_or_default() {
            log::error!("{}: {problem}", codes::CONFIG);
        }
        return Ok(());
    }
    let problems = config::with_collected(checks::problems).unwrap_or_default();
    for problem in &problems {
        sink::console(
            log::Level::Error,
            format_args!("{}: {problem}", codes::CONFIG),
        );
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Refused)
    }
}

/// The configuration is complete.
pub(crate) fn post_config(configuring: Configuring<'_>) -> Result<(), Refused> {
    let generation = server::generation();
    if generation == 0 {
        return Ok(());
    }
    let snapshot = config::with_collected(|collected| {
        // Once at the start; at a restart only for those who ask for more.
        let target = if generation == 1 {
            sink::NOTICE
        } else {
            "config"
        };
        report(
            collected,
            |line| log::warn!("{line}"),
            |line| log::info!(target: target, "{line}"),
        );
        let facts = config::Facts {
            generation,
            build: checks::installed_build(&config::globals().root),
            apache: server::apache(),
            servers: configuring.servers(),
            marks: configuring.server_marks(),
            global: absolute_globals(configuring, collected),
        };
        config::snapshot(collected, facts)
    });
    // Workers have no use for it, and must not take `.htaccess` for a part of it.
    config::discard();
    let Some(snapshot) = snapshot else {
        log::error!(
            "{}: [BUG] post_config runs without pre_config",
            codes::START
        );
        return if generation == 1 {
            Err(Refused)
        } else {
            Ok(())
        };
    };
    if let Err(sentence) = manifest::write(&snapshot) {
        log::warn!("{}: {sentence}", codes::CONFIG_WARNING);
    }
    match instance::start_or_configure(configuring, &snapshot) {
        Ok(()) => Ok(()),
        Err(sentence) if generation == 1 => {
            log::error!("{}: {sentence}; httpd does not start", codes::START);
            Err(Refused)
        }
        Err(sentence) => {
            log::error!(
                "{}: {sentence}; httpd goes on, and requests of apps are answered by what ran \
                 before, or with 503",
                codes::CONFIGURE
            );
            Ok(())
        }
    }
}

fn report(collected: &Collected, warn: impl Fn(String), note: impl Fn(String)) {
    for warning in collected.warnings() {
        warn(format!("{}: {warning}", codes::CONFIG_WARNING));
    }
    let lines = [collected.not_yet_line(), collected.moot_line()];
    for line in lines.into_iter().flatten() {
        note(format!("{}: {line}", codes::NOT_YET));
    }
}

fn read_globals(configuring: Configuring<'_>, generation: u64, collected: &Collected) -> Globals {
    let directives = absolute_globals(configuring, collected);
    Globals {
        stop_hooks: hooks::patience(&directives).1,
        ..Globals::read(generation, &directives, checks::own_prefix())
    }
}

fn absolute_globals(configuring: Configuring<'_>, collected: &Collected) -> Vec<wire::Directive> {
    config::with_absolute_paths(&collected.globals, |path| configuring.absolute(path))
}

/// The configuration ends: with a restart, or with httpd. Our code is unmapped after this.
fn on_pconf_cleared() {
    // A child that exits in an unusual way may get here, too; nothing of this is its business.
    if worker::is_child() {
        return;
    }
    if server::is_exiting() {
        // httpd's parent outlives the apps, or systemd would kill them all at once. Until they are
        // gone nobody shall connect to a server that does not answer any more.
        if instance::exists() {
            process::close_listeners();
        }
        instance::stop();
    }
    config::discard();
    config::withdraw();
    barrier::remove_hook();
}

/// Registered again by each pass.
pub(super) fn watch(pconf: Pool<'_>, pid: i32) {
    crate::ffi::hooks::watch_child(pconf, pid);
}
