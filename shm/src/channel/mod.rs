//! The channels between httpd's parent, its workers, the watchdog and the agent: one JSON document per
//! `AF_UNIX SOCK_SEQPACKET` datagram, descriptors beside it. Owns the socket and the control messages;
//! does not know what the documents mean (`messages.rs` and the crates that use them do).
//!
//! The kernel keeps datagram boundaries, so a message arrives whole or not at all, and a peer can
//! never leave half a message behind. Who sent it is what the kernel says (`SCM_CREDENTIALS`), never
//! what the message says.

mod datagram;
mod discard;
mod socket;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use serde::{de::DeserializeOwned, Serialize};

use crate::messages::{self, MAX_MESSAGE_BYTES};

/// Most descriptors one message may carry.
pub const MAX_FDS: usize = 32;

/// Not in `libc` for every target yet: `SO_PASSPIDFD` of Linux 6.5.
const SO_PASSPIDFD: libc::c_int = 76;

pub use discard::discard;

/// One end of a channel.
#[derive(Debug)]
pub struct Channel {
    /// Dropped by `Drop`, which says where.
    socket: ManuallyDrop<OwnedFd>,
    /// Made by a process that is not trusted, see [`Channel::foreign`].
    is_foreign: bool,
}

/// One message as it arrived.
#[derive(Debug)]
pub struct Received<T> {
    /// The document.
    pub message: T,
    /// Descriptors that came with it, close-on-exec, at most [`MAX_FDS`].
    pub fds: Vec<OwnedFd>,
    /// Who sent it, if [`Channel::receive_credentials`] was called on this end before it was sent.
    pub peer: Option<Peer>,
}

/// The sender of a message, in the kernel's words.
#[derive(Debug)]
pub struct Peer {
    /// Process id in our PID namespace.
    pub pid: i32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// The sender itself, immune to reuse of its number; `None` before Linux 6.5.
    pub pidfd: Option<OwnedFd>,
}

impl Channel {
    /// Two connected ends, both close-on-exec and blocking.
    ///
    /// # Errors
    /// When the process or the system is out of descriptors.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = socket::pair()?;
        Ok((Channel::from(one), Channel::from(other)))
    }

    /// Wraps an end that a process made which is not trusted and may share: whatever that process does to
    /// the open file's flags, no call on this end waits, and closing it does not keep the caller either.
    ///
    /// # Errors
    /// `InvalidInput` when it is not a `SOCK_SEQPACKET` socket of `AF_UNIX`.
    pub fn foreign(socket: OwnedFd) -> io::Result<Channel> {
        if !socket::is_seqpacket(socket.as_fd()) {
            discard(vec![socket]);
            return Err(invalid_input("not a SOCK_SEQPACKET Unix socket".into()));
        }
        Ok(Channel {
            socket: ManuallyDrop::new(socket),
            is_foreign: true,
        })
    }

    fn flags(&self) -> libc::c_int {
        if self.is_foreign {
            libc::MSG_DONTWAIT
        } else {
            0
        }
    }

    /// Sends one message with its descriptors; all of it or an error. Blocks while the peer's buffer
    /// is full unless the channel is non-blocking.
    ///
    /// # Errors
    /// `WouldBlock` when non-blocking and full, `BrokenPipe` when the peer is gone (no signal),
    /// `InvalidInput` when the message or the number of descriptors is too large.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = messages::encode(message).map_err(invalid_input)?;
        if fds.len() > MAX_FDS {
            return Err(invalid_input(format!(
                "a message cannot carry {} descriptors, {MAX_FDS} is the limit",
                fds.len()
            )));
        }
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        loop {
            match datagram::send(self.as_fd(), &bytes, &raw, self.flags()) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(sent) => {
                    return Err(io::Error::other(format!(
                        "the kernel cut a message of {} bytes to {sent}",
                        bytes.len()
                    )))
                }
            }
        }
    }

    /// Receives one message, or `None` at the end of the channel. Blocks unless non-blocking.
    ///
    /// # Errors
    /// `WouldBlock` when non-blocking and nothing is there. `InvalidData` when the datagram is not a
    /// message of this type, is longer than allowed or lost descriptors; it is consumed and its
    /// descriptors are closed, so that the next call gets the next one.
    pub fn recv<T: DeserializeOwned>(&self) -> io::Result<Option<Received<T>>> {
        let mut buffer = vec![0u8; MAX_MESSAGE_BYTES];
        let mut is_reset = false;
        let mut datagram = loop {
            match datagram::receive(self.as_fd(), &mut buffer, self.flags()) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // Said once when the peer closed with messages of ours unread; what it sent before is
                // still queued behind, and then comes the end.
                Err(e) if e.kind() == ErrorKind::ConnectionReset && !is_reset => is_reset = true,
                other => break other?,
            }
        };
        if datagram.length == 0 && !datagram.cut {
            discard(datagram.fds);
            // An empty datagram looks like the end. Only a peer that is gone is believed.
            return if datagram.peer.is_none() && self.peer_is_gone()? {
                Ok(None)
            } else {
                Err(invalid_data("empty datagram on a channel".into()))
            };
        }
        if datagram.cut || datagram.fds.len() > MAX_FDS {
            discard(datagram.fds);
            return Err(invalid_data(format!(
                "datagram with more than {MAX_MESSAGE_BYTES} bytes or {MAX_FDS} descriptors"
            )));
        }
        let bytes = buffer.get(..datagram.length).unwrap_or_default();
        let fds = std::mem::take(&mut datagram.fds);
        let message = match messages::decode(bytes) {
            Ok(message) => message,
            Err(text) => {
                discard(fds);
                return Err(invalid_data(text));
            }
        };
        Ok(Some(Received {
            message,
            fds,
            peer: datagram.peer,
        }))
    }

    /// Whether the other end is closed, without blocking.
    fn peer_is_gone(&self) -> io::Result<bool> {
        let events = socket::poll_once(self.as_fd(), libc::POLLIN | libc::POLLRDHUP, 0)?;
        Ok(events & (libc::POLLHUP | libc::POLLRDHUP) != 0)
    }

    /// Makes `send` and `recv` return `WouldBlock` instead of blocking, or undoes it. The setting
    /// belongs to the open file: whoever inherited this very end has it, too.
    ///
    /// # Errors
    /// When fcntl(2) fails, which for an open socket it does not.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        socket::set_nonblocking(self.as_fd(), nonblocking)
    }

    /// From now on every message that arrives at this end names its sender. Call it before the peer
    /// may send.
    ///
    /// # Errors
    /// When the kernel refuses `SO_PASSCRED`. A kernel without `SO_PASSPIDFD` (before 6.5) is no error.
    pub fn receive_credentials(&self) -> io::Result<()> {
        socket::enable(self.as_fd(), libc::SO_PASSCRED)?;
        match socket::enable(self.as_fd(), SO_PASSPIDFD) {
            Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                log::debug!("this kernel has no SO_PASSPIDFD; peers are known by number only");
                Ok(())
            }
            other => other,
        }
    }

    /// Waits until `recv` would not block (a message or the end), at most `timeout`.
    ///
    /// # Errors
    /// When poll(2) fails for another reason than a signal.
    pub fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: a wait of 0.4 ms must not become a busy loop of zero-length polls.
            let ms = libc::c_int::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            match socket::poll_once(self.as_fd(), libc::POLLIN, ms) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(0) if Instant::now() < deadline => {}
                Ok(events) => return Ok(events != 0),
            }
        }
    }
}

fn invalid_input(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, text)
}

fn invalid_data(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl From<OwnedFd> for Channel {
    /// Wraps an end that was inherited or received. That it is a `SOCK_SEQPACKET` socket is the
    /// protocol's promise (`docs/protocols.md`); anything else fails at the first message.
    fn from(fd: OwnedFd) -> Channel {
        Channel {
            socket: ManuallyDrop::new(fd),
            is_foreign: false,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: taken once, here; `From<Channel> for OwnedFd` keeps this from running.
        let socket = unsafe { ManuallyDrop::take(&mut self.socket) };
        if self.is_foreign {
            discard(vec![socket]);
        }
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        let mut channel = ManuallyDrop::new(channel);
        // SAFETY: taken once: `channel` is not dropped, and nobody sees it after this.
        unsafe { ManuallyDrop::take(&mut channel.socket) }
    }
}

impl From<Channel> for File {
    fn from(channel: Channel) -> File {
        File::from(OwnedFd::from(channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Hello, ToWorker};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_a_peer_sent_before_it_closed_is_read_even_if_it_read_nothing() {
        let (here, there) = Channel::pair().unwrap();
        here.send(&"unread", &[]).unwrap();
        there.send(&"said", &[]).unwrap();
        drop(there);
        let first = here.recv::<String>().unwrap().unwrap();
        assert_eq!(first.message, "said");
        assert!(here.recv::<String>().unwrap().is_none());
    }

    #[test]
    fn a_message_arrives_whole_with_its_descriptors_close_on_exec() {
        let (one, other) = Channel::pair().unwrap();
        let (mut pipe_read, pipe_write) = UnixStream::pair().unwrap();
        let welcome = ToWorker::Welcome {
            slot: 7,
            generation: 12,
        };
        one.send(&welcome, &[pipe_write.as_fd(), pipe_read.as_fd()])
            .unwrap();
        let got: Received<ToWorker> = other.recv().unwrap().unwrap();
        assert_eq!(got.message, welcome);
        assert!(got.peer.is_none());
        let [write, read]: [OwnedFd; 2] = got.fds.try_into().unwrap();
        for fd in [&write, &read] {
            // SAFETY: F_GETFD on a descriptor this test owns.
            let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
        File::from(write).write_all(b"x").unwrap();
        let mut byte = [0u8];
        pipe_read.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn the_kernel_names_the_sender() {
        let (one, other) = Channel::pair().unwrap();
        other.receive_credentials().unwrap();
        one.send(&Hello::Worker {}, &[]).unwrap();
        let peer = other.recv::<Hello>().unwrap().unwrap().peer.unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        // SAFETY: getuid has no precondition.
        assert_eq!(peer.uid, unsafe { libc::getuid() });
    }

    #[test]
    fn what_is_no_message_is_an_error_and_the_next_one_is_read() {
        let (one, other) = Channel::pair().unwrap();
        let write = |bytes: &[u8]| {
            // SAFETY: send(2) reads `bytes`, alive for the call, and nothing else.
            let n = unsafe { libc::send(one.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            assert_eq!(usize::try_from(n).unwrap(), bytes.len());
        };
        write(b"{\"nonsense\":1}");
        write(&vec![b' '; MAX_MESSAGE_BYTES + 1]);
        write(b"");
        one.send(&Hello::Worker {}, &[]).unwrap();
        for _ in 0..3 {
            let error = other.recv::<Hello>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        }
        assert_eq!(
            other.recv::<Hello>().unwrap().unwrap().message,
            Hello::Worker {}
        );
        drop(one);
        assert!(other.recv::<Hello>().unwrap().is_none());
    }

    #[test]
    fn too_many_descriptors_are_refused_by_the_sender() {
        let (one, _other) = Channel::pair().unwrap();
        let many: Vec<_> = (0..=MAX_FDS).map(|_| one.as_fd()).collect();
        let error = one.send(&Hello::Worker {}, &many).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        one.send(&Hello::Worker {}, &many[..MAX_FDS]).unwrap();
    }

    #[test]
    fn a_gone_peer_is_an_error_not_a_signal() {
        let (one, other) = Channel::pair().unwrap();
        drop(other);
        assert_eq!(
            one.send(&Hello::Worker {}, &[]).unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn non_blocking_and_waiting() {
        let (one, other) = Channel::pair().unwrap();
        other.set_nonblocking(true).unwrap();
        assert_eq!(
            other.recv::<Hello>().unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        assert!(!other.wait_readable(Duration::ZERO).unwrap());
        one.set_nonblocking(true).unwrap();
        let full = loop {
            if let Err(e) = one.send(&Hello::Worker {}, &[]) {
                break e;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        assert!(other.wait_readable(Duration::from_secs(5)).unwrap());
        drop(one);
        while other.recv::<Hello>().unwrap().is_some() {}
    }
}
