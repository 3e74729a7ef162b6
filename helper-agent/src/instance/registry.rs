//! The registry: the directory in which instances have theirs. Owns where it is, who may be trusted with it, and
//! the removal of what dead instances left there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::{cgroup, io_error, is_held, make_directory, Error, FINISHED, UNFINISHED};
use crate::sys::patience::Patience;
use crate::sys::process;

/// Where instances live when the configuration does not say.
#[must_use]
pub fn default_registry() -> PathBuf {
    let uid = process::effective_uid();
    if uid == 0 {
        return PathBuf::from("/run/passenger-instreg");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if !directory.is_empty() => Path::new(&directory).join("passenger-instreg"),
        _ => PathBuf::from(format!("/tmp/passenger-instreg-{uid}")),
    }
}

/// Removes what dead instances left in a registry, processes in a control group included, and returns what was removed. Live ones and
/// directories of other users are never touched.
///
/// # Errors
/// When the registry cannot be read; a directory that cannot be removed is only logged.
pub fn remove_stale(registry: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut removed = Vec::new();
    let entries = fs::read_dir(registry).map_err(io_error("read the registry", registry))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if !is_stale(&path) {
            continue;
        }
        if let Some(cgroup) = cgroup(&path) {
            let killed = cgroup.kill(&mut Patience::new(Instant::now()));
            if killed > 0 {
                log::warn!(
                    "killed {killed} processes that the dead instance {} had left",
                    path.display()
                );
            }
            cgroup.remove();
        }
        match fs::remove_dir_all(&path) {
            Ok(()) => removed.push(path),
            Err(e) => log::warn!("cannot remove the stale instance {}: {e}", path.display()),
        }
    }
    Ok(removed)
}

/// Whether a path is an instance directory of ours that nobody holds.
fn is_stale(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let is_unfinished = name.starts_with(UNFINISHED);
    if !is_unfinished && !name.starts_with(FINISHED) {
        return false;
    }
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return false;
    };
    if !metadata.is_dir() || metadata.uid() != process::effective_uid() {
        return false;
    }
    if is_unfinished && is_younger_than(&metadata, Duration::from_secs(60)) {
        return false;
    }
    match is_held(path) {
        Ok(held) => !held,
        // No lock file: half built and abandoned, or not an instance at all.
        Err(e) => is_unfinished && e.kind() == io::ErrorKind::NotFound,
    }
}

fn is_younger_than(metadata: &fs::Metadata, age: Duration) -> bool {
    let changed = metadata.modified().unwrap_or_else(|_| SystemTime::now());
    SystemTime::now()
        .duration_since(changed)
        .unwrap_or_default()
        < age
}

/// Creates the registry if it is missing and refuses one in which others could replace our directories.
/// Returns its path without links: what was looked at is what is used.
pub(super) fn prepare(registry: &Path) -> Result<PathBuf, Error> {
    if let Some(parent) = registry.parent() {
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    // Without root httpd's workers are the same user as we are; nobody else needs to get in.
    let mode = if process::effective_uid() == 0 {
        0o755
    } else {
        0o700
    };
    match make_directory(registry, mode) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(io_error("create the instance registry", registry))?,
    }
    let real = registry
        .canonicalize()
        .map_err(io_error("resolve", registry))?;
    check_safe(&real)?;
    for ancestor in real.ancestors().skip(1) {
        let Err(e) = check_safe(ancestor) else {
            continue;
        };
        // Whoever can exchange a directory above leads root's `bind`, `chown` and `chmod` elsewhere. The
        // root directory is nobody's to exchange, and in a container it may belong to anybody.
        match e {
            Error::Unsafe { problem, .. }
                if process::effective_uid() == 0 && ancestor.parent().is_some() =>
            {
                return Err(Error::Unsafe {
                    path: real.clone(),
                    problem: format!("lies in {}, which {problem}", ancestor.display()),
                });
            }
            e => log::warn!("{e} (its parent directory {})", ancestor.display()),
        }
    }
    Ok(real)
}

fn check_safe(directory: &Path) -> Result<(), Error> {
    let metadata = File::open(directory)
        .and_then(|file| file.metadata())
        .map_err(io_error("look at", directory))?;
    let refuse = |problem: String| {
        Err(Error::Unsafe {
            path: directory.to_owned(),
            problem,
        })
    };
    if !metadata.is_dir() {
        return refuse("is not a directory".to_owned());
    }
    let owner = metadata.uid();
    if owner != 0 && owner != process::effective_uid() {
        return refuse(format!("belongs to user {owner}"));
    }
    let is_sticky = metadata.mode() & 0o1000 != 0;
    if metadata.mode() & 0o022 != 0 && !is_sticky {
        return refuse("can be written by other users".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::registry;
    use super::super::Instance;
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn stale_directories_go_and_live_ones_stay() {
        let registry = registry("stale");
        let live = Instance::create(&registry).unwrap();
        let dead = Instance::create(&registry).unwrap();
        let other = registry.join("passenger.not-an-instance");
        fs::create_dir(&other).unwrap();
        drop(dead.lock);
        assert_eq!(remove_stale(&registry).unwrap(), [dead.path]);
        assert!(is_held(&live.path).unwrap());
        assert!(other.exists(), "no lock file, so not ours to remove");
        assert_eq!(live.name().len(), 7);
        fs::remove_dir_all(registry).unwrap();
    }

    #[test]
    fn a_registry_that_others_can_write_is_refused_unless_sticky() {
        let path = registry("unsafe");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let error = Instance::create(&path).unwrap_err().to_string();
        assert!(error.contains("can be written by other users"), "{error}");
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        Instance::create(&path).unwrap();
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_registry_below_a_directory_of_somebody_else_is_refused_to_root() {
        if process::effective_uid() != 0 {
            return;
        }
        let path = registry("below");
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(50_002), None).unwrap();
        let error = Instance::create(&path.join("registry")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("which belongs to user 50002"), "{error}");
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        Instance::create(&path.join("registry")).unwrap();
        fs::remove_dir_all(path).unwrap();
    }
}
