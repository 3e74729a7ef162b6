//! Whose file the startup file is, when that decides as whom an app runs.
//!
//! The path is walked as the kernel would, one name after the other, links included, and the owner of every
//! directory and link on the way is noted. Whoever owns one of them can lead the way elsewhere a moment
//! later: to a file of another user while we look, back to his own before the app is loaded. So only root,
//! the file's owner, and the owner of the directory the file is in (who decides anyway what runs there)
//! may own a part of the way. For the same reason nobody runs as the owner of a file that everybody can write.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{readlinkat, AtFlags};
use nix::sys::stat::{fstat, fstatat, FileStat};

use super::identity::FileOwner;
use crate::sys::descriptor;

/// Links on one way, as many as the kernel follows.
const MAX_LINKS: usize = 40;

/// Owner of the startup file, links not followed.
///
/// # Errors
/// A sentence when it cannot be found, or when others than the three above could lead the way elsewhere.
pub fn of_startup_file(app_root: &Path, startup_file: &Path) -> Result<FileOwner, String> {
    let mut way = Way::default();
    way.follow(app_root)
        .and_then(|root| {
            way.note(&fstat(root.as_raw_fd())?, app_root);
            Ok(())
        })
        .map_err(|e| format!("cannot look at {}: {e}", app_root.display()))?;
    let unreadable = |e: io::Error| {
        format!(
            "cannot look at the startup file {}: {e}",
            startup_file.display()
        )
    };
    let (Some(parent), Some(name)) = (startup_file.parent(), startup_file.file_name()) else {
        return Err(unreadable(io::ErrorKind::InvalidInput.into()));
    };
    let directory = way.follow(parent).map_err(unreadable)?;
    let around = fstat(directory.as_raw_fd()).map_err(|e| unreadable(e.into()))?;
    way.note(&around, parent);
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    let file =
        fstatat(Some(directory.as_raw_fd()), name, flags).map_err(|e| unreadable(e.into()))?;
    way.check([0, file.st_uid, around.st_uid], startup_file)?;
    // What a link leads to, if it is one: the code that will run.
    let code = fstatat(Some(directory.as_raw_fd()), name, AtFlags::empty())
        .map_err(|e| unreadable(e.into()))?;
    if code.st_mode & 0o002 != 0 {
        return Err(format!(
            "everybody can write the startup file {}: its owner would run what others put into it; take that right \
             away (chmod o-w), or set PassengerUser",
            startup_file.display()
        ));
    }
    Ok(FileOwner {
        uid: file.st_uid,
        gid: file.st_gid,
    })
}

/// Who can lead a way elsewhere.
#[derive(Default)]
struct Way {
    /// Owner, and directory or link; `None`: everybody.
    owners: Vec<(Option<u32>, PathBuf)>,
}

impl Way {
    fn note(&mut self, stat: &FileStat, path: &Path) {
        let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let is_everybodys = stat.st_mode & 0o1002 == 0o0002;
        let owner = (!is_directory || !is_everybodys).then_some(stat.st_uid);
        self.owners.push((owner, path.to_path_buf()));
    }

    /// Walks to a directory.
    fn follow(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let mut left = names(path);
        let mut at = open_root()?;
        let mut shown = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            self.note(&fstat(at.as_raw_fd())?, &shown);
            let next = descriptor::open_path_at(at.as_fd(), &name)?;
            let stat = fstat(next.as_raw_fd())?;
            if stat.st_mode & libc::S_IFMT == libc::S_IFLNK {
                links += 1;
                if links > MAX_LINKS {
                    return Err(nix::errno::Errno::ELOOP.into());
                }
                self.note(&stat, &shown.join(&name));
                let target = PathBuf::from(readlinkat(Some(next.as_raw_fd()), "")?);
                if target.is_absolute() {
                    at = open_root()?;
                    shown = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    left.push_front(name);
                }
                continue;
            }
            at = next;
            if name == ".." {
                shown.pop();
            } else {
                shown.push(&name);
            }
        }
        Ok(at)
    }

    fn check(&self, allowed: [u32; 3], startup_file: &Path) -> Result<(), String> {
        let strange = self
            .owners
            .iter()
            .find(|(owner, _)| owner.is_none_or(|owner| !allowed.contains(&owner)));
        let Some((owner, path)) = strange else {
            return Ok(());
        };
        let who = owner.map_or_else(
            || "everybody can write".to_owned(),
            |uid| format!("belongs to uid {uid}"),
        );
        Err(format!(
            "the way to the startup file {} leads through {}, which {who}: who runs the app cannot be told \
             from the owner of a file that others could exchange; set PassengerUser, or change the owner",
            startup_file.display(),
            path.display()
        ))
    }
}

/// The names of a path, `..` among them: after a link only the kernel knows what is above.
fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

fn open_root() -> io::Result<OwnedFd> {
    std::fs::File::open("/").map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{lchown, symlink, PermissionsExt};

    use super::*;

    const ALICE: u32 = 50_001;
    const BOB: u32 = 50_002;

    /// `alice/app/config.ru` and `bob/app/config.ru` in a directory of root, each user's own.
    struct Homes(PathBuf);

    impl Homes {
        fn new(test: &str) -> Option<Self> {
            if !nix::unistd::geteuid().is_root() {
                eprintln!("skipped: needs root");
                return None;
            }
            let name = format!("passenger-ownership-{test}-{}", std::process::id());
            let homes = Self(Path::new("/var/lib").join(name));
            for (user, uid) in [("alice", ALICE), ("bob", BOB)] {
                fs::create_dir_all(homes.at(user).join("app")).unwrap();
                fs::write(homes.at(user).join("app/config.ru"), "").unwrap();
                for part in ["", "app", "app/config.ru"] {
                    homes.give(&format!("{user}/{part}"), uid);
                }
            }
            Some(homes)
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.join(path)
        }

        fn give(&self, path: &str, uid: u32) {
            lchown(self.at(path.trim_end_matches('/')), Some(uid), Some(uid)).unwrap();
        }

        fn owner(&self, app_root: &str) -> Result<u32, String> {
            let root = self.at(app_root);
            of_startup_file(&root, &root.join("config.ru")).map(|owner| owner.uid)
        }
    }

    impl Drop for Homes {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_app_below_its_owners_directories_is_its_owners() {
        let Some(homes) = Homes::new("plain") else {
            return;
        };
        assert_eq!(homes.owner("alice/app"), Ok(ALICE));
        // A deployment of alice's, with a relative link and a way up.
        symlink("../alice/app", homes.at("alice/current")).unwrap();
        homes.give("alice/current", ALICE);
        assert_eq!(homes.owner("alice/current"), Ok(ALICE));
        // One whose files bob deploys and that root lets run as alice.
        homes.give("bob/app/config.ru", ALICE);
        assert_eq!(homes.owner("bob/app"), Ok(ALICE));
        // Root's link counts as root's.
        symlink(homes.at("alice"), homes.at("site")).unwrap();
        assert_eq!(homes.owner("site/app"), Ok(ALICE));
    }

    #[test]
    fn nobody_runs_as_somebody_else_by_leading_the_way_to_his_file() {
        let Some(homes) = Homes::new("links") else {
            return;
        };
        let refused = |root: &str| {
            let text = homes.owner(root).unwrap_err();
            assert!(text.contains(&format!("belongs to uid {BOB}")), "{text}");
        };
        // The app root is a link while the agent looks, and bob's own directory when the shim enters it.
        symlink(homes.at("alice/app"), homes.at("bob/link")).unwrap();
        homes.give("bob/link", BOB);
        refused("bob/link");
        // So is a part of the way to a startup file further down.
        fs::create_dir(homes.at("alice/app/config")).unwrap();
        fs::write(homes.at("alice/app/config/app.js"), "").unwrap();
        homes.give("alice/app/config", ALICE);
        homes.give("alice/app/config/app.js", ALICE);
        symlink(homes.at("alice/app/config"), homes.at("bob/app/config")).unwrap();
        let root = homes.at("bob/app");
        let text = of_startup_file(&root, &root.join("config/app.js")).unwrap_err();
        assert!(text.contains(&format!("belongs to uid {BOB}")), "{text}");
        // Alice's directory inside bob's can be exchanged by him.
        fs::rename(homes.at("alice/app"), homes.at("bob/alices")).unwrap();
        refused("bob/alices");
    }

    #[test]
    fn a_directory_that_everybody_can_write_proves_nothing_unless_it_is_sticky() {
        let Some(homes) = Homes::new("open") else {
            return;
        };
        let open = |mode| fs::set_permissions(&homes.0, fs::Permissions::from_mode(mode)).unwrap();
        open(0o777);
        let text = homes.owner("alice/app").unwrap_err();
        assert!(text.contains("everybody can write"), "{text}");
        open(0o1777);
        assert_eq!(homes.owner("alice/app"), Ok(ALICE));
    }

    #[test]
    fn a_startup_file_that_everybody_can_write_says_nothing_about_who_wrote_it() {
        let Some(homes) = Homes::new("written") else {
            return;
        };
        let open = |path, mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(homes.at(path), mode).unwrap();
        };
        open("alice/app/config.ru", 0o664);
        assert_eq!(
            homes.owner("alice/app"),
            Ok(ALICE),
            "a group is root's choice"
        );
        open("alice/app/config.ru", 0o666);
        let text = homes.owner("alice/app").unwrap_err();
        assert!(
            text.contains("everybody can write the startup file"),
            "{text}"
        );
        // By way of a link, too.
        open("bob/app/config.ru", 0o666);
        fs::remove_file(homes.at("alice/app/config.ru")).unwrap();
        symlink(
            homes.at("bob/app/config.ru"),
            homes.at("alice/app/config.ru"),
        )
        .unwrap();
        homes.give("alice/app/config.ru", ALICE);
        let text = homes.owner("alice/app").unwrap_err();
        assert!(
            text.contains("everybody can write the startup file"),
            "{text}"
        );
        open("bob/app/config.ru", 0o644);
        assert_eq!(homes.owner("alice/app"), Ok(ALICE), "whose the link is");
    }

    #[test]
    fn endless_links_and_missing_files_are_sentences() {
        let Some(homes) = Homes::new("missing") else {
            return;
        };
        symlink("loop", homes.at("loop")).unwrap();
        assert!(homes.owner("loop").unwrap_err().contains("cannot look at"));
        fs::remove_file(homes.at("alice/app/config.ru")).unwrap();
        let text = homes.owner("alice/app").unwrap_err();
        assert!(text.contains("cannot look at the startup file"), "{text}");
    }
}
