//! The binary protocol: 24 bytes, a head of NUL-separated pieces, a body.
//!
//! Owns the byte layout only; where the bytes come from and what a header may say is decided elsewhere.

use super::head::{HeadError, ResponseHead};

/// Length of the fixed part of requests and responses.
pub(crate) const HEADER_BYTES: usize = 24;
/// Body length that stands for "frames follow".
pub(crate) const FRAMED: u64 = u64::MAX;
/// Longest response head an app may send.
pub(crate) const MAX_HEAD_BYTES: usize = 256 * 1024;

const REQUEST_TAG: u32 = 0x5053_5201;
const RESPONSE_TAG: u32 = 0x5053_5300;
const FLAG_LAST: u32 = 1;
const FLAG_RAW: u32 = 2;
const FLAG_INTERIM: u32 = 4;

/// A request head under construction. The fixed part is filled in last, because number and body
/// length belong to an attempt, the pairs to the request.
pub(crate) struct RequestFrame {
    bytes: Vec<u8>,
}

impl RequestFrame {
    /// Starts a head with room for an ordinary request.
    pub(crate) fn new() -> Self {
        let mut bytes = Vec::with_capacity(2048);
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes }
    }

    /// Appends a variable. A NUL inside would shift every later pair, so it ends the value (httpd's
    /// strings cannot contain one anyway).
    pub(crate) fn pair(&mut self, key: &[u8], value: &[u8]) {
        if self.bytes.len() > HEADER_BYTES {
            self.bytes.push(0);
        }
        self.bytes.extend_from_slice(until_nul(key));
        self.bytes.push(0);
        self.bytes.extend_from_slice(until_nul(value));
    }

    /// The finished bytes for one attempt.
    pub(crate) fn finish(&mut self, number: u64, body_bytes: u64) -> &[u8] {
        let head = u32::try_from(self.bytes.len() - HEADER_BYTES).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&REQUEST_TAG.to_be_bytes());
        self.bytes[4..8].copy_from_slice(&head.to_be_bytes());
        self.bytes[8..16].copy_from_slice(&number.to_be_bytes());
        self.bytes[16..24].copy_from_slice(&body_bytes.to_be_bytes());
        &self.bytes
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    // What is almost always so, by a search that looks at many bytes at once.
    if !bytes.contains(&0) {
        return bytes;
    }
    bytes.split(|b| *b == 0).next().unwrap_or(bytes)
}

/// The fixed part of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponseHeader {
    /// Bytes of head that follow.
    pub(crate) head_bytes: usize,
    /// Number of the request this answers.
    pub(crate) number: u64,
    /// Bytes of body, or [`FRAMED`].
    pub(crate) body_bytes: u64,
    /// The process closes the connection afterwards.
    pub(crate) is_last: bool,
    /// What follows the head is a raw stream until close.
    pub(crate) is_raw: bool,
    /// A 1xx; another response follows.
    pub(crate) is_interim: bool,
}

impl ResponseHeader {
    /// Reads the fixed part; `None` until 24 bytes are there.
    ///
    /// # Errors
    /// When the bytes are not of this protocol or announce a head over the limit.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, HeadError> {
        let Some(fixed) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let word = |at: usize| {
            u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let long = |at: usize| (u64::from(word(at)) << 32) | u64::from(word(at + 4));
        let tag = word(0);
        if tag & !0xff != RESPONSE_TAG & !0xff {
            return Err(HeadError::NotOurProtocol);
        }
        let head_bytes = word(4) as usize;
        if head_bytes > MAX_HEAD_BYTES {
            return Err(HeadError::TooLong { bytes: head_bytes });
        }
        Ok(Some(Self {
            head_bytes,
            number: long(8),
            body_bytes: long(16),
            is_last: tag & FLAG_LAST != 0,
            is_raw: tag & FLAG_RAW != 0,
            is_interim: tag & FLAG_INTERIM != 0,
        }))
    }
}

/// Reads the pieces of a response head.
///
/// # Errors
/// When the status is missing or out of range, a name has no value, or a header is not clean.
pub(crate) fn parse_head(head: &[u8]) -> Result<ResponseHead, HeadError> {
    let mut pieces = head.split(|b| *b == 0);
    let mut parsed = ResponseHead::from_status(pieces.next().unwrap_or_default())?;
    while let Some(name) = pieces.next() {
        let value = pieces.next().ok_or(HeadError::OddPieces)?;
        parsed.push(name, value)?;
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(flags: u32, head: &[u8], number: u64, body: u64) -> Vec<u8> {
        let mut bytes = (RESPONSE_TAG | flags).to_be_bytes().to_vec();
        bytes.extend_from_slice(&u32::try_from(head.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&body.to_be_bytes());
        bytes.extend_from_slice(head);
        bytes
    }

    #[test]
    fn a_request_frame_is_what_the_protocol_page_says() {
        let mut frame = RequestFrame::new();
        frame.pair(b"A", b"1");
        frame.pair(b"B", b"");
        frame.pair(b"C", b"x\0y");
        let bytes = frame.finish(7, 3);
        assert_eq!(&bytes[..4], &[0x50, 0x53, 0x52, 0x01]);
        assert_eq!(&bytes[8..16], &7u64.to_be_bytes());
        assert_eq!(&bytes[16..24], &3u64.to_be_bytes());
        assert_eq!(&bytes[24..], b"A\x001\0B\0\0C\0x");
        assert_eq!(
            u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize,
            bytes.len() - 24
        );
    }

    #[test]
    fn a_response_header_round_trips_with_its_flags() {
        let bytes = response(FLAG_LAST | FLAG_INTERIM, b"200", 9, FRAMED);
        let header = ResponseHeader::parse(&bytes).unwrap().unwrap();
        assert_eq!(
            (header.head_bytes, header.number, header.body_bytes),
            (3, 9, FRAMED)
        );
        assert!(header.is_last && header.is_interim && !header.is_raw);
        assert_eq!(ResponseHeader::parse(&bytes[..23]), Ok(None));
    }

    #[test]
    fn foreign_bytes_and_giant_heads_are_refused() {
        assert_eq!(
            ResponseHeader::parse(&[b'H'; 24]),
            Err(HeadError::NotOurProtocol)
        );
        let mut bytes = response(0, b"", 0, 0);
        bytes[4] = 0xff;
        assert!(matches!(
            ResponseHeader::parse(&bytes),
            Err(HeadError::TooLong { .. })
        ));
    }

    #[test]
    fn a_head_becomes_status_and_pairs() {
        let head = parse_head(b"404 Nope\0Content-Type\0text/plain\0X-Empty\0").unwrap();
        assert_eq!(head.status, 404);
        assert_eq!(head.fields[1], ("X-Empty".to_owned(), Vec::new()));
        assert_eq!(parse_head(b"200\0lonely"), Err(HeadError::OddPieces));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_verdict_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ResponseHeader::parse(&bytes);
            let _ = parse_head(&bytes);
        }
    }
}
