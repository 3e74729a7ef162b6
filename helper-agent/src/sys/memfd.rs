//! Memory files with fixed contents: documents that travel by descriptor.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::check;

/// A sealed, close-on-exec memory file with these contents, readable by its owner only.
///
/// # Errors
/// Those of `memfd_create`, `fchmod`, `write` and sealing.
pub fn with_contents(name: &CStr, contents: &[u8]) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is a terminated string that outlives the call; flags are by value.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    // The default is 0777: anybody who can see /proc/PID/fd could reopen it.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    file.write_all(contents)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    // SAFETY: takes an int by value; `file` keeps the descriptor open.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file.into())
}

/// A close-on-exec memory file of that size, readable and writable by its owner only, zeros at first. Its
/// size is for ever, its contents are not; pages that were never written take no memory.
///
/// # Errors
/// Those of `memfd_create`, `fchmod`, `ftruncate` and sealing.
pub fn of_size(name: &CStr, bytes: u64) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is a terminated string that outlives the call; flags are by value.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    file.set_len(bytes)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: takes an int by value; `file` keeps the descriptor open.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file.into())
}

/// Everything in a memory or ordinary file, whatever the file offset is (it is shared between all who
/// have the descriptor) and without moving it.
///
/// # Errors
/// Those of `read`; `InvalidData` when it is longer than `limit` bytes.
pub fn contents(fd: BorrowedFd<'_>, limit: usize) -> io::Result<Vec<u8>> {
    let file = File::from(fd.try_clone_to_owned()?);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("file of {length} bytes is longer than the {limit} that are allowed"),
        ));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// As [`contents`], of something that owns its descriptor.
///
/// # Errors
/// As [`contents`].
pub fn contents_of(fd: &impl AsFd, limit: usize) -> io::Result<Vec<u8>> {
    contents(fd.as_fd(), limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_read_from_the_start_and_cannot_be_changed() {
        let fd = with_contents(c"test", b"hello").unwrap();
        assert_eq!(contents_of(&fd, 5).unwrap(), b"hello");
        assert_eq!(contents_of(&fd, 5).unwrap(), b"hello");
        assert!(contents_of(&fd, 4).is_err());
        assert!(File::from(fd).write_all_at(b"x", 0).is_err());
    }
}
