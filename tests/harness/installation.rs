//! An installation of its own, for tests that upgrade it or break it under a running server.

use crate::stage;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A copy of the stage; removed when dropped.
#[derive(Debug)]
pub struct Installation {
    prefix: PathBuf,
}

impl Installation {
    /// Installs what is staged.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn new() -> Installation {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("psgr-{}-prefix-{number}", std::process::id());
        let prefix = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&prefix);
        let installation = Installation { prefix };
        installation.again();
        installation
    }

    /// Where it is.
    #[must_use]
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Installs it again, as `make install` does: new files are renamed over the old ones. To httpd it is
    /// another build.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn again(&self) {
        open(&self.prefix);
        // Frameworks may lie beside them: thousands of files.
        for part in ["bin", "libexec", "modules", "share"] {
            copy(&stage::prefix().join(part), &self.prefix.join(part));
        }
    }

    /// Replaces every loader by one that fails.
    ///
    /// # Panics
    /// When one cannot be written.
    pub fn break_loaders(&self) {
        let loaders = self.prefix.join("share/passenger/loaders");
        for entry in fs::read_dir(loaders).expect("read the loaders") {
            let path = entry.expect("read a directory entry").path();
            if path.is_file() {
                put(&path, b"this is no program )\n", 0o644);
            }
        }
    }

    /// Replaces a program by one that ends at once.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn break_program(&self, name: &str) {
        put(
            &self.prefix.join("libexec").join(name),
            b"#!/bin/sh\nexit 1\n",
            0o755,
        );
    }
}

impl Default for Installation {
    fn default() -> Installation {
        Installation::new()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // What cannot be removed is no reason to fail a test.
        let _ = fs::remove_dir_all(&self.prefix);
    }
}

fn open(directory: &Path) {
    fs::create_dir_all(directory).expect("create a directory of the installation");
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("open the directory");
}

fn copy(from: &Path, to: &Path) {
    open(to);
    for entry in fs::read_dir(from).expect("read the stage") {
        let path = entry.expect("read a directory entry").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            let mode = fs::metadata(&path).expect("look at a file").permissions();
            put(&target, &fs::read(&path).expect("read a file"), mode.mode());
        }
    }
}

fn put(path: &Path, contents: &[u8], mode: u32) {
    let new = path.with_extension("new");
    fs::write(&new, contents).expect("write a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).expect("set its mode");
    fs::rename(&new, path).expect("put it in its place");
}
