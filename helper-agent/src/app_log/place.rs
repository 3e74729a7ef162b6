//! Which file an app's log may be, and with whose rights it is opened.
//!
//! The administrator names it; an app, or `.htaccess`, cannot. It may lie in the app's own directories, where
//! a link could lead root anywhere, so **root opens a file only in directories that nobody else can change**;
//! everywhere else it is opened with the rights of the app's user, who could have written there himself. A link at
//! the end of the path is never followed, and nothing but an ordinary file is written to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::spawn::identity::Identity;
use crate::sys::{fsuser, process};

/// Mode of a file that is made.
const MODE: u32 = 0o640;

/// Which file, and with whose rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Absolute path.
    pub path: PathBuf,
    /// Name of the app, for what has to go to the main log.
    pub name: String,
    /// The app's user; `None`: not known, or everything runs as one user.
    pub owner: Option<Owner>,
}

/// What the kernel knows of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Never 0 where there are several users.
    pub uid: u32,
    /// His group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl From<&Identity> for Owner {
    fn from(identity: &Identity) -> Self {
        Self {
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups.clone(),
        }
    }
}

/// Opens or makes the file, by the rules of this module's page. Blocks on its file system.
///
/// # Errors
/// A sentence for the administrator.
pub(super) fn open(target: &Target) -> Result<File, String> {
    let path = &target.path;
    let failed = |e: io::Error| format!("cannot open the app's log {}: {e}", path.display());
    let directory = path
        .parent()
        .ok_or_else(|| format!("{} is no file (PassengerAppLogFile)", path.display()))?;
    let is_root = process::effective_uid() == 0;
    let file = if !is_root || is_roots_alone(directory).map_err(failed)? {
        open_plainly(target, is_root)
    } else if let Some(owner) = &target.owner {
        let ids = (owner.uid, owner.gid, owner.groups.as_slice());
        fsuser::open_as(ids, path, &options(true))
    } else {
        Err(io::Error::other(
            "others than root can write on the way there, and it is not known which user the app runs as",
        ))
    };
    let file = file.map_err(failed)?;
    // Opened without waiting, whatever it is: a pipe, a terminal.
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(format!(
            "the app's log {} is not an ordinary file",
            path.display()
        ));
    }
    Ok(file)
}

fn options(may_create: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    options
        .append(true)
        .create(may_create)
        .mode(MODE)
        .custom_flags(flags);
    options
}

/// In a directory where nobody can play tricks. The app's group may read what root makes there for it.
fn open_plainly(target: &Target, is_root: bool) -> io::Result<File> {
    match options(false).open(&target.path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let file = options(true).open(&target.path)?;
    if let (true, Some(owner)) = (is_root, &target.owner) {
        std::os::unix::fs::fchown(&file, None, Some(owner.gid))?;
    }
    // The umask is httpd's.
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    Ok(file)
}

/// Whether nobody but root can change that directory or any on the way to it, as the path is written. A link
/// on the way does not count as root's: what it leads through would have to be looked at as well.
fn is_roots_alone(directory: &Path) -> io::Result<bool> {
    for part in directory.ancestors() {
        let meta = fs::symlink_metadata(part)?;
        if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let name = format!("app-log-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
            Self(path)
        }

        fn target(&self, file: &str) -> Target {
            Target {
                path: self.0.join(file),
                name: "app".into(),
                owner: Some(Owner {
                    uid: 65_534,
                    gid: 65_534,
                    groups: vec![],
                }),
            }
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn no_link_is_followed_and_nothing_but_an_ordinary_file_is_written() {
        let dir = Dir::new("tricks");
        let victim = dir.0.join("victim");
        fs::write(&victim, "").unwrap();
        symlink(&victim, dir.0.join("link")).unwrap();
        nix::unistd::mkfifo(
            &dir.0.join("pipe"),
            nix::sys::stat::Mode::from_bits_truncate(0o666),
        )
        .unwrap();
        for name in ["link", "pipe", "missing/own.log"] {
            assert!(open(&dir.target(name)).is_err(), "{name}");
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "");
    }

    #[test]
    fn where_only_root_writes_it_is_roots_file_that_the_app_may_read() {
        if process::effective_uid() != 0 {
            return;
        }
        let name = format!("passenger-app-log-{}", std::process::id());
        let dir = Dir(Path::new("/var/lib").join(name));
        fs::create_dir(&dir.0).unwrap();
        assert!(is_roots_alone(&dir.0).unwrap());
        let file = open(&dir.target("own.log")).unwrap().metadata().unwrap();
        assert_eq!(
            (file.uid(), file.gid(), file.mode() & 0o7777),
            (0, 65_534, MODE)
        );
        // Who may change the directory may play tricks in it.
        std::os::unix::fs::chown(&dir.0, Some(65_534), None).unwrap();
        assert!(!is_roots_alone(&dir.0).unwrap());
    }

    #[test]
    fn a_link_of_the_apps_user_to_a_directory_of_roots_does_not_make_it_his() {
        if process::effective_uid() != 0 {
            return;
        }
        let name = format!("passenger-app-log-link-{}", std::process::id());
        let dir = Dir(Path::new("/var/lib").join(name));
        let app = dir.0.join("app");
        fs::create_dir_all(dir.0.join("secret")).unwrap();
        fs::create_dir(&app).unwrap();
        symlink("../secret", app.join("log")).unwrap();
        std::os::unix::fs::lchown(app.join("log"), Some(65_534), None).unwrap();
        std::os::unix::fs::chown(&app, Some(65_534), None).unwrap();
        assert!(is_roots_alone(&dir.0.join("secret")).unwrap());
        let refused = open(&dir.target("app/log/own.log")).unwrap_err();
        assert!(refused.contains("Permission denied"), "{refused}");
        let made = fs::read_dir(dir.0.join("secret")).unwrap().count();
        assert_eq!(made, 0);
        // The same if the link is root's: nothing is believed of where it leads.
        std::os::unix::fs::lchown(app.join("log"), Some(0), None).unwrap();
        assert!(open(&dir.target("app/log/own.log")).is_err());
    }

    #[test]
    fn where_others_write_it_is_the_users_file_and_never_roots() {
        if process::effective_uid() != 0 {
            return;
        }
        let dir = Dir::new("owner");
        let target = dir.target("own.log");
        assert!(!is_roots_alone(&dir.0).unwrap());
        let file = open(&target).unwrap();
        assert_eq!(file.metadata().unwrap().uid(), 65_534);
        let secret = dir.0.join("secret");
        fs::write(&secret, "").unwrap();
        fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(open(&dir.target("secret")).is_err(), "a file of root's");
        fs::hard_link(&secret, dir.0.join("hard")).unwrap();
        assert!(open(&dir.target("hard")).is_err(), "and another name of it");
        let unknown = Target {
            owner: None,
            ..target
        };
        assert!(open(&unknown).unwrap_err().contains("others than root"));
    }
}
