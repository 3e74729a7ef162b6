//! [`Outbound`]: a request on its way to an app, whichever process that will be.

use super::switch;
use crate::environment;
use crate::ffi::request::Request;
use crate::mapping::Mapping;
use crate::request_body::RequestBody;
use crate::upstream::frame::{self, RequestFrame};
use passenger_shm::Protocol;
use std::path::Path;
use std::time::SystemTime;

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
    /// If the process takes it and says nothing, it is lost: it cannot be sent (yet) another time.
    pub(crate) has_one_chance: bool,
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
            has_one_chance: true,
            cookie: None,
            binary: None,
            http: None,
        }
    }

    /// The head for one attempt, encoded once per protocol.
    pub(super) fn head(&mut self, r: &Request<'_>, protocol: Protocol, number: u64) -> &[u8] {
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
            Protocol::Http => self.http.get_or_insert_with(|| {
                let mut head = environment::http(r, facts(body.len()));
                if upgrades {
                    switch::ask_http(&mut head);
                }
                head
            }),
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
