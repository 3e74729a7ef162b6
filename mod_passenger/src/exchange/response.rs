//! [`Response`]: the head of an app's response, whichever protocol it came in.

use crate::upstream::body::BodyDecoder;
use crate::upstream::frame::{self, ResponseHeader};
use crate::upstream::head::{HeadError, ResponseHead};
use crate::upstream::http1;

/// A response head and how its body ends.
pub(super) struct Response {
    pub(super) head: ResponseHead,
    pub(super) body: BodyDecoder,
    pub(super) keeps_alive: bool,
    pub(super) is_interim: bool,
    /// Status 101 on a connection that is all the stream's from now on.
    pub(super) is_tunnel: bool,
}

pub(super) fn parse_http(
    input: &[u8],
    is_head: bool,
) -> Result<Option<(Response, usize)>, HeadError> {
    let Some(parsed) = http1::parse_head(input, is_head)? else {
        return Ok(None);
    };
    let is_tunnel = parsed.head.status == 101;
    let is_interim = parsed.head.status < 200 && !is_tunnel;
    let response = Response {
        head: parsed.head,
        body: parsed.body,
        keeps_alive: parsed.keeps_alive,
        is_interim,
        is_tunnel,
    };
    Ok(Some((response, parsed.consumed)))
}

/// The header of the response to that request, once it is here.
fn header(input: &[u8], number: u64) -> Result<Option<ResponseHeader>, HeadError> {
    let header = ResponseHeader::parse(input)?;
    match &header {
        Some(header) if header.number != number => Err(HeadError::WrongNumber {
            expected: number,
            got: header.number,
        }),
        _ => Ok(header),
    }
}

/// Whether the app has taken the connection: what follows the header is HTTP/1.1, status line and all.
pub(super) fn is_hijack(input: &[u8], number: u64) -> Result<bool, HeadError> {
    let header = header(input, number)?;
    Ok(header.is_some_and(|header| header.is_raw && header.head_bytes == 0))
}

pub(super) fn parse_binary(
    input: &[u8],
    number: u64,
) -> Result<Option<(Response, usize)>, HeadError> {
    let Some(header) = header(input, number)? else {
        return Ok(None);
    };
    let end = frame::HEADER_BYTES + header.head_bytes;
    let Some(head) = input.get(frame::HEADER_BYTES..end) else {
        return Ok(None);
    };
    let head = frame::parse_head(head)?;
    let body = match header.body_bytes {
        _ if header.is_raw => BodyDecoder::UntilClose,
        frame::FRAMED => BodyDecoder::frames(),
        n => BodyDecoder::Length(n),
    };
    let keeps_alive = !header.is_last && !header.is_raw;
    let is_tunnel = header.is_raw && head.status == 101;
    Ok(Some((
        Response {
            head,
            body,
            keeps_alive,
            is_interim: header.is_interim,
            is_tunnel,
        },
        end,
    )))
}

/// The first bytes of a response, printable.
pub(super) fn sample(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes[..bytes.len().min(60)].escape_ascii())
}
