//! Frames of WebSockets (RFC 6455, section 5.2), as a client writes and reads them. Also part of the loaders' tests,
//! which have no harness around them.

use std::io::{self, Read};

/// Kinds of frames.
pub const TEXT: u8 = 1;
/// As above.
pub const BINARY: u8 = 2;
/// As above.
pub const CLOSE: u8 = 8;
/// As above.
pub const PING: u8 = 9;
/// As above.
pub const PONG: u8 = 10;
/// The last frame of a message.
pub const FIN: u8 = 0x80;

/// A frame as a client sends it: masked. `first` is its kind, with [`FIN`] or without.
///
/// # Panics
/// Never: a length that is small fits.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        n @ 0..=125 => bytes.push(0x80 | u8::try_from(n).expect("small")),
        n @ 126..=65535 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(n).expect("small").to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend((n as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

/// A frame as a server sends it: its first byte and its payload.
///
/// # Errors
/// Where the stream ends, or has nothing in time.
///
/// # Panics
/// When its length fits into no memory.
pub fn read_frame(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head[1] {
        126 => {
            let mut bytes = [0; 2];
            stream.read_exact(&mut bytes)?;
            usize::from(u16::from_be_bytes(bytes))
        }
        127 => {
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes)?;
            usize::try_from(u64::from_be_bytes(bytes)).expect("fits")
        }
        n => usize::from(n),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok((head[0], payload))
}
