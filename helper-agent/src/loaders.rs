//! The loaders of an instance. It is one build for life, but `make install` writes a newer build's loaders over
//! those it was started with, so it has a copy of its own in its directory; apps started after an upgrade by an
//! instance that is on its way out must not meet a loader that speaks another protocol.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Name in the instance directory.
const NAME: &str = "loaders";

/// Levels of directories below the loaders; there are two.
const DEPTH: usize = 8;

/// Where the loaders of an installation are, whose programs include that one:
/// `<prefix>/libexec/…` → `<prefix>/share/passenger/loaders`.
pub(crate) fn installed(program: &Path) -> PathBuf {
    let prefix = program
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/"));
    prefix.join("share/passenger/loaders")
}

/// Those of an instance: its copy, or else what is installed beside that program.
pub(crate) fn of(instance: &Path, program: &Path) -> PathBuf {
    let own = instance.join(NAME);
    if own.is_dir() {
        own
    } else {
        installed(program)
    }
}

/// Gives a new instance its copy, all or nothing.
///
/// # Errors
/// When something of it cannot be read or written.
pub(crate) fn pin(installed: &Path, instance: &Path) -> io::Result<()> {
    let unfinished = instance.join(".loaders.new");
    let copied = copy(installed, &unfinished, DEPTH)
        .and_then(|()| fs::rename(&unfinished, instance.join(NAME)));
    copied.inspect_err(|_| drop(fs::remove_dir_all(&unfinished)))
}

fn copy(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other(format!("{} is too deep", from.display())));
    }
    DirBuilder::new().mode(0o755).create(to)?;
    // The umask has had its say, and apps' users are to read it.
    fs::set_permissions(to, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let metadata = fs::metadata(&from)?;
        if metadata.is_dir() {
            copy(&from, &to, depth - 1)?;
        } else {
            fs::copy(&from, &to)?;
            fs::set_permissions(&to, Permissions::from_mode(0o644))?;
            // Python's compiled files name the time of their source.
            File::options()
                .write(true)
                .open(&to)?
                .set_modified(metadata.modified()?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let own = std::process::id();
        let path = std::env::temp_dir().join(format!("psgr-loaders-{own}-{name}"));
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    #[test]
    fn an_instance_keeps_the_loaders_that_it_was_started_with() {
        let base = directory("pinned");
        let program = base.join("libexec/passenger-helper-agent");
        let (installed, instance) = (installed(&program), base.join("instance"));
        fs::create_dir_all(installed.join("node")).expect("an installation");
        fs::create_dir(&instance).expect("an instance");
        let file = installed.join("node/cluster.js");
        fs::write(&file, "old").expect("a loader");
        assert_eq!(of(&instance, &program), installed, "nothing is pinned yet");
        pin(&installed, &instance).expect("pinned");
        fs::write(&file, "newer").expect("an upgrade");
        let own = of(&instance, &program).join("node/cluster.js");
        assert_eq!(fs::read_to_string(&own).expect("a copy"), "old");
        let mode = fs::metadata(&own).expect("a copy").permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        fs::remove_dir_all(base).expect("cleanup");
    }

    #[test]
    fn half_a_copy_is_none() {
        let base = directory("half");
        let program = base.join("libexec/passenger-helper-agent");
        let (installed, instance) = (installed(&program), base.join("instance"));
        fs::create_dir_all(&installed).expect("an installation");
        fs::create_dir(&instance).expect("an instance");
        std::os::unix::fs::symlink("nowhere", installed.join("broken")).expect("a link");
        pin(&installed, &instance).expect_err("a file that is not there");
        assert_eq!(of(&instance, &program), installed);
        assert_eq!(fs::read_dir(&instance).expect("instance").count(), 0);
        fs::remove_dir_all(base).expect("cleanup");
    }
}
