//! Our hooks as C sees them: each wraps one safe function in the panic barrier.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr;

use super::barrier::guard;
use super::bindings as c;
use super::parking::{on_pre_close_connection, on_process_connection};
use super::pool::Pool;
use super::relay::{self, on_suspend_connection};
use super::request::Request;
use super::server::Configuring;
use crate::config::DirConfig;
use crate::handler::Outcome;
use crate::{handler, lifecycle, mapping, worker};

#[allow(clippy::cast_possible_wrap)] // 0
const OK: c_int = c::OK as c_int;
#[allow(clippy::cast_possible_wrap)] // 500
const FAILED: c_int = c::HTTP_INTERNAL_SERVER_ERROR as c_int;
const DECLINED: c_int = c::DECLINED;
const SUSPENDED: c_int = c::SUSPENDED;
#[allow(clippy::cast_possible_wrap)] // 10
const MIDDLE: c_int = c::APR_HOOK_MIDDLE as c_int;
#[allow(clippy::cast_possible_wrap)] // 0
const FIRST: c_int = c::APR_HOOK_FIRST as c_int;
#[allow(clippy::cast_possible_wrap)] // 19
const ALMOST_LAST: c_int = c::APR_HOOK_LAST as c_int - 1;

#[allow(clippy::cast_possible_wrap)] // 30
const REALLY_LAST: c_int = c::APR_HOOK_REALLY_LAST as c_int;

/// Most bytes of one path component on any file system of Linux (`NAME_MAX`).
const LONGEST_COMPONENT: usize = 255;

/// A NULL-terminated list of module names, as httpd wants it: it is kept until all hooks are sorted.
#[repr(transparent)]
struct Names<const N: usize>([*const c_char; N]);

// SAFETY: pointers to constants that nobody writes.
unsafe impl<const N: usize> Sync for Names<N> {}

/// Modules whose part of the mapping must be complete before ours.
static BEFORE_US: Names<6> = Names([
    c"mod_rewrite.c".as_ptr(),
    c"mod_alias.c".as_ptr(),
    c"mod_env.c".as_ptr(),
    c"mod_negotiation.c".as_ptr(),
    c"mod_proxy.c".as_ptr(),
    ptr::null(),
]);

/// Modules that would take a request of an app for a directory, a typo or a page.
static AFTER_US: Names<4> = Names([
    c"mod_dir.c".as_ptr(),
    c"mod_speling.c".as_ptr(),
    c"mod_include.c".as_ptr(),
    ptr::null(),
]);

/// Whose hook for connections ours calls.
static BEFORE_CORE: Names<2> = Names([c"http_core.c".as_ptr(), ptr::null()]);

macro_rules! register {
    ($(#[$doc:meta])* $name:ident, $ap_hook:ident, $callback:ident) => {
        $(#[$doc])*
        pub(crate) fn $name() {
            // SAFETY: called from register_hooks; the callback has the hook's signature and is
            // mapped until httpd clears its hooks together with pconf.
            unsafe { c::$ap_hook(Some($callback), ptr::null(), ptr::null(), MIDDLE) };
        }
    };
}

register!(pre_config, ap_hook_pre_config, on_pre_config);
register!(check_config, ap_hook_check_config, on_check_config);
register!(post_config, ap_hook_post_config, on_post_config);
register!(monitor, ap_hook_monitor, on_monitor);
register!(end_generation, ap_hook_end_generation, on_end_generation);
register!(child_init, ap_hook_child_init, on_child_init);
register!(dirwalk_stat, ap_hook_dirwalk_stat, on_dirwalk_stat);
register!(handler, ap_hook_handler, on_handler);
register!(
    suspend_connection,
    ap_hook_suspend_connection,
    on_suspend_connection
);

pub(crate) fn fixups() {
    let (before, after) = (BEFORE_US.0.as_ptr(), AFTER_US.0.as_ptr());
    // SAFETY: as for the others; the lists are static and end with NULL.
    unsafe { c::ap_hook_fixups(Some(on_fixups), before, after, ALMOST_LAST) };
}

register!(
    pre_close_connection,
    ap_hook_pre_close_connection,
    on_pre_close_connection
);

pub(crate) fn process_connection() {
    let after = BEFORE_CORE.0.as_ptr();
    // SAFETY: as for the others; the list is static and ends with NULL.
    unsafe {
        c::ap_hook_process_connection(Some(on_process_connection), ptr::null(), after, REALLY_LAST);
    }
}

pub(crate) fn map_to_storage() {
    // SAFETY: as for the others.
    unsafe {
        c::ap_hook_map_to_storage(Some(on_map_to_storage), ptr::null(), ptr::null(), FIRST);
    }
}

unsafe extern "C" fn on_pre_config(
    pconf: *mut c::apr_pool_t,
    _plog: *mut c::apr_pool_t,
    ptemp: *mut c::apr_pool_t,
) -> c_int {
    // SAFETY: httpd's pools and no server yet, as the hook is defined.
    guard(FAILED, || unsafe {
        configuring(pconf, ptemp, ptr::null_mut(), lifecycle::pre_config)
    })
}

unsafe extern "C" fn on_check_config(
    pconf: *mut c::apr_pool_t,
    _plog: *mut c::apr_pool_t,
    ptemp: *mut c::apr_pool_t,
    main: *mut c::server_rec,
) -> c_int {
    // SAFETY: httpd's pools and main server, as the hook is defined.
    guard(FAILED, || unsafe {
        configuring(pconf, ptemp, main, lifecycle::check_config)
    })
}

unsafe extern "C" fn on_post_config(
    pconf: *mut c::apr_pool_t,
    _plog: *mut c::apr_pool_t,
    ptemp: *mut c::apr_pool_t,
    main: *mut c::server_rec,
) -> c_int {
    // SAFETY: httpd's pools and main server, as the hook is defined; the token is copied.
    guard(FAILED, || unsafe {
        let token = format!("mod_passenger/{}", crate::VERSION);
        c::ap_add_version_component(pconf, super::request::c_string(token.as_bytes()).as_ptr());
        configuring(pconf, ptemp, main, lifecycle::post_config)
    })
}

/// # Safety
/// The arguments are those of the configuration hook httpd is running.
unsafe fn configuring<'p>(
    pconf: *mut c::apr_pool_t,
    ptemp: *mut c::apr_pool_t,
    main: *mut c::server_rec,
    step: impl FnOnce(Configuring<'p>) -> Result<(), lifecycle::Refused>,
) -> c_int {
    // SAFETY: httpd configures itself with one thread; both pools outlive the hook.
    let pools = unsafe { (Pool::from_raw(pconf), Pool::from_raw(ptemp)) };
    let (Some(pconf), Some(ptemp)) = pools else {
        return FAILED;
    };
    // SAFETY: from the caller.
    match step(unsafe { Configuring::new(pconf, ptemp, main) }) {
        Ok(()) => OK,
        Err(lifecycle::Refused) => FAILED,
    }
}

unsafe extern "C" fn on_monitor(pconf: *mut c::apr_pool_t, _main: *mut c::server_rec) -> c_int {
    guard(DECLINED, || {
        // SAFETY: the MPMs of httpd 2.4 run this hook in the parent, with pconf; it has one thread.
        if let Some(pconf) = unsafe { Pool::from_raw(pconf) } {
            lifecycle::monitor(pconf);
        }
        DECLINED
    })
}

unsafe extern "C" fn on_end_generation(_main: *mut c::server_rec, generation: c::ap_generation_t) {
    guard((), || {
        lifecycle::end_generation(u64::try_from(generation).unwrap_or(0));
    });
}

unsafe extern "C" fn on_child_init(pchild: *mut c::apr_pool_t, _main: *mut c::server_rec) {
    guard((), || {
        worker::child_init();
        relay::stop_relay_with(pchild);
    });
}

unsafe extern "C" fn on_fixups(r: *mut c::request_rec) -> c_int {
    guard(FAILED, || {
        // SAFETY: the request of this hook, for as long as it runs.
        let mut request = unsafe { Request::from_raw(r) };
        if mapping::map(&mut request) {
            OK
        } else {
            DECLINED
        }
    })
}

unsafe extern "C" fn on_map_to_storage(r: *mut c::request_rec) -> c_int {
    guard(FAILED, || {
        // SAFETY: the request of this hook, for as long as it runs.
        let mut request = unsafe { Request::from_raw(r) };
        if mapping::map_early(&mut request) {
            OK
        } else {
            DECLINED
        }
    })
}

unsafe extern "C" fn on_handler(r: *mut c::request_rec) -> c_int {
    guard(FAILED, || {
        // SAFETY: the request of this hook, for as long as it runs.
        let mut request = unsafe { Request::from_raw(r) };
        match handler::handle(&mut request) {
            Outcome::Declined => DECLINED,
            Outcome::Answered => OK,
            Outcome::Suspended => SUSPENDED,
            Outcome::Status(status) => c_int::from(status),
        }
    })
}

/// httpd's directory walk answers 403 to a path component no file system can hold. An app may well
/// have such a URL: say "no such file" instead, and the app gets it.
unsafe extern "C" fn on_dirwalk_stat(
    _finfo: *mut c::apr_finfo_t,
    r: *mut c::request_rec,
    _wanted: c::apr_int32_t,
) -> c::apr_status_t {
    const NOT_OURS: c::apr_status_t = c::AP_DECLINED as c::apr_status_t;
    guard(NOT_OURS, || {
        // SAFETY: the request of this hook.
        let filename = unsafe { (*r).filename };
        if filename.is_null() {
            return NOT_OURS;
        }
        // SAFETY: not NULL, so a C string.
        let path = unsafe { CStr::from_ptr(filename) }.to_bytes();
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let is_too_long = last.len() > LONGEST_COMPONENT;
        if is_too_long && crate::config::of_request(r).is_none_or(DirConfig::enabled) {
            return libc::ENOENT;
        }
        NOT_OURS
    })
}

/// What httpd tells us with the end of a child.
#[derive(Clone, Copy)]
struct Watched {
    pid: i32,
    pconf: *mut c::apr_pool_t,
}

/// Has httpd tell us when the watchdog ends; registered anew for each configuration.
pub(crate) fn watch_child(pconf: Pool<'_>, pid: i32) {
    // SAFETY: plain data; only the process id is looked at.
    let process = unsafe { std::mem::zeroed::<c::apr_proc_t>() };
    let process = pconf.place(c::apr_proc_t { pid, ..process });
    let watched = pconf.place(Watched {
        pid,
        pconf: pconf.as_ptr(),
    });
    // SAFETY: both live in pconf like the registration, which ends before we are unloaded.
    unsafe {
        c::apr_proc_other_child_register(
            process,
            Some(on_other_child),
            ptr::from_mut(watched).cast::<c_void>(),
            ptr::null_mut(),
            pconf.as_ptr(),
        );
    }
}

unsafe extern "C" fn on_other_child(reason: c_int, data: *mut c_void, status: c_int) {
    guard((), || {
        let reason = u32::try_from(reason);
        if reason == Ok(c::APR_OC_REASON_DEATH) || reason == Ok(c::APR_OC_REASON_LOST) {
            // SAFETY: what `watch_child` registered; freed with pconf, later.
            let Watched { pid, pconf } = unsafe { *data.cast::<Watched>() };
            // SAFETY: as above; httpd calls this at most once per death.
            unsafe { c::apr_proc_other_child_unregister(data) };
            // SAFETY: it lives, since the registration does; httpd's parent has one thread.
            if let Some(pconf) = unsafe { Pool::from_raw(pconf) } {
                lifecycle::watchdog_died(pconf, pid, status);
            }
        }
    });
}
