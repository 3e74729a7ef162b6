//! Which filters of httpd's a request has, and what that means for its two bodies.

use super::bindings as c;
use super::request::{bytes, Request};
use nix::sys::socket::{setsockopt, sockopt};

impl Request<'_> {
    /// Whether an output filter of that name will see the response.
    pub(crate) fn has_output_filter(&self, name: &[u8]) -> bool {
        // SAFETY: the chain of the hook's request, which nobody changes meanwhile.
        unsafe { has_filter(self.rec().output_filters, name) }
    }

    /// Whether a filter changes the response's body (mod_deflate, mod_ratelimit), and not only its framing.
    pub(crate) fn has_content_filter(&self) -> bool {
        self.rec().output_filters != self.rec().proto_output_filters
    }

    /// Whether the body will have another length than its `Content-Length` says: mod_deflate unpacks it
    /// (`SetInputFilter DEFLATE`).
    pub(crate) fn is_body_unpacked(&self) -> bool {
        // SAFETY: as above.
        unsafe { has_filter(self.rec().input_filters, b"deflate") }
    }

    /// Takes httpd's own `Range` handling away: the answer is the app's.
    pub(crate) fn leave_ranges_to_the_app(&mut self) {
        // SAFETY: the filter chain belongs to this request.
        unsafe {
            c::ap_remove_output_filter_byhandle(self.rec().output_filters, c"BYTERANGE".as_ptr())
        };
    }

    /// Whether the client takes the end of the connection for the end of the response (HTTP/1.0 without a length).
    /// Known when httpd has written the head.
    pub(crate) fn ends_by_close(&self) -> bool {
        let has_length = self.headers_out().get(c"Content-Length").is_some();
        self.rec().chunked == 0 && !has_length && self.client_socket().is_some()
    }

    /// Has the connection end by a reset, which no client takes for the end of a response.
    pub(crate) fn reset_connection(&mut self) {
        if let Some(socket) = self.client_socket() {
            let at_once = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            // A client that is gone need not be told.
            let _ = setsockopt(&socket, sockopt::Linger, &at_once);
        }
        // Else httpd would say good-bye in order first.
        self.set_aborted();
    }
}

/// # Safety
/// `filter` is NULL or the first of a live chain.
unsafe fn has_filter(mut filter: *mut c::ap_filter_t, name: &[u8]) -> bool {
    while !filter.is_null() {
        // SAFETY: a live filter by the caller's promise; `frec` and its name are httpd's, for its life.
        let (found, next) = unsafe { (bytes((*(*filter).frec).name), (*filter).next) };
        if found.eq_ignore_ascii_case(name) {
            return true;
        }
        filter = next;
    }
    false
}
