//! Sockets of app processes that an agent left behind when it died: of those it was starting, and of those
//! that ended while nobody was there to remove them.

use std::fs;
use std::path::{Path, PathBuf};

use passenger_shm::ProcessRef;

/// Removes the sockets in an instance's directory but those to keep; returns what was removed.
pub(super) fn remove_others(instance: &Path, keep: &[ProcessRef]) -> Vec<PathBuf> {
    let entries = fs::read_dir(instance.join("apps")).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| owner(path).is_none_or(|owner| !keep.contains(&owner)))
        .filter(|path| fs::remove_file(path).is_ok())
        .collect()
}

/// Whose socket it is, by its name `<slot>.<generation>`.
fn owner(path: &Path) -> Option<ProcessRef> {
    let (slot, generation) = path.file_name()?.to_str()?.split_once('.')?;
    Some(ProcessRef::new(
        slot.parse().ok()?,
        generation.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sockets_to_keep_stay() {
        let instance = std::env::temp_dir().join(format!("agent-sockets-{}", std::process::id()));
        fs::create_dir_all(instance.join("apps")).unwrap();
        for name in ["1.2", "1.3", "2.2", "other"] {
            fs::write(instance.join("apps").join(name), "").unwrap();
        }
        assert_eq!(remove_others(&instance, &[ProcessRef::new(1, 3)]).len(), 3);
        assert!(instance.join("apps/1.3").exists());
        fs::remove_dir_all(instance).unwrap();
    }
}
