//! Steps 5 to 7 of a request's life: one attempt to have one app process answer it.
//!
//! ```text
//! attempt ─► send (head, body) ─► wait for the response head ─► respond (head, body to httpd)
//!         outbound.rs, send.rs     this file, response.rs     head.rs, respond.rs, send_file.rs
//!                                                             incoming.rs (app's side) ─► output.rs (client's side)
//! ```
//! The seat comes back by [`Seat::release`] only when the response's end was read, the app closed, or the
//! process died; in every other case it becomes an orphan, which is also what dropping it does.

mod head;
mod incoming;
mod outbound;
mod output;
mod respond;
mod response;
mod send;
mod send_file;
mod switch;

use crate::config;
use crate::error::RequestError;
use crate::ffi::request::Request;
use crate::request_body::RequestBody;
use crate::upstream::connection::Connection;
use crate::upstream::frame;
use crate::upstream::head::HeadError;
use crate::upstream::retry::{classify, Failure};
use crate::worker::Worker;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use passenger_shm::{Hint, ProcessRef, ProcessState, Protocol, Seat};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) use outbound::Outbound;
use response::{is_hijack, parse_binary, parse_http, sample, Response};

/// Most interim responses before the response: each costs the client time and the request memory.
const MAX_INTERIM: u32 = 64;

/// What a complete response came to.
pub(crate) enum Answer {
    /// It went to the client.
    PassedOn,
    /// The request goes on without this thread: the connection is the relay's, or the rest of the response waits
    /// for its client.
    Suspended,
    /// It was an error, and httpd shall answer with its own page for that status (`PassengerErrorOverride`).
    Override(u16),
}

/// Why an attempt did not end in a complete response.
pub(crate) enum AttemptError {
    /// Ask `retry::verdict`.
    Failed(Failure),
    /// Nothing reached the client; it gets this.
    Fatal(RequestError),
    /// Part of the response reached the client, which was told that it is broken off.
    Truncated(String),
}

/// One attempt's state.
struct Attempt<'a, 's> {
    worker: &'a Worker,
    process: ProcessRef,
    seat: Option<Seat<'s>>,
    holds_seat: &'a AtomicBool,
    connection: Box<Connection>,
    client: Option<BorrowedFd<'a>>,
    /// Only to see whether httpd gave the connection up.
    request: Request<'a>,
    /// An interim response was read: what comes after it is not the first byte.
    has_spoken: bool,
    /// The app took the connection (full hijack) and writes HTTP/1.1 itself, until it closes.
    is_hijacked: bool,
    /// When the request's time is up (`PassengerMaxRequestTime`), and whether the agent must be told: it cannot
    /// see the requests of a process that takes them without limit.
    time_is_up_at: Option<Instant>,
    tells_agent: bool,
}

/// Has the seat's process answer the request.
///
/// # Errors
/// See [`AttemptError`]; the seat is settled in every case.
pub(crate) fn attempt(
    r: &mut Request<'_>,
    worker: &Worker,
    seat: Seat<'_>,
    outbound: &mut Outbound<'_>,
) -> Result<Answer, AttemptError> {
    let process = seat.process();
    let port = || worker.view.port(process);
    let has_one_chance = outbound.has_one_chance;
    let cache = &worker.connections;
    let connection = match cache.checkout(process, seat.protocol(), has_one_chance, port) {
        Ok(connection) => connection,
        Err(error) => {
            // Nothing was sent: the process is gone or its socket not there.
            seat.release();
            worker.client.hint(Hint::ProcessSuspect(process));
            return Err(AttemptError::Failed(Failure::Unread(error)));
        }
    };
    let (number, protocol) = (seat.number(), seat.protocol());
    let client = r.client_socket();
    outbound.mapping.holds_seat.store(true, Ordering::Relaxed);
    let (time_is_up_at, tells_agent) = limit_time(r, &seat);
    let attempt = Attempt {
        worker,
        process,
        seat: Some(seat),
        holds_seat: &outbound.mapping.holds_seat,
        connection,
        client,
        request: *r,
        has_spoken: false,
        is_hijacked: false,
        time_is_up_at,
        tells_agent,
    };
    attempt.run(r, outbound, number, protocol)
}

/// Says how long the request may take (`PassengerMaxRequestTime`), where somebody wrote it. A process that takes
/// requests without limit has no place for that: its worker must tell the agent, from that moment on.
fn limit_time(r: &Request<'_>, seat: &Seat<'_>) -> (Option<Instant>, bool) {
    let limit = config::of_request(r.as_ptr()).and_then(config::DirConfig::max_request_time);
    let Some(seconds) = limit else {
        return (None, false);
    };
    let is_said = seat.say_limit(u16::try_from(seconds).unwrap_or(u16::MAX));
    let end = (seconds > 0).then(|| Instant::now() + Duration::from_secs(seconds.into()));
    (end, !is_said)
}

impl Attempt<'_, '_> {
    fn run(
        mut self,
        r: &mut Request<'_>,
        outbound: &mut Outbound<'_>,
        number: u64,
        protocol: Protocol,
    ) -> Result<Answer, AttemptError> {
        let whole_body_sent = self.send(r, outbound, number, protocol)?;
        let mut interim = 0;
        loop {
            let mut response = self.await_head(r, number, protocol, outbound.body)?;
            if response.is_interim {
                self.has_spoken = true;
                interim += 1;
                if interim > MAX_INTERIM {
                    let limit = MAX_INTERIM;
                    return Err(self.bad_response(HeadError::TooManyInterim { limit }));
                }
                respond::interim(r, &response.head);
                continue;
            }
            // Node gives a connection to the application as soon as an upgrade is asked for, and reads no more requests
            // from it, even if the answer is no.
            response.keeps_alive &= !(outbound.upgrades && protocol == Protocol::Http);
            if let Some(cookie) = outbound.cookie.take() {
                response.head.fields.push(("Set-Cookie".to_owned(), cookie));
            }
            if response.is_tunnel || response.head.status == 101 {
                return self.switch(r, outbound, response);
            }
            if outbound.mapping.overrides_errors && response.head.status >= 400 {
                return self.replace(r, response, whole_body_sent);
            }
            if let Some(path) = send_file::take_path(&mut response.head) {
                return self.send_file(r, outbound.mapping, response, &path, whole_body_sent);
            }
            return self.respond(r, outbound, response, whole_body_sent);
        }
    }

    /// Reads until the response head is complete.
    fn await_head(
        &mut self,
        r: &Request<'_>,
        number: u64,
        protocol: Protocol,
        body: &RequestBody,
    ) -> Result<Response, AttemptError> {
        loop {
            let parsed = self.parse(number, protocol, r.is_head());
            match parsed {
                Ok(Some((response, consumed))) => {
                    self.connection.consume(consumed);
                    return Ok(response);
                }
                Ok(None) => {}
                Err(error) => return Err(self.bad_response(error)),
            }
            let seen = self.has_spoken || !self.connection.input().is_empty();
            match self.read_or_notice() {
                Ok(0) if seen => {
                    self.settle();
                    return Err(self.fatal(io::ErrorKind::UnexpectedEof.into()));
                }
                Ok(0) => {
                    self.settle();
                    return Err(self.unanswered(io::ErrorKind::UnexpectedEof.into(), body));
                }
                Ok(_) => {}
                Err(Interruption::ClientGone) => return Err(self.abandon()),
                Err(Interruption::Io(error)) => {
                    self.settle();
                    return Err(if seen {
                        self.fatal(error)
                    } else {
                        self.unanswered(error, body)
                    });
                }
            }
        }
    }

    fn parse(
        &mut self,
        number: u64,
        protocol: Protocol,
        is_head: bool,
    ) -> Result<Option<(Response, usize)>, HeadError> {
        if protocol == Protocol::Binary && !self.is_hijacked {
            self.is_hijacked = is_hijack(self.connection.input(), number)?;
            if !self.is_hijacked {
                return parse_binary(self.connection.input(), number);
            }
            self.connection.consume(frame::HEADER_BYTES);
            self.has_spoken = true;
        }
        let parsed = parse_http(self.connection.input(), is_head)?;
        Ok(parsed.map(|(response, consumed)| {
            let keeps_alive = response.keeps_alive && !self.is_hijacked;
            let response = Response {
                keeps_alive,
                ..response
            };
            (response, consumed)
        }))
    }

    /// Reads once; between slices looks at the client and at the process. `Ok(0)` = the app closed or died.
    fn read_or_notice(&mut self) -> Result<usize, Interruption> {
        loop {
            match self.connection.read() {
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.look_at_clock();
                    // An HTTP/2 stream has no socket; httpd marks its connection when the client gives it up.
                    if self
                        .client
                        .map_or_else(|| self.request.is_aborted(), is_gone)
                    {
                        return Err(Interruption::ClientGone);
                    }
                    if self.is_process_dead() {
                        // A child the app forked may keep the socket open for ever (design-review T9).
                        return Ok(0);
                    }
                }
                Err(e) => return Err(Interruption::Io(e)),
            }
        }
    }

    /// Tells the agent once if the request takes too long; it then ends the process.
    fn look_at_clock(&mut self) {
        if self.tells_agent && self.is_time_up() {
            self.tells_agent = false;
            self.worker.client.hint(Hint::Overdue(self.process));
        }
    }

    fn is_time_up(&self) -> bool {
        self.time_is_up_at.is_some_and(|at| Instant::now() >= at)
    }

    /// Closed or broken before any byte of a response. What was executed until its time was up has had its
    /// chance: again would cost another process.
    fn unanswered(&self, error: io::Error, body: &RequestBody) -> AttemptError {
        match self.failed(error, body) {
            AttemptError::Failed(Failure::MayHaveRun(error)) if self.is_time_up() => {
                self.fatal(error)
            }
            other => other,
        }
    }

    fn is_process_dead(&self) -> bool {
        matches!(
            self.worker.view.process_state(self.process),
            None | Some(ProcessState::Dead)
        )
    }

    /// The app closed or died: its seat is free whatever it was doing.
    fn settle(&mut self) {
        give_back(&mut self.seat, self.holds_seat);
        self.worker.client.hint(Hint::ProcessSuspect(self.process));
    }

    /// Nobody waits for the answer: tell the app by a half-close, leave the seat to the agent.
    fn abandon(&mut self) -> AttemptError {
        self.connection.half_close();
        self.holds_seat.store(false, Ordering::Relaxed);
        if let Some(seat) = self.seat.take() {
            seat.orphan();
        }
        AttemptError::Failed(Failure::ClientGone)
    }

    fn bad_response(&mut self, error: HeadError) -> AttemptError {
        let sample = sample(self.connection.input());
        let _ = self.abandon();
        AttemptError::Fatal(RequestError::BadResponse {
            pid_hint: self.name(),
            error,
            sample,
        })
    }

    fn fatal(&self, error: io::Error) -> AttemptError {
        let process = self.name();
        if self.is_time_up() {
            return AttemptError::Fatal(RequestError::TookTooLong { process });
        }
        AttemptError::Fatal(RequestError::NoResponse { process, error })
    }

    fn failed(&self, error: io::Error, body: &RequestBody) -> AttemptError {
        let tells_nothing = self.connection.is_tcp() || !body.is_empty();
        AttemptError::Failed(classify(error, true, tells_nothing))
    }

    fn name(&self) -> String {
        format!("{}.{}", self.process.slot(), self.process.generation())
    }
}

/// Frees the seat: the response's end was read, or the app closed or died.
fn give_back(seat: &mut Option<Seat<'_>>, holds_seat: &AtomicBool) {
    // Relaxed: read by this request's thread only, which a reader of its own ends before (`flush_and_read`), or too early
    // to matter: a seat that is thought to be held makes nothing but a nested request wait less.
    holds_seat.store(false, Ordering::Relaxed);
    if let Some(seat) = seat.take() {
        seat.release();
    }
}

enum Interruption {
    ClientGone,
    Io(io::Error),
}

/// What a client's socket is polled for to learn that it left (`nix` has no name for `POLLRDHUP`).
pub(crate) const LEFT: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// Whether the client closed (a half-closed client looks the same; design-review N1).
pub(crate) fn is_gone(client: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(client, LEFT)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Whether a poll found that the client left. `nix` returns `None` for the bit it has no name for.
fn has_left(polled: &PollFd<'_>) -> bool {
    polled
        .revents()
        .is_none_or(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}
