//! HTTP/1.1 towards an app: Node, Meteor and generic commands.
//!
//! Writes request heads and reads response heads (`httparse`); bodies end by [`super::body`].

use super::body::BodyDecoder;
use super::frame::MAX_HEAD_BYTES;
use super::head::{HeadError, ResponseHead};
use std::mem::MaybeUninit;

const MAX_FIELDS: usize = 200;

/// What our loader for Node says of a response to HEAD that Node itself wrote: there is no body, although the head speaks of
/// one.
const NO_BODY: &str = "!~Passenger-No-Body";

/// A request head under construction.
pub(crate) struct RequestHead {
    bytes: Vec<u8>,
}

impl RequestHead {
    /// Starts with the request line. `target` is what the client asked for, path and query.
    pub(crate) fn new(method: &[u8], target: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(2048);
        bytes.extend_from_slice(method);
        bytes.push(b' ');
        bytes.extend_from_slice(target);
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        Self { bytes }
    }

    /// Appends a field. Line breaks cannot occur in httpd's request fields; they are cut all the same.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(b": ");
        let end = value.iter().position(|b| matches!(b, b'\r' | b'\n' | 0));
        self.bytes
            .extend_from_slice(&value[..end.unwrap_or(value.len())]);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Ends the head.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes
    }
}

/// A parsed response head and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// What may reach the client.
    pub(crate) head: ResponseHead,
    /// Length of the head in the input.
    pub(crate) consumed: usize,
    /// How the body ends.
    pub(crate) body: BodyDecoder,
    /// Whether the app keeps the connection.
    pub(crate) keeps_alive: bool,
}

/// Reads a response head; `None` until it is complete. `is_head` = the request's method was HEAD.
///
/// # Errors
/// When it is not HTTP/1.x, over the limit, or contradicts itself.
pub(crate) fn parse_head(input: &[u8], is_head: bool) -> Result<Option<Parsed>, HeadError> {
    // Left as they are: to clear them costs more than to parse an ordinary head.
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let parsed = parser.parse_response_with_uninit_headers(&mut response, input, &mut fields);
    let consumed = match parsed {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) if input.len() > MAX_HEAD_BYTES => {
            return Err(HeadError::TooLong { bytes: input.len() })
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(e) => {
            return Err(HeadError::BadHttp {
                reason: e.to_string(),
            })
        }
    };
    let reason = response.reason.unwrap_or_default();
    let mut head = ResponseHead::new(response.code.unwrap_or(0), reason.as_bytes())?;
    let mut connection = Connection {
        keeps_alive: response.version == Some(1),
        is_chunked: false,
        says_no_body: false,
    };
    for field in response.headers.iter() {
        connection.look_at(field)?;
        head.push(field.name.as_bytes(), field.value)?;
    }
    if connection.is_chunked && head.content_length.is_some() {
        return Err(HeadError::BadLength {
            text: "together with Transfer-Encoding".into(),
        });
    }
    let body = if is_head || head.is_bodyless() {
        BodyDecoder::Length(0)
    } else if connection.is_chunked {
        BodyDecoder::chunks()
    } else if let Some(length) = head.content_length {
        BodyDecoder::Length(length)
    } else {
        BodyDecoder::UntilClose
    };
    // An app that sends the body which its head speaks of, although there is none by rule, would answer the next
    // request with it.
    let speaks_of_body = connection.is_chunked || head.content_length.is_some_and(|n| n > 0);
    let is_certain = body != BodyDecoder::Length(0) || !speaks_of_body || connection.says_no_body;
    let keeps_alive = connection.keeps_alive && is_certain && body != BodyDecoder::UntilClose;
    Ok(Some(Parsed {
        head,
        consumed,
        body,
        keeps_alive,
    }))
}

struct Connection {
    keeps_alive: bool,
    is_chunked: bool,
    says_no_body: bool,
}

impl Connection {
    fn look_at(&mut self, field: &httparse::Header<'_>) -> Result<(), HeadError> {
        if field.name.eq_ignore_ascii_case("connection") {
            let has = |token: &str| {
                field
                    .value
                    .split(|b| *b == b',')
                    .any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
            };
            if has("close") {
                self.keeps_alive = false;
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") || self.is_chunked {
                let reason = format!(
                    "Transfer-Encoding {:?}",
                    String::from_utf8_lossy(field.value)
                );
                return Err(HeadError::BadHttp { reason });
            }
            self.is_chunked = true;
        } else if field.name.eq_ignore_ascii_case(NO_BODY) {
            self.says_no_body = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<Parsed>, HeadError> {
        parse_head(text.as_bytes(), false)
    }

    #[test]
    fn bodies_end_as_rfc_9112_says() {
        let parsed = parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(parsed.body, BodyDecoder::chunks());
        assert!(parsed.keeps_alive);
        let parsed = parse("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(
            (parsed.body, parsed.keeps_alive),
            (BodyDecoder::Length(3), false)
        );
        let parsed = parse("HTTP/1.0 200 OK\r\n\r\n").unwrap().unwrap();
        assert_eq!(
            (parsed.body, parsed.keeps_alive),
            (BodyDecoder::UntilClose, false)
        );
        let parsed = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true)
            .unwrap()
            .unwrap();
        assert_eq!(
            (parsed.body, parsed.head.content_length),
            (BodyDecoder::Length(0), Some(3))
        );
        let parsed = parse("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(parsed.body, BodyDecoder::Length(0));
    }

    #[test]
    fn an_announced_body_that_must_not_come_ends_the_connection() {
        let keeps = |text: &str, is_head| {
            let parsed = parse_head(text.as_bytes(), is_head).unwrap().unwrap();
            assert_eq!(parsed.body, BodyDecoder::Length(0), "{text}");
            parsed.keeps_alive
        };
        assert!(!keeps("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", true));
        let chunked = "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(!keeps(chunked, false));
        assert!(!keeps(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
            false
        ));
        assert!(keeps("HTTP/1.1 304 Not Modified\r\n\r\n", false));
        let of_node = "HTTP/1.1 200 OK\r\n!~Passenger-No-Body: 1\r\nContent-Length: 3\r\n";
        assert!(keeps(&format!("{of_node}\r\n"), true));
        assert!(!keeps(&format!("{of_node}Connection: close\r\n\r\n"), true));
        assert!(keeps("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true));
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(parse(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        .is_err());
        assert!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n").is_err());
        assert!(parse("SSH-2.0-x\r\n\r\n").is_err());
        assert_eq!(parse("HTTP/1.1 200 OK\r\nX: "), Ok(None));
    }

    /// What servers write that are not by the book; RFC 9112 wants it understood, or refused, never guessed.
    #[test]
    fn odd_servers_are_understood_or_refused() {
        let understood = |text: &str| {
            let parsed = parse(text).unwrap().unwrap();
            let fields = parsed.head.fields.clone();
            let fields = fields.into_iter().map(|(name, value)| {
                let value = String::from_utf8(value).unwrap();
                format!("{name}={value}")
            });
            let fields: Vec<String> = fields.collect();
            (parsed.head.status, fields.join(" "), parsed.body)
        };
        let until_close = BodyDecoder::UntilClose;
        for (text, status, fields) in [
            ("HTTP/1.1 200\r\nA: b\r\n\r\n", 200, "A=b"),
            ("HTTP/1.1 200 \r\nA: b\r\n\r\n", 200, "A=b"),
            ("HTTP/1.1 299 gr\u{fc}n\r\nA: b\r\n\r\n", 299, "A=b"),
            ("HTTP/1.1 200 OK\nA: b\n\n", 200, "A=b"),
            ("\r\nHTTP/1.1 200 OK\r\nA:b\t \r\nB:\r\n\r\n", 200, "A=b B="),
        ] {
            let expected = (status, fields.to_owned(), until_close.clone());
            assert_eq!(understood(text), expected, "{text:?}");
        }
        for text in [
            "http/1.1 200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let (status, _, body) =
            understood("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200");
        assert_eq!((status, body), (103, BodyDecoder::Length(0)));
    }

    #[test]
    fn a_request_head_is_plain_http() {
        let mut head = RequestHead::new(b"GET", b"/a?b");
        head.field(b"Host", b"x\r\nInjected: y");
        assert_eq!(head.finish(), b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_verdict(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_head(&bytes, false);
        }
    }
}
