//! [`Tunnel`]: one upgraded connection, between a client and an app.
//!
//! What one side does not take is not read from the other: httpd's filters hold at most one piece for the client,
//! the tunnel one for the app. Never blocks.

use super::frames::{Frames, GOING_AWAY, PING};
use crate::ffi::brigade::ClientLost;
use crate::ffi::relay::{Input, UpgradedClient};
use nix::sys::socket::{send, MsgFlags};
use passenger_shm::{ProcessState, Stream};
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Most bytes moved at once; httpd's filters block from 64 KiB on.
pub(crate) const PIECE_BYTES: usize = 16 * 1024;
/// Pieces moved before it is another tunnel's turn.
const PIECES: usize = 8;
/// How long one side may take to finish after the other has.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What is to be done with a tunnel after a look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Wait for news.
    Wait,
    /// Look again soon: there is more to move.
    Again,
    /// It is over: close the client's side.
    Over,
}

/// A client and an app that talk to each other.
pub(crate) struct Tunnel {
    client: UpgradedClient,
    app: UnixStream,
    /// What the app's process is counted by; ends with the tunnel.
    stream: Option<Stream>,
    /// Whether it was found out that the process ends.
    is_parting: bool,
    /// Read from the app together with its 101.
    early: Vec<u8>,
    /// Read from the client and not taken by the app.
    to_app: Vec<u8>,
    frames: Frames,
    client_ended: bool,
    app_ended: bool,
    /// We said good-bye to the client in the app's place.
    has_left: bool,
    deadline: Option<Instant>,
    heard: Instant,
    pinged: Option<Instant>,
}

impl Tunnel {
    /// A tunnel for a client that has got its 101; `early` is what the app said after it.
    ///
    /// # Errors
    /// When the app's socket cannot be made non-blocking.
    pub(crate) fn new(
        client: UpgradedClient,
        app: UnixStream,
        early: Vec<u8>,
        stream: Option<Stream>,
    ) -> io::Result<Self> {
        app.set_nonblocking(true)?;
        Ok(Self {
            client,
            app,
            stream,
            is_parting: false,
            early,
            to_app: Vec::new(),
            frames: Frames::default(),
            client_ended: false,
            app_ended: false,
            has_left: false,
            deadline: None,
            heard: Instant::now(),
            pinged: None,
        })
    }

    /// The client's side.
    pub(crate) fn client(&self) -> &UpgradedClient {
        &self.client
    }

    /// The app's side.
    pub(crate) fn app(&self) -> &UnixStream {
        &self.app
    }

    /// The client's side, of a tunnel that is over; the app's is closed.
    pub(crate) fn into_client(self) -> UpgradedClient {
        self.client
    }

    /// Moves what can be moved.
    pub(crate) fn look(&mut self, now: Instant, scratch: &mut Vec<u8>) -> Look {
        for _ in 0..PIECES {
            let moved = self.fetch_from_app(scratch);
            let Ok(moved) = moved.map(|moved| self.fetch_from_client(now, scratch) || moved) else {
                return Look::Over;
            };
            let is_done = self.app_ended && !self.client.has_pending();
            let is_late = self.deadline.is_some_and(|deadline| now >= deadline);
            if is_done || is_late || (self.client_ended && self.app_ended) {
                return Look::Over;
            }
            if !moved {
                return Look::Wait;
            }
        }
        Look::Again
    }

    /// One piece from the app to the client; whether there was one.
    fn fetch_from_app(&mut self, scratch: &mut Vec<u8>) -> Result<bool, ClientLost> {
        self.client.push()?;
        if self.client.has_pending() || self.app_ended {
            return Ok(false);
        }
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            return self.pass(&early).map(|()| true);
        }
        scratch.resize(PIECE_BYTES, 0);
        match self.app.read(scratch) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Ok(0) | Err(_) => {
                self.app_ended = true;
                // An app that closes without a close frame died, or does not know better.
                self.say_good_bye()?;
                self.expect_end();
                Ok(true)
            }
            Ok(n) => self.pass(&scratch[..n]).map(|()| true),
        }
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), ClientLost> {
        if self.has_left {
            return Ok(());
        }
        self.frames.pass(bytes);
        self.client.write(bytes)
    }

    /// One piece from the client to the app; whether there was one.
    fn fetch_from_client(&mut self, now: Instant, scratch: &mut Vec<u8>) -> bool {
        if self.app_ended {
            return false;
        }
        if self.to_app.is_empty() {
            if self.client_ended {
                return false;
            }
            scratch.clear();
            match self.client.read(PIECE_BYTES, scratch) {
                Input::Nothing => return false,
                Input::End => {
                    self.client_ended = true;
                    // The app may have closed as well.
                    let _ = self.app.shutdown(Shutdown::Write);
                    self.expect_end();
                    return true;
                }
                Input::Some => self.heard = now,
            }
            let n = self.send(scratch);
            if n < scratch.len() {
                self.to_app = scratch[n..].to_vec();
            }
            return n > 0;
        }
        let n = self.send(&self.to_app);
        self.to_app.drain(..n);
        if self.to_app.is_empty() {
            self.to_app = Vec::new();
        }
        n > 0
    }

    /// How much the app takes now. That it is gone is noticed by reading.
    fn send(&self, bytes: &[u8]) -> usize {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.app.as_raw_fd(), bytes, flags).unwrap_or(0)
    }

    fn expect_end(&mut self) {
        self.deadline
            .get_or_insert_with(|| Instant::now() + LAST_WORDS);
    }

    /// Says "going away" if nobody has closed yet and the stream is between two frames.
    fn say_good_bye(&mut self) -> Result<(), ClientLost> {
        let may = self.frames.is_between() && !self.frames.has_closed() && !self.has_left;
        if !may || self.client.has_pending() {
            return Ok(());
        }
        self.has_left = true;
        self.client.write(&GOING_AWAY)
    }

    /// Whether the app's process gets no more requests, because it is about to end. Said once.
    pub(crate) fn must_part(&mut self) -> bool {
        // One that is away for its out-of-band work comes back.
        let stays = |stream: &Stream| {
            matches!(
                stream.process_state(),
                Some(ProcessState::Live | ProcessState::Away)
            )
        };
        let ends = !self.stream.as_ref().is_none_or(stays);
        ends && !std::mem::replace(&mut self.is_parting, ends)
    }

    /// Worker or app process end: tells the client, who answers or is cut off at `deadline`.
    pub(crate) fn leave(&mut self, deadline: Instant) {
        self.deadline = Some(
            self.deadline
                .map_or(deadline, |earlier| earlier.min(deadline)),
        );
        // Lost: noticed at the next look.
        let _ = self.say_good_bye();
    }

    /// Keeps middle boxes from forgetting the connection, and notices clients that vanished without a word.
    pub(crate) fn ping(&mut self, now: Instant, interval: Duration) -> Look {
        if interval.is_zero() || now.saturating_duration_since(self.heard) < interval {
            return Look::Wait;
        }
        match self.pinged.filter(|pinged| *pinged > self.heard) {
            Some(pinged) if now.saturating_duration_since(pinged) >= interval => {
                log::debug!("a WebSocket client did not answer a ping and was closed");
                return Look::Over;
            }
            Some(_) => {}
            // A client that does not take what it is sent cannot answer either.
            None if self.client.has_pending() => self.pinged = Some(now),
            None if self.frames.is_between() && !self.frames.has_closed() && !self.has_left => {
                self.pinged = Some(now);
                if self.client.write(&PING).is_err() {
                    return Look::Over;
                }
            }
            None => {}
        }
        Look::Wait
    }
}
