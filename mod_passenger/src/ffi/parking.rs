//! Parking: a client that takes its response slowly costs no thread, also where httpd would have to hold the response
//! in memory (TLS, content filters; httpd-notes section 5 has the experiments).
//!
//! ```text
//!  handler ─► park(): the rest in a file, SUSPENDED
//!     on_process_connection ─► state ASYNC_WAITIO, "want to write" ─► MPM polls the client, no thread
//!              ▲                                                                │ writable
//!              └───────── a few pieces, as many as the client takes ◄───────────┘   … until the end: as after any handler
//! ```
//! What is parked belongs to the request's pool: however the request ends, it is dropped exactly then. A client that
//! takes nothing for httpd's `Timeout` is cut off by the MPM, which runs `on_pre_close_connection`.

use super::barrier::guard;
use super::bindings as c;
use super::brigade::{self, ClientLost};
use super::request::Request;
use crate::spill::Rest;
use crate::upgrade::tunnel::Tunnel;
use std::ffi::{c_int, c_void};
use std::ptr;

/// Most bytes handed to httpd at once; below its flush threshold of 64 KiB, over which it would block.
const PIECE_BYTES: usize = 48 * 1024;
/// Pieces after which it is another connection's turn.
const PIECES: usize = 64;

#[allow(clippy::cast_possible_wrap)] // 0
const OK: c_int = c::OK as c_int;

/// What we keep of a connection between two of httpd's calls.
pub(super) enum Kept {
    /// On its way to the relay.
    Tunnel(Tunnel),
    /// The rest of a response.
    Response(Parked),
}

/// The rest of a response, waiting for its client.
pub(super) struct Parked {
    request: *mut c::request_rec,
    rest: Rest,
}

/// How far the client took it.
enum Step {
    /// It takes no more now.
    Wait,
    /// All is on its way.
    Done,
    /// The client is gone.
    Lost,
}

/// The module's slot of a connection.
///
/// # Safety
/// `conn` is alive and used by this thread only.
pub(super) unsafe fn kept(conn: *mut c::conn_rec) -> *mut Kept {
    let module = &raw const super::module::passenger_module;
    // SAFETY: the vector has a slot for every loaded module; ours is NULL or what `keep` put there.
    unsafe { c::psgr_module_config((*conn).conn_config, module).cast::<Kept>() }
}

/// Fills the slot, or empties it with NULL.
///
/// # Safety
/// As [`kept`].
pub(super) unsafe fn keep(conn: *mut c::conn_rec, kept: *mut Kept) {
    let module = &raw const super::module::passenger_module;
    // SAFETY: as above.
    unsafe { c::ap_set_module_config((*conn).conn_config, module, kept.cast::<c_void>()) };
}

/// Whether the rest of this request's response can wait without a thread: the MPM can, the connection is HTTP/1's
/// own, and the request is not part of another.
pub(crate) fn is_possible(r: &Request<'_>) -> bool {
    // SAFETY: the connection of the hook's request.
    let conn = unsafe { (*r.as_ptr()).connection };
    !r.is_nested() && mpm_can_wait() && is_eligible(conn)
}

/// Whether httpd would have to hold what is written to this request in memory, and so the thread.
pub(crate) fn is_worthwhile(r: &Request<'_>) -> bool {
    r.has_content_filter() || r.has_output_filter(b"ssl/tls filter")
}

fn mpm_can_wait() -> bool {
    let mut can: c_int = 0;
    let query = c_int::try_from(c::AP_MPMQ_CAN_WAITIO).unwrap_or(0);
    // SAFETY: room for one int; an MPM that does not know the query leaves it untouched.
    let status = unsafe { c::ap_mpm_query(query, &raw mut can) };
    status == 0 && can == 1
}

fn is_eligible(conn: *mut c::conn_rec) -> bool {
    // SAFETY: the connection of a running hook.
    let conn = unsafe { &*conn };
    conn.master.is_null() && !conn.cs.is_null() && conn.clogging_input_filters() == 0
}

/// Keeps the rest of a response for a client that will take it later. The handler must return "suspended" now.
pub(crate) fn park(r: &Request<'_>, rest: Rest) {
    unsafe extern "C" fn forget(data: *mut c_void) -> c::apr_status_t {
        guard(0, || {
            let kept = data.cast::<Kept>();
            // SAFETY: the Box of `park`, which only this cleanup frees; the connection outlives its requests.
            unsafe {
                let Kept::Response(parked) = &*kept else {
                    return 0;
                };
                let conn = (*parked.request).connection;
                // The slot may be empty, or another request's, by the time the last of this one is written.
                if self::kept(conn) == kept {
                    keep(conn, ptr::null_mut());
                }
                drop(Box::from_raw(kept));
            }
            0
        })
    }
    let request = r.as_ptr();
    let parked = Box::into_raw(Box::new(Kept::Response(Parked { request, rest })));
    // SAFETY: request and connection of the running hook; the pool runs the cleanup once.
    unsafe {
        keep((*request).connection, parked);
        c::apr_pool_cleanup_register(
            (*request).pool,
            parked.cast::<c_void>(),
            Some(forget),
            Some(c::apr_pool_cleanup_null),
        );
    }
}

impl Parked {
    /// Hands on as much as the client takes without waiting.
    fn advance(&mut self) -> Step {
        // SAFETY: the request was suspended by our handler and belongs to the connection whose hook is running: nobody
        // else uses it, and the view ends with this call.
        let mut r = unsafe { Request::from_raw(self.request) };
        for _ in 0..PIECES {
            match self.piece(&mut r) {
                Ok(true) => {}
                Ok(false) if r.has_pending_output() => return Step::Wait,
                Ok(false) => return Step::Done,
                Err(ClientLost) => return Step::Lost,
            }
        }
        Step::Wait
    }

    /// One piece; `false` when the client takes no more, or there is none.
    fn piece(&mut self, r: &mut Request<'_>) -> Result<bool, ClientLost> {
        brigade::push_pending(r)?;
        if r.has_pending_output() || self.rest.is_empty() {
            return Ok(false);
        }
        match self.rest.read(PIECE_BYTES) {
            Ok(bytes) => {
                let output = brigade::Output {
                    data: &bytes,
                    ..Default::default()
                };
                brigade::write(r, output)?;
                Ok(true)
            }
            Err(error) => {
                log::error!(
                    "PSGR0210 a response was broken off: its buffer cannot be read: {error}"
                );
                self.rest = Rest::Nothing;
                let output = brigade::Output {
                    truncated: true,
                    ..Default::default()
                };
                brigade::write(r, output).map(|()| false)
            }
        }
    }
}

/// Runs in a thread of httpd's whenever a connection has something to do, in place of httpd's own function for
/// HTTP/1, which it calls.
pub(super) unsafe extern "C" fn on_process_connection(conn: *mut c::conn_rec) -> c_int {
    guard(OK, || {
        if !is_eligible(conn) || !mpm_can_wait() {
            return c::DECLINED;
        }
        // SAFETY: the connection of this hook.
        unsafe {
            if is_parked(conn) {
                go_on(conn);
                return OK;
            }
            let status = c::psgr_run_core_connection(conn);
            if (*(*conn).cs).state == c::CONN_STATE_SUSPENDED && is_parked(conn) {
                await_client(conn);
            }
            status
        }
    })
}

/// # Safety
/// As [`kept`].
unsafe fn is_parked(conn: *mut c::conn_rec) -> bool {
    // SAFETY: from the caller; the slot is NULL or a live Box.
    unsafe { matches!(kept(conn).as_ref(), Some(Kept::Response(_))) }
}

/// # Safety
/// As [`kept`], and the connection has a state (`is_eligible`).
unsafe fn await_client(conn: *mut c::conn_rec) {
    // SAFETY: from the caller.
    unsafe {
        (*(*conn).cs).state = c::CONN_STATE_ASYNC_WAITIO;
        (*(*conn).cs).sense = c::CONN_SENSE_WANT_WRITE;
    }
}

/// # Safety
/// As [`await_client`], and a response is parked.
unsafe fn go_on(conn: *mut c::conn_rec) {
    // SAFETY: from the caller; the borrow ends before the request can.
    let (step, request) = match unsafe { kept(conn).as_mut() } {
        Some(Kept::Response(parked)) => (parked.advance(), parked.request),
        _ => return,
    };
    // SAFETY: the request is suspended and ours (`advance`); it ends as after any handler, and with it what was parked.
    unsafe {
        match step {
            Step::Wait => await_client(conn),
            Step::Done => {
                // From here on it is httpd's: it may live on until its last bytes are written, and must not be
                // ended a second time if they never are.
                keep(conn, ptr::null_mut());
                c::ap_finalize_request_protocol(request);
                c::ap_process_request_after_handler(request);
            }
            Step::Lost => {
                keep(conn, ptr::null_mut());
                (*conn).aborted = 1;
                c::ap_process_request_after_handler(request);
            }
        }
    }
}

/// The MPM gives a connection up whose client took nothing for too long: the access log gets its line.
pub(super) unsafe extern "C" fn on_pre_close_connection(conn: *mut c::conn_rec) -> c_int {
    guard(OK, || {
        // SAFETY: the connection of this hook, which is being closed; destroying an end-of-request bucket logs the
        // request and frees its pool, and with it what was parked. Nothing more is written to an aborted connection.
        unsafe {
            let Some(Kept::Response(parked)) = kept(conn).as_ref() else {
                return OK;
            };
            let request = parked.request;
            (*conn).aborted = 1;
            let allocator = (*conn).bucket_alloc;
            c::psgr_bucket_destroy(c::ap_bucket_eor_create(allocator, request));
        }
        OK
    })
}
