//! What an app is told about a request: CGI variables for the binary protocol, a request head for HTTP.
//!
//! A client's field never becomes a variable it could be confused with: names with anything but letters,
//! digits and dashes are dropped (CVE-2015-7519), and so is `Proxy` (CVE-2016-5385).

use crate::ffi::request::Request;
use crate::upstream::frame::RequestFrame;
use crate::upstream::http1::RequestHead;
use std::borrow::Cow;

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

/// The path of a request as an app sees it, escaped.
struct Paths<'r> {
    request_uri: Cow<'r, [u8]>,
    path_info: Cow<'r, [u8]>,
}

/// The head of a binary request. `body_bytes` is the length of the body where it is known.
pub(crate) fn binary(
    r: &Request<'_>,
    base_uri: &str,
    software: &str,
    body_bytes: Option<u64>,
) -> RequestFrame {
    let mut frame = RequestFrame::new();
    let paths = paths(r, base_uri);
    frame.pair(b"REQUEST_METHOD", r.method());
    frame.pair(b"SCRIPT_NAME", base_uri.as_bytes());
    frame.pair(b"PATH_INFO", &paths.path_info);
    frame.pair(b"QUERY_STRING", r.args().unwrap_or_default());
    frame.pair(b"REQUEST_URI", &paths.request_uri);
    frame.pair(b"SERVER_NAME", r.server_name());
    frame.pair(b"SERVER_PORT", r.server_port().to_string().as_bytes());
    frame.pair(b"SERVER_PROTOCOL", r.protocol());
    frame.pair(b"SERVER_SOFTWARE", software.as_bytes());
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
        } else if name.eq_ignore_ascii_case(b"content-length") {
            // Replaced below by what was really read.
            if body_bytes.is_none() {
                frame.pair(b"CONTENT_LENGTH", value);
            }
        } else if variable_name(name, &mut key) {
            frame.pair(&key, value);
        }
    }
    match body_bytes {
        Some(n) if n > 0 || r.has_body() || r.headers_in().get(c"Content-Length").is_some() => {
            frame.pair(b"CONTENT_LENGTH", n.to_string().as_bytes());
        }
        _ => {}
    }
    for (name, value) in r.variables().iter() {
        if !matches!(name, b"SCRIPT_NAME" | b"PATH_INFO") {
            frame.pair(name, value);
        }
    }
    frame
}

/// Turns `X-Foo` into `HTTP_X_FOO` in `key`; `false` for fields that are not for the app.
fn variable_name(name: &[u8], key: &mut Vec<u8>) -> bool {
    if !name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-') || is_not_forwarded(name) {
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

fn is_not_forwarded(name: &[u8]) -> bool {
    NOT_FORWARDED
        .iter()
        .any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
        || name.starts_with(b"!~")
}

/// The head of an HTTP/1.1 request. `body_bytes` is the length of the body, `None` for chunks.
pub(crate) fn http(r: &Request<'_>, base_uri: &str, body_bytes: Option<u64>) -> Vec<u8> {
    let mut head = RequestHead::new(r.method(), &paths(r, base_uri).request_uri);
    let mut forwarded_for = Vec::new();
    for (name, value) in r.headers_in().iter() {
        if name.eq_ignore_ascii_case(b"x-forwarded-for") {
            forwarded_for.extend_from_slice(value);
            forwarded_for.extend_from_slice(b", ");
        } else if !is_not_forwarded(name)
            && !name.eq_ignore_ascii_case(b"content-length")
            && !name.eq_ignore_ascii_case(b"expect")
            && !name.eq_ignore_ascii_case(b"x-forwarded-proto")
        {
            head.field(name, value);
        }
    }
    match body_bytes {
        Some(n) if n > 0 || r.has_body() || r.headers_in().get(c"Content-Length").is_some() => {
            head.field(b"Content-Length", n.to_string().as_bytes());
        }
        Some(_) => {}
        None => head.field(b"Transfer-Encoding", b"chunked"),
    }
    forwarded_for.extend_from_slice(r.client_address());
    head.field(b"X-Forwarded-For", &forwarded_for);
    head.field(
        b"X-Forwarded-Proto",
        if r.is_https() { b"https" } else { b"http" },
    );
    head.finish()
}

fn paths<'r>(r: &Request<'r>, base_uri: &str) -> Paths<'r> {
    let request_uri = without_authority(r.original_target());
    let raw = without_authority(r.unparsed_uri());
    let raw = raw.split(|b| *b == b'?').next().unwrap_or(raw);
    let path = escaped_path(raw, r.uri());
    let path_info = match path.strip_prefix(base_uri.as_bytes()) {
        Some(rest) => Cow::from(rest.to_vec()),
        None => path,
    };
    let path_info = if path_info.is_empty() {
        Cow::from(&b"/"[..])
    } else {
        path_info
    };
    // A target such as "*" or one that a rewrite left unescaped must not become a broken request line.
    let request_uri = if request_uri.iter().all(u8::is_ascii_graphic) {
        Cow::from(request_uri)
    } else {
        Cow::from(escape(request_uri, b"?"))
    };
    Paths {
        request_uri,
        path_info,
    }
}

/// The client's own spelling of the path where it means the path httpd mapped, else that path escaped again
/// (after a rewrite, or when httpd merged slashes or removed dots).
fn escaped_path<'r>(raw: &'r [u8], decoded: &'r [u8]) -> Cow<'r, [u8]> {
    if raw == decoded && raw.iter().all(u8::is_ascii_graphic) {
        return raw.into();
    }
    if raw.iter().all(u8::is_ascii_graphic) && unescape(raw).as_deref() == Some(decoded) {
        return raw.into();
    }
    escape(decoded, b"").into()
}

/// `/path` of `http://host/path` (absolute-form); everything else unchanged.
fn without_authority(target: &[u8]) -> &[u8] {
    let Some(at) = target.windows(3).position(|w| w == b"://") else {
        return target;
    };
    if !target[..at].iter().all(u8::is_ascii_alphanumeric) {
        return target;
    }
    let rest = &target[at + 3..];
    rest.iter()
        .position(|b| *b == b'/')
        .map_or(&b"/"[..], |slash| &rest[slash..])
}

fn unescape(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            out.push(*first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    Some(out)
}

/// Escapes what cannot stand in a path, keeping `keep` as it is.
fn escape(bytes: &[u8], keep: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut out = Vec::with_capacity(bytes.len() + 16);
    for byte in bytes {
        if (byte.is_ascii_graphic() && !b"#%?".contains(byte)) || keep.contains(byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[
                b'%',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn the_clients_spelling_survives_unless_the_path_was_changed() {
        assert_eq!(escaped_path(b"/a%20b", b"/a b"), &b"/a%20b"[..]);
        assert_eq!(escaped_path(b"/%7Euser", b"/~user"), &b"/%7Euser"[..]);
        assert_eq!(escaped_path(b"/old", b"/new p?q"), &b"/new%20p%3fq"[..]);
        assert_eq!(escaped_path(b"//a", b"/a"), &b"/a"[..]);
    }

    #[test]
    fn absolute_form_loses_its_authority() {
        assert_eq!(without_authority(b"http://h:1/p?q"), b"/p?q");
        assert_eq!(without_authority(b"http://h"), b"/");
        assert_eq!(without_authority(b"/x?u=http://h/"), b"/x?u=http://h/");
    }

    proptest! {
        #[test]
        fn escape_and_unescape_are_inverse(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(unescape(&escape(&bytes, b"")), Some(bytes));
        }
    }
}
