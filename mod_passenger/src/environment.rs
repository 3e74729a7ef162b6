//! What an app is told about a request: CGI variables for the binary protocol, a request head for HTTP.
//!
//! A client's field never becomes a variable it could be confused with: names with anything but letters,
//! digits and dashes are dropped (CVE-2015-7519), and so is `Proxy` (CVE-2016-5385).

use crate::ffi::request::Request;
use crate::paths::Paths;
use crate::upstream::frame::RequestFrame;
use crate::upstream::http1::RequestHead;

/// Fields that concern the hop between client and httpd (RFC 9110 section 7.6.1), or that httpd consumed.
const NOT_FORWARDED: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// When the request was made, as the first of all proxies says; `t=` and microseconds since 1970.
const REQUEST_START: &std::ffi::CStr = c"X-Request-Start";
/// When it began to look for a process: what has passed when the app begins is the time in the queue. Always
/// ours.
const QUEUE_START: &str = "X-Queue-Start";

/// What a request's head says beyond the request itself.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// `SCRIPT_NAME`.
    pub(crate) script_name: &'a str,
    /// `SERVER_SOFTWARE`.
    pub(crate) software: &'a str,
    /// `PassengerAllowEncodedSlashes`.
    pub(crate) keeps_encoded_slashes: bool,
    /// When it began to look for a process, in microseconds since 1970.
    pub(crate) queued_us: u64,
    /// Length of the body, where it is known.
    pub(crate) body_bytes: Option<u64>,
}

/// The head of a binary request.
pub(crate) fn binary(r: &Request<'_>, facts: Facts<'_>) -> RequestFrame {
    let mut frame = RequestFrame::new();
    let paths = Paths::of(r, facts.script_name, facts.keeps_encoded_slashes);
    frame.pair(b"REQUEST_METHOD", r.method());
    frame.pair(b"SCRIPT_NAME", facts.script_name.as_bytes());
    frame.pair(b"PATH_INFO", &paths.path_info);
    frame.pair(b"QUERY_STRING", r.args().unwrap_or_default());
    frame.pair(b"REQUEST_URI", &paths.request_uri);
    frame.pair(b"SERVER_NAME", r.server_name());
    frame.pair(b"SERVER_PORT", r.server_port().to_string().as_bytes());
    frame.pair(b"SERVER_PROTOCOL", r.protocol());
    frame.pair(b"SERVER_SOFTWARE", facts.software.as_bytes());
    frame.pair(b"REMOTE_ADDR", r.client_address());
    frame.pair(b"REMOTE_PORT", r.client_port().to_string().as_bytes());
    if let Some(user) = r.user() {
        frame.pair(b"REMOTE_USER", user);
    }
    if r.is_https() {
        frame.pair(b"HTTPS", b"on");
    }
    let mut key = Vec::with_capacity(64);
    for (name, value) in r.headers_in().iter() {
        if name.eq_ignore_ascii_case(b"content-type") {
            frame.pair(b"CONTENT_TYPE", value);
        } else if !name.eq_ignore_ascii_case(b"content-length")
            && !is_queue_start(name)
            && variable_name(name, &mut key)
        {
            frame.pair(&key, value);
        }
    }
    let (request_start, queue_start) = times(r, facts);
    if let Some(start) = request_start {
        frame.pair(b"HTTP_X_REQUEST_START", start.as_bytes());
    }
    frame.pair(b"HTTP_X_QUEUE_START", queue_start.as_bytes());
    if let Some(length) = length_to_say(r, facts.body_bytes) {
        frame.pair(b"CONTENT_LENGTH", length.as_bytes());
    }
    // Last, so that what the administrator set wins.
    for (name, value) in variables(r) {
        frame.pair(name, value);
    }
    frame
}

/// The two moments an app learns its queue time from; the first may be said already.
fn times(r: &Request<'_>, facts: Facts<'_>) -> (Option<String>, String) {
    let is_said = r.headers_in().get(REQUEST_START).is_some();
    let request_start = (!is_said).then(|| format!("t={}", r.time_us()));
    (request_start, format!("t={}", facts.queued_us))
}

fn is_queue_start(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(QUEUE_START.as_bytes())
}

/// `Content-Length` of a body whose length is certain; a request that had none gets none.
fn length_to_say(r: &Request<'_>, body_bytes: Option<u64>) -> Option<String> {
    let n = body_bytes?;
    let is_said = n > 0 || r.has_body() || r.headers_in().get(c"Content-Length").is_some();
    is_said.then(|| n.to_string())
}

/// Variables of this request (`SetEnv`, `SSL_*`, …) that are for the app.
fn variables<'r>(r: &Request<'r>) -> impl Iterator<Item = (&'r [u8], &'r [u8])> {
    let ours = |name: &[u8]| matches!(name, b"SCRIPT_NAME" | b"PATH_INFO");
    r.variables().iter().filter(move |(name, _)| !ours(name))
}

/// Turns `X-Foo` into `HTTP_X_FOO` in `key`; `false` for fields that are not for the app.
fn variable_name(name: &[u8], key: &mut Vec<u8>) -> bool {
    if !is_for_the_app(name) {
        return false;
    }
    key.clear();
    key.extend_from_slice(b"HTTP_");
    key.extend(name.iter().map(|b| {
        if *b == b'-' {
            b'_'
        } else {
            b.to_ascii_uppercase()
        }
    }));
    true
}

/// Whether a client's field may reach the app. Apps behind HTTP turn names into variables as well, so the
/// rule against collisions is the same for both protocols; it also excludes our own names (`!~…`).
fn is_for_the_app(name: &[u8]) -> bool {
    name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && !NOT_FORWARDED
            .iter()
            .any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}

/// The head of an HTTP/1.1 request. A body of unknown length is sent in chunks.
pub(crate) fn http(r: &Request<'_>, facts: Facts<'_>) -> Vec<u8> {
    let paths = Paths::of(r, facts.script_name, facts.keeps_encoded_slashes);
    let mut head = RequestHead::new(r.method(), &paths.request_uri);
    let mut forwarded_for = Vec::new();
    for (name, value) in r.headers_in().iter() {
        if name.eq_ignore_ascii_case(b"x-forwarded-for") {
            forwarded_for.extend_from_slice(value);
            forwarded_for.extend_from_slice(b", ");
        } else if is_for_the_app(name)
            && !name.eq_ignore_ascii_case(b"content-length")
            && !name.eq_ignore_ascii_case(b"expect")
            && !name.eq_ignore_ascii_case(b"x-forwarded-proto")
            && !is_queue_start(name)
        {
            head.field(name, value);
        }
    }
    if facts.body_bytes.is_none() {
        head.field(b"Transfer-Encoding", b"chunked");
    } else if let Some(length) = length_to_say(r, facts.body_bytes) {
        head.field(b"Content-Length", length.as_bytes());
    }
    forwarded_for.extend_from_slice(r.client_address());
    head.field(b"X-Forwarded-For", &forwarded_for);
    head.field(
        b"X-Forwarded-Proto",
        if r.is_https() { b"https" } else { b"http" },
    );
    let (request_start, queue_start) = times(r, facts);
    if let Some(start) = request_start {
        head.field(b"X-Request-Start", start.as_bytes());
    }
    head.field(b"X-Queue-Start", queue_start.as_bytes());
    internal_fields(r, &mut head);
    head.finish()
}

/// What the binary protocol has variables for: fields whose names a client's never have.
fn internal_fields(r: &Request<'_>, head: &mut RequestHead) {
    head.field(b"!~Passenger-Client-Address", r.client_address());
    if r.is_https() {
        head.field(b"!~Passenger-Proto", b"https");
    }
    let mut block = Vec::new();
    let user = r.user().map(|user| (&b"REMOTE_USER"[..], user));
    for (name, value) in user.into_iter().chain(variables(r)) {
        for part in [name, value] {
            block.extend_from_slice(part);
            block.push(0);
        }
    }
    if !block.is_empty() {
        head.field(b"!~Passenger-Envvars", &base64(&block));
    }
}

/// RFC 4648 section 4, with padding.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for piece in bytes.chunks(3) {
        let byte = |i: usize| u32::from(piece.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = (word >> (18 - 6 * i)) as usize & 63;
            out.push(if i <= piece.len() {
                DIGITS[digit]
            } else {
                b'='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colliding_and_internal_fields_are_dropped() {
        let mut key = Vec::new();
        assert!(variable_name(b"X-Foo", &mut key));
        assert_eq!(key, b"HTTP_X_FOO");
        for name in [
            &b"X_Foo"[..],
            b"Proxy",
            b"proxy",
            b"Connection",
            b"!~FLAGS",
            b"Transfer-Encoding",
        ] {
            assert!(
                !variable_name(name, &mut key),
                "{}",
                String::from_utf8_lossy(name)
            );
        }
    }

    #[test]
    fn base64_is_as_others_write_it() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text.as_bytes());
        }
        assert_eq!(base64(&[0xff, 0xef, 0]), b"/+8A");
    }
}
