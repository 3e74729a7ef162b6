//! A value that httpd's parent sets while it configures itself and everybody reads afterwards.
//!
//! Not a `OnceLock`: it can be taken back before the module is unloaded, so that a restart leaks
//! nothing, and set again if the module stays loaded.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A slot for one value per configuration.
pub(crate) struct Published<T: Sync + 'static>(AtomicPtr<T>);

impl<T: Sync + 'static> Published<T> {
    /// An empty slot.
    pub(crate) const fn new() -> Self {
        Published(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value, if there is one.
    pub(crate) fn get(&self) -> Option<&'static T> {
        // PAIR(published): sees what the Release store in `publish` published.
        let value = self.0.load(Ordering::Acquire);
        // SAFETY: NULL, or a Box that `withdraw` frees only in httpd's parent between two
        // configurations, when it has no request and no thread; in its children it is never freed.
        unsafe { value.as_ref() }
    }

    /// Fills the slot. Only from httpd's parent while it configures itself (single-threaded).
    pub(crate) fn publish(&self, value: T) {
        // PAIR(published): makes the value visible to `get`.
        let before = self
            .0
            .swap(Box::into_raw(Box::new(value)), Ordering::AcqRel);
        free(before);
    }

    /// Empties the slot. Only from httpd's parent between two configurations (single-threaded).
    pub(crate) fn withdraw(&self) {
        // PAIR(published): nobody reads at this time; the ordering is `publish`'s.
        free(self.0.swap(ptr::null_mut(), Ordering::AcqRel));
    }
}

fn free<T>(value: *mut T) {
    if !value.is_null() {
        // SAFETY: made by Box::into_raw in `publish`, and swapped out by exactly one caller.
        drop(unsafe { Box::from_raw(value) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_is_read_until_withdrawn() {
        static SLOT: Published<String> = Published::new();
        assert!(SLOT.get().is_none());
        SLOT.publish("one".to_owned());
        SLOT.publish("two".to_owned());
        assert_eq!(SLOT.get().map(String::as_str), Some("two"));
        SLOT.withdraw();
        assert!(SLOT.get().is_none());
    }
}
