//! `PassengerAppLogFile`: a file of its own for what one app prints, and for what is to be said about it.
//!
//! The administrator names it; an app, or `.htaccess`, cannot. It may lie in the app's own directories, where
//! a link could lead root anywhere, so **root opens a file only in directories that nobody else can change**;
//! everywhere else it is opened with the rights of the app's user, who could have written there himself. A link at
//! the end of the path is never followed, and nothing but an ordinary file is written to.
//!
//! When the file is moved away or removed (logrotate) a new one is made within [`CHECK_PERIOD`]. What cannot be
//! written there goes to the main log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::spawn::identity::Identity;
use crate::sys::clock::LocalTime;
use crate::sys::{fsuser, process};

/// How often it is looked whether the file is still the one with that name.
pub const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Mode of a file that is made.
const MODE: u32 = 0o640;

/// Which file, and with whose rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Absolute path.
    pub path: PathBuf,
    /// The app's user; `None`: not known, or everything runs as one user.
    pub identity: Option<Identity>,
}

/// The log of one app.
#[derive(Debug, Default)]
pub struct AppLog {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    target: Option<Target>,
    file: Option<File>,
    /// What is wrong with it, said once.
    complaint: Option<String>,
    checked: Option<Instant>,
    was_written: bool,
    /// Somebody is at it.
    is_looked_after: bool,
}

/// What a log needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// [`AppLog::aim`].
    Target,
    /// [`AppLog::check`].
    Check,
}

impl AppLog {
    /// Opens the file, unless it is open already. Blocks on its file system.
    pub fn aim(&self, target: Target) {
        let is_known = self.state().target.as_ref() == Some(&target);
        if !is_known {
            // Not under the lock: whoever writes a line must not wait for a file system.
            let opened = open(&target);
            let mut state = self.state();
            state.complaint = None;
            state.target = Some(target);
            state.take(opened);
        }
    }

    /// No file any more: everything goes to the main log.
    pub fn forget(&self) {
        *self.state() = State::default();
    }

    /// Whether a file was named.
    #[must_use]
    pub fn has_target(&self) -> bool {
        self.state().target.is_some()
    }

    /// What is to be done now by whoever asks; nobody else is told the same before [`AppLog::done`].
    #[must_use]
    pub fn need(&self) -> Option<Need> {
        let mut state = self.state();
        let is_old = state.checked.is_none_or(|at| at.elapsed() >= CHECK_PERIOD);
        let has_reason = state.was_written || state.file.is_none();
        let need = match state.target {
            _ if state.is_looked_after || !is_old => None,
            None => Some(Need::Target),
            Some(_) => has_reason.then_some(Need::Check),
        };
        if need.is_some() {
            state.is_looked_after = true;
            state.checked = Some(Instant::now());
        }
        need
    }

    /// The need was met, or cannot be.
    pub fn done(&self) {
        self.state().is_looked_after = false;
    }

    /// Looks whether the file still has its name, and opens that name anew if not. Blocks on its file system.
    pub fn check(&self) {
        let (target, current) = {
            let mut state = self.state();
            state.was_written = false;
            let current = state.file.as_ref().and_then(|file| file.metadata().ok());
            (state.target.clone(), current)
        };
        let Some(target) = target else { return };
        let named = fs::symlink_metadata(&target.path).ok();
        let id = |meta: &fs::Metadata| (meta.dev(), meta.ino());
        if current.is_some() && current.as_ref().map(id) == named.as_ref().map(id) {
            return;
        }
        let opened = open(&target);
        let mut state = self.state();
        if state.target.as_ref() == Some(&target) {
            state.take(opened);
        }
    }

    /// Writes a line that the app printed, with `prefix` and the time before it unless that is empty. `false`: it
    /// is not in the file.
    pub fn line(&self, prefix: &str, line: &str) -> bool {
        if prefix.is_empty() {
            self.state().write(&format!("{line}\n"))
        } else {
            let text = format!("[{}] {prefix}{line}\n", LocalTime::now());
            self.state().write(&text)
        }
    }

    /// Writes what is to be said about the app.
    pub fn note(&self, text: &str) {
        let now = LocalTime::now();
        let mut state = self.state();
        for line in text.lines() {
            // Part of it may be an app's words: what a terminal would obey is escaped.
            let is_bad = |c: char| c.is_control() && c != '\t';
            let line = line.replace(is_bad, "\u{fffd}");
            state.write(&format!("[{now}] [passenger] {line}\n"));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // There is no state that a panic could leave half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, opened: Result<File, String>) {
        match opened {
            Ok(file) => {
                self.file = Some(file);
                self.complaint = None;
            }
            Err(complaint) => {
                self.file = None;
                if self.complaint.as_ref() != Some(&complaint) {
                    log::error!("{complaint}; what this app prints goes to this log meanwhile");
                    self.complaint = Some(complaint);
                }
            }
        }
    }

    fn write(&mut self, text: &str) -> bool {
        let Some(mut file) = self.file.as_ref() else {
            return false;
        };
        self.was_written = true;
        // One write per record, so that those of several processes do not mix.
        file.write_all(text.as_bytes()).is_ok()
    }
}

/// Opens or makes the file, by the rules of this module's page.
fn open(target: &Target) -> Result<File, String> {
    let path = &target.path;
    let failed = |e: io::Error| format!("cannot open the app's log {}: {e}", path.display());
    let directory = path
        .parent()
        .ok_or_else(|| format!("{} is no file (PassengerAppLogFile)", path.display()))?;
    let is_root = process::effective_uid() == 0;
    let file = if !is_root || is_roots_alone(directory).map_err(failed)? {
        open_plainly(target, is_root)
    } else if let Some(identity) = &target.identity {
        let ids = (identity.uid, identity.gid, identity.groups.as_slice());
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
    if let (true, Some(identity)) = (is_root, &target.identity) {
        std::os::unix::fs::fchown(&file, None, Some(identity.gid))?;
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
                identity: Some(Identity {
                    uid: 65_534,
                    gid: 65_534,
                    groups: vec![],
                    user: "nobody".into(),
                    group: "nogroup".into(),
                    home: "/".into(),
                    shell: "/bin/sh".into(),
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
    fn lines_follow_the_name_through_a_rotation() {
        let dir = Dir::new("rotation");
        let log = AppLog::default();
        assert!(!log.line("p: ", "nowhere"));
        let target = dir.target("own.log");
        log.aim(target.clone());
        assert!(log.line("App 7 output: ", "one"));
        fs::rename(&target.path, dir.0.join("own.log.1")).unwrap();
        assert!(log.line("", "two"), "still the old file");
        assert_eq!(log.need(), Some(Need::Check));
        assert_eq!(log.need(), None, "somebody is at it");
        log.check();
        log.done();
        assert!(log.line("", "three"));
        log.note("about\nit");
        let old = fs::read_to_string(dir.0.join("own.log.1")).unwrap();
        assert!(
            old.starts_with('[') && old.ends_with("] App 7 output: one\ntwo\n"),
            "{old}"
        );
        let new = fs::read_to_string(&target.path).unwrap();
        assert!(
            new.starts_with("three\n[") && new.ends_with("] [passenger] it\n"),
            "{new}"
        );
        log.forget();
        assert!(!log.line("", "four") && !log.has_target());
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
            let log = AppLog::default();
            log.aim(dir.target(name));
            assert!(!log.line("", "x"), "{name}");
            assert_eq!(log.need(), Some(Need::Check), "{name}: tried again later");
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
            identity: None,
            ..target
        };
        assert!(open(&unknown).unwrap_err().contains("others than root"));
    }
}
