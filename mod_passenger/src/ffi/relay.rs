//! The client's side of an upgraded connection: httpd's connection filters without httpd's request cycle
//! (httpd-notes section 6 has the experiments).
//!
//! Under the event MPM the connection is suspended: from the `suspend_connection` hook to
//! [`UpgradedClient::destroy`] the relay thread is its only user. Elsewhere it stays with the request's thread.

use super::barrier::guard;
use super::bindings as c;
use super::brigade::ClientLost;
use super::parking::{keep, kept, Kept};
use super::request::Request;
use crate::upgrade::tunnel::Tunnel;
use crate::upgrade::{relay, Field};
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

/// The thread that suspends a connection is done with it two stores after the hook. It has this long.
const HAND_OVER: Duration = Duration::from_secs(1);

/// What a read from the client brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Bytes were appended.
    Some,
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

/// A client whose connection was upgraded.
pub(crate) struct UpgradedClient {
    conn: *mut c::conn_rec,
    request: *mut c::request_rec,
    brigade: *mut c::apr_bucket_brigade,
    fd: RawFd,
    /// When the thread that suspended the connection was seen to have left it.
    left: Option<Instant>,
}

// SAFETY: the pointers are used by whoever owns the value, one thread at a time: the request's thread until the
// `suspend_connection` hook, the relay thread from then on. httpd leaves a suspended connection alone.
unsafe impl Send for UpgradedClient {}

/// Whether this MPM can suspend the request's connection; otherwise its thread stays with it.
pub(crate) fn can_suspend(r: &Request<'_>) -> bool {
    let mut is_async: c_int = 0;
    let query = c_int::try_from(c::AP_MPMQ_IS_ASYNC).unwrap_or(0);
    // SAFETY: room for one int; an MPM that does not know the query leaves it untouched.
    let status = unsafe { c::ap_mpm_query(query, &raw mut is_async) };
    // SAFETY: the connection of the hook's request.
    let conn = unsafe { &*(*r.as_ptr()).connection };
    status == 0
        && is_async == 1
        && conn.master.is_null()
        && !conn.cs.is_null()
        && conn.clogging_input_filters() == 0
}

/// Whether this worker process was told to end (also by a graceful restart).
pub(crate) fn is_process_stopping() -> bool {
    let mut state: c_int = 0;
    let query = c_int::try_from(c::AP_MPMQ_MPM_STATE).unwrap_or(0);
    // SAFETY: room for one int.
    let status = unsafe { c::ap_mpm_query(query, &raw mut state) };
    status == 0 && u32::try_from(state) == Ok(c::AP_MPMQ_STOPPING)
}

impl UpgradedClient {
    /// Takes the connection out of HTTP: sends 101 with these fields; from then on it carries plain bytes.
    /// `None` when it has no socket of its own.
    pub(crate) fn take_over(r: &mut Request<'_>, fields: &[Field]) -> Option<Self> {
        use std::os::fd::AsRawFd;
        let fd = r.client_socket()?.as_raw_fd();
        // SAFETY: request and connection of the running hook, used by this thread only.
        let (rec, conn) = unsafe { (&mut *r.as_ptr(), &mut *(*r.as_ptr()).connection) };
        for name in [c"ssl/tls coalescing filter", c"reqtimeout"] {
            // SAFETY: the connection's own chains; a name that is in none of them changes nothing.
            unsafe {
                c::ap_remove_output_filter_byhandle(conn.output_filters, name.as_ptr());
                c::ap_remove_input_filter_byhandle(conn.input_filters, name.as_ptr());
            }
        }
        rec.input_filters = conn.input_filters;
        rec.proto_input_filters = conn.input_filters;
        rec.output_filters = conn.output_filters;
        rec.proto_output_filters = conn.output_filters;
        conn.keepalive = c::AP_CONN_CLOSE;
        // httpd may have offered protocols of its own there.
        // SAFETY: a table of this request.
        unsafe { c::apr_table_clear(rec.headers_out) };
        r.send_interim(101, c"101 Switching Protocols", fields);
        // For the access log.
        r.set_status(101, Some(c"101 Switching Protocols"));
        // SAFETY: pool and allocator of the connection, which live as long as it does.
        let brigade = unsafe { c::apr_brigade_create(conn.pool, conn.bucket_alloc) };
        Some(Self {
            conn,
            request: r.as_ptr(),
            brigade,
            fd,
            left: None,
        })
    }

    /// The client's socket.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: httpd keeps the socket open until the connection's pool is destroyed, which takes `self`.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// Appends up to `most` bytes that are here already, decrypted. Does not block.
    pub(crate) fn read(&mut self, most: usize, out: &mut Vec<u8>) -> Input {
        // On clear text the end of the stream first looks like "nothing": ask twice.
        for _ in 0..2 {
            match self.read_once(most, out) {
                Input::Nothing => {}
                other => return other,
            }
        }
        Input::Nothing
    }

    fn read_once(&mut self, most: usize, out: &mut Vec<u8>) -> Input {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        // SAFETY: the connection is ours (type's contract); the brigade is of its allocator.
        let status = unsafe {
            c::ap_get_brigade(
                (*self.conn).input_filters,
                self.brigade,
                c::AP_MODE_READBYTES,
                c::APR_NONBLOCK_READ,
                most,
            )
        };
        let before = out.len();
        // SAFETY: a test of a number.
        if status != 0 && unsafe { c::psgr_status_is_eagain(status) } == 0 {
            self.clear();
            return Input::End;
        }
        // SAFETY: a live brigade.
        while status == 0 && unsafe { c::psgr_brigade_is_empty(self.brigade) } == 0 {
            // SAFETY: not empty, so the first element is a bucket.
            let bucket = unsafe { c::psgr_brigade_first(self.brigade) };
            let (mut data, mut len): (*const c_char, c::apr_size_t) = (ptr::null(), 0);
            // SAFETY: a live bucket; metadata buckets read as nothing.
            let read = unsafe {
                c::psgr_bucket_read(bucket, &raw mut data, &raw mut len, c::APR_NONBLOCK_READ)
            };
            if read == 0 && len > 0 && !data.is_null() {
                // SAFETY: `apr_bucket_read` promises `len` readable bytes until the bucket is deleted.
                out.extend_from_slice(unsafe {
                    std::slice::from_raw_parts(data.cast::<u8>(), len)
                });
            }
            // SAFETY: a live bucket of this brigade; not used afterwards.
            unsafe { c::psgr_bucket_delete(bucket) };
        }
        self.clear();
        if out.len() > before {
            Input::Some
        } else {
            Input::Nothing
        }
    }

    fn clear(&mut self) {
        // SAFETY: a live brigade.
        unsafe { c::apr_brigade_cleanup(self.brigade.cast::<c_void>()) };
    }

    /// Hands bytes to the filters, which keep what the client does not take now. Only while nothing is pending,
    /// and less than httpd's flush threshold of 64 KiB: then it does not block.
    ///
    /// # Errors
    /// When the client is gone.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ClientLost> {
        // SAFETY: the connection is ours; a transient bucket refers to `bytes`, which outlive the call, and
        // filters that keep data copy it.
        let status = unsafe {
            let allocator = (*self.conn).bucket_alloc;
            let bucket =
                c::apr_bucket_transient_create(bytes.as_ptr().cast(), bytes.len() as _, allocator);
            c::psgr_brigade_insert_tail(self.brigade, bucket);
            c::ap_pass_brigade((*self.conn).output_filters, self.brigade)
        };
        self.clear();
        self.verdict(status)
    }

    /// Moves pending bytes as far as the client takes them. Does not block.
    ///
    /// # Errors
    /// When the client is gone.
    pub(crate) fn push(&mut self) -> Result<(), ClientLost> {
        if !self.has_pending() {
            return self.verdict(0);
        }
        // SAFETY: the connection is ours.
        let status = unsafe { super::brigade::push_connection(self.conn) };
        self.verdict(status)
    }

    /// Whether httpd's filters hold bytes that the client has not taken.
    pub(crate) fn has_pending(&self) -> bool {
        // SAFETY: the connection is ours.
        unsafe { c::psgr_conn_has_pending_output(self.conn) != 0 }
    }

    fn verdict(&self, status: c::apr_status_t) -> Result<(), ClientLost> {
        // SAFETY: the connection is ours.
        if status != 0 || unsafe { (*self.conn).aborted } != 0 {
            return Err(ClientLost);
        }
        Ok(())
    }

    /// Whether the thread that suspended the connection has left it, a good while ago.
    fn is_ours_alone(&mut self) -> bool {
        // SAFETY: the connection is ours but for this field, which that thread sets to NULL as the last but one of
        // its acts; therefore a volatile read.
        let is_left = unsafe { (&raw const (*self.conn).sbh).read_volatile() }.is_null();
        if self.left.is_none() && is_left {
            self.left = Some(Instant::now());
        }
        self.left.is_some_and(|left| left.elapsed() >= HAND_OVER)
    }

    /// Ends the stream as httpd does: with a `close_notify` under TLS. Does not block.
    pub(crate) fn begin_close(&mut self) {
        // SAFETY: the connection is ours. Failure means that the client is gone already.
        unsafe {
            if c::ap_prep_lingering_close(self.conn) == 0 {
                c::ap_shutdown_conn(self.conn, 0);
            }
        }
    }

    /// Tells the client that nothing more comes.
    pub(crate) fn close_writing(&self) {
        // SAFETY: a system call on a descriptor that httpd keeps open.
        unsafe { libc::shutdown(self.fd, libc::SHUT_WR) };
    }

    /// Throws away what the client still sends; `true` when it has closed, too.
    pub(crate) fn drain(&self) -> bool {
        let mut scratch = [0_u8; 4096];
        for _ in 0..16 {
            // SAFETY: a buffer of that size; does not block.
            let n = unsafe {
                libc::recv(
                    self.fd,
                    scratch.as_mut_ptr().cast(),
                    scratch.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            if n < 0 {
                let error = std::io::Error::last_os_error();
                return error.kind() != std::io::ErrorKind::WouldBlock;
            }
            if n == 0 {
                return true;
            }
        }
        false
    }

    /// The end of a suspended connection: writes the access log's line and frees all that httpd has of it.
    ///
    /// # Errors
    /// The client itself, while the thread that suspended the connection may still be at it: try again later.
    pub(crate) fn destroy(mut self) -> Result<(), Self> {
        if !self.is_ours_alone() {
            return Err(self);
        }
        // SAFETY: nobody else uses the connection any more (type's contract, and the check above; a connection that
        // is not suspended has an `sbh`). Destroying an end-of-request bucket logs the request and frees its pool.
        // `c->pool` is the pool that the MPM made for this connection; the MPM destroys it in the same way and
        // counts by a cleanup on it.
        unsafe {
            let end = c::ap_bucket_eor_create((*self.conn).bucket_alloc, self.request);
            c::psgr_brigade_insert_tail(self.brigade, end);
            c::apr_brigade_cleanup(self.brigade.cast::<c_void>());
            c::apr_pool_destroy((*self.conn).pool);
        }
        Ok(())
    }
}

/// Has httpd hand the connection to the relay as soon as the handler has returned "suspended".
pub(crate) fn suspend(r: &Request<'_>, tunnel: Tunnel) {
    let tunnel = Box::into_raw(Box::new(Kept::Tunnel(tunnel)));
    // SAFETY: the connection of the running hook; the hook below takes the Box.
    unsafe { keep((*r.as_ptr()).connection, tunnel) };
}

pub(crate) unsafe extern "C" fn on_suspend_connection(
    conn: *mut c::conn_rec,
    _r: *mut c::request_rec,
) {
    guard((), || {
        // SAFETY: the connection of this hook; the slot is NULL, a Box of `suspend`, which is taken once, or a parked
        // response, which stays.
        unsafe {
            let slot = kept(conn);
            if !matches!(slot.as_ref(), Some(Kept::Tunnel(_))) {
                return;
            }
            keep(conn, ptr::null_mut());
            if let Kept::Tunnel(tunnel) = *Box::from_raw(slot) {
                relay::adopt(tunnel);
            }
        }
    });
}

/// Before a worker process frees its pools: the relay must not use them any more. On prefork this may run in a
/// signal handler; there no relay was ever started, and `stop` returns after one load.
pub(crate) fn stop_relay_with(pchild: *mut c::apr_pool_t) {
    unsafe extern "C" fn stop(_data: *mut c_void) -> c::apr_status_t {
        guard(0, || {
            // Pools that are freed under the relay would be a crash; with the process it ends, whatever holds it.
            if !relay::stop() {
                log::warn!(
                    "PSGR0222 the relay for WebSockets does not stop: this worker ends without it"
                );
                super::process::exit_now();
            }
            0
        })
    }
    // SAFETY: httpd's pool of this process; the cleanup needs no data and outlives nothing.
    unsafe { c::apr_pool_pre_cleanup_register(pchild, ptr::null(), Some(stop)) };
}
