//! What the administrator wrote: one table of directives, the per-directory values that requests
//! need, the values for all of httpd, and the records for the agent.
//!
//! Only what a request looks at is kept in httpd's per-directory configuration ([`DirConfig`]).
//! Everything else travels to the agent as numbered records; a request names them by its chain.

mod collect;
mod ctl;
mod dir;
mod directive;
mod directives;
mod globals;
mod parse;
#[cfg(test)]
mod reference_tests;
mod snapshot;

pub(crate) use collect::{
    begin, discard, global, has_begun, new_record, note, remark, with_collected, Collected, Remark,
    ServerMark,
};
pub(crate) use ctl::{ctl, Ctl};
pub(crate) use dir::DirConfig;
pub(crate) use directive::{Arity, Context, Directive, Kind, Override, Status};
pub(crate) use directives::DIRECTIVES;
pub(crate) use globals::{globals, publish, with_absolute_paths, withdraw, Globals};
pub(crate) use parse::{parse, Value};
pub(crate) use snapshot::{snapshot, Facts};

use crate::ffi::bindings::request_rec;

/// The merged configuration of a request; `None` if our module was never configured for it (then
/// every default applies). Valid for as long as the request.
pub(crate) fn of_request<'r>(r: *mut request_rec) -> Option<&'r DirConfig<'r>> {
    crate::ffi::commands::dir_config(r)
}
