//! Whose socket is at the other end of a connection to a port of 127.0.0.1. Ports have no owners: when a server behind a
//! start command ends, any local user can listen at its port, and must not get its requests.
//!
//! Asked is the kernel, by sock_diag(7), for the very two addresses of the connection: it finds the socket at the other end in
//! one step, however many there are. That costs some microseconds for each new connection, and nothing for one that is kept.

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// `SOCK_DIAG_BY_FAMILY`, the kind of the question and of its answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// Length of `nlmsghdr`, and of that with `inet_diag_req_v2`.
const HEADER: usize = 16;
const QUESTION: usize = HEADER + 56;
/// Where an answer has `idiag_state` and `idiag_uid`, and where a refusal has its number.
const STATE_AT: usize = HEADER + 1;
const UID_AT: usize = HEADER + 64;
const ERROR_AT: usize = HEADER;
/// `TCP_LISTEN`.
const LISTENS: u8 = 10;

/// Whether it was said that the kernel cannot be asked.
static HAS_COMPLAINED: AtomicBool = AtomicBool::new(false);

/// What the kernel says of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    uid: u32,
    listens: bool,
}

/// Whether the other end of that fresh connection belongs to the user `uid`.
///
/// # Errors
/// `ConnectionRefused` if it belongs to another user, or to nobody any more.
pub(crate) fn check(stream: &TcpStream, uid: u32) -> io::Result<()> {
    let (std::net::SocketAddr::V4(far), std::net::SocketAddr::V4(near)) =
        (stream.peer_addr()?, stream.local_addr()?)
    else {
        return Ok(());
    };
    match owner(far, near) {
        Ok(Some(owner)) if owner == uid => Ok(()),
        Ok(Some(owner)) => Err(refused(format!(
            "a process of uid {owner} listens at port {}, where one of uid {uid}, the app's, should; it gets no requests",
            far.port()
        ))),
        Ok(None) => Err(refused(format!("nobody listens at port {} any more", far.port()))),
        // A kernel that cannot tell (a container may forbid to ask) must not keep apps from being served. Relaxed: a
        // second complaint does no harm.
        Err(why) => {
            if !HAS_COMPLAINED.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "the kernel does not tell whose sockets connections to ports of 127.0.0.1 lead to ({why}): a local \
                     user who takes a command's port gets its requests"
                );
            }
            Ok(())
        }
    }
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, text)
}

/// Who accepted the connection, or, as long as nobody has, who listens there.
fn owner(far: SocketAddrV4, near: SocketAddrV4) -> io::Result<Option<u32>> {
    let anybody = SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
    match ask(far, near)? {
        // Until it is accepted it belongs to nobody, which older kernels call root.
        Some(socket) if socket.uid != 0 => Ok(Some(socket.uid)),
        Some(_) => Ok(ask(far, anybody)?.filter(|s| s.listens).map(|s| s.uid)),
        // This end is open, so there must be another; a kernel without the module for TCP says the same of all.
        None => match ask(near, far)? {
            Some(_) => Ok(None),
            None => Err(io::Error::other("no word of any socket")),
        },
    }
}

/// The socket with these addresses of its own and of its peer.
fn ask(own: SocketAddrV4, peer: SocketAddrV4) -> io::Result<Option<Socket>> {
    let netlink = socket::socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    // The kernel answers before `send` returns, and it alone can write here.
    socket::send(netlink.as_raw_fd(), &question(own, peer), MsgFlags::empty())?;
    let mut answer = [0; 512];
    let length = socket::recv(netlink.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    understand(answer.get(..length).unwrap_or_default())
}

/// `nlmsghdr` and `inet_diag_req_v2`, as in linux/netlink.h and linux/inet_diag.h.
fn question(own: SocketAddrV4, peer: SocketAddrV4) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(QUESTION);
    bytes.extend(u32::try_from(QUESTION).unwrap_or_default().to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // Sequence number and port: the first question of a socket that asks one at a time.
    bytes.extend([0; 8]);
    // AF_INET, IPPROTO_TCP, no extensions, padding; all states.
    bytes.extend([2, 6, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(own.port().to_be_bytes());
    bytes.extend(peer.port().to_be_bytes());
    for address in [own, peer] {
        bytes.extend(address.ip().octets());
        bytes.extend([0; 12]);
    }
    // Any interface, and no cookie.
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    bytes
}

fn understand(answer: &[u8]) -> io::Result<Option<Socket>> {
    let word = |at: usize| {
        let bytes = answer.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    };
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok());
    match kind.map(u16::from_ne_bytes) {
        Some(BY_FAMILY) => match (word(UID_AT), answer.get(STATE_AT)) {
            (Some(uid), Some(state)) => Ok(Some(Socket {
                uid,
                listens: *state == LISTENS,
            })),
            _ => Err(io::ErrorKind::InvalidData.into()),
        },
        Some(_) => {
            let number = word(ERROR_AT).map_or(0, |n| i32::from_ne_bytes(n.to_ne_bytes()));
            match Errno::from_raw(number.saturating_neg()) {
                Errno::ENOENT => Ok(None),
                error => Err(error.into()),
            }
        }
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    /// A container may forbid to ask.
    fn can_tell(stream: &TcpStream) -> bool {
        match (stream.peer_addr().unwrap(), stream.local_addr().unwrap()) {
            (std::net::SocketAddr::V4(far), std::net::SocketAddr::V4(near)) => {
                owner(far, near).is_ok()
            }
            _ => false,
        }
    }

    #[test]
    fn the_other_end_has_an_owner_before_and_after_it_is_accepted() {
        for address in ["127.0.0.1", "0.0.0.0", "::"] {
            let Ok(listener) = TcpListener::bind((address, 0)) else {
                assert_eq!(address, "::", "only IPv6 may be missing");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            if !can_tell(&stream) {
                return;
            }
            check(&stream, me()).unwrap();
            let error = check(&stream, me() + 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            let _accepted = listener.accept().unwrap();
            check(&stream, me()).unwrap();
            assert!(check(&stream, me() + 1).is_err(), "{address}");
        }
    }

    #[test]
    fn an_end_that_is_gone_has_no_owner() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        if !can_tell(&stream) {
            return;
        }
        // Closed unaccepted: the kernel resets it.
        drop(listener);
        assert!(stream.peer_addr().is_err() || check(&stream, me()).is_err());
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        assert!(understand(&[]).is_err());
        assert!(understand(&[0; 5]).is_err());
        let mut refusal = vec![0; 36];
        refusal[4] = 2;
        refusal[HEADER..HEADER + 4].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(understand(&refusal).unwrap(), None);
        refusal[HEADER..HEADER + 4].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert!(understand(&refusal).is_err());
        let mut cut = vec![0; 60];
        cut[4] = 20;
        assert!(understand(&cut).is_err());
    }
}
