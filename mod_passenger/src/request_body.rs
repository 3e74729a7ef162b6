//! Step 3 of a request's life: its body, read whole before a seat is taken (upload buffering, the
//! default), or left to be streamed.

use crate::error::RequestError;
use crate::ffi::brigade;
use crate::ffi::request::Request;
use crate::spill::{Rest, Spill};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes asked of httpd's filters at a time.
pub(crate) const PIECE_BYTES: usize = 32 * 1024;

/// Bytes of a body kept in memory; what is longer goes to a file.
const MEMORY_BYTES: usize = 128 * 1024;

/// A request body as the exchange sends it.
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// All of it, in memory.
    Memory(Vec<u8>),
    /// All of it, in an unnamed file: that many bytes from the offset on.
    File(File, u64),
    /// Still with the client; of that length, if the client said so.
    Stream(Option<u64>),
}

impl RequestBody {
    /// Reads the body, or leaves it where it is when `buffers` is off. Blocks on the client.
    ///
    /// # Errors
    /// What httpd's filters say of the client's body, or a full disk.
    pub(crate) fn receive(
        r: &mut Request<'_>,
        buffers: bool,
        directory: &Path,
    ) -> Result<Self, RequestError> {
        if !r.has_body() {
            return Ok(Self::Empty);
        }
        if !buffers {
            let length = r.headers_in().get(c"Content-Length");
            let length = length.and_then(|v| std::str::from_utf8(v).ok()?.trim().parse().ok());
            return Ok(Self::Stream(length.filter(|_| !r.is_body_unpacked())));
        }
        let mut spill = Spill::new(directory, MEMORY_BYTES);
        let mut failure = None;
        loop {
            let ended = brigade::read_body(r, PIECE_BYTES, |bytes| {
                if failure.is_none() {
                    failure = spill.push(bytes).err();
                }
            })
            .map_err(|e| RequestError::ClientBody { status: e.0 })?;
            if let Some(error) = failure.take() {
                return Err(RequestError::BufferFile { error });
            }
            if ended {
                break;
            }
        }
        Ok(match spill.into_rest() {
            Rest::Nothing => Self::Empty,
            Rest::Memory(bytes, _) => Self::Memory(bytes),
            // Pushed, so all of it is in the file.
            Rest::File(fd, _, len, _) => Self::File(File::from(fd), len),
        })
    }

    /// Length in bytes where it is known before sending; of what is still with the client, what that has said.
    pub(crate) fn len(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Memory(bytes) => Some(bytes.len() as u64),
            Self::File(_, len) => Some(*len),
            Self::Stream(length) => *length,
        }
    }

    /// Whether there is a body at all.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Whether it can be sent a second time.
    pub(crate) fn is_replayable(&self) -> bool {
        !matches!(self, Self::Stream(_))
    }

    /// Up to `most` bytes from `offset` on; for bodies that are here.
    ///
    /// # Errors
    /// When the buffer file cannot be read.
    pub(crate) fn piece(
        &self,
        offset: u64,
        most: usize,
    ) -> std::io::Result<std::borrow::Cow<'_, [u8]>> {
        match self {
            Self::Empty | Self::Stream(_) => Ok((&[][..]).into()),
            Self::Memory(bytes) => {
                let start = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                Ok(bytes[start..].into())
            }
            Self::File(file, len) => {
                let n = usize::try_from(len.saturating_sub(offset))
                    .unwrap_or(usize::MAX)
                    .min(most);
                let mut bytes = vec![0; n];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(bytes.into())
            }
        }
    }
}
