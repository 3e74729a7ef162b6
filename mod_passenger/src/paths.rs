//! The path of a request as an app sees it: `REQUEST_URI` and `PATH_INFO`, both escaped.
//!
//! They follow the path that httpd mapped, so after a rewrite they are the rewritten ones. The client's own
//! spelling (`%7E`, `%2B`) is kept where it means that path; else the path is escaped again.

use crate::ffi::request::Request;
use std::borrow::Cow;

/// The two variables.
pub(crate) struct Paths<'r> {
    /// Path and query.
    pub(crate) request_uri: Vec<u8>,
    /// Path without the script name, at least `/`.
    pub(crate) path_info: Cow<'r, [u8]>,
}

impl<'r> Paths<'r> {
    /// Those of a request. `keeps_encoded_slashes` is `PassengerAllowEncodedSlashes`.
    pub(crate) fn of(r: &Request<'r>, script_name: &str, keeps_encoded_slashes: bool) -> Self {
        let raw = without_authority(r.unparsed_uri());
        let raw = raw.split(|b| *b == b'?').next().unwrap_or(raw);
        let path = escaped_path(raw, r.uri(), keeps_encoded_slashes);
        let mut request_uri = path.to_vec();
        if let Some(args) = r.args() {
            request_uri.push(b'?');
            if args.iter().all(u8::is_ascii_graphic) {
                request_uri.extend_from_slice(args);
            } else {
                // Only a rewrite can have left these; they must not become a broken request line.
                request_uri.extend_from_slice(&escape(args, b"%?"));
            }
        }
        Self {
            request_uri,
            path_info: below(path, script_name.as_bytes()),
        }
    }
}

/// What follows the script name, however the client spelled it.
fn below<'r>(path: Cow<'r, [u8]>, script_name: &[u8]) -> Cow<'r, [u8]> {
    let rest = match path {
        _ if script_name.is_empty() => path,
        Cow::Borrowed(path) => skip(path, script_name).unwrap_or(path).into(),
        Cow::Owned(path) => match skip(&path, script_name) {
            Some(rest) => rest.to_vec().into(),
            None => path.into(),
        },
    };
    if rest.is_empty() {
        b"/"[..].into()
    } else {
        rest
    }
}

/// `escaped` after a prefix that means `prefix`.
fn skip<'a>(mut escaped: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    for wanted in prefix {
        let (byte, rest) = first_meant(escaped)?;
        if byte != *wanted {
            return None;
        }
        escaped = rest;
    }
    Some(escaped)
}

/// The client's own spelling of the path where it means the path httpd mapped, else that path escaped again
/// (after a rewrite, or when httpd merged slashes or removed dots).
fn escaped_path<'r>(
    raw: &'r [u8],
    decoded: &'r [u8],
    keeps_encoded_slashes: bool,
) -> Cow<'r, [u8]> {
    let is_spelling = raw.iter().all(u8::is_ascii_graphic)
        && (means(raw, decoded, true) || (keeps_encoded_slashes && means(raw, decoded, false)));
    if is_spelling {
        raw.into()
    } else {
        escape(decoded, b"").into()
    }
}

/// Whether `raw` unescaped is `decoded`; with `slashes_stay`, `%2F` stands for itself, as httpd leaves it with
/// `AllowEncodedSlashes NoDecode`, and so never for a separator.
fn means(mut raw: &[u8], mut decoded: &[u8], slashes_stay: bool) -> bool {
    while !raw.is_empty() {
        let is_slash = raw.len() >= 3 && raw[..3].eq_ignore_ascii_case(b"%2f");
        if slashes_stay && is_slash {
            let (Some(rest), true) = (decoded.get(3..), decoded.starts_with(&raw[..3])) else {
                return false;
            };
            (raw, decoded) = (&raw[3..], rest);
            continue;
        }
        let Some((byte, rest)) = first_meant(raw) else {
            return false;
        };
        if decoded.first() != Some(&byte) {
            return false;
        }
        (raw, decoded) = (rest, &decoded[1..]);
    }
    decoded.is_empty()
}

/// The first byte that an escaped text means, and what follows.
fn first_meant(escaped: &[u8]) -> Option<(u8, &[u8])> {
    let (first, rest) = escaped.split_first()?;
    if *first != b'%' {
        return Some((*first, rest));
    }
    let digit = |b: u8| char::from(b).to_digit(16);
    let value = digit(*rest.first()?)? * 16 + digit(*rest.get(1)?)?;
    Some((u8::try_from(value).ok()?, &rest[2..]))
}

/// What an escaped text means; `None` if it is not one.
pub(crate) fn unescape(mut escaped: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(escaped.len());
    while !escaped.is_empty() {
        let (byte, rest) = first_meant(escaped)?;
        out.push(byte);
        escaped = rest;
    }
    Some(out)
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

    fn seen(raw: &'static str, decoded: &'static str, keeps: bool) -> String {
        let path = escaped_path(raw.as_bytes(), decoded.as_bytes(), keeps);
        String::from_utf8(path.into_owned()).unwrap()
    }

    #[test]
    fn the_clients_spelling_survives_unless_the_path_was_changed() {
        assert_eq!(seen("/a%20b", "/a b", false), "/a%20b");
        assert_eq!(seen("/%7Euser", "/~user", false), "/%7Euser");
        assert_eq!(seen("/old", "/new p?q", false), "/new%20p%3fq");
        assert_eq!(seen("//a", "/a", false), "/a");
        // A per-directory rewrite leaves unescaped text here.
        assert_eq!(seen("/p q", "/p q", false), "/p%20q");
        assert_eq!(seen("/100%", "/100%", false), "/100%25");
    }

    #[test]
    fn an_encoded_slash_is_a_separator_unless_told_otherwise() {
        assert_eq!(seen("/a%2fb", "/a/b", false), "/a/b");
        assert_eq!(seen("/a%2fb", "/a/b", true), "/a%2fb");
        // AllowEncodedSlashes NoDecode.
        assert_eq!(seen("/a%2Fb", "/a%2Fb", false), "/a%2Fb");
        // A rewrite wins over the client's spelling.
        assert_eq!(seen("/a%2fb", "/c", true), "/c");
    }

    #[test]
    fn the_script_name_is_taken_off_however_it_is_spelled() {
        let info = |path: &'static str, script: &str| {
            String::from_utf8(below(path.as_bytes().into(), script.as_bytes()).into_owned())
                .unwrap()
        };
        assert_eq!(info("/sub/x%20y", "/sub"), "/x%20y");
        assert_eq!(info("/s%75b/x", "/sub"), "/x");
        assert_eq!(info("/sub", "/sub"), "/");
        assert_eq!(info("/%c3%a9/x", "/\u{e9}"), "/x");
        assert_eq!(info("/other", "/sub"), "/other");
    }

    #[test]
    fn absolute_form_loses_its_authority() {
        assert_eq!(without_authority(b"http://h:1/p?q"), b"/p?q");
        assert_eq!(without_authority(b"http://h"), b"/");
        assert_eq!(without_authority(b"/x?u=http://h/"), b"/x?u=http://h/");
    }

    proptest! {
        #[test]
        fn an_escaped_path_means_what_it_was_made_of(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(means(&escape(&bytes, b""), &bytes, false));
        }

        #[test]
        fn what_an_app_sees_means_what_httpd_mapped(raw in "[ -~]{0,20}", decoded in "[ -~/]{0,20}", keeps: bool) {
            let path = escaped_path(raw.as_bytes(), decoded.as_bytes(), keeps);
            prop_assert!(path.iter().all(u8::is_ascii_graphic));
            prop_assert!(means(&path, decoded.as_bytes(), false) || means(&path, decoded.as_bytes(), true));
        }
    }
}
