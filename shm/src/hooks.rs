//! Hooks: programs of root's that are run when something happens (`PassengerCtl hook_…`). Which there are, how they
//! are written, and whose such a program must be: httpd's parent asks before it starts, the agent before each run.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Beginning of the option's name.
const PREFIX: &str = "hook_";
/// Most commands of one hook.
const MOST_COMMANDS: usize = 16;
/// Most links on the way to a program, as the kernel has it.
const MOST_LINKS: usize = 40;

/// When a program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// An app process serves from now on.
    AttachedProcess,
    /// An app process gets no more requests.
    DetachedProcess,
    /// An app process did not start.
    SpawnFailed,
    /// Requests found the queue of an app full.
    QueueFullError,
    /// A request took too long; its process is killed after that.
    MaxRequestTimeReached,
    /// httpd starts: before the agent does.
    BeforeWatchdogInitialization,
    /// httpd starts: when the agent is ready.
    AfterWatchdogInitialization,
    /// httpd stops: before apps are asked to end.
    BeforeWatchdogShutdown,
    /// httpd stops: when all of them have ended.
    AfterWatchdogShutdown,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::AttachedProcess,
        Self::DetachedProcess,
        Self::SpawnFailed,
        Self::QueueFullError,
        Self::MaxRequestTimeReached,
        Self::BeforeWatchdogInitialization,
        Self::AfterWatchdogInitialization,
        Self::BeforeWatchdogShutdown,
        Self::AfterWatchdogShutdown,
    ];

    /// Its name, as programs are told it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AttachedProcess => "attached_process",
            Self::DetachedProcess => "detached_process",
            Self::SpawnFailed => "spawn_failed",
            Self::QueueFullError => "queue_full_error",
            Self::MaxRequestTimeReached => "max_request_time_reached",
            Self::BeforeWatchdogInitialization => "before_watchdog_initialization",
            Self::AfterWatchdogInitialization => "after_watchdog_initialization",
            Self::BeforeWatchdogShutdown => "before_watchdog_shutdown",
            Self::AfterWatchdogShutdown => "after_watchdog_shutdown",
        }
    }

    /// The hook that an option of `PassengerCtl` sets.
    #[must_use]
    pub fn of_option(option: &str) -> Option<Self> {
        let name = option.strip_prefix(PREFIX)?;
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }

    /// Seconds that all commands of it together may take; then they are killed. httpd waits for those of the
    /// watchdog, so they have less.
    #[must_use]
    pub fn seconds(self) -> u32 {
        match self {
            Self::BeforeWatchdogInitialization | Self::AfterWatchdogInitialization => 30,
            Self::BeforeWatchdogShutdown | Self::AfterWatchdogShutdown => 10,
            _ => 60,
        }
    }
}

/// Takes the commands of a hook apart: absolute paths with `;` between them.
///
/// # Errors
/// A sentence about what is written.
pub fn commands(written: &str) -> Result<Vec<PathBuf>, String> {
    let mut commands = Vec::new();
    for word in written.split(';').map(str::trim).filter(|w| !w.is_empty()) {
        let path = Path::new(word);
        let has_parent = path.components().any(|c| c == Component::ParentDir);
        if !path.is_absolute() || has_parent || word.contains('\0') {
            return Err(format!(
                "{word:?} is not the absolute path of a program, without \"..\""
            ));
        }
        commands.push(path.to_path_buf());
    }
    match commands.len() {
        0 => Err("names no program".to_owned()),
        1..=MOST_COMMANDS => Ok(commands),
        count => Err(format!(
            "names {count} programs; {MOST_COMMANDS} are allowed"
        )),
    }
}

/// Whether a program may be run with the rights of the user `own`, who is root in earnest: only root (or that user)
/// may be able to change it, or any directory or link on the way to it. A directory in which everybody may create
/// files, but nobody may touch another's (sticky, like `/tmp`), lets nobody change what is in it.
///
/// # Errors
/// A sentence that names what is wrong and where.
pub fn check_program(path: &Path, own: u32) -> Result<(), String> {
    let mut at = PathBuf::from("/");
    check_directory(&at, &look_at(&at, path)?, own)?;
    let mut ahead = parts(path);
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            // In a link's target; whatever is above was checked.
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let found = look_at(&next, path)?;
        check_owner(&next, &found, own)?;
        if found.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(format!(
                    "there are too many links on the way to {}",
                    path.display()
                ));
            }
            let target = fs::read_link(&next).map_err(|e| unreadable(&next, &e))?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            let mut way = parts(&target);
            way.append(&mut ahead);
            ahead = way;
            continue;
        }
        if found.is_dir() {
            check_directory(&next, &found, own)?;
        } else {
            check_file(&next, &found)?;
        }
        at = next;
    }
    // What a trailing link or `/` led to.
    if fs::metadata(&at).is_ok_and(|found| found.is_file()) {
        Ok(())
    } else {
        Err(format!("{} is not a file", at.display()))
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect()
}

fn look_at(part: &Path, whole: &Path) -> Result<Metadata, String> {
    fs::symlink_metadata(part).map_err(|e| {
        let text = unreadable(part, &e);
        if whole.to_string_lossy().contains(char::is_whitespace) {
            return format!("{text} (a hook takes no arguments: write a script that has them)");
        }
        text
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("cannot look at {}: {error}", path.display())
}

fn check_owner(path: &Path, found: &Metadata, own: u32) -> Result<(), String> {
    if found.uid() == 0 || found.uid() == own {
        return Ok(());
    }
    let whose = if own == 0 {
        "root"
    } else {
        "root or the user httpd runs as"
    };
    Err(format!(
        "{} belongs to uid {}, who could have anything run there: it must belong to {whose}",
        path.display(),
        found.uid()
    ))
}

fn check_directory(path: &Path, found: &Metadata, own: u32) -> Result<(), String> {
    const STICKY: u32 = 0o1000;
    check_owner(path, found, own)?;
    if found.mode() & 0o022 != 0 && found.mode() & STICKY == 0 {
        return Err(changeable(path));
    }
    Ok(())
}

fn check_file(path: &Path, found: &Metadata) -> Result<(), String> {
    if found.mode() & 0o022 != 0 {
        return Err(changeable(path));
    }
    if found.is_file() && found.mode() & 0o111 == 0 {
        return Err(format!(
            "{0} is not executable: `chmod u+x {0}`",
            path.display()
        ));
    }
    Ok(())
}

fn changeable(path: &Path) -> String {
    format!(
        "{0} can be changed by others than its owner: `chmod go-w {0}`",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink, PermissionsExt};

    use super::*;

    #[test]
    fn every_option_means_its_hook() {
        for hook in Hook::ALL {
            assert_eq!(
                Hook::of_option(&format!("hook_{}", hook.name())),
                Some(hook)
            );
        }
        for option in ["hook_", "hook_spawn", "spawn_failed", "hook_spawn_failed "] {
            assert_eq!(Hook::of_option(option), None, "{option}");
        }
    }

    #[test]
    fn commands_are_absolute_paths_in_order() {
        let found = commands(" /a/b ; /c;; /d e ;").unwrap();
        let expected = ["/a/b", "/c", "/d e"].map(PathBuf::from);
        assert_eq!(found, expected);
        for (wrong, why) in [
            ("", "no program"),
            (" ; ;", "no program"),
            ("bin/x", "absolute path"),
            ("/a;../b", "absolute path"),
            ("/a/../b", "absolute path"),
            ("/a\0", "absolute path"),
        ] {
            let sentence = commands(wrong).unwrap_err();
            assert!(sentence.contains(why), "{wrong:?}: {sentence}");
        }
        assert!(commands(&"/a;".repeat(MOST_COMMANDS)).is_ok());
        assert!(commands(&"/a;".repeat(MOST_COMMANDS + 1)).is_err());
    }

    /// A directory of its own, removed at the end.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let name = format!("psgr-hook-{name}-{}", std::process::id());
            let place = std::env::temp_dir().join(name);
            fs::create_dir_all(place.join("bin")).unwrap();
            for directory in [place.clone(), place.join("bin")] {
                chmod(&directory, 0o755);
            }
            fs::write(place.join("bin/hook"), "#!/bin/sh\n").unwrap();
            chmod(&place.join("bin/hook"), 0o755);
            Self(place)
        }

        fn hook(&self) -> PathBuf {
            self.0.join("bin/hook")
        }

        fn refused(&self, path: &Path) -> String {
            check_program(path, own()).unwrap_err()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn own() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_only_its_owner_can_change_may_run() {
        let place = Place::new("good");
        assert_eq!(check_program(&place.hook(), own()), Ok(()));
        assert_eq!(check_program(Path::new("/bin/true"), own()), Ok(()));
        symlink("bin/../bin/hook", place.0.join("link")).unwrap();
        assert_eq!(check_program(&place.0.join("link"), own()), Ok(()));
    }

    #[test]
    fn what_others_can_change_is_refused_and_named() {
        let place = Place::new("bad");
        for mode in [0o775, 0o757, 0o777] {
            chmod(&place.hook(), mode);
            assert!(place
                .refused(&place.hook())
                .contains("bin/hook can be changed"));
        }
        chmod(&place.hook(), 0o755);
        chmod(&place.0.join("bin"), 0o775);
        let sentence = place.refused(&place.hook());
        assert!(sentence.contains("bin can be changed"), "{sentence}");
        // Through a link from a good place as well.
        fs::create_dir(place.0.join("good")).unwrap();
        chmod(&place.0.join("good"), 0o755);
        let link = place.0.join("good/link");
        symlink(place.hook(), &link).unwrap();
        assert!(place.refused(&link).contains("bin can be changed"));
        chmod(&place.0.join("bin"), 0o755);
        assert_eq!(check_program(&link, own()), Ok(()));
        if own() == 0 {
            for part in [place.hook(), place.0.join("bin"), place.0.clone()] {
                chown(&part, Some(1234), None).unwrap();
                assert!(place.refused(&place.hook()).contains("belongs to uid 1234"));
                chown(&part, Some(0), None).unwrap();
            }
            std::os::unix::fs::lchown(&link, Some(1234), None).unwrap();
            assert!(place.refused(&link).contains("link belongs to uid 1234"));
        }
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let place = Place::new("none");
        chmod(&place.hook(), 0o644);
        assert!(place.refused(&place.hook()).contains("not executable"));
        assert!(place.refused(&place.0).contains("is not a file"));
        let missing = place.refused(&place.0.join("bin/gone"));
        assert!(missing.contains("cannot look at"), "{missing}");
        let missing = place.refused(Path::new("/bin/true --quietly"));
        assert!(missing.contains("no arguments"), "{missing}");
        symlink("round", place.0.join("round")).unwrap();
        assert!(place
            .refused(&place.0.join("round"))
            .contains("too many links"));
    }
}
