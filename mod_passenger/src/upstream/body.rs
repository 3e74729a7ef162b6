//! Where a response body ends: by length, by frames, by HTTP chunks, or by close.
//!
//! A decoder is fed what was read and hands out the payload as ranges of that same buffer, so that a
//! body byte is never copied here.

use std::ops::Range;

/// Longest chunk-size line or trailer line an app may send.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// A body that cannot be what its head announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadBody(pub(crate) &'static str);

/// What one piece of input contained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fed {
    /// Payload, as a range of the input. Empty if the input was framing only.
    pub(crate) payload: Range<usize>,
    /// Bytes of input used up; the rest must be fed again (with more) or belongs to the next response.
    pub(crate) consumed: usize,
}

/// The state of one response body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BodyDecoder {
    /// So many bytes are left.
    Length(u64),
    /// Binary frames; so many bytes are left of the current one.
    Frames { left: u32, ended: bool },
    /// HTTP/1.1 chunks.
    Chunks(ChunkState),
    /// Everything until the app closes.
    UntilClose,
}

/// Place inside a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkState {
    /// Before a chunk-size line.
    Size,
    /// Inside chunk data.
    Data(u64),
    /// Before the CRLF that ends chunk data.
    DataEnd,
    /// In the trailer section (read and dropped).
    Trailer,
    /// After the last CRLF.
    Ended,
}

impl BodyDecoder {
    /// Frames from the first one on.
    pub(crate) fn frames() -> Self {
        Self::Frames {
            left: 0,
            ended: false,
        }
    }

    /// Chunks from the first one on.
    pub(crate) fn chunks() -> Self {
        Self::Chunks(ChunkState::Size)
    }

    /// Whether the end was read. Never true for [`BodyDecoder::UntilClose`].
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Frames { ended, .. } => *ended,
            Self::Chunks(state) => *state == ChunkState::Ended,
            Self::UntilClose => false,
        }
    }

    /// Whether end of file completes the body (instead of truncating it).
    pub(crate) fn ends_at_close(&self) -> bool {
        matches!(self, Self::UntilClose) || self.is_done()
    }

    /// Looks at `input`. Call again with the unconsumed rest until nothing is consumed or
    /// [`Self::is_done`].
    ///
    /// # Errors
    /// When the framing is broken; the response is then truncated.
    pub(crate) fn feed(&mut self, input: &[u8]) -> Result<Fed, BadBody> {
        match self {
            Self::Length(left) => {
                let n = take(input, *left);
                *left -= n as u64;
                Ok(Fed {
                    payload: 0..n,
                    consumed: n,
                })
            }
            Self::UntilClose => Ok(Fed {
                payload: 0..input.len(),
                consumed: input.len(),
            }),
            Self::Frames { left, ended } => Ok(feed_frames(left, ended, input)),
            Self::Chunks(state) => feed_chunks(state, input),
        }
    }
}

fn take(input: &[u8], left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(input.len())
}

fn feed_frames(left: &mut u32, ended: &mut bool, input: &[u8]) -> Fed {
    if *ended {
        return Fed {
            payload: 0..0,
            consumed: 0,
        };
    }
    if *left > 0 {
        let n = input.len().min(*left as usize);
        // n <= left, so it fits.
        *left -= u32::try_from(n).unwrap_or(0);
        return Fed {
            payload: 0..n,
            consumed: n,
        };
    }
    let Some(size) = input.first_chunk::<4>() else {
        return Fed {
            payload: 0..0,
            consumed: 0,
        };
    };
    *left = u32::from_be_bytes(*size);
    if *left == 0 {
        *ended = true;
        return Fed {
            payload: 0..0,
            consumed: 4,
        };
    }
    let n = (input.len() - 4).min(*left as usize);
    *left -= u32::try_from(n).unwrap_or(0);
    Fed {
        payload: 4..4 + n,
        consumed: 4 + n,
    }
}

fn feed_chunks(state: &mut ChunkState, input: &[u8]) -> Result<Fed, BadBody> {
    let none = Fed {
        payload: 0..0,
        consumed: 0,
    };
    match *state {
        ChunkState::Ended => Ok(none),
        ChunkState::Data(left) => {
            let n = take(input, left);
            let left = left - n as u64;
            *state = if left == 0 {
                ChunkState::DataEnd
            } else {
                ChunkState::Data(left)
            };
            Ok(Fed {
                payload: 0..n,
                consumed: n,
            })
        }
        ChunkState::DataEnd => match input {
            [b'\r', b'\n', ..] => {
                *state = ChunkState::Size;
                Ok(Fed {
                    payload: 0..0,
                    consumed: 2,
                })
            }
            [] | [b'\r'] => Ok(none),
            _ => Err(BadBody("chunk data is not followed by a line end")),
        },
        ChunkState::Size => {
            let Some((line, used)) = line(input)? else {
                return Ok(none);
            };
            let size = chunk_size(line)?;
            *state = if size == 0 {
                ChunkState::Trailer
            } else {
                ChunkState::Data(size)
            };
            Ok(Fed {
                payload: 0..0,
                consumed: used,
            })
        }
        ChunkState::Trailer => {
            let Some((line, used)) = line(input)? else {
                return Ok(none);
            };
            if line.is_empty() {
                *state = ChunkState::Ended;
            }
            Ok(Fed {
                payload: 0..0,
                consumed: used,
            })
        }
    }
}

/// The line before the first CRLF (or LF), and how many bytes it takes with its end.
fn line(input: &[u8]) -> Result<Option<(&[u8], usize)>, BadBody> {
    // However it arrives, in one piece or in many, a line is long by its own length.
    match input.iter().position(|b| *b == b'\n') {
        Some(at) if at < MAX_LINE_BYTES => {
            let line = &input[..at];
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), at + 1)))
        }
        None if input.len() < MAX_LINE_BYTES => Ok(None),
        _ => Err(BadBody("a chunk-size or trailer line is too long")),
    }
}

/// RFC 9112 section 7.1: hexadecimal size, extensions ignored.
fn chunk_size(line: &[u8]) -> Result<u64, BadBody> {
    let digits = line
        .split(|b| *b == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    let bad = BadBody("a chunk size is not a hexadecimal number");
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(bad);
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|d| u64::from_str_radix(d, 16).ok())
        .ok_or(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `wire` in pieces cut at `cuts`, keeping what was not consumed, as the exchange does.
    fn decode(
        mut decoder: BodyDecoder,
        wire: &[u8],
        cut: usize,
    ) -> Result<(Vec<u8>, usize, bool), BadBody> {
        let (mut payload, mut pending, mut used) = (Vec::new(), Vec::new(), 0);
        for piece in wire.chunks(cut.max(1)) {
            pending.extend_from_slice(piece);
            loop {
                let fed = decoder.feed(&pending)?;
                payload.extend_from_slice(&pending[fed.payload.clone()]);
                pending.drain(..fed.consumed);
                used += fed.consumed;
                if fed.consumed == 0 || decoder.is_done() {
                    break;
                }
            }
        }
        Ok((payload, used, decoder.is_done()))
    }

    #[test]
    fn chunks_with_extension_and_trailer() {
        let wire = b"5;x=y\r\nhello\r\n0\r\nTrailer: dropped\r\n\r\nNEXT";
        assert_eq!(
            decode(BodyDecoder::chunks(), wire, 3),
            Ok((b"hello".to_vec(), wire.len() - 4, true))
        );
    }

    #[test]
    fn broken_chunks_are_noticed() {
        assert!(decode(BodyDecoder::chunks(), b"5\r\nhelloXX", 100).is_err());
        assert!(decode(BodyDecoder::chunks(), b"-5\r\nhello", 100).is_err());
        assert!(decode(BodyDecoder::chunks(), &[b'1'; 9000], 100).is_err());
    }

    #[test]
    fn a_length_leaves_what_follows_alone() {
        assert_eq!(
            decode(BodyDecoder::Length(3), b"abcdef", 2),
            Ok((b"abc".to_vec(), 3, true))
        );
    }

    proptest! {
        #[test]
        fn framed_bodies_survive_any_cut(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8), cut in 1usize..20) {
            let mut wire = Vec::new();
            for part in &parts {
                wire.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
                wire.extend_from_slice(part);
            }
            wire.extend_from_slice(&[0; 4]);
            prop_assert_eq!(decode(BodyDecoder::frames(), &wire, cut), Ok((parts.concat(), wire.len(), true)));
        }

        #[test]
        fn chunked_bodies_survive_any_cut(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8), cut in 1usize..20) {
            let mut wire = Vec::new();
            for part in &parts {
                wire.extend_from_slice(format!("{:X}\r\n", part.len()).as_bytes());
                wire.extend_from_slice(part);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(BodyDecoder::chunks(), &wire, cut), Ok((parts.concat(), wire.len(), true)));
        }

        #[test]
        fn any_bytes_end_without_panic(wire in proptest::collection::vec(any::<u8>(), 0..300), cut in 1usize..20) {
            let _ = decode(BodyDecoder::chunks(), &wire, cut);
            let _ = decode(BodyDecoder::frames(), &wire, cut);
        }
    }
}
