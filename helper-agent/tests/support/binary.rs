//! The worker's side of the binary protocol (docs/protocols.md, section 4), written from that page
//! and not from the module's code, so that a misreading on either side shows.

use std::io::{self, ErrorKind, Read};

use super::client::{Body, Request, Response};

const REQUEST_TAG: u32 = 0x5053_5201;
const RESPONSE_TAG: u32 = 0x5053_5300;
const FRAMES: u64 = u64::MAX;
/// The process closes after this response.
pub(crate) const LAST: u32 = 1;
/// A raw stream follows the head.
pub(crate) const RAW: u32 = 2;

/// The head of a response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) flags: u32,
    pub(crate) number: u64,
    pub(crate) body: u64,
    pub(crate) text: String,
}

pub(crate) fn encode(request: &Request, number: u64) -> Vec<u8> {
    let head = environment(request).join("\0");
    let (length, body) = match &request.body {
        Body::None => (0, Vec::new()),
        Body::Sized(bytes) => (bytes.len() as u64, bytes.clone()),
        Body::Pieces(pieces) => (FRAMES, frames(pieces)),
    };
    let mut bytes = REQUEST_TAG.to_be_bytes().to_vec();
    bytes.extend_from_slice(
        &u32::try_from(head.len())
            .expect("a small head")
            .to_be_bytes(),
    );
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// The same request with other names and values in its head.
pub(crate) fn with_head(
    request: &[u8],
    change: impl FnOnce(&mut Vec<(String, String)>),
) -> Vec<u8> {
    let length = u32::from_be_bytes(request[4..8].try_into().expect("four bytes"));
    let (head, body) = request[24..].split_at(usize::try_from(length).expect("a small head"));
    let head = String::from_utf8(head.to_vec()).expect("text");
    let pieces: Vec<_> = head.split('\0').map(str::to_owned).collect();
    let mut pairs: Vec<_> = pieces
        .chunks(2)
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect();
    change(&mut pairs);
    let pieces: Vec<_> = pairs
        .into_iter()
        .flat_map(|(name, value)| [name, value])
        .collect();
    let head = pieces.join("\0");
    let length = u32::try_from(head.len()).expect("a small head");
    [
        &request[..4],
        &length.to_be_bytes(),
        &request[8..24],
        head.as_bytes(),
        body,
    ]
    .concat()
}

fn frames(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(
            &u32::try_from(piece.len())
                .expect("a small piece")
                .to_be_bytes(),
        );
        bytes.extend_from_slice(piece);
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// Names and values, alternating.
fn environment(request: &Request) -> Vec<String> {
    let mut pairs: Vec<(String, String)> = [
        ("REQUEST_METHOD", request.method),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", &request.path),
        ("QUERY_STRING", &request.query),
        ("REQUEST_URI", &request.target()),
        ("SERVER_NAME", "localhost"),
        ("SERVER_PORT", "80"),
        ("SERVER_PROTOCOL", request.protocol),
        ("SERVER_SOFTWARE", "conformance"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REMOTE_PORT", "4711"),
        ("HTTP_HOST", "localhost"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    if let Body::Sized(bytes) = &request.body {
        pairs.push(("CONTENT_LENGTH".to_owned(), bytes.len().to_string()));
    }
    for (name, value) in &request.headers {
        let name = name.to_uppercase().replace('-', "_");
        pairs.push((format!("HTTP_{name}"), value.clone()));
    }
    pairs
        .into_iter()
        .flat_map(|(name, value)| [name, value])
        .collect()
}

/// Reads the response to the request with that number.
pub(crate) fn receive(stream: &mut impl Read, number: u64) -> io::Result<Response> {
    let head = receive_head(stream)?;
    if head.number != number {
        return Err(invalid(&format!(
            "number {} instead of {number}",
            head.number
        )));
    }
    let mut pieces = head.text.split('\0');
    let status = pieces
        .next()
        .and_then(|line| line.get(..3))
        .and_then(|code| code.parse().ok());
    let fields: Vec<&str> = pieces.collect();
    if !fields.chunks_exact(2).remainder().is_empty() {
        return Err(invalid(&format!("odd number of pieces in {:?}", head.text)));
    }
    Ok(Response {
        status: status.ok_or_else(|| invalid(&format!("no status in {:?}", head.text)))?,
        headers: fields
            .chunks(2)
            .map(|pair| (pair[0].to_owned(), pair[1].to_owned()))
            .collect(),
        body: receive_body(stream, head.body)?,
        is_last: head.flags & LAST != 0,
    })
}

/// Reads the 24 bytes and the head behind them.
pub(crate) fn receive_head(stream: &mut impl Read) -> io::Result<Head> {
    let mut start = [0; 24];
    stream.read_exact(&mut start)?;
    let word = |at: usize| u32::from_be_bytes(start[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_be_bytes(start[at..at + 8].try_into().expect("eight bytes"));
    let tag = word(0);
    if tag & !0xff != RESPONSE_TAG {
        return Err(invalid(&format!("tag {tag:#x}")));
    }
    let mut text = vec![0; word(4) as usize];
    stream.read_exact(&mut text)?;
    Ok(Head {
        flags: tag & 0xff,
        number: long(8),
        body: long(16),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

fn receive_body(stream: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if length != FRAMES {
        body.resize(usize::try_from(length).expect("a body that fits"), 0);
        stream.read_exact(&mut body)?;
        return Ok(body);
    }
    loop {
        let frame = receive_frame(stream)?;
        if frame.is_empty() {
            return Ok(body);
        }
        body.extend_from_slice(&frame);
    }
}

/// Reads one frame; the empty one is the last.
pub(crate) fn receive_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text.to_owned())
}
