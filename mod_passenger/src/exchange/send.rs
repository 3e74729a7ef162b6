//! Sending a request: never blocks without looking at the app, so that an app that answers before it has
//! read everything cannot lock both sides up.

use super::{give_back, has_left, Attempt, AttemptError, Interruption, Outbound, LEFT};
use crate::error::RequestError;
use crate::ffi::brigade;
use crate::ffi::request::Request;
use crate::request_body::{RequestBody, PIECE_BYTES};
use crate::upstream::retry::{classify, Failure};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use passenger_shm::{Hint, Protocol};
use std::io;
use std::os::fd::AsFd;

/// How a piece left.
#[derive(PartialEq, Eq)]
enum Sent {
    /// All of it.
    All,
    /// The app answered (or closed) before reading it: go and read that.
    Answered,
}

impl Attempt<'_, '_> {
    /// Sends head and body. `Ok(true)` = all of it; `Ok(false)` = the app answered early, so this connection
    /// cannot be used again.
    pub(super) fn send(
        &mut self,
        r: &mut Request<'_>,
        outbound: &mut Outbound<'_>,
        number: u64,
        protocol: Protocol,
    ) -> Result<bool, AttemptError> {
        let body = outbound.body;
        let head = outbound.head(r, protocol, number);
        let accepted = match (self.connection.send(head), body) {
            (Ok(n), _) => n,
            (Err(e), _) if e.kind() == io::ErrorKind::WouldBlock => 0,
            (Err(e), _) => return Err(self.send_failed(e, false, body)),
        };
        if accepted < head.len() && self.send_all(&head[accepted..], body)? == Sent::Answered {
            return Ok(false);
        }
        match body {
            RequestBody::Empty => Ok(true),
            RequestBody::Memory(_) | RequestBody::File(..) => self.send_buffered(body),
            RequestBody::Stream(length) => {
                let framing = Framing::of(protocol, *length);
                self.send_streamed(r, body, framing)
            }
        }
    }

    fn send_buffered(&mut self, body: &RequestBody) -> Result<bool, AttemptError> {
        let (mut offset, length) = (0, body.len().unwrap_or(0));
        while offset < length {
            let piece = match body.piece(offset, 4 * PIECE_BYTES) {
                Ok(piece) => piece,
                Err(error) => {
                    let _ = self.abandon();
                    return Err(AttemptError::Fatal(RequestError::BufferFile { error }));
                }
            };
            if self.send_all(&piece, body)? == Sent::Answered {
                return Ok(false);
            }
            offset += piece.len() as u64;
        }
        Ok(true)
    }

    /// Passes the body on as the client sends it; blocks on the client between pieces.
    fn send_streamed(
        &mut self,
        r: &mut Request<'_>,
        body: &RequestBody,
        mut framing: Framing,
    ) -> Result<bool, AttemptError> {
        let mut piece = Vec::with_capacity(PIECE_BYTES + 32);
        loop {
            piece.clear();
            let ended = brigade::read_body(r, PIECE_BYTES, |bytes| framing.push(bytes, &mut piece));
            let ended = match ended {
                Ok(ended) => ended,
                Err(e) => {
                    let _ = self.abandon();
                    return Err(AttemptError::Fatal(RequestError::ClientBody {
                        status: e.0,
                    }));
                }
            };
            // More bytes than announced would be the app's next request, fewer would keep it waiting.
            if framing.contradicts(ended) {
                let _ = self.abandon();
                return Err(AttemptError::Fatal(RequestError::ClientBody {
                    status: 400,
                }));
            }
            if ended {
                piece.extend_from_slice(framing.end());
            }
            if !piece.is_empty() && self.send_all(&piece, body)? == Sent::Answered {
                return Ok(false);
            }
            if ended {
                return Ok(true);
            }
        }
    }

    /// Sends all of `bytes`, waiting for room, or notices that the app has something to say.
    fn send_all(&mut self, bytes: &[u8], body: &RequestBody) -> Result<Sent, AttemptError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.connection.send(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self.await_room() {
                    Ok(Sent::All) => {}
                    Ok(Sent::Answered) => return Ok(Sent::Answered),
                    Err(Interruption::ClientGone) => return Err(self.abandon()),
                    Err(Interruption::Io(e)) => return Err(self.send_failed(e, true, body)),
                },
                // The app closed its side; what it said before that is still to be read.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Sent::Answered),
                Err(e) => return Err(self.send_failed(e, true, body)),
            }
        }
        Ok(Sent::All)
    }

    fn await_room(&mut self) -> Result<Sent, Interruption> {
        loop {
            let app = PollFd::new(
                self.connection.as_fd(),
                PollFlags::POLLIN | PollFlags::POLLOUT,
            );
            let mut fds = vec![app];
            fds.extend(self.client.map(|fd| PollFd::new(fd, LEFT)));
            match poll(&mut fds, PollTimeout::from(1000u16)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(Interruption::Io(e.into())),
            }
            let events = fds[0].revents().unwrap_or(PollFlags::empty());
            if fds.get(1).is_some_and(has_left) {
                return Err(Interruption::ClientGone);
            }
            if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                return Ok(Sent::Answered);
            }
            if events.contains(PollFlags::POLLOUT) {
                return Ok(Sent::All);
            }
            if self.is_process_dead() {
                return Err(Interruption::Io(io::ErrorKind::ConnectionReset.into()));
            }
        }
    }

    fn send_failed(
        &mut self,
        error: io::Error,
        head_accepted: bool,
        body: &RequestBody,
    ) -> AttemptError {
        // Closed by the app, idle or dying: whatever it is doing, it is not this request.
        give_back(&mut self.seat, self.holds_seat);
        if !self.connection.is_reused() {
            self.worker.client.hint(Hint::ProcessSuspect(self.process));
        }
        AttemptError::Failed(
            match classify(
                error,
                head_accepted,
                self.connection.is_tcp() || !body.is_empty(),
            ) {
                Failure::MayHaveRun(e) if !head_accepted => Failure::Unread(e),
                other => other,
            },
        )
    }
}

/// How a streamed body is framed on its way to the app.
enum Framing {
    Binary,
    Chunked,
    /// By its length: so many bytes are left, `None` when there were more.
    Plain(Option<u64>),
}

impl Framing {
    fn of(protocol: Protocol, length: Option<u64>) -> Self {
        match (protocol, length) {
            (Protocol::Binary, _) => Self::Binary,
            (Protocol::Http, None) => Self::Chunked,
            (Protocol::Http, Some(length)) => Self::Plain(Some(length)),
        }
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Binary => {
                // A bucket is at most a few MiB.
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(bytes);
            }
            Self::Chunked => {
                out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Plain(left) => {
                *left = left.and_then(|left| left.checked_sub(bytes.len() as u64));
                out.extend_from_slice(bytes);
            }
        }
    }

    /// Whether the body is not as long as its head says.
    fn contradicts(&self, ended: bool) -> bool {
        match self {
            Self::Plain(left) => left.is_none_or(|left| ended && left > 0),
            Self::Binary | Self::Chunked => false,
        }
    }

    fn end(&self) -> &'static [u8] {
        match self {
            Self::Binary => &[0; 4],
            Self::Chunked => b"0\r\n\r\n",
            Self::Plain(_) => b"",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_contradicts_its_length_is_noticed() {
        let mut out = Vec::new();
        let mut framing = Framing::of(Protocol::Http, Some(5));
        framing.push(b"abc", &mut out);
        assert!(!framing.contradicts(false) && framing.contradicts(true));
        framing.push(b"de", &mut out);
        assert!(!framing.contradicts(true));
        framing.push(b"f", &mut out);
        assert!(framing.contradicts(false));
        framing.push(b"", &mut out);
        assert!(framing.contradicts(true));
    }
}
