//! A process that a preloader forks, from the agent's side: what the preloader is sent, and how the agent makes
//! sure that who says hello is a process of ours.
//!
//! ```text
//!  agent                                  preloader                        worker
//!  `fork` + control, listener, output ──► fork, fork ────────────────────► setsid, output, waits for its adoption
//!                                         first child ends, is reaped ───► (the agent is its parent now)
//!  `step fork` and who sent it, by the kernel's word ◄──────────────────── hello
//!  pidfd · own child? own group? right user? · store
//!  `go` ─────────────────────────────────────────────────────────────────► step listen · ready
//! ```
//!
//! If anything fails on the way, every copy of the worker's sockets is closed, and the agent sees the end of the
//! control socket before a hello.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{
    self, recvmsg, sendmsg, sockopt, ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials,
};
use nix::unistd::{getsid, Pid};

use super::dialogue;
use crate::sys::descriptor;
use crate::sys::pidfd::Pidfd;

/// A worker that a preloader was asked for.
#[derive(Debug)]
pub struct Asked {
    /// Our end of its control socket, non-blocking.
    pub control: UnixStream,
    /// Read end of what it will print, non-blocking.
    pub output: OwnedFd,
}

/// Who said hello, as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Its PID.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// Sends a preloader what its next worker shall have. Takes the listener: its only other copy is the worker's.
///
/// # Errors
/// Out of descriptors, or the preloader is gone or does not read.
pub fn ask(preloader: &UnixStream, listener: OwnedFd) -> io::Result<Asked> {
    let (output, print) = descriptor::pipe()?;
    let (control, their_control) = UnixStream::pair()?;
    // Before it can write: the kernel notes the sender while it sends.
    socket::setsockopt(&control, sockopt::PassCred, &true)?;
    let handed = [
        their_control.as_raw_fd(),
        listener.as_raw_fd(),
        print.as_raw_fd(),
    ];
    let line = dialogue::fork().as_bytes();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let rights = [ControlMessage::ScmRights(&handed)];
    let slices = [IoSlice::new(line)];
    let sent = sendmsg::<()>(preloader.as_raw_fd(), &slices, &rights, flags, None)?;
    if sent < line.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    // On their way now; whoever has them is the only one.
    drop((their_control, listener, print));
    control.set_nonblocking(true)?;
    descriptor::set_nonblocking(output.as_fd(), true)?;
    Ok(Asked { control, output })
}

/// Reads the hello. A worker says nothing after it before it hears `go`.
///
/// # Errors
/// `WouldBlock`; `UnexpectedEof` when there will be no worker; `InvalidData` when it is something else.
pub fn hear(control: &UnixStream) -> io::Result<Hello> {
    let hello = dialogue::step("fork");
    let mut buffer = [0; 64];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    // Room for the credentials alone: descriptors that somebody might send are closed by the kernel.
    let mut space = nix::cmsg_space!(UnixCredentials);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(control.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let length = received.bytes;
    let sender = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmCredentials(sender) => Some(sender),
        _ => None,
    });
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let is_hello = buffer.get(..length) == Some(hello.as_bytes());
    match sender.filter(|_| is_hello) {
        Some(sender) => Ok(Hello {
            pid: sender.pid(),
            uid: sender.uid(),
        }),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The process that said hello, if it is what it should be: our child (so its number is its own until we reap it),
/// the leader of a session, and of that user. A preloader runs an app's code and could have sent anybody.
///
/// # Errors
/// A sentence that completes "the process that it forked …".
pub fn identify(hello: Hello, uid: u32) -> Result<Pidfd, String> {
    let Hello { pid, uid: actual } = hello;
    if actual != uid {
        return Err(format!("({pid}) runs as uid {actual} instead of {uid}"));
    }
    let pidfd = Pidfd::open(pid).map_err(|e| format!("({pid}) is gone: {e}"))?;
    match pidfd.peek() {
        Ok(None) => {}
        Ok(Some(exit)) => return Err(format!("({pid}) {}", exit.status)),
        Err(e) => return Err(format!("({pid}) is not a child of the agent: {e}")),
    }
    // The leader of a session leads its process group and cannot leave it: later it is killed with that.
    match getsid(Some(Pid::from_raw(pid))) {
        Ok(session) if session.as_raw() == pid => Ok(pidfd),
        Ok(_) => Err(format!("({pid}) does not lead a session")),
        Err(e) => Err(format!("({pid}) has no session: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    fn asked() -> (Asked, UnixStream) {
        let (preloader, there) = UnixStream::pair().unwrap();
        let (listener, _) = UnixStream::pair().unwrap();
        (ask(&preloader, listener.into()).unwrap(), there)
    }

    /// What a preloader reads: the line, and the three descriptors.
    fn receive(there: &UnixStream) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut buffer = [0; 64];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!([i32; 3]);
        // Not close-on-exec, as if they were inherited: that is how they can be owned.
        let flags = MsgFlags::empty();
        let received =
            recvmsg::<()>(there.as_raw_fd(), &mut slices, Some(&mut space), flags).unwrap();
        let length = received.bytes;
        let numbers: Vec<i32> = received
            .cmsgs()
            .unwrap()
            .flat_map(|message| match message {
                ControlMessageOwned::ScmRights(numbers) => numbers,
                _ => vec![],
            })
            .collect();
        let own = |number: i32| descriptor::take_inherited(number).unwrap();
        let owned = numbers.into_iter().map(own).collect();
        (buffer[..length].to_vec(), owned)
    }

    #[test]
    fn a_preloader_is_sent_one_line_and_three_descriptors() {
        let (asked, there) = asked();
        let (line, descriptors) = receive(&there);
        assert_eq!((line.as_slice(), descriptors.len()), (&b"fork\n"[..], 3));
        let waits = hear(&asked.control).unwrap_err();
        assert_eq!(waits.kind(), io::ErrorKind::WouldBlock);
        drop(descriptors);
        let gone = hear(&asked.control).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_kernel_says_who_says_hello_and_nothing_else_is_one() {
        for (said, expected) in [("step fork\n", true), ("step load\n", false)] {
            let (asked, there) = asked();
            let mut control = UnixStream::from(receive(&there).1.remove(0));
            control.write_all(said.as_bytes()).unwrap();
            let heard = hear(&asked.control);
            let own = i32::try_from(std::process::id()).unwrap();
            assert_eq!(
                heard.is_ok_and(|hello| hello.pid == own),
                expected,
                "{said}"
            );
        }
    }

    #[test]
    fn only_a_child_that_leads_its_session_is_taken() {
        let uid = crate::sys::process::effective_uid();
        // In a group of its own `setsid` would have to fork.
        let mut leader = Command::new("setsid")
            .args(["sleep", "60"])
            .spawn()
            .unwrap();
        let mut member = Command::new("sleep");
        let mut member = member.arg("60").process_group(0).spawn().unwrap();
        let hello = |pid: u32| Hello {
            pid: i32::try_from(pid).unwrap(),
            uid,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while identify(hello(leader.id()), uid).is_err() {
            assert!(Instant::now() < deadline, "it never leads a session");
            std::thread::yield_now();
        }
        assert!(identify(hello(leader.id()), uid + 1).is_err());
        assert!(identify(hello(member.id()), uid).is_err());
        assert!(identify(hello(std::process::id()), uid).is_err());
        leader.kill().unwrap();
        member.kill().unwrap();
        leader.wait().unwrap();
        member.wait().unwrap();
    }
}
