//! [`Output`]: the client's side of a response while the app is still writing.
//!
//! The thread that writes here is the only reader of the app, so no write may block while the app has
//! not finished (design-review B8): small pieces go to httpd's filters while they hold nothing back, the
//! rest waits in a spill. Where the connection gives no sign of being slow (an HTTP/2 stream, a subrequest)
//! everything waits there, until the app is done or pauses: httpd takes one bucket of any size at once.

use crate::ffi::brigade::{self, ClientLost};
use crate::ffi::parking;
use crate::ffi::request::Request;
use crate::next_request;
use crate::spill::{Rest, Spill};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Most bytes handed to httpd at once; below its flush threshold of 64 KiB, over which it would block.
const PIECE_BYTES: usize = 48 * 1024;
/// What is left at the end must fit under httpd's threshold, or be a file (httpd-notes section 5).
const MEMORY_BYTES: usize = PIECE_BYTES / 2;
/// The same where there is no such threshold.
const GATHERED_BYTES: usize = 256 * 1024;
/// How long an app must be silent to count as pausing where passing on may block.
const PAUSE_MS: u16 = 20;
/// The same where each flush costs: mod_deflate ends a block, mod_ratelimit begins a second.
const FILTERED_PAUSE_MS: u16 = 5;
/// How long a client waits at most for what an app wrote that writes on and on.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Why output ended early.
#[derive(Debug)]
pub(super) enum OutputError {
    /// The client is gone.
    Client,
    /// The spill file cannot be written.
    Spill(io::Error),
}

impl From<ClientLost> for OutputError {
    fn from(_: ClientLost) -> Self {
        Self::Client
    }
}

/// What became of a complete response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// httpd has it.
    Done,
    /// The rest waits for the client; httpd must be told that the request is suspended.
    Parked,
}

/// Where a response's bytes go.
pub(super) struct Output<'d> {
    spill: Spill<'d>,
    directory: &'d Path,
    has_socket: bool,
    is_filtered: bool,
    /// Most bytes held back before the app must wait, or httpd be given them.
    bound: u64,
    discards: bool,
    /// Nothing is passed on before the app is done: a filter (mod_include) will make requests of its own.
    holds_all: bool,
    /// Since when there is something that the client has not been offered yet.
    unflushed_since: Option<Instant>,
    has_passed: bool,
}

impl<'d> Output<'d> {
    /// For a response whose body is sent, or only counted (`discards`: HEAD, 204, 304).
    pub(super) fn new(
        directory: &'d Path,
        has_socket: bool,
        is_filtered: bool,
        discards: bool,
        holds_all: bool,
        bound: u64,
    ) -> Self {
        Self {
            spill: new_spill(directory, has_socket),
            directory,
            has_socket,
            is_filtered,
            bound,
            discards,
            holds_all,
            unflushed_since: None,
            has_passed: false,
        }
    }

    /// Whether anything (and with it the head) went to httpd.
    pub(super) fn has_passed(&self) -> bool {
        self.has_passed
    }

    /// Whether there is something that the client has not been offered yet.
    pub(super) fn is_unflushed(&self) -> bool {
        self.unflushed_since.is_some()
    }

    /// Whether the client has waited long enough for an app that never pauses.
    pub(super) fn is_overdue(&self) -> bool {
        self.pause() > 0
            && self
                .unflushed_since
                .is_some_and(|since| since.elapsed() >= LONGEST_WAIT)
    }

    fn note_unflushed(&mut self) {
        self.unflushed_since.get_or_insert_with(Instant::now);
    }

    /// Most bytes held back before the app must wait.
    pub(super) fn bound(&self) -> u64 {
        self.bound
    }

    /// Bytes held back because the client is slow.
    pub(super) fn held_back(&self) -> u64 {
        self.spill.len()
    }

    /// Whether the app must wait: more is held back than may be.
    pub(super) fn is_full(&self) -> bool {
        // A full disk makes the app as slow as the client is.
        self.held_back() >= self.bound || self.spill.is_cramped()
    }

    /// How long the app must be silent before [`Output::flush`] is due, in milliseconds.
    pub(super) fn pause(&self) -> u16 {
        match (self.has_socket, self.is_filtered) {
            (true, false) => 0,
            (true, true) => FILTERED_PAUSE_MS,
            (false, _) => PAUSE_MS,
        }
    }

    /// Whether the client must take something before more can be passed on.
    pub(super) fn awaits_client(&self, r: &Request<'_>) -> bool {
        self.has_socket && !self.holds_all && (r.has_pending_output() || !self.spill.is_empty())
    }

    /// Adds body bytes; does not block on a client with a socket.
    pub(super) fn add(&mut self, r: &mut Request<'_>, bytes: &[u8]) -> Result<(), OutputError> {
        if bytes.is_empty() || self.discards {
            return Ok(());
        }
        if self.gathers() {
            if !self.holds_all {
                self.note_unflushed();
            }
            self.keep(bytes);
            return Ok(());
        }
        if self.spill.is_empty() && bytes.len() <= PIECE_BYTES && !r.has_pending_output() {
            return self.pass(r, bytes);
        }
        self.keep(bytes);
        Ok(())
    }

    /// Keeps bytes that the client does not take yet.
    fn keep(&mut self, bytes: &[u8]) {
        if let Some(why) = self.spill.push_anyway(bytes) {
            log::debug!("a response stays in memory, the app waits for the client: {why}");
        }
    }

    /// Whether everything waits for the app's end, or its pause, because passing on may block.
    pub(super) fn gathers(&self) -> bool {
        self.holds_all || !self.has_socket
    }

    /// What was gathered, to be passed on as one bucket, and where to gather more meanwhile.
    pub(super) fn take_gathered(&mut self) -> (Rest, Spill<'d>) {
        let next = new_spill(self.directory, self.has_socket);
        let rest = std::mem::replace(&mut self.spill, next).into_rest();
        (rest, new_spill(self.directory, self.has_socket))
    }

    /// Passes on what was gathered, at once. Blocks when httpd has not got rid of what it got before.
    pub(super) fn flush_gathered(
        &mut self,
        r: &mut Request<'_>,
        gathered: Rest,
    ) -> Result<(), OutputError> {
        self.has_passed = true;
        write_pieces(r, gathered)?;
        let flush = brigade::Output {
            flush: true,
            ..Default::default()
        };
        Ok(brigade::write(r, flush)?)
    }

    /// Goes on with what was gathered meanwhile.
    pub(super) fn go_on_with(&mut self, next: Spill<'d>) {
        self.unflushed_since = None;
        if !next.is_empty() && !self.holds_all {
            self.note_unflushed();
        }
        self.spill = next;
    }

    fn pass(&mut self, r: &mut Request<'_>, bytes: &[u8]) -> Result<(), OutputError> {
        self.has_passed = true;
        self.note_unflushed();
        Ok(brigade::write(
            r,
            brigade::Output {
                data: bytes,
                ..Default::default()
            },
        )?)
    }

    /// Moves on what the client takes without waiting.
    pub(super) fn pump(&mut self, r: &mut Request<'_>) -> Result<(), OutputError> {
        if self.gathers() {
            return match self.is_full() {
                true => {
                    self.has_passed = true;
                    let (gathered, _) = self.take_gathered();
                    write_pieces(r, gathered)
                }
                false => Ok(()),
            };
        }
        brigade::push_pending(r)?;
        while !self.spill.is_empty() && !r.has_pending_output() {
            let piece = self.spill.peek(PIECE_BYTES).map_err(OutputError::Spill)?;
            self.pass(r, &piece)?;
            self.spill.take(piece.len());
            brigade::push_pending(r)?;
        }
        Ok(())
    }

    /// The app pauses: the client gets what is there, if it takes it without waiting. Not while all is gathered.
    pub(super) fn flush(&mut self, r: &mut Request<'_>) -> Result<(), OutputError> {
        self.pump(r)?;
        if !self.awaits_client(r) {
            self.has_passed = true;
            self.unflushed_since = None;
            brigade::write(
                r,
                brigade::Output {
                    flush: true,
                    ..Default::default()
                },
            )?;
        }
        Ok(())
    }

    /// The response is complete; `last` are its last bytes. The app is not waiting any more, so this may
    /// block where httpd can neither finish nor park the rest without the thread.
    pub(super) fn finish(
        mut self,
        r: &mut Request<'_>,
        last: &[u8],
    ) -> Result<Finish, OutputError> {
        let end = brigade::Output {
            end: true,
            ..Default::default()
        };
        if self.discards {
            brigade::write(r, end)?;
            next_request::invite(r);
            return Ok(Finish::Done);
        }
        let must_wait = !self.spill.is_empty() || r.has_pending_output();
        if must_wait && self.has_socket && parking::is_worthwhile(r) && parking::is_possible(r) {
            self.keep(last);
            parking::park(r, self.spill.into_rest());
            return Ok(Finish::Parked);
        }
        if self.spill.is_empty() {
            brigade::write(r, brigade::Output { data: last, ..end })?;
            next_request::invite(r);
            return Ok(Finish::Done);
        }
        self.keep(last);
        write_rest(r, self.spill.into_rest(), end)?;
        Ok(Finish::Done)
    }

    /// The response is broken off after its head: passes what is there, then makes the client notice.
    pub(super) fn truncate(self, r: &mut Request<'_>) {
        let end = brigade::Output {
            truncated: true,
            ..Default::default()
        };
        // A client that is gone need not be told.
        let _ = write_rest(r, self.spill.into_rest(), end);
        if self.has_passed && r.ends_by_close() {
            r.reset_connection();
        }
    }
}

fn new_spill(directory: &Path, has_socket: bool) -> Spill<'_> {
    let memory = if has_socket {
        MEMORY_BYTES
    } else {
        GATHERED_BYTES
    };
    Spill::new(directory, memory)
}

/// Hands over what a spill held in the middle of a response: copied, since httpd keeps a file that it was given open until
/// the request ends, and there may be thousands. May block, and holds no more than a piece in memory.
fn write_pieces(r: &mut Request<'_>, mut rest: Rest) -> Result<(), OutputError> {
    loop {
        let piece = rest.read(PIECE_BYTES).map_err(OutputError::Spill)?;
        if piece.is_empty() {
            return Ok(());
        }
        let data = &piece[..];
        brigade::write(
            r,
            brigade::Output {
                data,
                ..Default::default()
            },
        )?;
    }
}

/// Hands all that a spill held to httpd in one brigade, then what `end` says.
fn write_rest(r: &mut Request<'_>, rest: Rest, end: brigade::Output<'_>) -> Result<(), ClientLost> {
    match rest {
        Rest::File(fd, offset, len, after) if after.is_empty() => brigade::write(
            r,
            brigade::Output {
                file: Some((fd, offset, len)),
                ..end
            },
        ),
        Rest::File(fd, offset, len, after) => {
            let file = brigade::Output {
                file: Some((fd, offset, len)),
                ..Default::default()
            };
            brigade::write(r, file)?;
            let data = &after[..];
            brigade::write(r, brigade::Output { data, ..end })
        }
        Rest::Memory(bytes, from) => brigade::write(
            r,
            brigade::Output {
                data: &bytes[from..],
                ..end
            },
        ),
        Rest::Nothing => brigade::write(r, end),
    }
}
