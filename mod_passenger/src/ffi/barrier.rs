//! The panic barrier: every function that C calls runs its body in [`guard`].
//!
//! A panic that reached C would abort all of httpd. Behind the barrier it becomes one line in the
//! error log and a fallback value. Unwinding needs `panic = "unwind"` (workspace profile).

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

/// Runs `body`; when it panics, returns `fallback` instead.
///
/// The panic itself was logged by our hook ([`install_hook`]) before this returns. Whatever the
/// body was changing may be half changed, so a fallback must be a value that makes httpd give up
/// on the request or the step at hand.
pub(crate) fn guard<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(payload) => {
            forget_payload(payload);
            fallback
        }
    }
}

/// Drops a panic's payload; its own destructor may panic in turn, which must not escape either.
fn forget_payload(payload: Box<dyn Any + Send>) {
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
}

/// Replaces the panic hook by one that logs message and place, and never a backtrace: with
/// `RUST_BACKTRACE` set, the default hook's symbol cache is leaked at each reload of the module
/// (measured: gigabytes after 200 gracefuls).
pub(crate) fn install_hook() {
    panic::set_hook(Box::new(|info| {
        let message = message_of(info.payload());
        let place = info
            .location()
            .map_or_else(String::new, |at| format!(" at {at}"));
        log::error!(
            "{}: [BUG] mod_passenger panicked{place}: {message}; the request or step was given up, \
             httpd goes on",
            crate::codes::PANIC
        );
    }));
}

/// Gives the default hook back. To be called before the module is unloaded: the hook points into it.
pub(crate) fn remove_hook() {
    drop(panic::take_hook());
}

fn message_of(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return text;
    }
    payload
        .downcast_ref::<String>()
        .map_or("no message", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }

    #[test]
    fn value_passes() {
        assert_eq!(guard(1, || 2), 2);
    }

    #[test]
    fn panic_becomes_the_fallback() {
        assert_eq!(guard(500, || panic!("boom")), 500);
    }

    #[test]
    fn payload_that_panics_when_dropped_is_contained() {
        assert_eq!(guard(500, || panic::panic_any(PanicsWhenDropped)), 500);
    }

    #[test]
    fn message_of_both_string_kinds() {
        assert_eq!(message_of(&"static"), "static");
        assert_eq!(message_of(&"owned".to_owned()), "owned");
        assert_eq!(message_of(&17), "no message");
    }
}
