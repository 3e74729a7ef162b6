//! From a mapping and an offset to references: the only pointer arithmetic of this crate, and the only
//! `mmap` (through `memmap2`). Owns mappings and bounds; knows no tables.

use memmap2::{MmapOptions, MmapRaw};
use std::marker::PhantomData;
use std::mem::{align_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::error::Error;

/// Types that may lie in shared memory.
///
/// # Safety
/// 1. The type consists of atomics, and arrays and `repr(C)` structs of them: another process may change
///    every byte at any time.
/// 2. Every bit pattern is a valid value, all-zero included, and none is a pointer.
/// 3. It is `Sync` and has no destructor.
pub(crate) unsafe trait Shared: Sync {}

/// A segment in our address space. Never resized: the descriptor is sealed.
#[derive(Debug)]
pub(crate) struct Mapping {
    memory: MmapRaw,
    name: &'static str,
}

impl Mapping {
    /// Maps all `length` bytes of the segment, which must be at least as long.
    ///
    /// # Errors
    /// When mmap(2) fails.
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        length: usize,
        writable: bool,
        name: &'static str,
    ) -> Result<Mapping, Error> {
        let mut options = MmapOptions::new();
        options.len(length);
        let memory = if writable {
            options.map_raw(fd.as_raw_fd())
        } else {
            options.map_raw_read_only(fd.as_raw_fd())
        };
        let memory = memory.map_err(|e| Error::io(format!("map the segment `{name}`"), e))?;
        Ok(Mapping { memory, name })
    }

    /// An array of `length` elements at byte `offset`.
    ///
    /// # Safety
    /// The section must not be used after the mapping is dropped: keep both in one struct.
    ///
    /// # Errors
    /// When it does not lie in the mapping or is not aligned.
    pub(crate) unsafe fn section<T: Shared>(
        &self,
        offset: usize,
        length: usize,
    ) -> Result<Section<T>, Error> {
        let bytes = length.checked_mul(size_of::<T>());
        let end = bytes.and_then(|bytes| bytes.checked_add(offset));
        if end.is_none_or(|end| end > self.memory.len()) || offset % align_of::<T>() != 0 {
            return Err(Error::Corrupt {
                segment: self.name,
                what: format!(
                    "{length} elements at byte {offset} do not fit its {} bytes",
                    self.memory.len()
                ),
            });
        }
        // SAFETY: `offset` is at most the length of the mapping, checked above.
        let first = unsafe { self.memory.as_mut_ptr().add(offset) };
        let first = NonNull::new(first.cast()).ok_or_else(|| Error::Corrupt {
            segment: self.name,
            what: "mapped at address 0".into(),
        })?;
        Ok(Section {
            first,
            length,
            _of: PhantomData,
        })
    }

    /// The struct at byte `offset`.
    ///
    /// # Safety
    /// As for [`Mapping::section`].
    ///
    /// # Errors
    /// As for [`Mapping::section`].
    pub(crate) unsafe fn one<T: Shared>(&self, offset: usize) -> Result<One<T>, Error> {
        // SAFETY: the caller's duty is the same.
        unsafe { self.section(offset, 1) }.map(One)
    }
}

/// A single struct in shared memory.
#[derive(Debug)]
pub(crate) struct One<T>(Section<T>);

impl<T: Shared> One<T> {
    /// The struct.
    pub(crate) fn get(&self) -> &T {
        // SAFETY: `Mapping::one` made a section of exactly one element, in a mapping that its caller
        // keeps alive; aligned, and valid for every bit pattern (trait `Shared`).
        unsafe { self.0.first.as_ref() }
    }
}

/// An array in shared memory.
#[derive(Debug)]
pub(crate) struct Section<T> {
    first: NonNull<T>,
    length: usize,
    _of: PhantomData<T>,
}

// SAFETY: a section only gives out `&T`, and `T: Shared` is `Sync` wherever a section is made.
unsafe impl<T: Shared> Send for Section<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Section<T> {}

impl<T: Shared> Section<T> {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Element `index`, if there is one.
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        if index >= self.length {
            return None;
        }
        // SAFETY: `Mapping::section` checked that all elements lie in the mapping, and its caller
        // keeps the mapping alive; the index was checked just now.
        let element = unsafe { self.first.add(index) };
        // SAFETY: as above; aligned (checked at creation); every bit pattern is a valid `T` that others
        // may change only through atomics or not at all from Rust's view (trait `Shared`).
        Some(unsafe { element.as_ref() })
    }

    /// Elements `start .. start + length`, if they all exist.
    pub(crate) fn slice(&self, start: usize, length: usize) -> Option<&[T]> {
        if start
            .checked_add(length)
            .is_none_or(|end| end > self.length)
        {
            return None;
        }
        // SAFETY: as in `get`: the range was checked just now.
        let first = unsafe { self.first.add(start) };
        // SAFETY: `length` elements from `first` lie in one mapping that outlives `self`, aligned, valid
        // for every bit pattern, shared but atomic (trait `Shared`), and far smaller than isize::MAX.
        Some(unsafe { std::slice::from_raw_parts(first.as_ptr(), length) })
    }

    /// Every element.
    pub(crate) fn all(&self) -> &[T] {
        self.slice(0, self.length).unwrap_or_default()
    }
}
