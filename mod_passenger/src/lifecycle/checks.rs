//! What can be wrong with a configuration that needs no process of ours to find out.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{access, geteuid, AccessFlags, Gid, Group, Uid, User};

use crate::config::{globals, Collected, Globals};
use crate::ffi::{process, server};

/// The watchdog's program below an install prefix.
pub(super) fn watchdog(root: &Path) -> PathBuf {
    root.join("libexec/passenger-watchdog")
}

/// The prefix this library is installed in: `<prefix>/modules/mod_passenger.so`.
pub(super) fn own_prefix() -> Option<PathBuf> {
    let prefix = process::own_file()?.parent()?.parent()?.to_path_buf();
    watchdog(&prefix).is_file().then_some(prefix)
}

/// Names what is installed: our version, and a fingerprint of module, watchdog and agent. A running
/// instance of another build is replaced at the next restart, since an instance is one build for life.
pub(super) fn installed_build(root: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    let programs = [watchdog(root), root.join("libexec/passenger-helper-agent")];
    for file in process::own_file().into_iter().chain(programs) {
        if let Ok(data) = fs::metadata(&file) {
            (data.ino(), data.size(), data.mtime(), data.mtime_nsec()).hash(&mut hasher);
        }
    }
    format!("{}-{:016x}", crate::VERSION, hasher.finish())
}

/// Every reason why httpd must not start with this configuration.
pub(super) fn problems(collected: &Collected) -> Vec<String> {
    let globals = globals();
    let mut problems = Vec::new();
    problems.extend(server::check_version().err());
    problems.extend(installation(&globals.root));
    problems.extend(directories(globals));
    problems.extend(default_user(globals));
    problems.extend(users(collected));
    problems.extend(hooks(collected));
    problems
}

/// Programs that must not be run as they are.
pub(super) fn hooks(collected: &Collected) -> Vec<String> {
    super::hooks::problems(&collected.globals, geteuid().as_raw())
}

fn installation(root: &Path) -> Vec<String> {
    if root.as_os_str().is_empty() {
        let own = process::own_file().unwrap_or_default();
        return vec![format!(
            "PassengerRoot is not set, and the module is not in the modules directory of an \
             installation ({}): set PassengerRoot to the directory given to `make install PREFIX=`",
            own.display()
        )];
    }
    let mut problems = Vec::new();
    for program in [watchdog(root), root.join("libexec/passenger-helper-agent")] {
        let mode = fs::metadata(&program).map(|data| (data.is_file(), data.permissions().mode()));
        match mode {
            Ok((true, mode)) if mode & 0o111 != 0 => {}
            Ok(_) => problems.push(format!(
                "PassengerRoot is {}, but {} cannot be executed: install again",
                root.display(),
                program.display()
            )),
            Err(why) => problems.push(format!(
                "PassengerRoot is {}, but {} cannot be found ({why}): set PassengerRoot to the \
                 directory given to `make install PREFIX=`",
                root.display(),
                program.display()
            )),
        }
    }
    let loaders = root.join("share/passenger/loaders");
    if problems.is_empty() && !loaders.is_dir() {
        problems.push(format!(
            "PassengerRoot is {}, but the loaders are not in {}: install again",
            root.display(),
            loaders.display()
        ));
    }
    problems
}

fn directories(globals: &Globals) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(registry) = &globals.instance_registry_dir {
        if !can_exist(registry) {
            problems.push(format!(
                "PassengerInstanceRegistryDir {} is no directory and cannot be created: create it, \
                 or name another",
                registry.display()
            ));
        }
    }
    if let Some(log) = &globals.log_file {
        let is_possible = match log.parent() {
            Some(directory) => directory.is_dir() && !log.is_dir(),
            None => false,
        };
        if !is_possible {
            problems.push(format!(
                "PassengerLogFile {} cannot be written: its directory must exist",
                log.display()
            ));
        }
    }
    if !globals.data_buffer_dir.is_dir() {
        problems.push(format!(
            "PassengerDataBufferDir {} is no directory: create it, or name another",
            globals.data_buffer_dir.display()
        ));
    }
    problems
}

/// Whether a directory is there, or could be created below the nearest one that is.
fn can_exist(directory: &Path) -> bool {
    if directory.exists() {
        return directory.is_dir();
    }
    let nearest = directory.ancestors().find(|ancestor| ancestor.exists());
    nearest.is_some_and(|nearest| nearest.is_dir() && access(nearest, AccessFlags::W_OK).is_ok())
}

fn default_user(globals: &Globals) -> Vec<String> {
    // Without root's rights every app runs as this very user: nothing of this will be used.
    if !geteuid().is_root() {
        return Vec::new();
    }
    let mut problems = Vec::new();
    problems.extend(unknown_user("PassengerDefaultUser", &globals.default_user));
    if let Some(group) = &globals.default_group {
        problems.extend(unknown_group("PassengerDefaultGroup", group));
    }
    problems
}

fn users(collected: &Collected) -> Vec<String> {
    if !geteuid().is_root() {
        return Vec::new();
    }
    let mut problems = Vec::new();
    for directive in collected
        .records
        .iter()
        .flat_map(|record| &record.directives)
    {
        let Some(name) = directive.args.first() else {
            continue;
        };
        let problem = match directive.name.as_str() {
            "PassengerUser" => unknown_user("PassengerUser", name),
            "PassengerGroup" if name != "!STARTUP_FILE!" => unknown_group("PassengerGroup", name),
            _ => None,
        };
        problems.extend(problem.map(|it| format!("{it} ({}:{})", directive.file, directive.line)));
    }
    problems
}

fn unknown_user(directive: &str, name: &str) -> Option<String> {
    // By number, as chown takes it: the agent does, too.
    let by_number = || {
        name.parse()
            .ok()
            .and_then(|id| User::from_uid(Uid::from_raw(id)).ok()?)
    };
    match User::from_name(name) {
        Ok(Some(_)) => None,
        Ok(None) if by_number().is_some() => None,
        Ok(None) => Some(format!("{directive} {name}: there is no such user")),
        Err(why) => Some(format!(
            "{directive} {name}: cannot look the user up: {why}"
        )),
    }
}

fn unknown_group(directive: &str, name: &str) -> Option<String> {
    let by_number = || {
        name.parse()
            .ok()
            .and_then(|id| Group::from_gid(Gid::from_raw(id)).ok()?)
    };
    match Group::from_name(name) {
        Ok(Some(_)) => None,
        Ok(None) if by_number().is_some() => None,
        Ok(None) => Some(format!("{directive} {name}: there is no such group")),
        Err(why) => Some(format!(
            "{directive} {name}: cannot look the group up: {why}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("psgr-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("scratch directory");
        directory
    }

    #[test]
    fn a_missing_installation_is_named() {
        let problems = installation(Path::new("/no/such/prefix"));
        assert_eq!(problems.len(), 2);
        assert!(
            problems[0].contains("/no/such/prefix/libexec/passenger-watchdog"),
            "{problems:?}"
        );
        assert!(problems[0].contains("make install"), "{problems:?}");
    }

    #[test]
    fn a_complete_installation_has_no_problem() {
        let root = scratch("complete");
        fs::create_dir_all(root.join("libexec")).expect("libexec");
        for program in [
            "libexec/passenger-watchdog",
            "libexec/passenger-helper-agent",
        ] {
            fs::write(root.join(program), "").expect("program");
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(root.join(program), mode).expect("mode");
        }
        assert_eq!(installation(&root).len(), 1, "no loaders yet");
        fs::create_dir_all(root.join("share/passenger/loaders")).expect("loaders");
        assert!(installation(&root).is_empty());
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(watchdog(&root), mode).expect("mode");
        assert!(installation(&root)[0].contains("cannot be executed"));
        fs::remove_dir_all(&root).expect("cleanup");
    }

    #[test]
    fn directories_that_can_be_created_are_fine() {
        let root = scratch("registry");
        assert!(can_exist(&root));
        assert!(can_exist(&root.join("a/b")));
        fs::write(root.join("file"), "").expect("file");
        assert!(!can_exist(&root.join("file")));
        assert!(!can_exist(&root.join("file/below")));
        fs::remove_dir_all(&root).expect("cleanup");
    }

    #[test]
    fn unknown_users_and_groups_are_named() {
        assert_eq!(unknown_user("PassengerUser", "root"), None);
        let sentence = unknown_user("PassengerUser", "no-such-user-psgr").expect("a problem");
        assert!(sentence.contains("no such user"), "{sentence}");
        assert!(unknown_group("PassengerGroup", "no-such-group-psgr").is_some());
    }
}
