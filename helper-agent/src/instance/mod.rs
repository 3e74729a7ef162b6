//! The instance directory: `<registry>/passenger.<7 random>/` with lock, PID files, properties and the
//! directory of the apps' sockets. Who holds the lock lives; a directory whose lock is free is what a dead
//! instance left, and the next start removes it (`registry.rs`).

mod registry;

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::FlockArg;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
pub use registry::{default_registry, remove_stale};

/// Longest path the kernel takes for a Unix socket, terminator included.
const SOCKET_PATH_BYTES: usize = 108;

/// A directory that is being built has this before its name.
const UNFINISHED: &str = ".passenger.";
const FINISHED: &str = "passenger.";

/// What went wrong with an instance directory; each is a sentence for the administrator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path failed.
    #[error("cannot {doing} {}: {cause}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// Others could replace what we put there.
    #[error("the instance registry {} {problem}; set PassengerInstanceRegistryDir to a directory \
             that only root can write", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Sockets in there would have too long a name.
    #[error("the instance registry {} has too long a path for Unix sockets in it ({length} bytes of at \
             most {SOCKET_PATH_BYTES}); set PassengerInstanceRegistryDir to a shorter one", path.display())]
    TooLong {
        /// The directory.
        path: PathBuf,
        /// How long the path of a socket could get.
        length: usize,
    },
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Io { doing, path, cause }
}

/// What tools read about an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// The random part of the directory's name.
    pub name: String,
    /// Version of this software.
    pub version: String,
    /// Build id of the module that started it.
    pub build: String,
    /// What httpd calls itself.
    pub server_software: String,
    /// PID of httpd's parent.
    pub parent_pid: i32,
    /// Seconds since the epoch.
    pub created_at: u64,
}

/// A directory of this process's making, with the lock that says that it lives.
#[derive(Debug)]
pub struct Instance {
    /// Absolute path.
    pub path: PathBuf,
    /// The locked file: the instance lives as long as any process has this open file.
    pub lock: OwnedFd,
}

impl Instance {
    /// Makes a new directory in `registry`, which is created if need be. Nobody ever sees it without its
    /// lock: it is built under another name.
    ///
    /// # Errors
    /// When the registry is not safe, its path too long, or a directory or file cannot be made.
    pub fn create(registry: &Path) -> Result<Self, Error> {
        let registry = registry::prepare(registry)?;
        loop {
            let name = random_name().map_err(io_error("make a random name in", &registry))?;
            let unfinished = registry.join(format!("{UNFINISHED}{name}"));
            let path = registry.join(format!("{FINISHED}{name}"));
            check_length(&registry, &path)?;
            match make_directory(&unfinished, 0o755) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(io_error("create the instance directory", &unfinished))?,
            }
            let apps = unfinished.join("apps");
            make_directory(&apps, 0o711).map_err(io_error("create", &apps))?;
            let lock = unfinished.join("lock");
            let lock = create_lock(&lock).map_err(io_error("create and lock", &lock))?;
            fs::rename(&unfinished, &path).map_err(io_error("rename to", &path))?;
            return Ok(Self { path, lock });
        }
    }

    /// The random part of the name.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        name.strip_prefix(FINISHED).unwrap_or(name)
    }
}

/// Whether somebody holds the lock of the instance in that directory.
///
/// # Errors
/// When there is no lock file, or no right to open it.
pub fn is_held(instance: &Path) -> io::Result<bool> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(instance.join("lock"))?;
    match lock_now(file.into()) {
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    }
}

/// Writes `<instance>/<name>` with a decimal PID, replacing it as a whole.
///
/// # Errors
/// When the file cannot be written.
pub fn write_pid(instance: &Path, name: &str, pid: i32) -> Result<(), Error> {
    replace_file(instance, name, format!("{pid}\n").as_bytes())
}

/// Writes `properties.json`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_properties(instance: &Path, properties: &Properties) -> Result<(), Error> {
    let path = instance.join("properties.json");
    let text = serde_json::to_vec_pretty(properties).map_err(|e| Error::Io {
        doing: "encode",
        path,
        cause: e.into(),
    })?;
    replace_file(instance, "properties.json", &text)
}

/// Notes the control group of the instance's apps.
///
/// # Errors
/// When the file cannot be written.
pub fn write_cgroup(instance: &Path, cgroup: &Cgroup) -> Result<(), Error> {
    use std::os::unix::ffi::OsStrExt;
    replace_file(instance, "cgroup", cgroup.path().as_os_str().as_bytes())
}

/// The control group of the instance's apps, if there is one.
#[must_use]
pub fn cgroup(instance: &Path) -> Option<Cgroup> {
    let path = fs::read_to_string(instance.join("cgroup")).ok()?;
    Cgroup::at(Path::new(&path))
}

/// Where the app process in that slot listens.
#[must_use]
pub fn app_socket(instance: &Path, slot: u32, generation: u32) -> PathBuf {
    instance.join("apps").join(format!("{slot}.{generation}"))
}

fn replace_file(directory: &Path, name: &str, contents: &[u8]) -> Result<(), Error> {
    let path = directory.join(name);
    let fresh = directory.join(format!(".{name}.new"));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&fresh)?;
        // The umask must not hide it from tools.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(contents)?;
        fs::rename(&fresh, &path)
    };
    write().map_err(io_error("write", &path))
}

/// Seven characters out of 32 that nobody can guess.
fn random_name() -> io::Result<String> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0u8; 7];
    crate::sys::process::random_bytes(&mut bytes)?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect())
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    // Again, since the umask has had its say; the directory is ours and nobody can have replaced it.
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Only its owner can open it, or any local user could hold the lock of a dead instance.
fn create_lock(path: &Path) -> io::Result<OwnedFd> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    lock_now(file.into())
}

/// Locks the open file for as long as any copy of the descriptor is open.
fn lock_now(file: OwnedFd) -> io::Result<OwnedFd> {
    // The deprecation prefers an owner type whose drop unlocks; this lock must outlive our copy.
    #[allow(deprecated)]
    nix::fcntl::flock(file.as_raw_fd(), FlockArg::LockExclusiveNonblock)?;
    Ok(file)
}

fn check_length(registry: &Path, instance: &Path) -> Result<(), Error> {
    let length = app_socket(instance, u32::MAX, u32::MAX).as_os_str().len() + 1;
    if length > SOCKET_PATH_BYTES {
        return Err(Error::TooLong {
            path: registry.to_owned(),
            length,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn registry(test: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("instance-test-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn modes_do_not_depend_on_the_umask() {
        let registry = registry("modes");
        let instance = Instance::create(&registry).unwrap();
        let mode = |name: &str| {
            fs::metadata(instance.path.join(name))
                .unwrap()
                .permissions()
                .mode()
                & 0o7777
        };
        write_pid(&instance.path, "agent.pid", 7).unwrap();
        assert_eq!(
            (mode("."), mode("apps"), mode("lock")),
            (0o755, 0o711, 0o600)
        );
        assert_eq!(mode("agent.pid"), 0o644);
        assert_eq!(
            fs::read_to_string(instance.path.join("agent.pid")).unwrap(),
            "7\n"
        );
        fs::remove_dir_all(registry).unwrap();
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_with_its_length() {
        let path = registry("long").join("x".repeat(80));
        let error = Instance::create(&path).unwrap_err().to_string();
        assert!(error.contains("too long"), "{error}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
