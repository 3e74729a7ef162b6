//! Steps 1 and 2 of a request's life: does this URL belong to an app, and to which?
//!
//! Runs as one `fixups` hook between mod_rewrite and mod_dir (httpd-notes section 8): configuration is
//! merged, authentication done, and setting the handler is all it takes. What is left alone stays httpd's:
//! files, cached pages, proxied and rewritten URLs, explicit handlers, disabled locations.
//! With `PassengerHighPerformance` the decision is made in `map_to_storage` already.

use crate::apps::{App, Apps, Place};
use crate::config::{self, DirConfig};
use crate::ffi::request::{FileType, Request};
use crate::page_cache;
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
    /// The part of the path that is not the app's business: `SCRIPT_NAME`.
    pub(crate) script_name: String,
    /// `PassengerAllowEncodedSlashes`.
    pub(crate) keeps_encoded_slashes: bool,
    /// `PassengerBufferUpload`.
    pub(crate) buffers_upload: bool,
    /// `PassengerBufferResponse`.
    pub(crate) buffers_response: bool,
    /// `PassengerErrorOverride`.
    pub(crate) overrides_errors: bool,
    /// Whether this request holds a seat right now; a subrequest of it must not wait for one.
    pub(crate) holds_seat: AtomicBool,
}

/// Made on the first mapped request, so in a worker, never in httpd's parent.
static APPS: OnceLock<Apps> = OnceLock::new();

/// Maps the request (`fixups`); `true` when it was decided who handles it.
pub(crate) fn map(r: &mut Request<'_>) -> bool {
    if r.attached().is_some() {
        // By `map_early`.
        claim(r);
        return true;
    }
    let unset = DirConfig::default();
    let config = config::of_request(r.as_ptr()).unwrap_or(&unset);
    if !config.enabled() || is_somebody_elses(r) || is_static(r) {
        return false;
    }
    let Some(mapping) = find(r, config) else {
        return false;
    };
    if !is_dispatched(r) && page_cache::serve(r) {
        return true;
    }
    r.attach(mapping);
    claim(r);
    true
}

/// Maps the request before httpd walks its directories (`map_to_storage`), which it then does not do:
/// `PassengerHighPerformance`. `.htaccess` and `<Directory>` do not count for such a request.
pub(crate) fn map_early(r: &mut Request<'_>) -> bool {
    let Some(config) = config::of_request(r.as_ptr()).filter(|c| c.high_performance()) else {
        return false;
    };
    // What is httpd's own at this point: `TRACE` and `OPTIONS *`.
    if r.method() == b"TRACE" || !r.uri().starts_with(b"/") {
        return false;
    }
    let file = Path::new(OsStr::from_bytes(r.filename()));
    if !config.enabled() || is_somebody_elses(r) || file.is_file() || page_cache::has_page(r) {
        return false;
    }
    let Some(mapping) = find(r, config) else {
        return false;
    };
    r.attach(mapping);
    true
}

/// Makes the request ours.
fn claim(r: &mut Request<'_>) {
    r.set_handler(HANDLER);
    // mod_dir would redirect `/images` to `/images/`, and mod_autoindex list what it finds.
    r.hide_file();
    // A type or encoding guessed from `/report.tar.gz` would stand beside what the app says.
    r.forget_file_facts();
}

/// The app that owns the URL.
fn find(r: &Request<'_>, config: &DirConfig<'_>) -> Option<Mapping> {
    let base = base_uri(config, r.uri());
    let (app, script_name) = places(r, config.app_root().is_some(), base)
        .into_iter()
        .flatten()
        .find_map(|spot| {
            let place = Place {
                chain: config.chain(),
                document_root: spot.document_root,
                base_uri: spot.base_uri,
                app_root: config.app_root(),
                startup_file: config.startup_file(),
                restart_dir: config.restart_dir(),
                is_declared: config.app_type().is_some() || config.app_start_command().is_some(),
            };
            let globals = config::globals();
            let throttle = Duration::from_secs(u64::from(globals.stat_throttle_rate));
            let apps = APPS.get_or_init(Apps::new);
            let app = apps.find(&place, globals.generation, throttle)?;
            Some((app, String::from_utf8_lossy(spot.script_name).into_owned()))
        })?;
    Some(Mapping {
        app,
        script_name,
        keeps_encoded_slashes: config.allow_encoded_slashes(),
        buffers_upload: config.buffer_upload(),
        buffers_response: config.buffer_response(),
        overrides_errors: config.error_override(),
        holds_seat: AtomicBool::new(false),
    })
}

/// A place where the URL's app may be.
struct Spot<'a> {
    document_root: &'a [u8],
    base_uri: &'a str,
    script_name: &'a [u8],
}

/// Where to look for the URL's app, in order (`docs/guide.md`, "Which app owns a URL").
fn places<'a>(r: &Request<'a>, has_app_root: bool, base: &'a str) -> [Option<Spot<'a>>; 2] {
    let prefix = without_slash(r.context_prefix());
    let context = without_slash(r.document_root());
    let host = without_slash(r.host_document_root());
    let spot = |document_root, base_uri, script_name| {
        Some(Spot {
            document_root,
            base_uri,
            script_name,
        })
    };
    if !base.is_empty() {
        // An Alias of exactly that URI: its target is the public directory.
        if !has_app_root && prefix == base.as_bytes() {
            return [spot(context, "", base.as_bytes()), None];
        }
        return [spot(host, base, base.as_bytes()), None];
    }
    if prefix.is_empty() {
        return [spot(context, "", b""), None];
    }
    let in_host = spot(host, "", b"");
    // A user's directory is a document root of its own. An Alias is not: what is not there is the host's
    // app's to answer.
    if !has_app_root && prefix.starts_with(b"/~") {
        return [spot(context, "", prefix), in_host];
    }
    [in_host, None]
}

fn without_slash(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Requests another module has claimed, or the administrator gave a handler.
fn is_somebody_elses(r: &Request<'_>) -> bool {
    if is_dispatched(r) {
        return r.is_proxy() || r.has_set_handler();
    }
    r.is_proxy()
        || r.filename().starts_with(b"redirect:")
        || r.filename().starts_with(b"proxy:")
        || r.handler() == b"redirect-handler"
        || r.has_set_handler()
}

/// Whether mod_rewrite sends the request to a program that old Rails applications had in `public/`. It means the
/// app, as it stands.
fn is_dispatched(r: &Request<'_>) -> bool {
    let target = r.filename().strip_prefix(b"redirect:").unwrap_or_default();
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    path.ends_with(b"/dispatch.cgi") || path.ends_with(b"/dispatch.fcgi")
}

/// Regular files are httpd's to serve, for every method; with something behind the name (`/index.php/page`) only
/// if a handler was chosen for the file (`AddHandler`, `ScriptAlias`).
fn is_static(r: &Request<'_>) -> bool {
    r.file_type() == FileType::Regular && (r.path_info().is_empty() || !r.handler().is_empty())
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
