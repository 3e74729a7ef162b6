//! [`Frames`]: where in a stream of WebSocket frames are we? (RFC 6455 section 5.2)

/// A ping without data, as a server sends it.
pub(crate) const PING: [u8; 2] = [0x89, 0x00];
/// A close frame with status 1001, "going away".
pub(crate) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

const CLOSE: u8 = 0x8;

/// Follows the frames that go through.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: [u8; 14],
    filled: usize,
    left: u64,
    has_closed: bool,
}

impl Frames {
    /// Takes note of bytes that went through.
    pub(crate) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                self.left -= n as u64;
                bytes = &bytes[n..];
                continue;
            }
            self.head[self.filled] = bytes[0];
            self.filled += 1;
            bytes = &bytes[1..];
            if self.filled == self.head_bytes() {
                self.left = self.payload_bytes();
                self.has_closed |= self.head[0] & 0xf == CLOSE;
                self.filled = 0;
            }
        }
    }

    /// Whether another frame may be put here.
    pub(crate) fn is_between(&self) -> bool {
        self.filled == 0 && self.left == 0
    }

    /// Whether a close frame was seen: nothing may follow it.
    pub(crate) fn has_closed(&self) -> bool {
        self.has_closed
    }

    fn head_bytes(&self) -> usize {
        if self.filled < 2 {
            return 2;
        }
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        mask + match self.head[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        }
    }

    fn payload_bytes(&self) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
        match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            n => u64::from(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(opcode: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match payload.len() {
            n @ 0..=125 => bytes.push(mask | u8::try_from(n).unwrap()),
            n @ 126..=65535 => {
                bytes.push(mask | 126);
                bytes.extend_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
            }
            n => {
                bytes.push(mask | 127);
                bytes.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend_from_slice(&[1, 2, 3, 4]);
        }
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn our_own_frames_are_whole() {
        for bytes in [&PING[..], &GOING_AWAY] {
            let mut frames = Frames::default();
            frames.pass(bytes);
            assert!(frames.is_between());
            assert_eq!(frames.has_closed(), bytes == GOING_AWAY);
        }
    }

    proptest! {
        #[test]
        fn boundaries_are_found_however_the_stream_is_cut(
            sizes in proptest::collection::vec((0_usize..70_000, any::<bool>()), 1..4), cut in 1_usize..5000,
        ) {
            let parts: Vec<Vec<u8>> = sizes.iter().map(|(n, masked)| frame(2, *masked, &vec![0x88; *n])).collect();
            let ends: Vec<usize> = parts.iter().scan(0, |at, part| { *at += part.len(); Some(*at) }).collect();
            let (stream, mut frames, mut at) = (parts.concat(), Frames::default(), 0);
            for piece in stream.chunks(cut) {
                frames.pass(piece);
                at += piece.len();
                prop_assert_eq!(frames.is_between(), ends.contains(&at), "at {}", at);
            }
            prop_assert!(!frames.has_closed());
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            Frames::default().pass(&bytes);
        }
    }
}
