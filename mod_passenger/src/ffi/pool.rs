//! Memory and cleanups of an APR pool.
//!
//! A [`Pool`] borrows from the pool it names: what it hands out lives until httpd clears that pool
//! (`pconf`: until the next restart or the exit; `r->pool`: until the request was logged).

use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem;
use std::ptr::{self, NonNull};

use super::barrier::guard;
use super::bindings::{apr_pool_cleanup_null, apr_pool_cleanup_register, apr_pool_t, apr_status_t};

/// `apr_palloc` returns memory aligned for any C scalar up to this.
const ALIGNMENT: usize = 8;

/// A pool that outlives `'p`.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'p> {
    raw: NonNull<apr_pool_t>,
    lives: PhantomData<&'p apr_pool_t>,
}

impl<'p> Pool<'p> {
    /// Takes a pool httpd gave us; `None` for NULL.
    ///
    /// # Safety
    /// 1. `raw` is NULL or a pool that is not cleared during `'p`.
    /// 2. No other thread allocates from it during `'p` (pools are not locked).
    pub(crate) unsafe fn from_raw(raw: *mut apr_pool_t) -> Option<Self> {
        NonNull::new(raw).map(|raw| Pool {
            raw,
            lives: PhantomData,
        })
    }

    /// The pool as C wants it.
    pub(crate) fn as_ptr(self) -> *mut apr_pool_t {
        self.raw.as_ptr()
    }

    /// Copies a value into the pool. No destructor will run, hence `Copy`.
    pub(crate) fn place<T: Copy>(self, value: T) -> &'p mut T {
        const { assert!(mem::align_of::<T>() <= ALIGNMENT) };
        let memory = self.allocate(mem::size_of::<T>()).cast::<T>();
        // SAFETY: `memory` is as large and aligned as a T (asserted) and nobody else's.
        unsafe { memory.write(value) };
        // SAFETY: initialized above; lives as long as the pool, which outlives 'p (from_raw).
        unsafe { &mut *memory }
    }

    /// Copies a slice into the pool.
    pub(crate) fn copy_slice<T: Copy>(self, from: &[T]) -> &'p [T] {
        self.concat(from, &[])
    }

    /// Copies two slices into the pool, one behind the other.
    pub(crate) fn concat<T: Copy>(self, first: &[T], second: &[T]) -> &'p [T] {
        const { assert!(mem::align_of::<T>() <= ALIGNMENT) };
        let length = first.len() + second.len();
        if length == 0 {
            return &[];
        }
        let memory = self
            .allocate(mem::size_of_val(first) + mem::size_of_val(second))
            .cast::<T>();
        // SAFETY: `memory` has room for both slices and, being new, overlaps neither.
        unsafe { ptr::copy_nonoverlapping(first.as_ptr(), memory, first.len()) };
        // SAFETY: still inside the allocation, which is for `length` values.
        let behind = unsafe { memory.add(first.len()) };
        // SAFETY: as above, for the second slice.
        unsafe { ptr::copy_nonoverlapping(second.as_ptr(), behind, second.len()) };
        // SAFETY: `length` values were just written; aligned (asserted); the pool outlives 'p.
        unsafe { std::slice::from_raw_parts(memory, length) }
    }

    /// Copies text into the pool.
    pub(crate) fn copy_str(self, text: &str) -> &'p str {
        let bytes = self.copy_slice(text.as_bytes());
        // SAFETY: a copy of the bytes of a str.
        unsafe { std::str::from_utf8_unchecked(bytes) }
    }

    /// Calls `function` when the pool is cleared or destroyed, in reverse order of registration.
    ///
    /// Only for `pconf` and `pchild`: other pools outlive the module's code.
    pub(crate) fn on_cleanup(self, function: fn()) {
        // SAFETY: the pool is valid (from_raw); `run` gets back the function pointer given here,
        // and the code it points to is mapped until after pconf's cleanups ran (DSO unload is
        // itself an earlier-registered, hence later-run, cleanup of pconf).
        unsafe {
            apr_pool_cleanup_register(
                self.as_ptr(),
                function as *const c_void,
                Some(run),
                Some(apr_pool_cleanup_null),
            );
        }
    }

    #[cfg(not(test))]
    fn allocate(self, bytes: usize) -> *mut c_void {
        // SAFETY: the pool is valid (from_raw). httpd's pools abort when memory is short, so this
        // never returns NULL.
        unsafe { super::bindings::apr_palloc(self.as_ptr(), bytes as _) }
    }

    /// Unit tests run without APR: memory that is never freed stands in for a pool's.
    #[cfg(test)]
    fn allocate(self, bytes: usize) -> *mut c_void {
        Box::leak(vec![0_u64; bytes.div_ceil(ALIGNMENT)].into_boxed_slice())
            .as_mut_ptr()
            .cast()
    }

    /// A pool for unit tests; only its allocating methods may be used.
    #[cfg(test)]
    pub(crate) fn for_test() -> Pool<'static> {
        Pool {
            raw: NonNull::dangling(),
            lives: PhantomData,
        }
    }
}

unsafe extern "C" fn run(data: *mut c_void) -> apr_status_t {
    guard(0, || {
        // SAFETY: `data` is the `fn()` that `on_cleanup` registered.
        let function = unsafe { mem::transmute::<*mut c_void, fn()>(data) };
        function();
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_joined_in_order() {
        let pool = Pool::for_test();
        assert_eq!(pool.concat(&[1_u32, 2], &[3]), [1, 2, 3]);
        assert_eq!(pool.concat::<u32>(&[], &[]), [0_u32; 0]);
        assert_eq!(pool.copy_str("päth"), "päth");
    }

    #[test]
    fn placed_values_can_be_changed() {
        let placed = Pool::for_test().place((1_u8, 7_u64));
        placed.1 = 8;
        assert_eq!(*placed, (1, 8));
    }
}
