//! One datagram with its control messages, as sendmsg(2) and recvmsg(2) want them. Owns every unsafe line
//! about descriptors in flight.

use std::io;
use std::mem::{size_of, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{invalid_input, Peer};

/// Not in `libc` for every target yet: `SCM_PIDFD` of Linux 6.5.
const SCM_PIDFD: libc::c_int = 4;

/// Room for the control messages of one datagram: credentials, a pidfd, and as many descriptors as the
/// kernel lets anybody send (253), with headers: 32 + 24 + 1028 bytes. More than we ever want, because
/// the kernel closes what does not fit on the receiver's time, and a close can be made to last.
const CONTROL_WORDS: usize = 144;

/// Sends one datagram; how many of its bytes. `flags` are added to the call's own.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[RawFd],
    flags: libc::c_int,
) -> io::Result<usize> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is a C struct of integers and pointers for which all-zero is a valid value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = u32::try_from(size_of_val(fds)).map_err(|e| invalid_input(e.to_string()))?;
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE only computes; the result (at most 144) fits `control`.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(payload) } as usize;
        // SAFETY: msg_control points to `control`, aligned for cmsghdr (u64) and large enough for
        // one header, so the macro returns a pointer into it.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: `first` points to a whole cmsghdr inside `control`, which only we use.
        unsafe {
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(payload) as usize;
        }
        // SAFETY: the data area has room for `payload` bytes (CMSG_SPACE above) and cannot overlap
        // `fds`; bytes need no alignment.
        unsafe {
            std::ptr::copy_nonoverlapping(
                fds.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(first),
                payload as usize,
            );
        }
    }
    // SAFETY: `header` names `iov` and `control`, both alive until the call returns.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const header,
            libc::MSG_NOSIGNAL | flags,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives one datagram into `buffer`. `flags` are added to the call's own.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> io::Result<Datagram> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is a C struct of integers and pointers for which all-zero is a valid value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: `header` names `iov` (over `buffer`) and `control`, alive and ours until it returns.
    let length = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut header,
            libc::MSG_CMSG_CLOEXEC | flags,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut datagram = Datagram {
        length,
        // MSG_CTRUNC: descriptors did not fit our buffer or our RLIMIT_NOFILE.
        cut: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        fds: Vec::new(),
        peer: None,
    };
    datagram.read_control(&header);
    Ok(datagram)
}

/// A datagram before anybody looked into it.
pub(super) struct Datagram {
    /// Bytes in the buffer.
    pub(super) length: usize,
    /// Whether bytes or descriptors were lost.
    pub(super) cut: bool,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) peer: Option<Peer>,
}

impl Datagram {
    /// Takes ownership of every descriptor in the control messages of `header`, wanted or not.
    fn read_control(&mut self, header: &libc::msghdr) {
        let mut credentials: Option<libc::ucred> = None;
        let mut pidfd = None;
        // SAFETY: `header` was filled in by a successful recvmsg over a live control buffer.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !next.is_null() {
            // SAFETY: the macros only return pointers to whole headers inside the control buffer.
            let cmsg = unsafe { next.read_unaligned() };
            // SAFETY: CMSG_LEN only computes.
            let payload = cmsg
                .cmsg_len
                .saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
            // SAFETY: `next` points to a whole cmsghdr; its data follows it in the same buffer.
            let data = unsafe { libc::CMSG_DATA(next) };
            match (cmsg.cmsg_level, cmsg.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    self.fds.extend((0..payload / size_of::<RawFd>()).map(|i| {
                        // SAFETY: the kernel wrote `payload` bytes of descriptors at `data`, and
                        // made each of them for us just now: this is their only owner.
                        unsafe { owned_fd(data, i) }
                    }));
                }
                (libc::SOL_SOCKET, SCM_PIDFD) if payload >= size_of::<RawFd>() => {
                    // SAFETY: as above, one descriptor. A negative number (the sender has been
                    // reaped, or no descriptor was free) is sorted out first.
                    let number = unsafe { data.cast::<RawFd>().read_unaligned() };
                    // SAFETY: as above; non-negative, hence a new descriptor of ours.
                    pidfd = (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) });
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS)
                    if payload >= size_of::<libc::ucred>() =>
                {
                    // SAFETY: the kernel wrote a whole ucred at `data`; plain integers.
                    credentials = Some(unsafe { data.cast::<libc::ucred>().read_unaligned() });
                }
                _ => {}
            }
            // SAFETY: `next` came from the macros over this very header.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        self.peer = credentials.map(|c| Peer {
            pid: c.pid,
            uid: c.uid,
            gid: c.gid,
            pidfd,
        });
    }
}

/// The `i`th descriptor of an `SCM_RIGHTS` payload.
///
/// # Safety
/// 1. `data` points to at least `i + 1` ints written by recvmsg(2).
/// 2. Each index is asked for once: the result owns the descriptor.
unsafe fn owned_fd(data: *const u8, i: usize) -> OwnedFd {
    // SAFETY: duty 1 of the caller; unaligned reads need no alignment.
    let number = unsafe { data.cast::<RawFd>().add(i).read_unaligned() };
    // SAFETY: duty 2 of the caller; the kernel never puts an invalid number here.
    unsafe { OwnedFd::from_raw_fd(number) }
}
