//! [`Spill`]: bytes waiting between a fast side and a slow one, in memory up to a bound, then in a file
//! that has no name.
//!
//! Owns neither policy: who fills it, and how much it may hold, is the caller's business.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A queue of bytes. Everything before `start` was taken.
pub(crate) struct Spill<'d> {
    directory: &'d Path,
    memory_bytes: usize,
    memory: Vec<u8>,
    file: Option<File>,
    start: u64,
    end: u64,
}

/// What a spill becomes when nothing more will be added.
pub(crate) enum Rest {
    /// Nothing is left.
    Nothing,
    /// All that is left, in memory.
    Memory(Vec<u8>, usize),
    /// A range of an unnamed file: descriptor, offset, length.
    File(OwnedFd, u64, u64),
}

impl Rest {
    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Memory(bytes, from) => *from >= bytes.len(),
            Self::File(_, _, length) => *length == 0,
        }
    }

    /// Takes up to `most` of the oldest bytes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read(&mut self, most: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Memory(bytes, from) => {
                let end = bytes.len().min(*from + most);
                let piece = bytes[*from..end].to_vec();
                *from = end;
                Ok(piece)
            }
            Self::File(fd, offset, length) => {
                let n = usize::try_from(*length).unwrap_or(usize::MAX).min(most);
                let file = File::from(fd.try_clone()?);
                let mut piece = vec![0; n];
                file.read_exact_at(&mut piece, *offset)?;
                *offset += n as u64;
                *length -= n as u64;
                Ok(piece)
            }
        }
    }
}

impl<'d> Spill<'d> {
    /// An empty spill that keeps `memory_bytes` before it opens a file in `directory`.
    pub(crate) fn new(directory: &'d Path, memory_bytes: usize) -> Self {
        Self {
            directory,
            memory_bytes,
            memory: Vec::new(),
            file: None,
            start: 0,
            end: 0,
        }
    }

    /// Bytes not taken yet.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether everything was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends; may block on the disk.
    ///
    /// # Errors
    /// When the file cannot be made or written (disk full): nothing of `bytes` counts as appended.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            if self.is_empty() {
                self.memory.clear();
                (self.start, self.end) = (0, 0);
            }
            if self.memory.len() + bytes.len() <= self.memory_bytes {
                self.memory.extend_from_slice(bytes);
                self.end += bytes.len() as u64;
                return Ok(());
            }
            let file = unnamed_file(self.directory)?;
            file.write_all_at(&self.memory, 0)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        if let Some(file) = &self.file {
            file.write_all_at(bytes, self.end)?;
            self.end += bytes.len() as u64;
        }
        Ok(())
    }

    /// Copies up to `most` of the oldest bytes, without taking them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn peek(&self, most: usize) -> io::Result<Vec<u8>> {
        let n = usize::try_from(self.len()).unwrap_or(usize::MAX).min(most);
        let start = usize::try_from(self.start).unwrap_or(usize::MAX);
        match &self.file {
            None => Ok(self.memory[start..start + n].to_vec()),
            Some(file) => {
                let mut bytes = vec![0; n];
                file.read_exact_at(&mut bytes, self.start)?;
                Ok(bytes)
            }
        }
    }

    /// Takes `n` bytes that were peeked at.
    pub(crate) fn take(&mut self, n: usize) {
        self.start = (self.start + n as u64).min(self.end);
    }

    /// All that is left, for one last write.
    pub(crate) fn into_rest(self) -> Rest {
        if self.is_empty() {
            return Rest::Nothing;
        }
        match self.file {
            Some(file) => Rest::File(file.into(), self.start, self.end - self.start),
            None => Rest::Memory(self.memory, usize::try_from(self.start).unwrap_or(0)),
        }
    }
}

/// A file in `directory` that no name leads to.
///
/// # Errors
/// Names the directory.
fn unnamed_file(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
        .mode(0o600)
        .open(directory)
        .map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot make a buffer file in {}: {e}", directory.display()),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMORY_BYTES: usize = 100_000;

    #[test]
    fn a_large_spill_becomes_a_file_range() {
        let directory = std::env::temp_dir();
        let mut spill = Spill::new(&directory, MEMORY_BYTES);
        let piece = vec![7u8; MEMORY_BYTES];
        spill.push(&piece).unwrap();
        spill.push(b"end").unwrap();
        assert_eq!(spill.peek(10).unwrap(), vec![7u8; 10]);
        spill.take(10);
        match spill.into_rest() {
            Rest::File(_, 10, len) => assert_eq!(len, MEMORY_BYTES as u64 + 3 - 10),
            _ => panic!("expected a file"),
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let mut spill = Spill::new(Path::new("/nonexistent-for-passenger"), MEMORY_BYTES);
        let error = spill.push(&vec![0; MEMORY_BYTES + 1]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent-for-passenger"));
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(steps in proptest::collection::vec((any::<bool>(), 1usize..60_000), 1..30)) {
            let directory = std::env::temp_dir();
            let (mut spill, mut pushed, mut taken) = (Spill::new(&directory, MEMORY_BYTES), Vec::new(), Vec::new());
            for (is_push, n) in steps {
                if is_push {
                    let bytes: Vec<u8> = (0..n).map(|i| u8::try_from((i + pushed.len()) % 251).unwrap()).collect();
                    spill.push(&bytes).unwrap();
                    pushed.extend(bytes);
                } else {
                    let bytes = spill.peek(n).unwrap();
                    spill.take(bytes.len());
                    taken.extend(bytes);
                }
                prop_assert_eq!(spill.len(), (pushed.len() - taken.len()) as u64);
            }
            taken.extend(spill.peek(usize::MAX).unwrap());
            prop_assert_eq!(taken, pushed);
        }
    }
}
