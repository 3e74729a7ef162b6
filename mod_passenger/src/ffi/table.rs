//! [`Table`]: an `apr_table_t` as an iterator with `get`, `set`, `add`.

use super::bindings as c;
use std::ffi::{c_char, CStr};
use std::marker::PhantomData;

/// A table of the running request.
#[derive(Clone, Copy)]
pub(crate) struct Table<'r> {
    raw: *mut c::apr_table_t,
    lifetime: PhantomData<&'r ()>,
}

impl<'r> Table<'r> {
    /// # Safety
    /// `raw` is NULL or a table that lives for `'r` and is used by this thread only.
    pub(crate) unsafe fn from_raw(raw: *mut c::apr_table_t) -> Self {
        Self {
            raw,
            lifetime: PhantomData,
        }
    }

    /// The first value of that name, case-insensitively.
    pub(crate) fn get(&self, name: &CStr) -> Option<&'r [u8]> {
        if self.raw.is_null() {
            return None;
        }
        // SAFETY: a live table (from_raw) and a NUL-terminated name.
        let value = unsafe { c::apr_table_get(self.raw, name.as_ptr()) };
        if value.is_null() {
            return None;
        }
        // SAFETY: values are NUL-terminated strings of the table's pool, which outlives 'r.
        Some(unsafe { CStr::from_ptr(value) }.to_bytes())
    }

    /// Adds a field beside others of the same name.
    pub(crate) fn add(&self, name: &[u8], value: &[u8]) {
        // SAFETY: a live table (from_raw); its pool lives as long.
        let pool = unsafe { (*c::apr_table_elts(self.raw)).pool };
        let copy = |text: &[u8]| {
            // SAFETY: `text` is that long. The copy ends by a NUL, or is cut by the first that it has.
            unsafe { c::apr_pstrmemdup(pool, text.as_ptr().cast(), text.len()) }
        };
        let (name, value) = (copy(name), copy(value));
        // SAFETY: a live table; both strings live in its pool.
        unsafe { c::apr_table_addn(self.raw, name, value) };
    }

    /// Sets a field, replacing others of the same name.
    pub(crate) fn set(&self, name: &CStr, value: &CStr) {
        // SAFETY: a live table; both strings are copied into its pool.
        unsafe { c::apr_table_set(self.raw, name.as_ptr(), value.as_ptr()) };
    }

    /// All fields in order. The table must not be changed while the iterator is used.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'r [u8], &'r [u8])> {
        let entries = if self.raw.is_null() {
            &[][..]
        } else {
            // SAFETY: `apr_table_elts` returns the table's own array header, alive with the table.
            let array = unsafe { &*c::apr_table_elts(self.raw) };
            let len = usize::try_from(array.nelts).unwrap_or(0);
            if len == 0 || array.elts.is_null() {
                &[][..]
            } else {
                // SAFETY: the array has `nelts` elements of type apr_table_entry_t (apr_tables.h), aligned
                // by APR's allocator, and nobody changes it while 'r's iterator lives (this thread).
                unsafe {
                    std::slice::from_raw_parts(array.elts.cast::<c::apr_table_entry_t>(), len)
                }
            }
        };
        entries
            .iter()
            .filter(|e| !e.key.is_null())
            .map(|e| (text(e.key), text(e.val)))
    }
}

fn text<'r>(text: *const c_char) -> &'r [u8] {
    if text.is_null() {
        return b"";
    }
    // SAFETY: called with keys and values of a live table: NUL-terminated strings of its pool.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}
