//! From a response head to its last byte at httpd.

use super::head::set_head;
use super::output::{Finish, Output, OutputError};
use super::{
    give_back, has_left, Answer, Attempt, AttemptError, Interruption, Outbound, Response, LEFT,
};
use crate::ffi::request::Request;
use crate::upstream::body::{BadBody, BodyDecoder};
use crate::upstream::head::ResponseHead;
use crate::upstream::retry::Failure;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use std::io;
use std::os::fd::AsFd;

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

/// What a wait brought.
enum Event {
    Input,
    End,
    Died,
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
            body: mut decoder,
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
            discards,
            r.has_output_filter(b"includes")
                || is_buffered(outbound.mapping.buffers_response, &head),
            crate::config::globals().response_high_watermark,
        );
        let mut budget = Budget::new(&head, &decoder, discards);
        let mut gathered = Vec::new();
        loop {
            gathered.clear();
            if let Err(BadBody(reason)) = gather(&mut decoder, &mut self.connection, &mut gathered)
            {
                let _ = self.abandon();
                return Err(self.broken_off(r, output, reason));
            }
            let fits = budget.spend(&mut gathered);
            if decoder.is_done() || !fits {
                return self.complete(
                    r,
                    output,
                    &gathered,
                    &budget,
                    keeps_alive && whole_body_sent,
                );
            }
            if let Err(e) = output.add(r, &gathered) {
                return Err(self.output_failed(r, e));
            }
            match self.await_app(r, &mut output)? {
                Event::Input => {}
                Event::End if decoder.ends_at_close() => {
                    return self.complete(r, output, &[], &budget, false);
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
        budget: &Budget,
        reusable: bool,
    ) -> Result<Answer, AttemptError> {
        match budget.verdict() {
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
    ) -> Result<Event, AttemptError> {
        loop {
            self.look_at_clock();
            if let Err(e) = output.pump(r) {
                return Err(self.output_failed(r, e));
            }
            let is_full = output.is_full();
            let app = if is_full {
                PollFlags::empty()
            } else {
                PollFlags::POLLIN
            };
            let mut fds = vec![PollFd::new(self.connection.as_fd(), app)];
            if let Some(client) = self.client {
                let wants = if output.awaits_client(r) {
                    PollFlags::POLLOUT
                } else {
                    PollFlags::empty()
                };
                fds.push(PollFd::new(client, wants | LEFT));
            }
            let flushes = output.is_unflushed() && !output.awaits_client(r);
            let timeout = match self.client {
                _ if flushes => output.pause(),
                Some(_) => SLICE_MS,
                None => STREAM_SLICE_MS,
            };
            match poll(&mut fds, PollTimeout::from(timeout)) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(self.output_failed(r, OutputError::Spill(e.into()))),
                Ok(0) if flushes => {
                    if let Err(e) = output.flush(r) {
                        return Err(self.output_failed(r, e));
                    }
                    continue;
                }
                Ok(0) if self.is_process_dead() => return Ok(Event::Died),
                Ok(_) => {}
            }
            let app = fds[0].revents().unwrap_or(PollFlags::empty());
            if fds.get(1).is_some_and(has_left) || r.is_aborted() {
                return Err(self.output_failed(r, OutputError::Client));
            }
            if !is_full && !app.is_empty() {
                match self.connection.read() {
                    Ok(0) => return Ok(Event::End),
                    Ok(_) => return Ok(Event::Input),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Ok(Event::Died),
                }
            }
        }
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
            AttemptError::Truncated(format!("the response could not be buffered: {e}"))
        }
    }
}

/// Decodes all input that is here.
fn gather(
    decoder: &mut BodyDecoder,
    connection: &mut crate::upstream::connection::Connection,
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

/// The length that a client is told.
fn announced(head: &ResponseHead, decoder: &BodyDecoder, discards: bool) -> Option<u64> {
    match decoder {
        BodyDecoder::Length(n) if !discards => Some(*n),
        _ => head.content_length,
    }
}

/// Whether a body had the announced length.
#[derive(Debug, PartialEq, Eq)]
enum Length {
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
