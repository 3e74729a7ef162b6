//! httpd's view of our directives: the command table, generated from `config::DIRECTIVES`, and the
//! callbacks that create, fill and merge per-directory configuration.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::ptr;

use super::barrier::guard;
use super::bindings::{
    apr_pool_t, cmd_func, cmd_how, cmd_parms, command_rec, psgr_module_config, request_rec,
    ACCESS_CONF, FLAG, OR_ALL, OR_OPTIONS, RAW_ARGS, RSRC_CONF, TAKE1, TAKE2,
};
use super::module::passenger_module;
use super::placement::{misplaced, old_name, Place};
use super::pool::Pool;
use crate::config::{
    self, Arity, Context, Ctl, DirConfig, Directive, Override, Remark, Status, Value, DIRECTIVES,
};

/// What httpd shows when a callback panicked.
const PANICKED: &CStr = c"mod_passenger failed internally while reading this directive";

// --- the table ----------------------------------------------------------------------------------

/// Names in the table, aliases included.
const COUNT: usize = {
    let (mut row, mut count) = (0, 0);
    while row < DIRECTIVES.len() {
        let mut name = 0;
        while DIRECTIVES[row].c_name(name).is_some() {
            (name, count) = (name + 1, count + 1);
        }
        row += 1;
    }
    count
};

/// The command table; one entry per name, then an empty one.
#[repr(transparent)]
pub(crate) struct Commands([command_rec; COUNT + 1]);

// SAFETY: a constant table of pointers to constants; nobody writes to it, httpd included.
unsafe impl Sync for Commands {}

impl Commands {
    pub(crate) const fn as_ptr(&self) -> *const command_rec {
        self.0.as_ptr()
    }
}

const END: command_rec = command_rec {
    name: ptr::null(),
    func: cmd_func { no_args: None },
    cmd_data: ptr::null_mut(),
    req_override: 0,
    args_how: RAW_ARGS,
    errmsg: ptr::null(),
};

/// What the module record points to.
pub(crate) static COMMANDS: Commands = {
    let mut table = [END; COUNT + 1];
    let (mut row, mut next) = (0, 0);
    while row < DIRECTIVES.len() {
        let mut index = 0;
        while let Some(name) = DIRECTIVES[row].c_name(index) {
            table[next] = command(row, &DIRECTIVES[row], name);
            (index, next) = (index + 1, next + 1);
        }
        row += 1;
    }
    Commands(table)
};

const fn command(row: usize, directive: &Directive, name: &'static CStr) -> command_rec {
    let (args_how, func): (cmd_how, cmd_func) = match directive.arity() {
        Arity::Flag => (
            FLAG,
            cmd_func {
                flag: Some(take_flag),
            },
        ),
        Arity::One => (
            TAKE1,
            cmd_func {
                take1: Some(take_one),
            },
        ),
        Arity::Two => (
            TAKE2,
            cmd_func {
                take2: Some(take_two),
            },
        ),
        Arity::Raw => (
            RAW_ARGS,
            cmd_func {
                raw_args: Some(take_raw),
            },
        ),
    };
    #[allow(clippy::cast_possible_wrap)] // a mask of few bits
    let req_override = match directive.context() {
        // `ACCESS_CONF` only for a better refusal than httpd's (see `misplaced`).
        Context::Global => RSRC_CONF | ACCESS_CONF,
        Context::Application => RSRC_CONF | ACCESS_CONF,
        Context::Location(Override::Any) => RSRC_CONF | ACCESS_CONF | OR_ALL,
        Context::Location(Override::Options) => RSRC_CONF | ACCESS_CONF | OR_OPTIONS,
    } as c_int;
    command_rec {
        name: name.as_ptr(),
        func,
        // Not a pointer: the row's number, which the callback turns back.
        cmd_data: ptr::without_provenance_mut(row),
        req_override,
        args_how,
        errmsg: directive.help().as_ptr(),
    }
}

// --- reading a directive ------------------------------------------------------------------------

unsafe extern "C" fn take_flag(
    cmd: *mut cmd_parms,
    config: *mut c_void,
    on: c_int,
) -> *const c_char {
    let word: &[u8] = if on == 0 { b"off" } else { b"on" };
    // SAFETY: httpd calls this with what `apply` demands.
    guard(PANICKED.as_ptr(), || unsafe { apply(cmd, config, &[word]) })
}

unsafe extern "C" fn take_one(
    cmd: *mut cmd_parms,
    config: *mut c_void,
    word: *const c_char,
) -> *const c_char {
    // SAFETY: as above; httpd gives a C string in cmd->pool.
    guard(PANICKED.as_ptr(), || unsafe {
        apply(cmd, config, &[bytes(word)])
    })
}

unsafe extern "C" fn take_two(
    cmd: *mut cmd_parms,
    config: *mut c_void,
    first: *const c_char,
    second: *const c_char,
) -> *const c_char {
    // SAFETY: as above; TAKE2 gives two C strings in cmd->pool.
    guard(PANICKED.as_ptr(), || unsafe {
        apply(cmd, config, &[bytes(first), bytes(second)])
    })
}

unsafe extern "C" fn take_raw(
    cmd: *mut cmd_parms,
    config: *mut c_void,
    _arguments: *const c_char,
) -> *const c_char {
    // SAFETY: as above.
    guard(PANICKED.as_ptr(), || unsafe { apply(cmd, config, &[]) })
}

/// # Safety
/// `text` is NULL or a C string that lives for `'a`.
unsafe fn bytes<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: not NULL, so a C string (caller).
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// Puts one directive where it belongs; returns NULL or the reason why httpd must not start.
///
/// # Safety
/// As httpd calls its callbacks: `cmd` is live, `config` is what `create_dir_config` returned for
/// the section at hand, and the words live in `cmd->pool` (or are constants).
unsafe fn apply<'p>(cmd: *mut cmd_parms, config: *mut c_void, words: &[&'p [u8]]) -> *const c_char {
    // SAFETY: live (caller).
    let parms = unsafe { &*cmd };
    // SAFETY: httpd is single-threaded when it reads its configuration, and a request's pool
    // belongs to one thread; the pool lives as long as the section's configuration, 'p.
    let Some(pool) = (unsafe { Pool::<'p>::from_raw(parms.pool) }) else {
        return PANICKED.as_ptr();
    };
    let Some(directive) = DIRECTIVES.get(parms.info.addr()) else {
        return PANICKED.as_ptr();
    };
    let refused = |sentence: String| {
        let sentence = sentence.replace('\0', "\u{fffd}") + "\0";
        pool.copy_str(&sentence).as_ptr().cast::<c_char>()
    };
    // SAFETY: `cmd` is live.
    if let Some(sentence) = unsafe { misplaced(cmd, directive) } {
        return refused(sentence);
    }
    // SAFETY: httpd sets `directive` to the node being processed.
    let here = || unsafe { Place::of(parms.directive) };
    remark_on_name(parms, directive, || here().to_string());
    let (directive, value) = match meaning(directive, words, || here().to_string()) {
        Ok(Some(meant)) => meant,
        Ok(None) => return ptr::null(),
        Err(sentence) => return refused(sentence),
    };
    // SAFETY: the section's own configuration (caller), which only this thread touches now.
    let Some(section) = (unsafe { config.cast::<DirConfig<'p>>().as_mut() }) else {
        return PANICKED.as_ptr();
    };
    if let Some(setter) = directive.setter() {
        section.set(pool, setter, value);
    }
    if !is_htaccess(parms) {
        let server = config::ServerMark::of(parms.server);
        here().keep(pool, section, directive, value.to_args(), server);
    }
    ptr::null()
}

/// What the words mean: a directive (for `PassengerCtl` another than the one that is written) and its value.
fn meaning<'p>(
    directive: &'static Directive,
    words: &[&'p [u8]],
    place: impl FnOnce() -> String,
) -> Result<Option<(&'static Directive, Value<'p>)>, String> {
    let value = match config::parse(directive, words)? {
        Some(Value::Pair(key, value)) => match config::ctl(key, value)? {
            Ctl::Hook => Some(Value::Pair(key, value)),
            Ctl::Set(meant, value) => return Ok(Some((meant, value))),
            Ctl::Nothing => None,
            Ctl::NoEffect(why) => {
                let what = format!("{} {key}", directive.name());
                config::remark(Remark::Other(what, why.to_owned()), place);
                None
            }
        },
        value => value,
    };
    Ok(value.map(|value| (directive, value)))
}

/// Says once that a name is obsolete, or an old one.
fn remark_on_name(parms: &cmd_parms, directive: &Directive, place: impl FnOnce() -> String) {
    if directive.status() == Status::Obsolete {
        config::remark(Remark::Obsolete(directive.name()), place);
    // SAFETY: httpd sets `cmd` to the entry being processed.
    } else if let Some(old) = unsafe { old_name(parms, directive) } {
        config::remark(Remark::OldName(old, directive.name()), place);
    }
}

/// In `.htaccess` httpd uses one pool for both purposes; this is its own test, too.
fn is_htaccess(parms: &cmd_parms) -> bool {
    ptr::eq(parms.pool, parms.temp_pool) || !config::has_begun()
}

/// # Safety
/// `text` is NULL or a C string.
pub(super) unsafe fn text(text: *const c_char) -> String {
    // SAFETY: as demanded.
    String::from_utf8_lossy(unsafe { bytes(text) }).into_owned()
}

// --- per-directory configuration ----------------------------------------------------------------

/// A section with a directive of ours begins.
pub(crate) unsafe extern "C" fn create_dir_config(
    pool: *mut apr_pool_t,
    _section: *mut c_char,
) -> *mut c_void {
    guard(ptr::null_mut(), || {
        // SAFETY: httpd's pool for the section, used by this thread alone; what is placed in it
        // is reached only through the configuration vector that lives in the same pool.
        let pool = unsafe { Pool::from_raw(pool) };
        pool.map_or(ptr::null_mut(), |pool| {
            ptr::from_mut(pool.place(DirConfig::default())).cast()
        })
    })
}

/// Two sections apply to the same request (or a virtual host inherits from the main server).
pub(crate) unsafe extern "C" fn merge_dir_config(
    pool: *mut apr_pool_t,
    base: *mut c_void,
    add: *mut c_void,
) -> *mut c_void {
    // Should merging ever fail, the inner section alone is the smaller surprise.
    guard(add, || {
        // SAFETY: both were made by the two functions here, in pools that live at least as long
        // as `pool`, and nobody changes them once their section was read.
        let (base, inner) = unsafe {
            (
                base.cast::<DirConfig<'_>>().as_ref(),
                add.cast::<DirConfig<'_>>().as_ref(),
            )
        };
        // SAFETY: httpd's pool for the result, used by this thread alone.
        let pool = unsafe { Pool::from_raw(pool) };
        match (pool, base, inner) {
            (Some(pool), Some(base), Some(inner)) => {
                ptr::from_ref(DirConfig::merge(pool, base, inner))
                    .cast_mut()
                    .cast()
            }
            _ => add,
        }
    })
}

/// The merged configuration of a request; see [`config::of_request`].
///
/// `r` must be a live request of the calling thread, as every `request_rec` in this crate is.
pub(crate) fn dir_config<'r>(r: *mut request_rec) -> Option<&'r DirConfig<'r>> {
    // SAFETY: live (see above).
    let vector = unsafe { r.as_ref() }?.per_dir_config;
    if vector.is_null() {
        return None;
    }
    // SAFETY: the vector is the request's own; our record has its index while we are loaded.
    let config = unsafe { psgr_module_config(vector, &raw const passenger_module) };
    // SAFETY: NULL or made by the functions above in a pool that outlives the request.
    unsafe { config.cast::<DirConfig<'r>>().as_ref() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_ends_with_an_empty_entry() {
        assert!(COMMANDS.0[COUNT].name.is_null());
        assert!(COMMANDS.0[..COUNT]
            .iter()
            .all(|command| !command.name.is_null()));
    }

    #[test]
    fn aliases_lead_to_the_row_of_the_canonical_name() {
        for command in &COMMANDS.0[..COUNT] {
            // SAFETY: names in the table are C string literals.
            let name = unsafe { CStr::from_ptr(command.name) };
            let row = &DIRECTIVES[command.cmd_data.addr()];
            assert!((0..)
                .map_while(|index| row.c_name(index))
                .any(|known| known == name));
        }
    }

    #[test]
    #[allow(clippy::cast_sign_loss)]
    fn only_location_directives_are_open_to_htaccess() {
        for command in &COMMANDS.0[..COUNT] {
            let row = &DIRECTIVES[command.cmd_data.addr()];
            let is_open = command.req_override as u32 & OR_ALL != 0;
            assert_eq!(
                is_open,
                matches!(row.context(), Context::Location(_)),
                "{}",
                row.name()
            );
        }
    }
}
