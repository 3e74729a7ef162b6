//! Does bindgen's view of httpd's structures agree with the C compiler's?
//!
//! `shim.c` lists sizes and offsets as the compiler sees them; the test compares each with Rust's.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::CStr;
    use std::mem::{offset_of, size_of};

    use super::super::bindings::{
        ap_directive_t, apr_bucket, apr_finfo_t, cmd_parms, command_rec, conn_rec, core_dir_config,
        module, psgr_layout, request_rec, server_rec,
    };

    /// Reads the shim's table.
    fn of_the_compiler() -> BTreeMap<String, usize> {
        let mut entries = BTreeMap::new();
        // `psgr_layout` has an unknown length in C's eyes: walk it by pointer to its NULL name.
        let mut entry =
            (&raw const psgr_layout).cast::<super::super::bindings::psgr_layout_entry>();
        loop {
            // SAFETY: the table in shim.c is constant and ends with a NULL name, where we stop.
            let (name, value) = unsafe { ((*entry).name, (*entry).value) };
            if name.is_null() {
                return entries;
            }
            // SAFETY: the name is a string literal of shim.c.
            let name = unsafe { CStr::from_ptr(name) }
                .to_string_lossy()
                .into_owned();
            entries.insert(name, value);
            // SAFETY: this was not the last entry, so there is another one behind it.
            entry = unsafe { entry.add(1) };
        }
    }

    macro_rules! of_bindgen {
        ($($type:ident { $($field:ident),* $(,)? })*) => {
            BTreeMap::from([
                $((stringify!($type).to_owned(), size_of::<$type>()),
                  $((concat!(stringify!($type), ".", stringify!($field)).to_owned(),
                     offset_of!($type, $field)),)*)*
            ])
        };
    }

    #[test]
    fn bindgen_and_the_compiler_agree() {
        let ours = of_bindgen! {
            request_rec {
                connection, server, prev, main, status_line, status, headers_in, headers_out,
                subprocess_env, notes, handler, unparsed_uri, uri, filename, finfo,
                per_dir_config, output_filters,
            }
            conn_rec { base_server, bucket_alloc, cs, master }
            server_rec {
                next, error_fname, error_log, module_config, lookup_defaults, server_hostname,
            }
            module { module_index, register_hooks }
            command_rec {}
            cmd_parms { directive, pool, server, path }
            core_dir_config { handler, expr_handler }
            apr_finfo_t { filetype }
            apr_bucket { length }
            ap_directive_t { line_num }
        };
        assert_eq!(ours, of_the_compiler());
    }
}
