//! The worker's side of the HTTP protocol, as far as the tests need it.

use std::fmt::Write;
use std::io::{self, ErrorKind, Read};

use super::client::{Body, Request, Response};

pub(crate) fn encode(request: &Request) -> Vec<u8> {
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: localhost\r\n",
        request.method,
        request.target()
    );
    for (name, value) in &request.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let body = match &request.body {
        Body::None => Vec::new(),
        Body::Sized(bytes) => {
            let _ = write!(head, "Content-Length: {}\r\n", bytes.len());
            bytes.clone()
        }
        Body::Pieces(pieces) => {
            head.push_str("Transfer-Encoding: chunked\r\n");
            chunks(pieces)
        }
    };
    head.push_str("\r\n");
    [head.into_bytes(), body].concat()
}

fn chunks(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// Reads the response to a request of that method.
pub(crate) fn receive(stream: &mut impl Read, method: &str) -> io::Result<Response> {
    let (status, headers) = receive_head(stream)?;
    let mut response = Response {
        status,
        headers,
        body: Vec::new(),
        is_last: false,
    };
    response.is_last = response.header("Connection").contains(&"close");
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(response);
    }
    response.body = if response.header("Transfer-Encoding").contains(&"chunked") {
        let mut body = Vec::new();
        loop {
            let chunk = receive_chunk(stream)?;
            if chunk.is_empty() {
                break body;
            }
            body.extend_from_slice(&chunk);
        }
    } else if let [length] = response.header("Content-Length")[..] {
        let mut body = vec![0; length.parse().map_err(|_| invalid("bad Content-Length"))?];
        stream.read_exact(&mut body)?;
        body
    } else {
        let mut body = Vec::new();
        stream.read_to_end(&mut body)?;
        body
    };
    Ok(response)
}

/// Reads up to the empty line: status and headers.
pub(crate) fn receive_head(stream: &mut impl Read) -> io::Result<(u16, Vec<(String, String)>)> {
    let first = receive_line(stream)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut headers = Vec::new();
    loop {
        let line = receive_line(stream)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok((status.ok_or_else(|| invalid(&first))?, headers))
}

/// Reads one chunk; the empty one is the last.
pub(crate) fn receive_chunk(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let line = receive_line(stream)?;
    let length = usize::from_str_radix(&line, 16).map_err(|_| invalid(&line))?;
    let mut chunk = vec![0; length];
    stream.read_exact(&mut chunk)?;
    receive_line(stream)?;
    Ok(chunk)
}

/// Byte by byte: nothing beyond the line may be taken from the connection.
fn receive_line(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).map_err(|_| invalid("a line that is not UTF-8"))
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text.to_owned())
}
