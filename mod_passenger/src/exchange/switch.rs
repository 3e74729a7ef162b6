//! 101: the app accepts an upgrade, and the exchange ends in a tunnel.

use super::{Answer, Attempt, AttemptError, Outbound, Response};
use crate::ffi::relay::UpgradedClient;
use crate::ffi::request::Request;
use crate::upgrade::tunnel::Tunnel;
use crate::upgrade::{carry, Taken};
use crate::upstream::frame::RequestFrame;
use crate::upstream::head::HeadError;
use crate::upstream::retry::Failure;
use passenger_shm::Seat;
use std::sync::atomic::Ordering;

/// What concerns the hop between client and httpd was left out of an app's request; here it is the point.
pub(super) fn ask_http(head: &mut Vec<u8>) {
    head.truncate(head.len().saturating_sub(b"\r\n".len()));
    head.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
}

/// The same as variables.
pub(super) fn ask_binary(head: &mut RequestFrame) {
    head.pair(b"HTTP_CONNECTION", b"Upgrade");
    head.pair(b"HTTP_UPGRADE", b"websocket");
}

impl Attempt<'_, '_> {
    /// Passes the 101 on and hands both ends over. The seat is free from here on: the app is done with the request,
    /// but has a stream instead.
    pub(super) fn switch(
        mut self,
        r: &mut Request<'_>,
        outbound: &Outbound<'_>,
        response: Response,
    ) -> Result<Answer, AttemptError> {
        if !outbound.upgrades || !response.is_tunnel {
            let reason = "101 without an upgrade request".into();
            return Err(self.bad_response(HeadError::BadHttp { reason }));
        }
        // Relaxed: written and read by this one thread.
        self.holds_seat.store(false, Ordering::Relaxed);
        let stream = self.seat.take().map(Seat::into_stream);
        let mut fields = response.head.fields;
        fields.push(("Upgrade".into(), b"websocket".to_vec()));
        fields.push(("Connection".into(), b"Upgrade".to_vec()));
        let Some(client) = UpgradedClient::take_over(r, &fields) else {
            return Err(AttemptError::Failed(Failure::ClientGone));
        };
        let (app, early) = self.connection.into_parts();
        match Tunnel::new(client, app, early, stream) {
            Ok(tunnel) => Ok(match carry(r, tunnel) {
                Taken::ByRelay => Answer::Suspended,
                Taken::Over => Answer::PassedOn,
            }),
            Err(error) => Err(AttemptError::Truncated(error.to_string())),
        }
    }
}
