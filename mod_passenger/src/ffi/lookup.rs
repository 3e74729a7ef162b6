//! Where httpd's own modules put a request, and handing it to a file instead: what the mapping needs of
//! [`Request`] beyond what every step needs.

use super::bindings as c;
use super::request::{c_string, FileType, Request};
use std::ffi::CStr;

/// The bytes of a C string of httpd's, empty for NULL.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that lives and does not change for `'a`.
unsafe fn bytes<'a>(text: *const std::ffi::c_char) -> &'a [u8] {
    if text.is_null() {
        return b"";
    }
    // SAFETY: not NULL, and NUL-terminated and alive by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

impl<'r> Request<'r> {
    /// The part of the path that an `Alias` or `UserDir` mapped to [`Request::document_root`]; empty where
    /// the virtual host's own document root is.
    pub(crate) fn context_prefix(&self) -> &'r [u8] {
        // SAFETY: reads the request; the string lives in a pool that outlives it.
        unsafe { bytes(c::ap_context_prefix(self.as_ptr())) }
    }

    /// The virtual host's document root, whatever the URL's context is.
    pub(crate) fn host_document_root(&self) -> &'r [u8] {
        // SAFETY: as above.
        unsafe { bytes(c::ap_document_root(self.as_ptr())) }
    }

    /// Forgets what mod_mime and mod_negotiation concluded from the file name: the response is an app's.
    pub(crate) fn forget_file_facts(&mut self) {
        // SAFETY: the request of the running hook; all three are optional.
        unsafe {
            let rec = self.as_ptr();
            (*rec).content_type = std::ptr::null();
            (*rec).content_encoding = std::ptr::null();
            (*rec).content_languages = std::ptr::null_mut();
        }
    }

    /// Lets httpd serve the file at `path` in place of what the request asked for, after httpd has checked
    /// that the client may have it; `false` when it may not, and the request is as before. `asked` is the
    /// file name the URL stands for, in the same directory as `path`.
    pub(crate) fn serve_instead(&mut self, path: &[u8], asked: &[u8]) -> bool {
        let (path, asked) = (c_string(path), c_string(asked));
        // SAFETY: the request of the running hook; both strings are copied into its pool.
        let sub = unsafe {
            let rec = self.as_ptr();
            let kept = (*rec).filename;
            // httpd looks for siblings of this name, whatever the directory walk made of it.
            (*rec).filename = c::apr_pstrdup((*rec).pool, asked.as_ptr());
            let sub = c::ap_sub_req_lookup_file(path.as_ptr(), rec, std::ptr::null_mut());
            (*rec).filename = kept;
            sub
        };
        if sub.is_null() {
            return false;
        }
        // SAFETY: a live subrequest made above.
        let (status, is_file) = unsafe {
            let view = Request::from_raw(sub);
            ((*sub).status, view.file_type() == FileType::Regular)
        };
        if status != HTTP_OK || !is_file {
            // SAFETY: made above, and nothing refers to it.
            unsafe { c::ap_destroy_sub_req(sub) };
            return false;
        }
        // SAFETY: as mod_dir does it: the subrequest is merged into the request and its pool joined.
        unsafe {
            c::ap_internal_fast_redirect(sub, self.as_ptr());
            if (*self.as_ptr()).content_type.is_null() {
                c::ap_set_content_type(self.as_ptr(), c"text/html".as_ptr());
            }
        }
        true
    }
}

const HTTP_OK: std::ffi::c_int = 200;
