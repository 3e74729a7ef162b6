//! The module record that httpd looks up, the only symbol this library exports.

use std::ffi::c_int;
use std::ptr;

use super::barrier::guard;
use super::bindings::{
    apr_pool_t, module, MODULE_MAGIC_COOKIE, MODULE_MAGIC_NUMBER_MAJOR, MODULE_MAGIC_NUMBER_MINOR,
};
use super::commands::{create_dir_config, merge_dir_config, COMMANDS};

#[allow(clippy::cast_possible_wrap)] // magic numbers of httpd: small
const fn record() -> module {
    // What STANDARD20_MODULE_STUFF expands to, then our functions.
    module {
        version: MODULE_MAGIC_NUMBER_MAJOR as c_int,
        minor_version: MODULE_MAGIC_NUMBER_MINOR as c_int,
        module_index: -1,
        name: c"mod_passenger.c".as_ptr(),
        dynamic_load_handle: ptr::null_mut(),
        next: ptr::null_mut(),
        magic: MODULE_MAGIC_COOKIE as _,
        rewrite_args: None,
        create_dir_config: Some(create_dir_config),
        merge_dir_config: Some(merge_dir_config),
        create_server_config: None,
        merge_server_config: None,
        cmds: COMMANDS.as_ptr(),
        register_hooks: Some(register_hooks),
        flags: 0,
    }
}

unsafe extern "C" fn register_hooks(_pool: *mut apr_pool_t) {
    guard((), crate::hooks::register);
}

/// httpd writes to it (index, handle) while it loads us; afterwards nobody does.
#[no_mangle]
#[allow(unreachable_pub)] // an export of the library, not of the crate
pub static mut passenger_module: module = record();

/// Our index in httpd's vectors; -1 before httpd loaded us.
pub(crate) fn module_index() -> c_int {
    // SAFETY: httpd wrote it while it loaded us, before anything of ours ran; only read since.
    unsafe { passenger_module.module_index }
}
