//! From an app's response head to httpd's.

use crate::config;
use crate::ffi::request::{c_string, Request};
use crate::upstream::head::ResponseHead;

/// Copies status and fields to httpd. `length` is what the client is told the body has.
pub(super) fn set_head(r: &mut Request<'_>, head: &ResponseHead, length: Option<u64>) {
    let line = set_status(r, head);
    let fields = r.headers_out();
    for (name, value) in &head.fields {
        if name.eq_ignore_ascii_case("content-type") {
            r.set_content_type(&c_string(value));
        } else if !name.eq_ignore_ascii_case("status") {
            fields.add(name.as_bytes(), value);
        }
    }
    if let Some(n) = length {
        fields.set(c"Content-Length", &c_string(n.to_string().as_bytes()));
    }
    // What clients of the original have come to expect.
    fields.add(b"X-Powered-By", product().as_bytes());
    fields.add(b"Status", line.as_bytes());
}

/// `X-Powered-By`.
fn product() -> &'static str {
    if config::globals().show_version_in_header {
        concat!("mod_passenger ", env!("CARGO_PKG_VERSION"))
    } else {
        "mod_passenger"
    }
}

/// Sets the status; returns code and phrase.
fn set_status(r: &mut Request<'_>, head: &ResponseHead) -> String {
    // An `ErrorDocument` that the app made well is still the document of an error.
    let error = r.error_being_documented().filter(|_| head.status == 200);
    let status = error.unwrap_or(head.status);
    let phrase = match head.reason.as_deref() {
        Some(reason) if error.is_none() => reason,
        _ => reason_of(status),
    };
    let line = format!("{status} {phrase}");
    r.set_status(status, Some(&c_string(line.as_bytes())));
    line
}

fn reason_of(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        // httpd wants a phrase for every code it does not know itself (httpd-notes section 9).
        _ => "Status",
    }
}
