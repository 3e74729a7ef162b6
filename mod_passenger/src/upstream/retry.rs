//! May a request that failed be sent again? The one place that answers.
//!
//! Evidence: design-review T8 (what a Unix stream says when its peer dies) and S5 (the rule).

use std::io;

/// How an exchange ended before its response was complete.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The app provably never read the request: connect refused, EPIPE before a byte was accepted, or
    /// ECONNRESET without body and without response.
    Unread(io::Error),
    /// No response byte was seen, but the app may have executed the request.
    MayHaveRun(io::Error),
    /// The client left. Nobody waits for an answer.
    ClientGone,
}

/// What to do after a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send it again, to another process if there is one; does not count as an execution.
    Again,
    /// Send it again; this was a possible execution, and it counts.
    AgainOnce,
    /// Give up.
    Never,
}

/// What is known about the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// The method is idempotent (RFC 9110 section 9.2.2).
    pub(crate) is_idempotent: bool,
    /// The body, if any, can be sent a second time.
    pub(crate) is_replayable: bool,
    /// Attempts that may have been executions so far.
    pub(crate) executions: u32,
}

impl Request {
    /// Whether it is lost if an app takes it and says nothing.
    pub(crate) fn has_one_chance(self) -> bool {
        !(self.is_idempotent && self.is_replayable && self.executions == 0)
    }
}

/// Whether a method may be executed twice (RFC 9110 section 9.2.2).
pub(crate) fn is_idempotent(method: &[u8]) -> bool {
    matches!(
        method,
        b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
    )
}

/// The rule.
pub(crate) fn verdict(failure: &Failure, request: Request) -> Verdict {
    match failure {
        Failure::Unread(_) if request.is_replayable => Verdict::Again,
        Failure::MayHaveRun(_) if !request.has_one_chance() => Verdict::AgainOnce,
        _ => Verdict::Never,
    }
}

/// What an error while sending or waiting says. `reset_is_vague`: a body byte may have left, or the connection is
/// not a Unix socket.
pub(crate) fn classify(error: io::Error, head_accepted: bool, reset_is_vague: bool) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe if !head_accepted => Failure::Unread(error),
        io::ErrorKind::ConnectionReset if !reset_is_vague => Failure::Unread(error),
        _ => Failure::MayHaveRun(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(is_idempotent: bool, is_replayable: bool, executions: u32) -> Request {
        Request {
            is_idempotent,
            is_replayable,
            executions,
        }
    }

    fn error(kind: io::ErrorKind) -> io::Error {
        io::Error::from(kind)
    }

    #[test]
    fn an_unread_post_goes_again_and_a_read_one_never() {
        let unread = classify(error(io::ErrorKind::BrokenPipe), false, true);
        assert_eq!(verdict(&unread, request(false, true, 0)), Verdict::Again);
        let read = classify(error(io::ErrorKind::UnexpectedEof), true, false);
        assert_eq!(verdict(&read, request(false, true, 0)), Verdict::Never);
        assert_eq!(verdict(&read, request(true, true, 0)), Verdict::AgainOnce);
        assert_eq!(verdict(&read, request(true, true, 1)), Verdict::Never);
    }

    #[test]
    fn reset_with_a_body_may_have_run() {
        assert!(matches!(
            classify(error(io::ErrorKind::ConnectionReset), true, true),
            Failure::MayHaveRun(_)
        ));
        assert!(matches!(
            classify(error(io::ErrorKind::ConnectionReset), true, false),
            Failure::Unread(_)
        ));
    }

    #[test]
    fn a_streamed_body_is_never_replayed() {
        let unread = Failure::Unread(error(io::ErrorKind::BrokenPipe));
        assert_eq!(verdict(&unread, request(true, false, 0)), Verdict::Never);
        assert_eq!(
            verdict(&Failure::ClientGone, request(true, true, 0)),
            Verdict::Never
        );
    }
}
