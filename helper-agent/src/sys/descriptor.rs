//! Descriptors: taking over inherited ones, flags, pipes, `tee`.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{check, check_size};

/// Takes ownership of a descriptor that `exec` handed to this program under an agreed number, and makes
/// it close-on-exec.
///
/// # Errors
/// `EBADF` when nothing is open there; `InvalidInput` for 0, 1, 2 and for a descriptor that is
/// close-on-exec and therefore cannot have been inherited (so a second call for the same number fails).
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} is a standard stream, not an inherited channel"),
        ));
    }
    // SAFETY: F_GETFD reads a flag of a descriptor table entry; no memory is involved.
    let flags = check(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} belongs to this program already"),
        ));
    }
    // SAFETY: sets a flag of the same entry; no memory is involved.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) })?;
    // SAFETY: the number is open and nobody owns it: whatever this program opened is close-on-exec
    // (std, nix and this module open nothing else), what was inherited is not until it was taken here.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sets or clears close-on-exec.
///
/// # Errors
/// Those of `fcntl`.
pub fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: FD_CLOEXEC is the only descriptor flag there is; the borrow keeps the number open.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) })?;
    Ok(())
}

/// Sets or clears `O_NONBLOCK`, which belongs to the open file and so is shared with everybody who has
/// a copy of the descriptor.
///
/// # Errors
/// Those of `fcntl`.
pub fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: F_GETFL reads flags; the borrow keeps the number open.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let wanted = if on {
        flags | libc::O_NONBLOCK
    } else {
        flags & !libc::O_NONBLOCK
    };
    // SAFETY: F_SETFL takes an int by value; the borrow keeps the number open.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) })?;
    Ok(())
}

/// Copies a descriptor to the lowest free number not below `minimum`, close-on-exec.
///
/// # Errors
/// Those of `fcntl`: too many open files.
pub fn duplicate_above(fd: BorrowedFd<'_>, minimum: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes an int by value; the borrow keeps the number open.
    let new = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, minimum) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Opens what a directory has under that name: the thing itself, not what it may link to, and only to be
/// looked at or walked through, so no device or FIFO is touched.
///
/// # Errors
/// Those of `openat`.
pub fn open_path_at(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let name = CString::new(name.as_bytes())?;
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `name` is a terminated string that outlives the call; the borrow keeps the directory open.
    let fd = check(unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The value of an extended attribute, up to 256 bytes.
///
/// # Errors
/// Those of `getxattr`: `ENODATA` when there is none of that name.
pub fn extended_attribute(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name)?;
    let mut value = vec![0u8; 256];
    // SAFETY: both strings are terminated and outlive the call; pointer and length are of one live,
    // writable buffer.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    value.truncate(length);
    Ok(value)
}

/// A pipe, both ends close-on-exec and blocking: read end, write end.
///
/// # Errors
/// Those of `pipe2`.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// A counter that wakes whoever polls it: non-blocking on both sides, since those who ring it may have
/// filled it, and close-on-exec.
///
/// # Errors
/// When the process is out of descriptors.
pub fn doorbell() -> io::Result<OwnedFd> {
    // SAFETY: takes two integers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Copies up to `limit` bytes from one pipe into another without consuming them; never blocks.
/// Zero means end of file on the source.
///
/// # Errors
/// `WouldBlock` when the source is empty or the target full; others of `tee(2)`.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
    // SAFETY: no memory of ours is involved; both borrows keep their numbers open.
    let copied = unsafe {
        libc::tee(
            from.as_raw_fd(),
            to.as_raw_fd(),
            limit,
            libc::SPLICE_F_NONBLOCK,
        )
    };
    check_size(copied as libc::c_long)
}

/// How many bytes a pipe can hold at most.
///
/// # Errors
/// Those of `fcntl`: not a pipe.
pub fn pipe_capacity(fd: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: reads a number of the pipe; the borrow keeps the descriptor open.
    let bytes = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// How many bytes can be read from a pipe now.
///
/// # Errors
/// Those of `ioctl`: not a pipe.
pub fn bytes_readable(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int through the pointer, which is to a live local of that type.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Asks for a pipe of that many bytes; the kernel rounds up.
///
/// # Errors
/// Those of `fcntl`: above the user's limit, or less than is in it.
pub fn set_pipe_capacity(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: takes an int by value; the borrow keeps the descriptor open.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) })?;
    Ok(())
}

/// Marks every descriptor from `first` on close-on-exec, whoever opened it.
///
/// # Errors
/// Those of `close_range`: a kernel before 5.11.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only sets flags in our descriptor table; no descriptor is closed, no memory touched.
    check_size(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// What of `events` (`poll(2)` bits) holds for a descriptor right now; `POLLHUP` and `POLLERR` are
/// always told. Never blocks.
///
/// # Errors
/// Those of `poll`.
pub fn poll_now(fd: BorrowedFd<'_>, events: libc::c_short) -> io::Result<libc::c_short> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    loop {
        // SAFETY: one pollfd in a live local, count 1, zero timeout.
        match check(unsafe { libc::poll(&raw mut entry, 1, 0) }) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(entry.revents),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_inherited_descriptor_can_be_taken_once() {
        let (read, _write) = pipe().unwrap();
        assert!(
            take_inherited(read.as_raw_fd()).is_err(),
            "opened here, so never inherited"
        );
        set_cloexec(read.as_fd(), false).unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(read);
        let owned = take_inherited(number).unwrap();
        assert!(take_inherited(owned.as_raw_fd()).is_err());
        assert!(take_inherited(1).is_err());
    }

    #[test]
    fn tee_copies_without_consuming() {
        let (read, write) = pipe().unwrap();
        let (copy_read, copy_write) = pipe().unwrap();
        let none = tee(read.as_fd(), copy_write.as_fd(), 100).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        std::fs::File::from(write).write_all(b"line\n").unwrap();
        assert_eq!(tee(read.as_fd(), copy_write.as_fd(), 100).unwrap(), 5);
        drop(copy_write);
        let mut text = String::new();
        std::fs::File::from(copy_read)
            .read_to_string(&mut text)
            .unwrap();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "line\nline\n");
    }
}
