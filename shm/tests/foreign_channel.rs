//! Channels and descriptors of a process that is not trusted: nothing it does makes the receiver wait.

#![cfg(not(loom))]

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use passenger_shm::channel::{discard, Channel, MAX_FDS};
use passenger_shm::messages::{FromWorker, ToWorker};

/// Runs it on a thread of its own; a receiver that waits fails the test instead of hanging it.
fn within_patience<T: Send + 'static>(what: &str, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || done.send(run()));
    wait.recv_timeout(Duration::from_secs(20))
        .unwrap_or_else(|_| panic!("{what} waits for a process that is not trusted"))
}

fn welcome() -> ToWorker {
    ToWorker::Welcome {
        slot: 1,
        generation: 1,
    }
}

/// A TCP connection with unsent bytes whose close takes two minutes, and its peer, which reads nothing.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 65536]).is_ok() {}
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 120,
    };
    // SAFETY: the option value is one `linger` that outlives the call, and its size is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            8,
        )
    };
    assert_eq!(set, 0);
    (socket, peer)
}

#[test]
fn a_full_or_empty_channel_is_not_waited_for_whatever_the_peer_does_to_its_flags() {
    let (near, far) = Channel::pair().unwrap();
    let copy = Channel::from(far.as_fd().try_clone_to_owned().unwrap());
    let ours = Channel::foreign(far.into()).unwrap();
    copy.set_nonblocking(true).unwrap();
    while copy.send(&welcome(), &[]).is_ok() {}
    // Shared with `ours`: both would wait now.
    copy.set_nonblocking(false).unwrap();
    let (sent, received) = within_patience("a foreign channel", move || {
        let sent = ours.send(&welcome(), &[]).unwrap_err().kind();
        (sent, ours.recv::<FromWorker>().unwrap_err().kind())
    });
    assert_eq!(
        (sent, received),
        (ErrorKind::WouldBlock, ErrorKind::WouldBlock)
    );
    drop(near);
}

#[test]
fn only_a_seqpacket_socket_can_be_a_foreign_channel() {
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let stream: OwnedFd = UnixStream::pair().unwrap().0.into();
    for fd in [file, stream] {
        let refused = Channel::foreign(fd).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn a_descriptor_whose_close_lasts_is_not_waited_for() {
    let (one, other) = Channel::pair().unwrap();
    let mut peers = Vec::new();
    // Beside a message, beside no message, more than allowed, and as the channel itself.
    for count in [1, 2, MAX_FDS + 1] {
        let (sockets, theirs): (Vec<_>, Vec<_>) = (0..count).map(|_| lingering()).unzip();
        peers.extend(theirs);
        let fds: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        send_raw(&one, if count == 2 { b"[]" } else { b"\"ok\"" }, &fds);
    }
    let (socket, peer) = lingering();
    peers.push(peer);
    within_patience("a close", move || {
        let received = other.recv::<String>().unwrap().unwrap();
        assert_eq!(received.fds.len(), 1);
        discard(received.fds);
        for _ in 0..2 {
            let refused = other.recv::<String>().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidData);
        }
        assert!(Channel::foreign(socket.into()).is_err());
    });
}

/// Sends a datagram as a process does that knows no limit of ours.
fn send_raw(channel: &Channel, bytes: &[u8], fds: &[i32]) {
    use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags};
    let iov = [std::io::IoSlice::new(bytes)];
    sendmsg::<()>(
        channel.as_raw_fd(),
        &iov,
        &[ControlMessage::ScmRights(fds)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
}
