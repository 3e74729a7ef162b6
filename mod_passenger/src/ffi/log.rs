//! The sink of the `log` crate: httpd's error log.
//!
//! `log::error!` and friends write to the main server's log; [`for_request`] writes to the log of a
//! request's virtual host, with httpd's request context. The level is asked before the text is
//! formatted; `LogLevel passenger:debug` selects it.

use std::ffi::{c_int, CString};
use std::fmt::Arguments;
use std::ptr;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::bindings::{
    ap_get_request_module_loglevel, ap_get_server_module_loglevel, ap_log_error_, ap_log_rerror_,
    ap_server_conf, request_rec, APLOG_DEBUG, APLOG_ERR, APLOG_INFO, APLOG_NOTICE, APLOG_STARTUP,
    APLOG_TRACE1, APLOG_WARNING,
};
use super::module::module_index;

/// Flag of a level: no time stamp, for the console.
#[allow(clippy::cast_possible_wrap)] // a small flag
const STARTUP: c_int = APLOG_STARTUP as c_int;

/// Target of `log` records that are notices: `log::info!(target: NOTICE, …)`.
pub(crate) const NOTICE: &str = "notice";

struct Sink;

static SINK: Sink = Sink;

/// Makes httpd's error log the sink of the `log` crate. Again after a reload; harmless twice.
pub(crate) fn install() {
    // An error means that it is installed already (module kept loaded over a restart).
    let _ = log::set_logger(&SINK);
    log::set_max_level(LevelFilter::Trace);
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        level_of(metadata.level(), metadata.target()) <= server_level()
    }

    fn log(&self, record: &Record<'_>) {
        let level = level_of(record.level(), record.target());
        if level <= server_level() {
            write_server(level, *record.args());
        }
    }

    fn flush(&self) {}
}

/// Says something while the administrator still looks at the console (before httpd detaches).
pub(crate) fn console(level: Level, arguments: Arguments<'_>) {
    write_server(level_of(level, "") | STARTUP, arguments);
}

/// Writes to the log of the request's server, if its level is wanted there.
///
/// `r` must be a live request of the calling thread, as every `request_rec` in this crate is.
pub(crate) fn for_request(r: *mut request_rec, level: Level, arguments: Arguments<'_>) {
    let level = level_of(level, "");
    // SAFETY: `r` is a live request (the rule of this crate, see above).
    if r.is_null() || level > unsafe { ap_get_request_module_loglevel(r, module_index()) } {
        return;
    }
    let text = text_of(arguments);
    // SAFETY: `r` is live; the format is constant and has one %s, for the one C string given.
    unsafe {
        ap_log_rerror_(
            ptr::null(),
            0,
            module_index(),
            level,
            0,
            r,
            c"%s".as_ptr(),
            text.as_ptr(),
        );
    }
}

fn write_server(level: c_int, arguments: Arguments<'_>) {
    let text = text_of(arguments);
    // SAFETY: `ap_server_conf` is NULL (httpd then writes to stderr) or the main server, which
    // lives as long as the configuration; the format is constant and has one %s, for one C string.
    unsafe {
        ap_log_error_(
            ptr::null(),
            0,
            module_index(),
            level,
            0,
            ap_server_conf,
            c"%s".as_ptr(),
            text.as_ptr(),
        );
    }
}

/// The wanted level of the main server, or "info" before there is one.
fn server_level() -> c_int {
    // SAFETY: httpd sets this pointer while it is single-threaded; it is NULL or the main server.
    let server = unsafe { ap_server_conf };
    if server.is_null() {
        return level_of(Level::Info, "");
    }
    // SAFETY: not NULL, so it is the main server of the current configuration.
    unsafe { ap_get_server_module_loglevel(server, module_index()) }
}

#[allow(clippy::cast_possible_wrap)] // httpd's levels are below 16
fn level_of(level: Level, target: &str) -> c_int {
    let level = match level {
        _ if target == NOTICE => APLOG_NOTICE,
        Level::Error => APLOG_ERR,
        Level::Warn => APLOG_WARNING,
        Level::Info => APLOG_INFO,
        Level::Debug => APLOG_DEBUG,
        Level::Trace => APLOG_TRACE1,
    };
    level as c_int
}

/// As a C string; httpd escapes control characters itself, only NUL would cut the text short.
fn text_of(arguments: Arguments<'_>) -> CString {
    let text = arguments.to_string().replace('\0', "\u{fffd}");
    CString::new(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_does_not_cut_a_line() {
        assert_eq!(
            text_of(format_args!("a\0b")).to_bytes(),
            "a\u{fffd}b".as_bytes()
        );
    }

    #[test]
    fn levels_are_ordered_as_in_httpd() {
        assert!(level_of(Level::Error, "x") < level_of(Level::Warn, "x"));
        assert!(level_of(Level::Warn, "x") < level_of(Level::Info, NOTICE));
        assert!(level_of(Level::Info, NOTICE) < level_of(Level::Info, "x"));
        assert!(level_of(Level::Info, "x") < level_of(Level::Debug, "x"));
        assert!(level_of(Level::Debug, "x") < level_of(Level::Trace, "x"));
    }
}
