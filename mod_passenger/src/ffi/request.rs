//! [`Request`]: a safe view of httpd's `request_rec` for the time of one hook call.
//!
//! Strings of httpd are NUL-terminated bytes in pools that live at least as long as the request; views
//! hand them out as byte slices bound to the view's lifetime. Everything that changes the request copies
//! into its pool.

use super::bindings as c;
use super::table::Table;
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::marker::PhantomData;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, RawFd};

/// The request a hook was called for.
#[derive(Clone, Copy)]
pub(crate) struct Request<'r> {
    raw: *mut c::request_rec,
    lifetime: PhantomData<&'r ()>,
}

/// Bytes of a C string of httpd's, empty for NULL.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that lives and does not change for `'a`.
pub(super) unsafe fn bytes<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return b"";
    }
    // SAFETY: not NULL, and NUL-terminated and alive by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

impl<'r> Request<'r> {
    /// # Safety
    /// 1. `raw` is the `request_rec` httpd passed to the running hook, and 2. `'r` does not outlive that
    ///    hook call.
    pub(crate) unsafe fn from_raw(raw: *mut c::request_rec) -> Self {
        Self {
            raw,
            lifetime: PhantomData,
        }
    }

    /// The raw pointer, for other views in `ffi/` and for accessors that take one.
    pub(crate) fn as_ptr(&self) -> *mut c::request_rec {
        self.raw
    }

    pub(super) fn rec(&self) -> &'r c::request_rec {
        // SAFETY: `raw` is the request of the running hook (from_raw); only this thread uses it, and the
        // views here never keep a reference to a field across a call that changes it.
        unsafe { &*self.raw }
    }

    fn rec_mut(&mut self) -> &mut c::request_rec {
        // SAFETY: as in `rec`; `&mut self` keeps two such borrows of this view apart.
        unsafe { &mut *self.raw }
    }

    pub(super) fn conn(&self) -> &'r c::conn_rec {
        // SAFETY: httpd sets `connection` for every request and it outlives the request.
        unsafe { &*self.rec().connection }
    }

    fn text(&self, text: *const c_char) -> &'r [u8] {
        // SAFETY: callers pass fields of request_rec, conn_rec or server_rec: NUL-terminated strings in
        // pools that live at least as long as the request.
        unsafe { bytes(text) }
    }

    /// Method as sent, e.g. `GET`.
    pub(crate) fn method(&self) -> &'r [u8] {
        self.text(self.rec().method)
    }

    /// Whether the method is GET or HEAD (httpd counts HEAD as GET).
    pub(crate) fn is_get_or_head(&self) -> bool {
        self.rec().method_number == c_int::try_from(c::M_GET).unwrap_or(0)
    }

    /// Whether this is a HEAD request.
    pub(crate) fn is_head(&self) -> bool {
        self.rec().header_only != 0
    }

    /// Request target as sent (may be absolute-form; unescaped after a per-directory rewrite).
    pub(crate) fn unparsed_uri(&self) -> &'r [u8] {
        self.text(self.rec().unparsed_uri)
    }

    /// Decoded, normalised path.
    pub(crate) fn uri(&self) -> &'r [u8] {
        self.text(self.rec().uri)
    }

    /// Query string without `?`, if there is one.
    pub(crate) fn args(&self) -> Option<&'r [u8]> {
        let args = self.rec().args;
        (!args.is_null()).then(|| self.text(args))
    }

    /// File httpd mapped the URL to.
    pub(crate) fn filename(&self) -> &'r [u8] {
        self.text(self.rec().filename)
    }

    /// What follows the file in the URL.
    pub(crate) fn path_info(&self) -> &'r [u8] {
        self.text(self.rec().path_info)
    }

    /// Handler chosen so far.
    pub(crate) fn handler(&self) -> &'r [u8] {
        self.text(self.rec().handler)
    }

    /// Makes `name` the handler of this request.
    pub(crate) fn set_handler(&mut self, name: &'static CStr) {
        // A C literal in the module's own image: the hook chain that reads it is the module's lifetime.
        self.rec_mut().handler = name.as_ptr();
    }

    /// Type of the mapped file.
    pub(crate) fn file_type(&self) -> FileType {
        match self.rec().finfo.filetype {
            c::APR_REG => FileType::Regular,
            c::APR_DIR => FileType::Directory,
            c::APR_NOFILE => FileType::None,
            _ => FileType::Other,
        }
    }

    /// Hides what the URL names in the file system: mod_dir and mod_autoindex act on directories, mod_speling and
    /// `FallbackResource` on what does not exist.
    pub(crate) fn hide_file(&mut self) {
        self.rec_mut().finfo.filetype = c::APR_UNKFILE;
    }

    /// Whether the URL is for a proxy.
    pub(crate) fn is_proxy(&self) -> bool {
        self.rec().proxyreq != 0
    }

    /// Whether a request above this one (subrequest, internal redirect) is in progress on this thread.
    pub(crate) fn is_nested(&self) -> bool {
        !self.rec().main.is_null() || !self.rec().prev.is_null()
    }

    /// The request this is a subrequest of, if it is one.
    pub(crate) fn parent(&self) -> Option<Request<'r>> {
        let main = self.rec().main;
        // SAFETY: `main` is the live request this one is part of (httpd.h), on this same thread, and outlives it.
        (!main.is_null()).then(|| unsafe { Request::from_raw(main) })
    }

    /// Whether this is a subrequest (SSI and the like).
    pub(crate) fn is_subrequest(&self) -> bool {
        !self.rec().main.is_null()
    }

    /// Whether the administrator chose a handler with `SetHandler`.
    pub(crate) fn has_set_handler(&self) -> bool {
        // SAFETY: the core's configuration exists for every request (httpd creates it at start).
        let core = unsafe { c::psgr_core_dir_config(self.raw) };
        if core.is_null() {
            return false;
        }
        // SAFETY: not NULL, and a core_dir_config by the shim's contract.
        let core = unsafe { &*core };
        !core.handler.is_null() || !core.expr_handler.is_null()
    }

    /// The document root of this URL's context: right for Alias, UserDir and VirtualDocumentRoot.
    pub(crate) fn document_root(&self) -> &'r [u8] {
        // SAFETY: reads request_rec and its server; returns a string of a pool that outlives the request.
        let root = unsafe { c::ap_context_document_root(self.raw) };
        self.text(root)
    }

    /// `HTTP/1.1` and the like, as sent.
    pub(crate) fn protocol(&self) -> &'r [u8] {
        self.text(self.rec().protocol)
    }

    /// Whether the client speaks HTTP/1.1 or later.
    pub(crate) fn is_http_1_1(&self) -> bool {
        self.rec().proto_num >= 1001
    }

    /// Name of the server as the client sees it.
    pub(crate) fn server_name(&self) -> &'r [u8] {
        // SAFETY: documented to return a string valid for the request.
        let name = unsafe { c::ap_get_server_name(self.raw) };
        self.text(name)
    }

    /// Port as the client sees it.
    pub(crate) fn server_port(&self) -> u16 {
        // SAFETY: reads the request only.
        unsafe { c::ap_get_server_port(self.raw) }
    }

    /// Whether the connection is TLS.
    pub(crate) fn is_https(&self) -> bool {
        // SAFETY: runs the http_scheme hook; returns a static or pool string.
        let scheme = unsafe { c::ap_run_http_scheme(self.raw) };
        self.text(scheme) == b"https"
    }

    /// Address of the client (mod_remoteip's, when it is in use).
    pub(crate) fn client_address(&self) -> &'r [u8] {
        self.text(self.rec().useragent_ip)
    }

    /// Address of the client, parsed.
    #[allow(dead_code)]
    pub(crate) fn client_ip(&self) -> Option<IpAddr> {
        std::str::from_utf8(self.client_address())
            .ok()?
            .parse()
            .ok()
    }

    /// Port of the client.
    pub(crate) fn client_port(&self) -> u16 {
        let address = self.rec().useragent_addr;
        if address.is_null() {
            return 0;
        }
        // SAFETY: not NULL; httpd keeps it alive with the connection.
        unsafe { (*address).port }
    }

    /// When httpd had read its first line, in microseconds since 1970.
    pub(crate) fn time_us(&self) -> i64 {
        self.rec().request_time
    }

    /// Authenticated user.
    pub(crate) fn user(&self) -> Option<&'r [u8]> {
        let user = self.rec().user;
        (!user.is_null()).then(|| self.text(user))
    }

    /// Request fields.
    pub(crate) fn headers_in(&self) -> Table<'r> {
        // SAFETY: a table of the request's pool, used by this thread only.
        unsafe { Table::from_raw(self.rec().headers_in) }
    }

    /// Response fields.
    pub(crate) fn headers_out(&self) -> Table<'r> {
        // SAFETY: as above.
        unsafe { Table::from_raw(self.rec().headers_out) }
    }

    /// Variables of this request (`SetEnv`, `SSL_*`, …).
    pub(crate) fn variables(&self) -> Table<'r> {
        // SAFETY: as above.
        unsafe { Table::from_raw(self.rec().subprocess_env) }
    }

    /// Whether a request body may follow.
    pub(crate) fn has_body(&self) -> bool {
        // SAFETY: reads the request's fields and filters only.
        unsafe { c::ap_request_has_body(self.raw) != 0 }
    }

    /// Sets status and, if given, the reason phrase. Codes unknown to httpd need one.
    pub(crate) fn set_status(&mut self, status: u16, line: Option<&CStr>) {
        let copy = match line {
            // SAFETY: the pool is the request's; the string is NUL-terminated.
            Some(line) => unsafe { c::apr_pstrdup(self.rec().pool, line.as_ptr()) },
            None => std::ptr::null_mut(),
        };
        let rec = self.rec_mut();
        rec.status = c_int::from(status);
        rec.status_line = copy;
    }

    /// Sets the content type through httpd, which also clears its "trusted" mark.
    pub(crate) fn set_content_type(&mut self, value: &CStr) {
        // SAFETY: both strings live in the request's pool from here on.
        let copy = unsafe { c::apr_pstrdup(self.rec().pool, value.as_ptr()) };
        // SAFETY: `raw` is the hook's request.
        unsafe { c::ap_set_content_type(self.raw, copy) };
    }

    /// Sends a 1xx with exactly these fields; what other modules put into the response stays.
    ///
    /// The caller validated the fields: httpd does not (httpd-notes section 9).
    pub(crate) fn send_interim(&mut self, status: u16, line: &CStr, fields: &[(String, Vec<u8>)]) {
        // SAFETY: a fresh table in the request's pool.
        let interim = unsafe { c::apr_table_make(self.rec().pool, 8) };
        let (kept, kept_status) = (self.rec().headers_out, self.rec().status);
        let kept_line = self.rec().status_line;
        // SAFETY: a live table of this request.
        let table = unsafe { Table::from_raw(interim) };
        for (name, value) in fields {
            table.add(name.as_bytes(), value);
        }
        self.set_status(status, Some(line));
        self.rec_mut().headers_out = interim;
        // SAFETY: `raw` is the hook's request; its headers_out is the table made above.
        unsafe { c::ap_send_interim_response(self.raw, 1) };
        let rec = self.rec_mut();
        (rec.headers_out, rec.status, rec.status_line) = (kept, kept_status, kept_line);
    }

    /// The status of the error that this request, an `ErrorDocument`, is to explain.
    pub(crate) fn error_being_documented(&self) -> Option<u16> {
        let before = self.rec().prev;
        if before.is_null() {
            return None;
        }
        // SAFETY: `prev` is the live request this one was redirected from (httpd.h).
        let status = unsafe { (*before).status };
        u16::try_from(status).ok().filter(|status| *status >= 400)
    }

    /// Response fields that also go with error pages.
    pub(crate) fn error_headers_out(&self) -> Table<'r> {
        // SAFETY: a table of the request's pool, used by this thread only.
        unsafe { Table::from_raw(self.rec().err_headers_out) }
    }

    /// Whether the client's connection is known to be dead.
    pub(crate) fn is_aborted(&self) -> bool {
        self.conn().aborted != 0
    }

    /// Marks the client's connection as dead, so that httpd writes nothing more.
    pub(crate) fn set_aborted(&mut self) {
        // SAFETY: `connection` is this request's and used by this thread only.
        unsafe { (*self.rec().connection).aborted = 1 };
    }

    /// Whether a part of the response was given to httpd's filters.
    pub(crate) fn has_begun_response(&self) -> bool {
        self.rec().sent_bodyct != 0
    }

    /// Whether httpd's filters still hold bytes for the client.
    pub(crate) fn has_pending_output(&self) -> bool {
        // SAFETY: the connection is this request's.
        unsafe { c::psgr_conn_has_pending_output(self.rec().connection) != 0 }
    }

    /// Whether the client may send another request on this connection once this one is answered. Known when the response's
    /// head was passed on. Not so for streams of HTTP/2, which are not read by this thread, and parts of other requests.
    pub(crate) fn may_be_followed(&self) -> bool {
        let conn = self.conn();
        let is_kept = conn.keepalive == c::AP_CONN_KEEPALIVE;
        is_kept && conn.aborted == 0 && conn.master.is_null() && !self.is_nested()
    }

    /// Requests on this connection, this one included, once its response's head was passed on.
    pub(crate) fn requests_on_connection(&self) -> c_int {
        self.conn().keepalives
    }

    /// The client's socket, unless the connection has none of its own (an HTTP/2 stream).
    pub(crate) fn client_socket(&self) -> Option<BorrowedFd<'r>> {
        if !self.conn().master.is_null() {
            return None;
        }
        // SAFETY: the connection is this request's.
        let socket = unsafe { c::ap_get_conn_socket(self.rec().connection) };
        if socket.is_null() {
            return None;
        }
        let mut fd: RawFd = -1;
        // SAFETY: `socket` is a live apr_socket_t; `fd` is where the descriptor goes.
        let status = unsafe { c::apr_os_sock_get(&raw mut fd, socket) };
        if status != 0 || fd < 0 {
            return None;
        }
        // SAFETY: httpd keeps the socket open for as long as the connection, which outlives 'r.
        Some(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Keeps `value` for later hooks of this request; dropped with the request's pool.
    pub(crate) fn attach<T: 'static>(&mut self, value: T) {
        unsafe extern "C" fn drop_box<T>(data: *mut c_void) -> c::apr_status_t {
            super::barrier::guard(0, || {
                // SAFETY: `data` is the Box of `attach`, and a pool runs a cleanup exactly once.
                drop(unsafe { Box::from_raw(data.cast::<T>()) });
                0
            })
        }
        let data = Box::into_raw(Box::new(value)).cast::<c_void>();
        // SAFETY: the pool is the request's; the cleanup matches the Box made above.
        unsafe {
            c::apr_pool_cleanup_register(
                self.rec().pool,
                data,
                Some(drop_box::<T>),
                Some(c::apr_pool_cleanup_null),
            );
        }
        let module = &raw const super::module::passenger_module;
        // SAFETY: request_config has a slot for every loaded module, ours included.
        unsafe { c::ap_set_module_config(self.rec().request_config, module, data) };
    }

    /// What [`Request::attach`] kept. `T` must be the type that was attached: the module attaches one type
    /// only (`mapping::Mapping`).
    pub(crate) fn attached(&self) -> Option<&'r crate::mapping::Mapping> {
        let module = &raw const super::module::passenger_module;
        // SAFETY: request_config has a slot for every loaded module, ours included.
        let data = unsafe { c::psgr_module_config(self.rec().request_config, module) };
        // SAFETY: the slot is NULL or the Box<Mapping> of `attach`, dropped with the request's pool.
        unsafe { data.cast::<crate::mapping::Mapping>().as_ref() }
    }
}

/// What httpd found at `r->filename`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// Nothing.
    None,
    /// Something else.
    Other,
}

/// A byte string as a C string, cut at its first NUL.
pub(crate) fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}
