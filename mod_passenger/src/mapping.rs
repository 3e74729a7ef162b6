//! Steps 1 and 2 of a request's life: does this URL belong to an app, and to which?
//!
//! Runs as one `fixups` hook between mod_rewrite and mod_dir (httpd-notes section 8): configuration is
//! merged, authentication done, and setting the handler is all it takes. What is left alone stays httpd's:
//! files, directories with an index, proxied and rewritten URLs, explicit handlers, disabled locations.

use crate::apps::{App, Apps, Place};
use crate::config::{self, DirConfig};
use crate::ffi::request::{FileType, Request};
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Name of our handler.
pub(crate) const HANDLER: &CStr = c"passenger-app";

/// What the handler hook needs of the mapping.
pub(crate) struct Mapping {
    /// The app.
    pub(crate) app: Arc<App>,
    /// `PassengerBufferUpload`.
    pub(crate) buffers_upload: bool,
    /// `PassengerErrorOverride`.
    pub(crate) overrides_errors: bool,
    /// Whether this request holds a seat right now; a subrequest of it must not wait for one.
    pub(crate) holds_seat: AtomicBool,
}

/// Made on the first mapped request, so in a worker, never in httpd's parent.
static APPS: OnceLock<Apps> = OnceLock::new();

/// Maps the request; `true` when an app shall handle it.
pub(crate) fn map(r: &mut Request<'_>) -> bool {
    let unset = DirConfig::default();
    let config = config::of_request(r.as_ptr()).unwrap_or(&unset);
    if !config.enabled() || is_somebody_elses(r) || is_static(r) {
        return false;
    }
    let document_root = r.document_root();
    let document_root = document_root.strip_suffix(b"/").unwrap_or(document_root);
    let base_uri = base_uri(config, r.uri());
    let place = Place {
        chain: config.chain(),
        document_root,
        base_uri,
        app_root: config.app_root(),
        startup_file: config.startup_file(),
        is_declared: config.app_type().is_some() || config.app_start_command().is_some(),
    };
    let globals = config::globals();
    let throttle = Duration::from_secs(u64::from(globals.stat_throttle_rate));
    let Some(app) = APPS
        .get_or_init(Apps::new)
        .find(&place, globals.generation, throttle)
    else {
        return false;
    };
    let mapping = Mapping {
        app,
        buffers_upload: config.buffer_upload(),
        overrides_errors: config.error_override(),
        holds_seat: AtomicBool::new(false),
    };
    r.attach(mapping);
    r.set_handler(HANDLER);
    // mod_dir would redirect `/images` to `/images/`, and mod_autoindex list what it finds.
    r.hide_file();
    true
}

/// Requests another module has claimed, or the administrator gave a handler.
fn is_somebody_elses(r: &Request<'_>) -> bool {
    r.is_proxy()
        || r.filename().starts_with(b"redirect:")
        || r.filename().starts_with(b"proxy:")
        || r.handler() == b"redirect-handler"
        || r.has_set_handler()
}

/// Regular files, and directories that have an index page, are httpd's to serve.
fn is_static(r: &Request<'_>) -> bool {
    match r.file_type() {
        FileType::Regular => r.path_info().is_empty(),
        FileType::Directory => {
            r.is_get_or_head()
                && r.uri().ends_with(b"/")
                && Path::new(OsStr::from_bytes(r.filename()))
                    .join("index.html")
                    .is_file()
        }
        _ => false,
    }
}

/// The longest `PassengerBaseURI` that is a prefix of the path; empty if there is none.
fn base_uri<'a>(config: &DirConfig<'a>, path: &[u8]) -> &'a str {
    let matches = |base: &&&str| {
        let rest = path.strip_prefix(base.as_bytes());
        base.len() > 1 && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    config
        .base_uris()
        .iter()
        .filter(matches)
        .max_by_key(|base| base.len())
        .copied()
        .unwrap_or("")
}
