//! Opening a file with another user's rights, in a process that goes on being root.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use super::check_size;

/// Opens `path` as a user with that uid, gid and these supplementary groups, and no right beyond his. May
/// block like every `open`.
///
/// A thread of its own does it: file-system ids, groups and the capabilities that go with them belong to the
/// thread when they are set by the bare system calls, and end with it.
///
/// # Errors
/// Those of the system calls, and of `open` for that user.
pub fn open_as(
    (uid, gid, groups): (u32, u32, &[u32]),
    path: &Path,
    options: &OpenOptions,
) -> io::Result<File> {
    std::thread::scope(|scope| {
        let opener = std::thread::Builder::new().name("psgr-open".to_owned());
        let thread = opener.spawn_scoped(scope, || {
            become_for_files(uid, gid, groups)?;
            options.open(path)
        })?;
        let panicked = |_| io::Error::other("[BUG] the thread that opens files panicked");
        thread.join().map_err(panicked)?
    })
}

/// Changes the calling thread alone, for good.
fn become_for_files(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    /// Asks for the present id: no user has this one.
    const NOBODY_AT_ALL: libc::uid_t = libc::uid_t::MAX;
    // SAFETY: the array has as many elements as the count says and outlives the call. The bare system call
    // changes this thread only, which is what is wanted; the C library's would change all of them.
    check_size(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: takes a number; changes the file-system gid of this thread (setfsgid(2)).
    unsafe { libc::setfsgid(gid) };
    // SAFETY: takes a number; from 0 to another uid it also takes the capabilities for files away.
    unsafe { libc::setfsuid(uid) };
    // SAFETY: as above; an impossible id changes nothing and the answer is the present one.
    let now = unsafe { libc::setfsuid(NOBODY_AT_ALL) };
    // SAFETY: as above.
    let group_now = unsafe { libc::setfsgid(NOBODY_AT_ALL) };
    // They report no failure: only asking again tells.
    if u32::try_from(now) != Ok(uid) || u32::try_from(group_now) != Ok(gid) {
        return Err(io::Error::other(format!("cannot open files as uid {uid}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn the_file_is_opened_with_the_users_rights_and_the_caller_stays_who_it_is() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let directory = std::env::temp_dir().join(format!("fsuser-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).unwrap();
        let secret = directory.join("secret");
        std::fs::write(&secret, "root's").unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let mut create = OpenOptions::new();
        create.append(true).create(true);
        let refused = open_as((65_534, 65_534, &[]), &secret, &create);
        let made = open_as((65_534, 65_534, &[]), &directory.join("own"), &create);
        let own = std::fs::write(&secret, "still root's");
        let made = made.and_then(|file| file.metadata());
        let _ = std::fs::remove_dir_all(&directory);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let made = made.unwrap();
        assert_eq!((made.uid(), made.gid()), (65_534, 65_534));
        assert!(own.is_ok());
    }
}
