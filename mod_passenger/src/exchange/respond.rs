//! From a response head to its last byte at httpd.

use super::head::set_head;
use super::incoming::{gather, Event, Incoming, Length};
use super::output::{Finish, Output, OutputError};
use super::{
    give_back, has_left, Answer, Attempt, AttemptError, Interruption, Outbound, Response, LEFT,
};
use crate::ffi::process::with_signals_blocked;
use crate::ffi::request::Request;
use crate::upstream::body::{BadBody, BodyDecoder};
use crate::upstream::head::ResponseHead;
use crate::upstream::retry::Failure;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;

/// Stack of the thread that reads on while this one passes on: it parses and copies, no more.
const READER_STACK_BYTES: usize = 128 * 1024;
/// How long a wait for the app lasts before the process word is looked at.
const SLICE_MS: u16 = 1000;
/// The same where only httpd can say that the client left (an HTTP/2 stream has no socket to poll).
const STREAM_SLICE_MS: u16 = 250;

/// Forwards 103 Early Hints; other 1xx concern the hop to the app only. HTTP/1.0 and subrequests get none.
pub(super) fn interim(r: &mut Request<'_>, head: &ResponseHead) {
    if head.status == 103 && r.is_http_1_1() && !r.is_nested() {
        r.send_interim(103, c"103 Early Hints", &head.fields);
    }
}

impl Attempt<'_, '_> {
    /// Passes the response on. The seat is back before the last bytes are written.
    pub(super) fn respond(
        mut self,
        r: &mut Request<'_>,
        outbound: &Outbound<'_>,
        response: Response,
        whole_body_sent: bool,
    ) -> Result<Answer, AttemptError> {
        let Response {
            head,
            body: decoder,
            keeps_alive,
            ..
        } = response;
        let discards = r.is_head() || head.is_bodyless();
        set_head(r, &head, announced(&head, &decoder, discards));
        r.leave_ranges_to_the_app();
        let has_socket = self.client.is_some() && !r.is_subrequest();
        let mut output = Output::new(
            outbound.buffer_directory,
            has_socket,
            r.has_content_filter(),
            discards,
            r.has_output_filter(b"includes")
                || is_buffered(outbound.mapping.buffers_response, &head),
            crate::config::globals().response_high_watermark,
        );
        let mut incoming = Incoming::new(&head, decoder, discards);
        let reusable = keeps_alive && whole_body_sent;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match incoming.take(&mut self.connection, &mut bytes) {
                Err(BadBody(reason)) => {
                    let _ = self.abandon();
                    return Err(self.broken_off(r, output, reason));
                }
                Ok(true) => return self.complete(r, output, &bytes, &incoming, reusable),
                Ok(false) => {}
            }
            if let Err(e) = output.add(r, &bytes) {
                return Err(self.output_failed(r, e));
            }
            match self.await_app(r, &mut output, &mut incoming)? {
                Event::Input => {}
                Event::End if incoming.ends_at_close() => {
                    return self.complete(r, output, &[], &incoming, false);
                }
                Event::End | Event::Died => {
                    self.settle();
                    return Err(self.broken_off(
                        r,
                        output,
                        "the application closed the connection",
                    ));
                }
            }
        }
    }

    /// Reads an error response to its end and lets httpd answer instead (`PassengerErrorOverride`). Fields that
    /// tell the client what to do next are kept.
    pub(super) fn replace(
        self,
        r: &mut Request<'_>,
        response: Response,
        whole_body_sent: bool,
    ) -> Result<Answer, AttemptError> {
        const KEPT: [&str; 4] = ["www-authenticate", "retry-after", "allow", "set-cookie"];
        for (name, value) in &response.head.fields {
            if KEPT.iter().any(|kept| name.eq_ignore_ascii_case(kept)) {
                r.error_headers_out().add(name.as_bytes(), value);
            }
        }
        let status = response.head.status;
        self.discard_body(response, whole_body_sent)?;
        Ok(Answer::Override(status))
    }

    /// Reads a body that nobody wants to its end, so that seat and connection are free again.
    pub(super) fn discard_body(
        mut self,
        response: Response,
        whole_body_sent: bool,
    ) -> Result<(), AttemptError> {
        let mut decoder = response.body;
        let mut unwanted = Vec::new();
        loop {
            unwanted.clear();
            let is_broken = gather(&mut decoder, &mut self.connection, &mut unwanted).is_err();
            if decoder.is_done() && !is_broken {
                give_back(&mut self.seat, self.holds_seat);
                self.keep(response.keeps_alive && whole_body_sent);
                return Ok(());
            }
            match self.read_or_notice() {
                Ok(n) if n > 0 && !is_broken => {}
                Err(Interruption::ClientGone) => return Err(self.abandon()),
                _ => {
                    self.settle();
                    return Ok(());
                }
            }
        }
    }

    /// The body's end was read (or the app wrote more than it announced): seat first, then the client.
    fn complete(
        mut self,
        r: &mut Request<'_>,
        output: Output<'_>,
        last: &[u8],
        incoming: &Incoming,
        reusable: bool,
    ) -> Result<Answer, AttemptError> {
        match incoming.verdict() {
            Length::Right => {
                // The connection first: whoever gets the seat next finds it in the cache, so that the app has
                // few connections to watch (`select` in Ruby costs by their number).
                let (mut seat, holds_seat) = (self.seat.take(), self.holds_seat);
                self.keep(reusable);
                give_back(&mut seat, holds_seat);
                finish(r, output, last)
            }
            Length::TooLong => {
                let _ = self.abandon();
                log::warn!(
                    "PSGR0211 application process {} sent more bytes than its Content-Length announced; the \
                     rest was cut off",
                    self.name()
                );
                finish(r, output, last)
            }
            Length::TooShort => {
                give_back(&mut self.seat, self.holds_seat);
                let mut output = output;
                let _ = output.add(r, last);
                Err(self.broken_off(r, output, "the body is shorter than its Content-Length"))
            }
        }
    }

    /// Waits for the app while the client is served from what was held back.
    fn await_app(
        &mut self,
        r: &mut Request<'_>,
        output: &mut Output<'_>,
        incoming: &mut Incoming,
    ) -> Result<Event, AttemptError> {
        loop {
            self.look_at_clock();
            if let Err(e) = output.pump(r) {
                return Err(self.output_failed(r, e));
            }
            let is_full = output.is_full();
            let mut fds = Vec::with_capacity(2);
            if let Some(client) = self.client {
                let wants = if output.awaits_client(r) {
                    PollFlags::POLLOUT
                } else {
                    PollFlags::empty()
                };
                fds.push(PollFd::new(client, wants | LEFT));
            }
            // Not even for its end while nothing more may come: that would be said again and again.
            if !is_full {
                fds.push(PollFd::new(self.connection.as_fd(), PollFlags::POLLIN));
            }
            let flushes = output.is_unflushed() && !output.awaits_client(r);
            if flushes && output.is_overdue() {
                return self.flush(r, output, incoming);
            }
            let timeout = match self.client {
                _ if flushes => output.pause(),
                Some(_) => SLICE_MS,
                None => STREAM_SLICE_MS,
            };
            match poll(&mut fds, PollTimeout::from(timeout)) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(self.output_failed(r, OutputError::Spill(e.into()))),
                Ok(0) if flushes => return self.flush(r, output, incoming),
                Ok(0) if self.is_process_dead() => return Ok(Event::Died),
                Ok(_) => {}
            }
            let has_client_left = self.client.is_some() && fds.first().is_some_and(has_left);
            let app = fds
                .last()
                .filter(|_| !is_full)
                .and_then(|app| app.revents());
            if has_client_left || r.is_aborted() {
                return Err(self.output_failed(r, OutputError::Client));
            }
            if app.is_some_and(|events| !events.is_empty()) {
                match self.connection.read() {
                    Ok(0) => return Ok(Event::End),
                    Ok(_) => return Ok(Event::Input),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Ok(Event::Died),
                }
            }
        }
    }

    /// The app pauses, or has not done so for long: the client gets what is there.
    fn flush(
        &mut self,
        r: &mut Request<'_>,
        output: &mut Output<'_>,
        incoming: &mut Incoming,
    ) -> Result<Event, AttemptError> {
        let flushed = match output.gathers() {
            true => self.flush_and_read(r, output, incoming),
            false => output.flush(r).map(|()| Event::Input),
        };
        flushed.map_err(|e| self.output_failed(r, e))
    }

    /// The client gets what was gathered. httpd may take as long for that as its client does, and
    /// the app must not wait for either, so another thread reads on meanwhile; it frees the seat when the app is done.
    fn flush_and_read(
        &mut self,
        r: &mut Request<'_>,
        output: &mut Output<'_>,
        incoming: &mut Incoming,
    ) -> Result<Event, OutputError> {
        let bound = output.bound();
        let (gathered, mut next) = output.take_gathered();
        // Without a reader (no descriptors, no threads) the app waits for the client; the response is as right.
        let Ok((stop, stopped)) = UnixStream::pair() else {
            let passed = output.flush_gathered(r, gathered);
            output.go_on_with(next);
            return passed.map(|()| Event::Input);
        };
        let (connection, seat) = (&mut *self.connection, &mut self.seat);
        let holds_seat = self.holds_seat;
        let mut event = Event::Input;
        let passed = thread::scope(|scope| {
            let builder = thread::Builder::new().stack_size(READER_STACK_BYTES);
            let read = || {
                let event = incoming.read_until(&stopped, connection, &mut next, bound);
                if incoming.is_over(event) {
                    give_back(seat, holds_seat);
                }
                event
            };
            let reader = with_signals_blocked(|| builder.spawn_scoped(scope, read));
            let passed = output.flush_gathered(r, gathered);
            drop(stop);
            if let Ok(reader) = reader {
                event = reader.join().unwrap_or(Event::Died);
            }
            passed
        });
        output.go_on_with(next);
        passed.map(|()| event)
    }

    /// Puts the connection into the cache if it can serve another request.
    fn keep(self, reusable: bool) {
        if reusable {
            self.worker
                .connections
                .checkin(self.process, self.connection);
        }
    }

    fn output_failed(&mut self, r: &mut Request<'_>, error: OutputError) -> AttemptError {
        let _ = self.abandon();
        lost(r, error)
    }

    /// A response that cannot be completed: a plain 502 if nothing reached the client, else a visible break.
    fn broken_off(
        &mut self,
        r: &mut Request<'_>,
        output: Output<'_>,
        reason: &str,
    ) -> AttemptError {
        if !output.has_passed() && output.held_back() == 0 {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, reason.to_owned());
            return self.fatal(error);
        }
        output.truncate(r);
        AttemptError::Truncated(format!("application process {}: {reason}", self.name()))
    }
}

/// `PassengerBufferResponse`, and what the app says to it: the field of nginx that libraries for events send.
fn is_buffered(buffers: bool, head: &ResponseHead) -> bool {
    let opts_out = |(name, value): &(String, Vec<u8>)| {
        name.eq_ignore_ascii_case("x-accel-buffering") && value.eq_ignore_ascii_case(b"no")
    };
    buffers && !head.fields.iter().any(opts_out)
}

fn finish(r: &mut Request<'_>, output: Output<'_>, last: &[u8]) -> Result<Answer, AttemptError> {
    match output.finish(r, last) {
        Ok(Finish::Done) => Ok(Answer::PassedOn),
        Ok(Finish::Parked) => Ok(Answer::Suspended),
        Err(e) => Err(lost(r, e)),
    }
}

/// The client cannot be given (the rest of) its response: httpd shall close the connection.
pub(super) fn lost(r: &mut Request<'_>, error: OutputError) -> AttemptError {
    r.set_aborted();
    match error {
        OutputError::Client => AttemptError::Failed(Failure::ClientGone),
        OutputError::Spill(e) => {
            if r.ends_by_close() {
                r.reset_connection();
            }
            AttemptError::Truncated(format!("the response could not be buffered: {e}"))
        }
    }
}

/// The length that a client is told.
fn announced(head: &ResponseHead, decoder: &BodyDecoder, discards: bool) -> Option<u64> {
    match decoder {
        BodyDecoder::Length(n) if !discards => Some(*n),
        _ => head.content_length,
    }
}
