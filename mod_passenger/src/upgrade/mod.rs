//! WebSockets: connections that a client asked to upgrade, and an app accepted with 101.
//!
//! ```text
//! exchange ── 101 ─► Tunnel ─┬─ event: suspended, one relay thread per worker process   relay.rs ─┐
//!                            └─ prefork, worker: the request's own thread ────────────────────────┴─► pump.rs
//! ```
//! A [`tunnel::Tunnel`] moves bytes both ways and looks at frames only as far as it must, to say something of its
//! own between two of them: a ping, or the close with which a worker that ends says good-bye. The seat was given
//! back at the hand-over.

pub(crate) mod frames;
pub(crate) mod pump;
pub(crate) mod relay;
pub(crate) mod tunnel;

use crate::ffi::brigade;
use crate::ffi::relay as httpd;
use crate::ffi::request::{c_string, Request};
use crate::handler::Outcome;
use pump::Pump;
use std::time::Duration;
use tunnel::Tunnel;

/// A response field.
pub(crate) type Field = (String, Vec<u8>);

/// Who goes on with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The relay; httpd must be told that the request is suspended.
    ByRelay,
    /// Nobody: it is over.
    Over,
}

/// Whether the client asks for a WebSocket (RFC 6455 section 4.1) in a way that can be granted.
pub(crate) fn is_requested(r: &Request<'_>) -> bool {
    !r.is_subrequest() && !r.has_body() && asks(r)
}

/// Whether it asks on a connection that has no socket which could be handed over: an HTTP/2 stream (RFC 8441). Its
/// stream towards us is open, which looks like a body.
pub(crate) fn is_requested_in_vain(r: &Request<'_>) -> bool {
    r.client_socket().is_none() && asks(r)
}

fn asks(r: &Request<'_>) -> bool {
    let fields = r.headers_in();
    let names = |value: Option<&[u8]>, token| value.is_some_and(|value| has_token(value, token));
    r.method() == b"GET"
        && r.is_http_1_1()
        && names(fields.get(c"Upgrade"), b"websocket")
        && names(fields.get(c"Connection"), b"upgrade")
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|b| *b == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// Answers such a client.
pub(crate) fn refuse(r: &mut Request<'_>) -> Outcome {
    const TEXT: &[u8] = b"This server speaks WebSockets over HTTP/1.1 only, not over HTTP/2.\n";
    r.set_status(501, None);
    r.set_content_type(c"text/plain; charset=utf-8");
    let length = TEXT.len().to_string();
    r.headers_out()
        .set(c"Content-Length", &c_string(length.as_bytes()));
    let output = brigade::Output {
        data: TEXT,
        end: true,
        ..Default::default()
    };
    // A client that is gone needs no answer.
    let _ = brigade::write(r, output);
    Outcome::Answered
}

/// Carries the connection from here on: at once in a thread of its own, or here until it ends.
pub(crate) fn carry(r: &Request<'_>, tunnel: Tunnel) -> Taken {
    if httpd::can_suspend(r) && relay::is_running() {
        httpd::suspend(r, tunnel);
        return Taken::ByRelay;
    }
    match Pump::new() {
        Ok(mut pump) => {
            pump.add(tunnel);
            while !pump.is_empty() {
                pump.turn(TICK, &mut drop);
            }
        }
        Err(error) => log::error!("PSGR0220 a WebSocket was closed: cannot wait for it: {error}"),
    }
    Taken::Over
}

/// How often tunnels are looked at that have no news: pings, deadlines, the end of this process.
pub(crate) const TICK: Duration = Duration::from_millis(1000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_lists_whatever_their_case() {
        assert!(has_token(b"keep-alive, Upgrade", b"upgrade"));
        assert!(has_token(b"WebSocket", b"websocket"));
        assert!(!has_token(b"upgrades", b"upgrade"));
    }
}
