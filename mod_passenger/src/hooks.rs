//! Registers our hooks, in the order in which httpd runs them.

use crate::ffi::hooks;

/// Called once per configuration pass, after the library was loaded.
pub(crate) fn register() {
    // Before the directives are read (in each pass, and in `httpd -t` and `apachectl graceful`).
    hooks::pre_config();
    // After they were read: everything that can be said while the administrator is looking.
    hooks::check_config();
    // Before workers are started: starts the watchdog, or hands it the new configuration.
    hooks::post_config();
    // In the parent, every few seconds: what did the watchdog say?
    hooks::monitor();
    // In the parent, when the last worker of an earlier configuration is gone.
    hooks::end_generation();
    // In each worker process, before its threads, already without root's rights.
    hooks::child_init();
    // Per request, before httpd walks its directories (`PassengerHighPerformance`).
    hooks::map_to_storage();
    // Per path component of a request, before httpd looks at the file system.
    hooks::dirwalk_stat();
    // Per request, when configuration and authentication are settled: is it an app's?
    hooks::fixups();
    // Per request: talks to the app.
    hooks::handler();
    // Per turn of a connection: the rest of a response that waited for its client.
    hooks::process_connection();
    // When a connection is given up while such a rest waits.
    hooks::pre_close_connection();
    // When a handler's thread leaves a connection to us: WebSockets under event.
    hooks::suspend_connection();
}
