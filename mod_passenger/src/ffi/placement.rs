//! Where a directive stands in httpd's files, and whether it may stand there.

use std::ffi::{c_char, c_uint};
use std::fmt;
use std::ptr;

use passenger_shm::messages as wire;

use super::bindings::{
    ap_check_cmd_context, ap_directive_t, cmd_parms, GLOBAL_ONLY, NOT_IN_FILES, NOT_IN_HTACCESS,
    NOT_IN_LIMIT,
};
use super::commands::text;
use super::pool::Pool;
use crate::config::{self, Context, DirConfig, Directive, Remark, Status};

/// Whether a directive stands where it may not: the sentence that says where it belongs.
///
/// # Safety
/// `cmd` is live.
pub(super) unsafe fn misplaced(cmd: *mut cmd_parms, directive: &Directive) -> Option<String> {
    if directive.status() == Status::Obsolete {
        return None;
    }
    let forbidden: c_uint = match directive.context() {
        Context::Global => GLOBAL_ONLY,
        Context::Application => NOT_IN_HTACCESS | NOT_IN_FILES | NOT_IN_LIMIT,
        Context::Location(_) => NOT_IN_LIMIT,
    };
    // SAFETY: live (caller).
    let refusal: *const c_char = unsafe { ap_check_cmd_context(cmd, forbidden) };
    if refusal.is_null() {
        return None;
    }
    // SAFETY: as above; httpd sets `directive` to the node being processed.
    let place = unsafe { Place::of((*cmd).directive) };
    let section = match place.innermost.as_str() {
        "" => ".htaccess",
        section => section,
    };
    Some(format!(
        "{} may not stand in {section}: {}",
        directive.name(),
        directive.context().place()
    ))
}

/// Where a directive stands.
pub(super) struct Place {
    section: String,
    innermost: String,
    file: String,
    line: u32,
}

impl Place {
    /// # Safety
    /// `node` is NULL or a node of httpd's configuration tree.
    pub(super) unsafe fn of(node: *const ap_directive_t) -> Place {
        // SAFETY: NULL or live (caller).
        let Some(own) = (unsafe { node.as_ref() }) else {
            return Place {
                section: String::new(),
                innermost: String::new(),
                file: String::new(),
                line: 0,
            };
        };
        let mut sections = Vec::new();
        let mut parent: *const ap_directive_t = own.parent;
        // SAFETY: parents are NULL or live nodes of the same tree.
        while let Some(section) = unsafe { parent.as_ref() } {
            // SAFETY: both are NULL or C strings of the tree.
            let (name, args) = unsafe { (text(section.directive), text(section.args)) };
            sections.push(format!("{name} {args}"));
            parent = section.parent;
        }
        let innermost = sections.first().cloned().unwrap_or_default();
        sections.reverse();
        let line = u32::try_from(own.line_num).unwrap_or(0);
        // SAFETY: NULL or a C string of the tree.
        let file = unsafe { text(own.filename) };
        Place {
            section: sections.join(" "),
            innermost,
            file,
            line,
        }
    }

    /// Writes the directive into the pass that is being collected.
    pub(super) fn keep<'p>(
        self,
        pool: Pool<'p>,
        section: &mut DirConfig<'p>,
        directive: &'static Directive,
        args: Vec<String>,
        server: config::ServerMark,
    ) {
        let name = directive.name();
        match directive.status() {
            // Whoever switches off what is not there gets what he wants.
            _ if directive.is_default(&args) => {}
            Status::NotYet => config::remark(Remark::NotYet(name), || self.to_string()),
            Status::Moot => config::remark(Remark::Moot(name), || self.to_string()),
            Status::Built | Status::Obsolete => {}
        }
        let Place {
            section: written,
            file,
            line,
            ..
        } = self;
        let entry = wire::Directive {
            name: name.to_owned(),
            args,
            file,
            line,
        };
        if directive.context() == Context::Global {
            config::global(entry);
            return;
        }
        if section.record() == 0 {
            section.set_record(pool, config::new_record(written, server));
        }
        config::note(section.record(), entry);
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The name that was written, if it is not the canonical one.
///
/// # Safety
/// `parms.cmd` is NULL or the live entry of our command table that httpd is processing.
pub(super) unsafe fn old_name(parms: &cmd_parms, directive: &Directive) -> Option<&'static str> {
    // SAFETY: NULL or live (caller).
    let written = unsafe { parms.cmd.as_ref() }?.name;
    (1..)
        .map_while(|index| directive.c_name(index))
        .find(|alias| ptr::eq(alias.as_ptr(), written))
        .and_then(|alias| alias.to_str().ok())
}
