//! Steps 5 to 7 of a request's life: one attempt to have one app process answer it.
//!
//! ```text
//! attempt ─► send (head, body) ─► wait for the response head ─► respond (head, body to httpd)
//!               send.rs               this file              head.rs, respond.rs, output.rs, send_file.rs
//! ```
//! The seat comes back by [`Seat::release`] only when the response's end was read, the app closed, or the
//! process died; in every other case it becomes an orphan, which is also what dropping it does.

mod head;
mod output;
mod respond;
mod send;
mod send_file;
mod switch;

use crate::config;
use crate::environment;
use crate::error::RequestError;
use crate::ffi::request::Request;
use crate::mapping::Mapping;
use crate::request_body::RequestBody;
use crate::upstream::body::BodyDecoder;
use crate::upstream::connection::Connection;
use crate::upstream::frame::{self, RequestFrame, ResponseHeader};
use crate::upstream::head::{HeadError, ResponseHead};
use crate::upstream::http1;
use crate::upstream::retry::{classify, Failure};
use crate::worker::Worker;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use passenger_shm::{Hint, ProcessRef, ProcessState, Protocol, Seat};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// What all attempts of one request share.
pub(crate) struct Outbound<'a> {
    /// The body, wherever it is.
    pub(crate) body: &'a RequestBody,
    /// Which app it is for.
    pub(crate) mapping: &'a Mapping,
    /// Where buffer files go.
    pub(crate) buffer_directory: &'a Path,
    /// `SERVER_SOFTWARE`.
    pub(crate) software: &'a str,
    /// When it began to look for a process, in microseconds since 1970.
    queued_us: u64,
    /// The client asks for a WebSocket.
    pub(crate) upgrades: bool,
    /// `Set-Cookie` for the response, where sessions are sticky.
    pub(crate) cookie: Option<Vec<u8>>,
    binary: Option<RequestFrame>,
    http: Option<Vec<u8>>,
}

impl<'a> Outbound<'a> {
    /// A request that was not sent yet.
    pub(crate) fn new(
        body: &'a RequestBody,
        mapping: &'a Mapping,
        buffer_directory: &'a Path,
        software: &'a str,
    ) -> Self {
        Self {
            body,
            mapping,
            buffer_directory,
            software,
            queued_us: now_us(),
            upgrades: false,
            cookie: None,
            binary: None,
            http: None,
        }
    }

    /// The head for one attempt, encoded once per protocol.
    fn head(&mut self, r: &Request<'_>, protocol: Protocol, number: u64) -> &[u8] {
        let (body, upgrades) = (self.body, self.upgrades);
        let facts = |body_bytes| environment::Facts {
            queued_us: self.queued_us,
            script_name: &self.mapping.script_name,
            software: self.software,
            keeps_encoded_slashes: self.mapping.keeps_encoded_slashes,
            body_bytes,
        };
        match protocol {
            Protocol::Binary => {
                let bytes = match body {
                    RequestBody::Stream(_) => frame::FRAMED,
                    _ => body.len().unwrap_or(0),
                };
                self.binary
                    .get_or_insert_with(|| {
                        let mut head = environment::binary(r, facts(body.len()));
                        if upgrades {
                            switch::ask_binary(&mut head);
                        }
                        head
                    })
                    .finish(number, bytes)
            }
            Protocol::Http => {
                let bytes = match body {
                    RequestBody::Stream(length) => *length,
                    _ => body.len(),
                };
                self.http.get_or_insert_with(|| {
                    let mut head = environment::http(r, facts(bytes));
                    if upgrades {
                        switch::ask_http(&mut head);
                    }
                    head
                })
            }
        }
    }
}

/// Microseconds since 1970.
fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

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
    let connection = match worker.connections.checkout(process, seat.protocol(), port) {
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
        loop {
            let mut response = self.await_head(r, number, protocol, outbound.body)?;
            if response.is_interim {
                self.has_spoken = true;
                respond::interim(r, &response.head);
                continue;
            }
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
    // Relaxed: written and read by this one thread.
    holds_seat.store(false, Ordering::Relaxed);
    if let Some(seat) = seat.take() {
        seat.release();
    }
}

enum Interruption {
    ClientGone,
    Io(io::Error),
}

/// A response head and how its body ends.
struct Response {
    head: ResponseHead,
    body: BodyDecoder,
    keeps_alive: bool,
    is_interim: bool,
    /// Status 101 on a connection that is all the stream's from now on.
    is_tunnel: bool,
}

fn parse_http(input: &[u8], is_head: bool) -> Result<Option<(Response, usize)>, HeadError> {
    let Some(parsed) = http1::parse_head(input, is_head)? else {
        return Ok(None);
    };
    let is_tunnel = parsed.head.status == 101;
    let is_interim = parsed.head.status < 200 && !is_tunnel;
    let response = Response {
        head: parsed.head,
        body: parsed.body,
        keeps_alive: parsed.keeps_alive,
        is_interim,
        is_tunnel,
    };
    Ok(Some((response, parsed.consumed)))
}

/// The header of the response to that request, once it is here.
fn header(input: &[u8], number: u64) -> Result<Option<ResponseHeader>, HeadError> {
    let header = ResponseHeader::parse(input)?;
    match &header {
        Some(header) if header.number != number => Err(HeadError::WrongNumber {
            expected: number,
            got: header.number,
        }),
        _ => Ok(header),
    }
}

/// Whether the app has taken the connection: what follows the header is HTTP/1.1, status line and all.
fn is_hijack(input: &[u8], number: u64) -> Result<bool, HeadError> {
    let header = header(input, number)?;
    Ok(header.is_some_and(|header| header.is_raw && header.head_bytes == 0))
}

fn parse_binary(input: &[u8], number: u64) -> Result<Option<(Response, usize)>, HeadError> {
    let Some(header) = header(input, number)? else {
        return Ok(None);
    };
    let end = frame::HEADER_BYTES + header.head_bytes;
    let Some(head) = input.get(frame::HEADER_BYTES..end) else {
        return Ok(None);
    };
    let head = frame::parse_head(head)?;
    let body = match header.body_bytes {
        _ if header.is_raw => BodyDecoder::UntilClose,
        frame::FRAMED => BodyDecoder::frames(),
        n => BodyDecoder::Length(n),
    };
    let keeps_alive = !header.is_last && !header.is_raw;
    let is_tunnel = header.is_raw && head.status == 101;
    Ok(Some((
        Response {
            head,
            body,
            keeps_alive,
            is_interim: header.is_interim,
            is_tunnel,
        },
        end,
    )))
}

/// What a client's socket is polled for to learn that it left (`nix` has no name for `POLLRDHUP`).
const LEFT: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

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

/// The first bytes of a response, printable.
fn sample(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes[..bytes.len().min(60)].escape_ascii())
}
