//! What can go wrong with shared memory, as sentences.

use std::fmt;
use std::io;

/// A failure to create, attach or fill the shared memory.
#[derive(Debug)]
pub enum Error {
    /// A system call failed.
    Io {
        /// What was being done, e.g. "seal the segment `traffic`".
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The segment was made by another build.
    Version {
        /// Name of the segment.
        segment: &'static str,
        /// Version and layout hash found in it.
        found: (u32, u64),
        /// Version and layout hash of this build.
        expected: (u32, u64),
    },
    /// The segment is not what its header says, or has no header yet.
    Corrupt {
        /// Name of the segment.
        segment: &'static str,
        /// What does not fit, with the numbers.
        what: String,
    },
    /// A table has no free entry.
    Full {
        /// Name of the table.
        table: &'static str,
        /// Its capacity.
        capacity: usize,
    },
    /// The slot belongs to somebody else by now, or to nobody.
    Gone {
        /// What was asked for, e.g. "group 3.8".
        what: String,
    },
    /// A value does not fit its field.
    TooLarge {
        /// What.
        what: &'static str,
        /// How much was given.
        given: usize,
        /// How much fits.
        limit: usize,
    },
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Error {
        Error::Io {
            doing: doing.into(),
            source,
        }
    }

    /// The last error of a system call that has just failed.
    pub(crate) fn last_os(doing: impl Into<String>) -> Error {
        Error::io(doing, io::Error::last_os_error())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, source } => write!(f, "cannot {doing}: {source}"),
            Error::Version { segment, found, expected } => write!(
                f,
                "segment `{segment}` has layout version {} ({:016x}) but this build needs version {} \
                 ({:016x}): processes of two builds met; restart httpd",
                found.0, found.1, expected.0, expected.1
            ),
            Error::Corrupt { segment, what } => write!(f, "segment `{segment}` is unusable: {what}"),
            Error::Full { table, capacity } => {
                write!(f, "the table of {table} is full ({capacity} entries)")
            }
            Error::Gone { what } => write!(f, "{what} does not exist any more"),
            Error::TooLarge { what, given, limit } => {
                write!(f, "{what} is too large: {given}, at most {limit}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
