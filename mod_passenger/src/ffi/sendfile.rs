//! Files that httpd sends in place of an app (`X-Sendfile`): opening them without leaving a directory, and
//! letting httpd answer conditional requests.

use super::bindings as c;
use super::request::Request;
use nix::fcntl::{openat2, OFlag, OpenHow, ResolveFlag};
use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;

/// What the request's conditions (`If-None-Match` and the like) come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// Send it.
    Met,
    /// The client has it: 304.
    NotModified,
    /// Answer with this status, 412 as a rule.
    Failed(u16),
}

/// Opens a file below `root` for reading. No component of `relative`, link or not, may lead out of `root`;
/// `root` itself may be a link. Does not wait for the other end of a FIFO.
///
/// # Errors
/// As `openat2`: `EXDEV` when the path leads out.
pub(crate) fn open_beneath(root: &Path, relative: &Path) -> io::Result<File> {
    let directory = File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(directory.as_raw_fd(), relative, how)?;
    // SAFETY: a descriptor that was just opened and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Opens a file for reading, named by an absolute path without links: none that is there after all is followed. Does
/// not wait for the other end of a FIFO.
///
/// # Errors
/// As `openat2`: `ELOOP` when there is a link.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let fd = openat2(libc::AT_FDCWD, path, how)?;
    // SAFETY: as above.
    Ok(unsafe { File::from_raw_fd(fd) })
}

impl Request<'_> {
    /// Says when the file that is the response was changed, in microseconds since 1970, and how long it is;
    /// then asks httpd what the request's conditions make of that and of the `ETag` in the response.
    pub(crate) fn conditions_for(&mut self, modified_us: i64, length: u64) -> Conditions {
        let has_date = self.headers_out().get(c"Last-Modified").is_some();
        // SAFETY: the request of the running hook; these read and set its own fields and tables.
        let verdict = unsafe {
            let raw = self.as_ptr();
            c::ap_update_mtime(raw, modified_us);
            if !has_date {
                c::ap_set_last_modified(raw);
            }
            c::ap_set_content_length(raw, i64::try_from(length).unwrap_or(i64::MAX));
            c::ap_set_accept_ranges(raw);
            c::ap_meets_conditions(raw)
        };
        match u16::try_from(verdict) {
            Ok(304) => Conditions::NotModified,
            Ok(status) if c_int::from(status) != 0 => Conditions::Failed(status),
            _ => Conditions::Met,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_leads_out_of_the_directory() {
        let base = std::env::temp_dir().join(format!("passenger-beneath-{}", std::process::id()));
        let root = base.join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(base.join("secret"), "secret").unwrap();
        fs::write(root.join("sub/file"), "file").unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("sub/file", root.join("in")).unwrap();
        symlink(&root, base.join("link")).unwrap();
        for path in [
            "../secret",
            "out",
            "sub/../../secret",
            "/etc/passwd",
            "/proc/self/root/etc/passwd",
        ] {
            assert!(open_beneath(&root, Path::new(path)).is_err(), "{path}");
        }
        for path in ["sub/file", "in", "sub/../in"] {
            assert!(open_beneath(&root, Path::new(path)).is_ok(), "{path}");
            assert!(
                open_beneath(&base.join("link"), Path::new(path)).is_ok(),
                "{path}"
            );
        }
        fs::remove_dir_all(base).unwrap();
    }
}
