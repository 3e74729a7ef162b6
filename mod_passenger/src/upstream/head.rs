//! A response head as an app sent it, reduced to what may reach a client.
//!
//! httpd validates the syntax of final headers and nothing else (httpd-notes section 9), so hop-by-hop
//! fields, several lengths and line breaks are stopped here, for both protocols.

use std::fmt;

/// Most header fields one response may carry.
const MAX_FIELDS: usize = 1000;

/// Why a response head was refused; the client gets a 502.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// The first bytes belong to another protocol.
    NotOurProtocol,
    /// The head is over the limit.
    TooLong { bytes: usize },
    /// A name without a value.
    OddPieces,
    /// No usable status.
    BadStatus { text: String },
    /// A field name that is no token.
    BadName { text: String },
    /// A line break, NUL or another control character in a value.
    BadValue { name: String },
    /// Contradicting or malformed `Content-Length`.
    BadLength { text: String },
    /// More fields than any client would accept.
    TooManyFields,
    /// The response's number is not the request's: it belongs to somebody else.
    WrongNumber { expected: u64, got: u64 },
    /// HTTP/1.1 syntax.
    BadHttp { reason: String },
    /// Interim responses without end.
    TooManyInterim { limit: u32 },
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurProtocol => {
                write!(f, "the response does not begin as the protocol demands")
            }
            Self::TooLong { bytes } => {
                write!(f, "the response head of {bytes} bytes is over the limit")
            }
            Self::OddPieces => write!(f, "the response head ends in a name without a value"),
            Self::BadStatus { text } => {
                write!(f, "the response status {text:?} is not between 100 and 999")
            }
            Self::BadName { text } => write!(f, "the response header name {text:?} is not a token"),
            Self::BadValue { name } => write!(
                f,
                "the response header {name:?} contains a control character"
            ),
            Self::BadLength { text } => {
                write!(f, "the response has an unusable Content-Length: {text}")
            }
            Self::TooManyFields => {
                write!(f, "the response has more than {MAX_FIELDS} header fields")
            }
            Self::WrongNumber { expected, got } => {
                write!(
                    f,
                    "the response answers request {got:#x}, not {expected:#x}"
                )
            }
            Self::BadHttp { reason } => write!(f, "the response is not HTTP/1.1: {reason}"),
            Self::TooManyInterim { limit } => {
                write!(
                    f,
                    "more than {limit} interim responses came before the response"
                )
            }
        }
    }
}

/// Status and fields that may reach a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    /// 100–999.
    pub(crate) status: u16,
    /// Reason phrase of the app, if any and clean.
    pub(crate) reason: Option<String>,
    /// `Content-Length`, taken out of the fields.
    pub(crate) content_length: Option<u64>,
    /// End-to-end fields in the app's order.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    /// Names that the app's `Connection` says are for this hop only.
    hop_by_hop: Vec<String>,
}

impl ResponseHead {
    /// From `200` or `200 Reason`.
    pub(crate) fn from_status(text: &[u8]) -> Result<Self, HeadError> {
        let bad = || HeadError::BadStatus {
            text: String::from_utf8_lossy(text).chars().take(60).collect(),
        };
        let (digits, reason) = match text.iter().position(|b| *b == b' ') {
            Some(at) => (&text[..at], &text[at + 1..]),
            None => (text, &b""[..]),
        };
        let status: u16 = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| d.parse().ok())
            .ok_or_else(bad)?;
        if digits.len() != 3 {
            return Err(bad());
        }
        Self::new(status, reason)
    }

    /// From a status and its reason, which is left out unless it is clean.
    pub(crate) fn new(status: u16, reason: &[u8]) -> Result<Self, HeadError> {
        if !(100..=999).contains(&status) {
            return Err(HeadError::BadStatus {
                text: status.to_string(),
            });
        }
        let is_clean = !reason.is_empty() && reason.iter().all(|b| (0x20..0x7f).contains(b));
        let reason = is_clean.then(|| String::from_utf8_lossy(reason).into_owned());
        Ok(Self {
            status,
            reason,
            content_length: None,
            fields: Vec::with_capacity(8),
            hop_by_hop: Vec::new(),
        })
    }

    /// Adds a field, or silently drops it where it concerns one hop only.
    ///
    /// # Errors
    /// When the field would break the message it is put in.
    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
            return Err(HeadError::BadName {
                text: String::from_utf8_lossy(name).chars().take(60).collect(),
            });
        }
        let value = value.trim_ascii();
        // Tokens are ASCII, so this cannot fail.
        let name = std::str::from_utf8(name).unwrap_or_default();
        if value.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
            let name = name.to_owned();
            return Err(HeadError::BadValue { name });
        }
        if name.eq_ignore_ascii_case("content-length") {
            return self.set_length(value);
        }
        if name.eq_ignore_ascii_case("connection") {
            self.drop_named(value);
        }
        let is_named = self.hop_by_hop.iter().any(|n| name.eq_ignore_ascii_case(n));
        if is_named || is_dropped(name) {
            return Ok(());
        }
        if self.fields.len() == MAX_FIELDS {
            return Err(HeadError::TooManyFields);
        }
        self.fields.push((name.to_owned(), value.to_vec()));
        Ok(())
    }

    /// Drops what a `Connection` field names, before and after it.
    fn drop_named(&mut self, connection: &[u8]) {
        let names = connection.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        // The field of that name never travels.
        let names =
            names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"keep-alive"));
        let before = self.hop_by_hop.len();
        self.hop_by_hop
            .extend(names.map(|name| String::from_utf8_lossy(name).into_owned()));
        let named = &self.hop_by_hop[before..];
        if named.is_empty() {
            return;
        }
        self.fields
            .retain(|(name, _)| !named.iter().any(|n| name.eq_ignore_ascii_case(n)));
    }

    fn set_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        let text = || {
            String::from_utf8_lossy(value)
                .chars()
                .take(60)
                .collect::<String>()
        };
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(HeadError::BadLength { text: text() });
        }
        let length: u64 = std::str::from_utf8(value)
            .ok()
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| HeadError::BadLength { text: text() })?;
        match self.content_length {
            Some(other) if other != length => Err(HeadError::BadLength {
                text: format!("{other} and {length}"),
            }),
            _ => {
                self.content_length = Some(length);
                Ok(())
            }
        }
    }

    /// Whether a response with this status never has a body (RFC 9110 section 6.4.1).
    pub(crate) fn is_bodyless(&self) -> bool {
        self.status < 200 || self.status == 204 || self.status == 304
    }
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Fields of one hop (RFC 9110 section 7.6.1), those httpd writes itself, and our own channel to loaders.
fn is_dropped(name: &str) -> bool {
    const DROPPED: [&str; 12] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "date",
        "server",
        "x-passenger-request-oob-work",
    ];
    DROPPED.iter().any(|d| name.eq_ignore_ascii_case(d)) || name.starts_with("!~")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_accepted_cannot_break_a_message(
            fields in proptest::collection::vec(("[ -~\\r\\n\\x00]{0,12}", "[ -~\\r\\n\\x00\\x0b]{0,12}"), 0..8),
            named in "[A-Za-z-]{1,8}",
        ) {
            let mut head = ResponseHead::from_status(b"200 OK").unwrap();
            for (name, value) in &fields {
                let _ = head.push(name.as_bytes(), value.as_bytes());
            }
            let _ = head.push(b"Connection", named.as_bytes());
            for (name, value) in &head.fields {
                prop_assert!(!name.is_empty() && name.bytes().all(is_token));
                prop_assert!(!value.iter().any(|b| b.is_ascii_control() && *b != b'\t'));
                prop_assert!(!is_dropped(name) && !name.eq_ignore_ascii_case(&named));
            }
        }
    }

    #[test]
    fn hop_by_hop_fields_do_not_travel() {
        let mut head = ResponseHead::from_status(b"200").unwrap();
        for name in [
            "Connection",
            "TRANSFER-ENCODING",
            "Keep-Alive",
            "Upgrade",
            "!~Request-OOB-Work",
            "X-Passenger-Request-OOB-Work",
        ] {
            head.push(name.as_bytes(), b"x").unwrap();
        }
        assert!(head.fields.is_empty());
    }

    #[test]
    fn what_connection_names_does_not_travel_either() {
        let mut head = ResponseHead::from_status(b"200").unwrap();
        head.push(b"X-Before", b"1").unwrap();
        head.push(b"Connection", b"close, x-before , X-After")
            .unwrap();
        head.push(b"X-After", b"1").unwrap();
        head.push(b"X-Other", b"1").unwrap();
        assert_eq!(head.fields, [("X-Other".to_owned(), b"1".to_vec())]);
    }

    #[test]
    fn line_breaks_and_bad_names_are_refused() {
        let mut head = ResponseHead::from_status(b"200").unwrap();
        assert!(matches!(
            head.push(b"X", b"a\r\nSet-Cookie: b"),
            Err(HeadError::BadValue { .. })
        ));
        for control in [&b"a\0b"[..], b"a\x1b[31mb", b"a\x7fb", b"a\x0bb"] {
            assert!(head.push(b"X", control).is_err(), "{control:?}");
        }
        assert!(head.push(b"X", b"a\tb").is_ok() && head.push(b"X", b"gr\xfc\xdfe").is_ok());
        assert!(matches!(
            head.push(b"X Y", b"a"),
            Err(HeadError::BadName { .. })
        ));
        assert!(matches!(
            head.push(b"", b"a"),
            Err(HeadError::BadName { .. })
        ));
    }

    #[test]
    fn two_lengths_must_agree() {
        let mut head = ResponseHead::from_status(b"200").unwrap();
        head.push(b"Content-Length", b" 5 ").unwrap();
        head.push(b"content-length", b"5").unwrap();
        assert_eq!(head.content_length, Some(5));
        assert!(matches!(
            head.push(b"Content-Length", b"6"),
            Err(HeadError::BadLength { .. })
        ));
        assert!(matches!(
            head.push(b"Content-Length", b"+5"),
            Err(HeadError::BadLength { .. })
        ));
    }

    #[test]
    fn a_status_is_three_digits() {
        assert_eq!(
            ResponseHead::from_status(b"299 Odd but fine")
                .unwrap()
                .status,
            299
        );
        for bad in [&b"20"[..], b"", b"0200", b"abc", b"099"] {
            assert!(ResponseHead::from_status(bad).is_err(), "{bad:?}");
        }
    }
}
