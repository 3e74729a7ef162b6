//! [`Incoming`]: the app's side of a response body: how far it was read, and how much of it may be passed on.

use crate::spill::Spill;
use crate::upstream::body::{BadBody, BodyDecoder};
use crate::upstream::connection::Connection;
use crate::upstream::head::ResponseHead;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// What a wait for the app brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Perhaps more of the body: look at it.
    Input,
    /// The app closed its side.
    End,
    /// The connection broke.
    Died,
}

/// A response body on its way from the app.
pub(super) struct Incoming {
    decoder: BodyDecoder,
    budget: Budget,
}

impl Incoming {
    /// A body of which nothing was read. `discards`: it is only counted.
    pub(super) fn new(head: &ResponseHead, decoder: BodyDecoder, discards: bool) -> Self {
        let budget = Budget::new(head, &decoder, discards);
        Self { decoder, budget }
    }

    /// Takes what the connection has read into `out`, which is empty. `true`: nothing more is to be passed on.
    ///
    /// # Errors
    /// When the framing is broken, each time it is called from then on.
    pub(super) fn take(
        &mut self,
        connection: &mut Connection,
        out: &mut Vec<u8>,
    ) -> Result<bool, BadBody> {
        gather(&mut self.decoder, connection, out)?;
        self.budget.spend(out);
        Ok(self.decoder.is_done() || self.budget.is_overrun)
    }

    /// Whether the app's closing completes the body.
    pub(super) fn ends_at_close(&self) -> bool {
        self.decoder.ends_at_close()
    }

    /// Whether the app is done with this response, after that event.
    pub(super) fn is_over(&self, event: Event) -> bool {
        let has_ended = event == Event::End && self.ends_at_close();
        (self.decoder.is_done() || has_ended) && !self.budget.is_overrun
    }

    /// Whether what came is what was announced.
    pub(super) fn verdict(&self) -> Length {
        self.budget.verdict()
    }

    /// Reads into `spill` until the other end of `stopped` is closed, the body ends or breaks, or `bound` is reached
    /// and nobody stops. Whatever made it return is found again by [`Incoming::take`], except for the event.
    pub(super) fn read_until(
        &mut self,
        stopped: &UnixStream,
        connection: &mut Connection,
        spill: &mut Spill<'_>,
        bound: u64,
    ) -> Event {
        let mut bytes = Vec::new();
        loop {
            let mut fds = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
            if spill.len() < bound && !spill.is_cramped() {
                fds.push(PollFd::new(connection.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return Event::Input,
                Ok(_) if fds[0].any() != Some(false) => return Event::Input,
                Ok(_) => {}
            }
            match connection.read() {
                Ok(0) => return Event::End,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Event::Died,
            }
            bytes.clear();
            let is_complete = self.take(connection, &mut bytes).unwrap_or(true);
            if let Some(why) = spill.push_anyway(&bytes) {
                log::debug!("a response stays in memory, the app waits for the client: {why}");
            }
            if is_complete {
                return Event::Input;
            }
        }
    }
}

/// Decodes all input that is here.
pub(super) fn gather(
    decoder: &mut BodyDecoder,
    connection: &mut Connection,
    out: &mut Vec<u8>,
) -> Result<(), BadBody> {
    while !decoder.is_done() {
        let input = connection.input();
        if input.is_empty() {
            break;
        }
        let fed = decoder.feed(input)?;
        out.extend_from_slice(&input[fed.payload.clone()]);
        if fed.consumed == 0 {
            break;
        }
        connection.consume(fed.consumed);
    }
    Ok(())
}

/// Whether a body had the announced length.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Length {
    Right,
    TooShort,
    TooLong,
}

/// Counts a framed body against its Content-Length.
struct Budget {
    left: Option<u64>,
    is_overrun: bool,
}

impl Budget {
    fn new(head: &ResponseHead, decoder: &BodyDecoder, discards: bool) -> Self {
        let counts = !discards && !matches!(decoder, BodyDecoder::Length(_));
        Self {
            left: head.content_length.filter(|_| counts),
            is_overrun: false,
        }
    }

    /// Cuts `bytes` to what may still be sent; `false` when something was cut.
    fn spend(&mut self, bytes: &mut Vec<u8>) -> bool {
        let Some(left) = self.left else { return true };
        let n = bytes.len() as u64;
        if n > left {
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            self.left = Some(0);
            self.is_overrun = true;
            return false;
        }
        self.left = Some(left - n);
        true
    }

    fn verdict(&self) -> Length {
        match self.left {
            _ if self.is_overrun => Length::TooLong,
            None | Some(0) => Length::Right,
            Some(_) => Length::TooShort,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(announced: u64) -> Budget {
        let mut head = ResponseHead::from_status(b"200").unwrap();
        head.push(b"Content-Length", announced.to_string().as_bytes())
            .unwrap();
        Budget::new(&head, &BodyDecoder::frames(), false)
    }

    #[test]
    fn a_body_is_held_to_its_announced_length() {
        let mut exact = budget(3);
        assert!(exact.spend(&mut b"abc".to_vec()));
        assert_eq!(exact.verdict(), Length::Right);

        let mut long = budget(3);
        let mut bytes = b"abcd".to_vec();
        assert!(!long.spend(&mut bytes));
        assert_eq!(
            (bytes.as_slice(), long.verdict()),
            (&b"abc"[..], Length::TooLong)
        );

        let mut short = budget(3);
        assert!(short.spend(&mut b"ab".to_vec()));
        assert_eq!(short.verdict(), Length::TooShort);
    }
}
