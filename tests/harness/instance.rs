//! The running system behind a server as its instance directory describes it: watchdog, agent, and
//! the sockets of the app processes.

use crate::processes::{self, ProcessId};
use crate::wait::{until_some, PATIENCE};
use std::fs;
use std::path::{Path, PathBuf};

/// An instance directory (`docs/protocols.md`, section 1).
#[derive(Debug, Clone)]
pub struct Instance {
    directory: PathBuf,
}

impl Instance {
    /// The instance in that directory.
    #[must_use]
    pub fn at(directory: &Path) -> Instance {
        Instance {
            directory: directory.to_owned(),
        }
    }

    /// The only instance in a registry.
    ///
    /// # Panics
    /// When none appears in time.
    #[must_use]
    pub fn in_registry(registry: &Path) -> Instance {
        let directory = until_some("an instance directory", PATIENCE, || {
            Self::directories(registry).pop()
        });
        Instance { directory }
    }

    /// All instance directories of a registry.
    #[must_use]
    pub fn directories(registry: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(registry) else {
            return Vec::new();
        };
        let is_instance = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("passenger."))
        };
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(is_instance)
            .collect()
    }

    /// Removes the control groups of instances that were killed with all who could have done it.
    pub(crate) fn remove_groups(registry: &Path) {
        for directory in Self::directories(registry) {
            if let Ok(group) = fs::read_to_string(directory.join("cgroup")) {
                // Gone already, or a process in it is still being killed: nothing that a test depends on.
                let _ = fs::remove_dir(group);
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The watchdog's pid, once it is alive.
    #[must_use]
    pub fn watchdog(&self) -> ProcessId {
        self.pid_in("watchdog.pid")
    }

    /// The agent's pid, once it is alive.
    #[must_use]
    pub fn agent(&self) -> ProcessId {
        self.pid_in("agent.pid")
    }

    /// The process in that file of the directory, if it is alive now.
    #[must_use]
    pub fn pid_now(&self, file: &str) -> Option<ProcessId> {
        let text = fs::read_to_string(self.directory.join(file)).ok()?;
        let pid = text.trim().parse().ok()?;
        processes::is_alive(pid).then_some(pid)
    }

    /// The processes that hold an app's listening socket and work in `app_root`.
    #[must_use]
    pub fn app_pids(&self, app_root: &Path) -> Vec<ProcessId> {
        let sockets = processes::sockets_under(&self.directory.join("apps"));
        processes::all()
            .into_iter()
            .filter(|pid| processes::directory_of(*pid).is_some_and(|cwd| cwd == app_root))
            .filter(|pid| processes::holds_any(*pid, &sockets))
            .collect()
    }

    fn pid_in(&self, file: &str) -> ProcessId {
        let path = self.directory.join(file);
        until_some(
            &format!("a live process in {}", path.display()),
            PATIENCE,
            || self.pid_now(file),
        )
    }
}
