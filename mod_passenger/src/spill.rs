//! [`Spill`]: bytes waiting between a fast side and a slow one, in memory up to a bound, then in a file
//! that has no name.
//!
//! Owns neither policy: who fills it, and how much it may hold, is the caller's business.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A queue of bytes: first those in the file, if there is one, then those in memory. Everything before
/// `start` was taken.
pub(crate) struct Spill<'d> {
    directory: &'d Path,
    memory_bytes: usize,
    memory: Vec<u8>,
    file: Option<File>,
    start: u64,
    /// Where the file's bytes end and those in memory begin.
    file_end: u64,
    end: u64,
}

/// What a spill becomes when nothing more will be added.
pub(crate) enum Rest {
    /// Nothing is left.
    Nothing,
    /// All that is left, in memory.
    Memory(Vec<u8>, usize),
    /// A range of an unnamed file: descriptor, offset, length; and what comes after it.
    File(OwnedFd, u64, u64, Vec<u8>),
}

impl Rest {
    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Memory(bytes, from) => *from >= bytes.len(),
            Self::File(_, _, length, after) => *length == 0 && after.is_empty(),
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
            Self::File(_, _, 0, after) => {
                *self = Self::Memory(std::mem::take(after), 0);
                self.read(most)
            }
            Self::File(fd, offset, length, _) => {
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
            file_end: 0,
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

    /// Whether bytes are in memory that should be in the file: nothing more should be added for now.
    pub(crate) fn is_cramped(&self) -> bool {
        !self.is_empty()
            && (self.file.is_some() || self.memory.len() > self.memory_bytes)
            && !self.memory.is_empty()
    }

    /// Appends; may block on the disk.
    ///
    /// # Errors
    /// When the file cannot be made or written (disk full): nothing of `bytes` counts as appended.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.is_empty() {
            self.memory.clear();
            self.start = self.file_end;
            self.end = self.file_end;
        }
        if self.file.is_none() {
            if self.memory.len() + bytes.len() <= self.memory_bytes {
                self.memory.extend_from_slice(bytes);
                self.end += bytes.len() as u64;
                return Ok(());
            }
            self.file = Some(unnamed_file(self.directory)?);
        }
        if let Some(file) = &self.file {
            if !self.memory.is_empty() {
                file.write_all_at(&self.memory, self.file_end)?;
                self.file_end = self.end;
                self.memory = Vec::new();
            }
            file.write_all_at(bytes, self.end)?;
            self.end += bytes.len() as u64;
            self.file_end = self.end;
        }
        Ok(())
    }

    /// Appends, in memory if the disk does not take it: see [`Spill::is_cramped`]. Returns why it did not.
    pub(crate) fn push_anyway(&mut self, bytes: &[u8]) -> Option<io::Error> {
        let why = self.push(bytes).err()?;
        self.memory.extend_from_slice(bytes);
        self.end += bytes.len() as u64;
        Some(why)
    }

    /// Copies up to `most` of the oldest bytes, without taking them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn peek(&self, most: usize) -> io::Result<Vec<u8>> {
        let up_to = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(most);
        if let Some(file) = self.file.as_ref().filter(|_| self.start < self.file_end) {
            let mut bytes = vec![0; up_to(self.file_end - self.start)];
            file.read_exact_at(&mut bytes, self.start)?;
            return Ok(bytes);
        }
        let start = usize::try_from(self.start - self.file_end).unwrap_or(usize::MAX);
        Ok(self.memory[start..start + up_to(self.len())].to_vec())
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
            Some(file) if self.start < self.file_end => Rest::File(
                file.into(),
                self.start,
                self.file_end - self.start,
                self.memory,
            ),
            _ => {
                let from = usize::try_from(self.start - self.file_end).unwrap_or(0);
                Rest::Memory(self.memory, from)
            }
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
            Rest::File(_, 10, len, after) => {
                assert_eq!(len, MEMORY_BYTES as u64 + 3 - 10);
                assert_eq!(after, b"");
            }
            _ => panic!("expected a file"),
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let mut spill = Spill::new(Path::new("/nonexistent-for-passenger"), MEMORY_BYTES);
        let error = spill.push(&vec![0; MEMORY_BYTES + 1]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent-for-passenger"));
    }

    #[test]
    fn what_the_disk_does_not_take_stays_in_memory_in_its_place() {
        let directory = std::env::temp_dir();
        let missing = Path::new("/nonexistent-for-passenger");
        let (one, two, three) = (vec![1; MEMORY_BYTES], vec![2; 10], vec![3; 10]);
        // No file can be made.
        let mut spill = Spill::new(missing, MEMORY_BYTES);
        assert!(spill.push_anyway(&one).is_none() && !spill.is_cramped());
        assert!(spill.push_anyway(&two).is_some() && spill.is_cramped());
        spill.take(MEMORY_BYTES);
        assert_eq!(spill.peek(100).unwrap(), two);
        spill.take(10);
        assert!(!spill.is_cramped());
        assert!(spill.push_anyway(&three).is_none(), "there is room again");
        // The file cannot grow; later it can.
        let mut spill = Spill::new(&directory, MEMORY_BYTES);
        spill.push(&one).unwrap();
        spill.push(&two).unwrap();
        let file = spill.file.take();
        spill.file = Some(File::open("/dev/null").unwrap());
        assert!(spill.push_anyway(&three).is_some() && spill.is_cramped());
        spill.file = file;
        spill.take(MEMORY_BYTES);
        assert_eq!(spill.peek(100).unwrap(), two);
        spill.take(10);
        assert_eq!(spill.peek(100).unwrap(), three);
        assert!(spill.push_anyway(&two).is_none() && !spill.is_cramped());
        assert_eq!(spill.peek(100).unwrap(), [three, two].concat());
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
