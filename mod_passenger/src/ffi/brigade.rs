//! Bucket brigades: the request body in, the response body out.

use super::bindings as c;
use super::request::Request;
use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{IntoRawFd, OwnedFd};

/// Why the request body could not be read: the HTTP status that says so to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyError(pub(crate) c_int);

/// Why a write to the client failed; the connection is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientLost;

/// A brigade of the running request, in memory of its own: one of the pool's for each piece of a response without
/// end would never be freed.
struct Brigade {
    raw: *mut c::apr_bucket_brigade,
}

impl Brigade {
    fn new(r: &Request<'_>) -> Self {
        // SAFETY: plain data, filled by the next call.
        let raw = Box::into_raw(Box::new(unsafe {
            std::mem::zeroed::<c::apr_bucket_brigade>()
        }));
        // SAFETY: pool and allocator are the request's and its connection's, alive during the hook. The ring points
        // into the Box, which does not move.
        unsafe {
            let rec = &*r.as_ptr();
            c::psgr_brigade_init(raw, rec.pool, (*rec.connection).bucket_alloc);
        }
        Self { raw }
    }

    fn push(&self, bucket: *mut c::apr_bucket) {
        // SAFETY: a live brigade and a fresh bucket of the same allocator.
        unsafe { c::psgr_brigade_insert_tail(self.raw, bucket) };
    }

    fn allocator(&self) -> *mut c::apr_bucket_alloc_t {
        // SAFETY: a live brigade.
        unsafe { (*self.raw).bucket_alloc }
    }
}

impl Drop for Brigade {
    fn drop(&mut self) {
        // SAFETY: a live brigade, whose buckets are destroyed first; the Box of `new`. Filters that keep buckets move
        // them to brigades of their own (util_filter.h).
        unsafe {
            c::apr_brigade_cleanup(self.raw.cast::<c_void>());
            drop(Box::from_raw(self.raw));
        }
    }
}

/// Reads one piece of the request body, blocking up to httpd's `Timeout`, and hands each part to `sink`.
/// Returns `true` at the end of the body.
///
/// # Errors
/// The status httpd's filters ask for (413, 408, 400…).
pub(crate) fn read_body(
    r: &mut Request<'_>,
    most: usize,
    mut sink: impl FnMut(&[u8]),
) -> Result<bool, BodyError> {
    let brigade = Brigade::new(r);
    // SAFETY: the filter chain and the brigade belong to the running request.
    let status = unsafe {
        c::ap_get_brigade(
            (*r.as_ptr()).input_filters,
            brigade.raw,
            c::AP_MODE_READBYTES,
            c::APR_BLOCK_READ,
            i64::try_from(most).unwrap_or(i64::MAX),
        )
    };
    if status != 0 {
        // SAFETY: maps a status to an HTTP code; reads nothing else.
        let code = unsafe { c::ap_map_http_request_error(status, HTTP_BAD_REQUEST) };
        return Err(BodyError(code));
    }
    let mut ended = false;
    loop {
        // SAFETY: a live brigade.
        if unsafe { c::psgr_brigade_is_empty(brigade.raw) } != 0 {
            return Ok(ended);
        }
        // SAFETY: not empty, so the first element is a bucket.
        let bucket = unsafe { c::psgr_brigade_first(brigade.raw) };
        // SAFETY: a live bucket.
        if unsafe { c::psgr_bucket_is_eos(bucket) } != 0 {
            ended = true;
        // SAFETY: a live bucket.
        } else if unsafe { c::psgr_bucket_is_metadata(bucket) } == 0 {
            read_bucket(bucket, &mut sink)?;
        }
        // SAFETY: a live bucket of this brigade; not used afterwards.
        unsafe { c::psgr_bucket_delete(bucket) };
    }
}

const HTTP_BAD_REQUEST: c_int = 400;

fn read_bucket(bucket: *mut c::apr_bucket, sink: &mut impl FnMut(&[u8])) -> Result<(), BodyError> {
    let mut data: *const c_char = std::ptr::null();
    let mut len: c::apr_size_t = 0;
    // SAFETY: a live data bucket; `data` and `len` receive a range that lives until the bucket changes.
    let status =
        unsafe { c::psgr_bucket_read(bucket, &raw mut data, &raw mut len, c::APR_BLOCK_READ) };
    if status != 0 {
        return Err(BodyError(HTTP_BAD_REQUEST));
    }
    if len > 0 && !data.is_null() {
        // SAFETY: `apr_bucket_read` promises `len` readable bytes at `data` until the bucket is deleted.
        sink(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) });
    }
    Ok(())
}

/// What to hand to httpd's output filters in one call.
#[derive(Default)]
pub(crate) struct Output<'a> {
    /// Bytes; copied by the filters if they keep them.
    pub(crate) data: &'a [u8],
    /// A file range to send after `data`; the descriptor is closed with the request.
    pub(crate) file: Option<(OwnedFd, u64, u64)>,
    /// Ask the filters to write everything now. May block: only when nothing is pending.
    pub(crate) flush: bool,
    /// The response is complete.
    pub(crate) end: bool,
    /// The response is broken off: the client must notice (httpd-notes section 9).
    pub(crate) truncated: bool,
}

/// Passes `output` down the filter chain. Blocks when more is pending than httpd's flush threshold.
///
/// # Errors
/// When the client is gone.
pub(crate) fn write(r: &mut Request<'_>, output: Output<'_>) -> Result<(), ClientLost> {
    let brigade = Brigade::new(r);
    let allocator = brigade.allocator();
    if !output.data.is_empty() {
        // SAFETY: transient buckets refer to `data`, which outlives the call below; filters that keep
        // data copy it (apr_bucket_setaside).
        let bucket = unsafe {
            c::apr_bucket_transient_create(
                output.data.as_ptr().cast(),
                output.data.len() as _,
                allocator,
            )
        };
        brigade.push(bucket);
    }
    if let Some((file, offset, len)) = output.file {
        push_file(r, &brigade, file, offset, len);
    }
    if output.truncated {
        // SAFETY: an error bucket of the request's pool; 502 + EOS is what both HTTP/1 and h2 show.
        brigade.push(unsafe {
            c::ap_bucket_error_create(502, std::ptr::null(), (*r.as_ptr()).pool, allocator)
        });
    }
    if output.flush {
        // SAFETY: a live allocator.
        brigade.push(unsafe { c::apr_bucket_flush_create(allocator) });
    }
    if output.end || output.truncated {
        // SAFETY: a live allocator.
        brigade.push(unsafe { c::apr_bucket_eos_create(allocator) });
    }
    pass(r, brigade.raw)
}

fn push_file(r: &Request<'_>, brigade: &Brigade, file: OwnedFd, offset: u64, len: u64) {
    unsafe extern "C" fn close(data: *mut c_void) -> c::apr_status_t {
        let fd = c_int::try_from(data as usize).unwrap_or(-1);
        // SAFETY: `data` carries the descriptor number that `push_file` gave to the pool, and a pool runs a
        // cleanup exactly once.
        unsafe { libc::close(fd) };
        0
    }
    let fd = file.into_raw_fd();
    // SAFETY: the request is the hook's.
    let pool = unsafe { (*r.as_ptr()).pool };
    // SAFETY: the pool owns the descriptor from here on; `close` is the matching cleanup. Forked children
    // do not exec from a worker, so no child cleanup is needed.
    unsafe {
        c::apr_pool_cleanup_register(
            pool,
            usize::try_from(fd).unwrap_or(0) as *mut c_void,
            Some(close),
            Some(c::apr_pool_cleanup_null),
        );
    }
    let mut handle: *mut c::apr_file_t = std::ptr::null_mut();
    let mut os_file: c::apr_os_file_t = fd;
    // Not XTHREAD: a bucket that is read would then open the file again by its name, and it has none.
    let flags = c_int::try_from(c::APR_FOPEN_READ | c::APR_FOPEN_SENDFILE_ENABLED).unwrap_or(1);
    // SAFETY: `os_file` is an open descriptor; the handle lives in the request's pool.
    let status = unsafe { c::apr_os_file_put(&raw mut handle, &raw mut os_file, flags, pool) };
    if status != 0 || handle.is_null() {
        return;
    }
    // SAFETY: a live brigade and file handle. `apr_brigade_insert_file` splits what one bucket cannot hold.
    unsafe {
        c::apr_brigade_insert_file(
            brigade.raw,
            handle,
            i64::try_from(offset).unwrap_or(i64::MAX),
            i64::try_from(len).unwrap_or(i64::MAX),
            pool,
        );
    }
}

/// Writes pending bytes as far as the client takes them without blocking.
///
/// # Errors
/// When the client is gone.
pub(crate) fn push_pending(r: &mut Request<'_>) -> Result<(), ClientLost> {
    if !r.has_pending_output() {
        return Ok(());
    }
    // SAFETY: the connection of the running request, used by this thread.
    let status = unsafe { push_connection((*r.as_ptr()).connection) };
    verdict(r, status)
}

/// Writes what the connection's filters hold, as far as the client takes it without blocking.
///
/// # Safety
/// `conn` is alive and used by this thread only.
pub(super) unsafe fn push_connection(conn: *mut c::conn_rec) -> c::apr_status_t {
    // SAFETY: the chain belongs to the connection; walking `next` ends at the core's filter.
    let last = unsafe {
        let mut filter = (*conn).output_filters;
        while !filter.is_null() && !(*filter).next.is_null() {
            filter = (*filter).next;
        }
        filter
    };
    if last.is_null() {
        return 0;
    }
    // SAFETY: a live filter, whose registration lives as long as its module; it is an output filter.
    let Some(write) = (unsafe { (*(*last).frec).filter_func.out_func }) else {
        return 0;
    };
    // Not through `ap_pass_brigade`, which looks into the brigade (it crashed httpd).
    // SAFETY: NULL is the core output filter's "push what you have", as httpd's MPMs use it.
    unsafe { write(last, std::ptr::null_mut()) }
}

fn pass(r: &mut Request<'_>, brigade: *mut c::apr_bucket_brigade) -> Result<(), ClientLost> {
    // SAFETY: the filter chain and the brigade belong to the running request.
    let status = unsafe { c::ap_pass_brigade((*r.as_ptr()).output_filters, brigade) };
    verdict(r, status)
}

fn verdict(r: &Request<'_>, status: c::apr_status_t) -> Result<(), ClientLost> {
    if status != 0 || r.is_aborted() {
        return Err(ClientLost);
    }
    Ok(())
}
