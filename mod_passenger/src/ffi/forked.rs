//! Tells a worker process from copies of it. Another module may fork in a handler (PHP's `pcntl_fork`): the
//! copy has our memory, and with it the worker's identity in the tables, its connections and its seats.
//! Two processes under one identity would free each other's seats, so a copy must not use any of it.
//!
//! A page that the kernel empties in every forked copy (`MADV_WIPEONFORK`) says which of them this is.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Bytes asked for; the kernel gives a page.
const BYTES: usize = 64;

/// The page, once this process was marked.
static PAGE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// Says that this process is the original. A second call does nothing.
///
/// # Errors
/// Those of `mmap` and `madvise`: a kernel before 4.14.
pub(crate) fn mark() -> io::Result<()> {
    if !PAGE.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: asks for new memory wherever there is some; none that exists is touched.
    let page = unsafe { libc::mmap(ptr::null_mut(), BYTES, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping that was just made, of that length.
    if unsafe { libc::madvise(page, BYTES, libc::MADV_WIPEONFORK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let page = page.cast::<u8>();
    // SAFETY: mapped for writing, and nobody else knows it yet.
    unsafe { page.write_volatile(1) };
    // PAIR(page): `is_copy` loads it. Never unmapped; if two threads were here, one page is wasted.
    PAGE.store(page, Ordering::Release);
    Ok(())
}

/// Whether this process is a forked copy of one that was marked.
pub(crate) fn is_copy() -> bool {
    // PAIR(page): as stored by `mark`.
    let page = PAGE.load(Ordering::Acquire);
    // SAFETY: `mark` mapped it for reading and nobody unmaps it; the kernel alone changes it, and only in
    // a process that is just being made.
    !page.is_null() && unsafe { page.read_volatile() } == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_copy_knows_that_it_is_one() {
        mark().expect("a page");
        mark().expect("again");
        assert!(!is_copy());
        // SAFETY: the child makes one comparison on memory that exists and leaves by `_exit`.
        match unsafe { libc::fork() } {
            0 => {
                let status = libc::c_int::from(!is_copy());
                // SAFETY: ends the child without running anything of the test's.
                unsafe { libc::_exit(status) }
            }
            pid => {
                let mut status = -1;
                // SAFETY: waits for the child of this test.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                assert_eq!(status, 0, "the copy took itself for the original");
            }
        }
        assert!(!is_copy(), "the original still is one");
    }
}
