//! The control group of an instance's apps, where there may be one: `<own group>/passenger.<name>`, version 2.
//! The kernel ends everything in it at once (`cgroup.kill`), whoever its parents are and whatever session
//! it is in. Only apps are in there; neither watchdog nor agent.
//!
//! A group may be made where the hierarchy is ours to arrange: in the root of a container's, below a unit
//! that systemd has delegated (`Delegate=yes`), or where there is no systemd.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::sys::descriptor::extended_attribute;
use crate::sys::patience::Patience;
use crate::sys::tree::Entry;

/// Beginning of the name of every group of ours.
const PREFIX: &str = "passenger.";

/// Where to look; another directory in tests.
#[derive(Debug, Clone)]
pub struct Place {
    /// `/proc/self`.
    pub process: PathBuf,
    /// Exists where systemd runs.
    pub systemd: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            process: PathBuf::from("/proc/self"),
            systemd: PathBuf::from("/run/systemd/system"),
        }
    }
}

/// A control group of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes the group of an instance.
    ///
    /// # Errors
    /// A sentence: why there is none here.
    pub fn create(place: &Place, instance: &str) -> Result<Self, String> {
        let own = own_group(place)?;
        if !is_ours_to_arrange(place, &own) {
            return Err(format!(
                "systemd has not delegated {} (Delegate=yes in the unit)",
                own.display()
            ));
        }
        let path = own.join(format!("{PREFIX}{instance}"));
        fs::create_dir(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        let group = Self(path);
        if !group.0.join("cgroup.kill").exists() {
            group.remove();
            return Err("this kernel has no cgroup.kill (Linux 5.14)".to_owned());
        }
        Ok(group)
    }

    /// The group at a path that [`Cgroup::path`] returned once; `None` if that cannot be.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let is_group = path.is_absolute() && path.join("cgroup.procs").exists();
        (name.starts_with(PREFIX) && is_group).then(|| Self(path.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Puts a process into it; what it forks from then on is in it, too.
    ///
    /// # Errors
    /// Those of the kernel: the process is gone.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
    }

    /// Kills everything in it and waits until that is gone, or patience is over. Returns how many processes
    /// there were.
    pub fn kill(&self, patience: &mut Patience) -> usize {
        let count = self.processes().len();
        if count == 0 {
            return 0;
        }
        if let Err(e) = fs::write(self.0.join("cgroup.kill"), "1") {
            log::error!("cannot kill what is left in {}: {e}", self.0.display());
            return 0;
        }
        while self.is_populated() {
            let entries = self.processes().into_iter().filter_map(Entry::of);
            if patience.is_over(Instant::now(), entries.map(|entry| entry.state)) {
                log::error!("processes in {} do not die", self.0.display());
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        count
    }

    fn processes(&self) -> Vec<i32> {
        let there = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        there.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.0.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "populated 1")
    }

    /// Removes it; it must be empty.
    pub fn remove(&self) {
        if let Err(e) = fs::remove_dir(&self.0) {
            log::warn!("cannot remove the control group {}: {e}", self.0.display());
        }
    }
}

/// The directory of the group that this process is in.
fn own_group(place: &Place) -> Result<PathBuf, String> {
    let read = |name: &str| {
        let path = place.process.join(name);
        fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
    };
    let (root, mount) =
        mount_point(&read("mountinfo")?).ok_or("there is no cgroup v2 file system")?;
    let groups = read("cgroup")?;
    let group = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or("this process is in no cgroup v2")?;
    // What is mounted may be a part of the hierarchy, and the group is named from the whole's root.
    let below = Path::new(group)
        .strip_prefix(&root)
        .map_err(|_| format!("the group {group} is not below what is mounted, {root}"))?;
    Ok(mount.join(below))
}

/// Root and mount point of the first cgroup2 in a `mountinfo`.
fn mount_point(mountinfo: &str) -> Option<(String, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let fields: Vec<&str> = before.split(' ').collect();
        let is_it = after.starts_with("cgroup2 ");
        is_it.then_some(((*fields.get(3)?).to_owned(), PathBuf::from(fields.get(4)?)))
    })
}

/// Whether no service manager minds groups below that one.
fn is_ours_to_arrange(place: &Place, own: &Path) -> bool {
    let is_root = !own.join("cgroup.events").exists();
    let is_delegated = ["trusted.delegate", "user.delegate"]
        .iter()
        .any(|name| extended_attribute(own, name).is_ok_and(|value| value == b"1"));
    is_root || is_delegated || !place.systemd.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "24 1 0:22 / /sys rw - sysfs sysfs rw\n\
        31 24 0:28 /part /sys/x ro,nosuid shared:9 - cgroup cgroup rw,cpu\n\
        30 24 0:27 /part /MOUNT rw,nosuid,nodev shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";

    struct Fake(PathBuf);

    impl Fake {
        /// A directory that looks like `/proc/self` and a hierarchy, with this process in `/part/unit`.
        fn new(test: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("cgroup-test-{}-{test}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("mount/unit")).unwrap();
            let mount = path.join("mount");
            let mountinfo = MOUNTINFO.replace("/MOUNT", mount.to_str().unwrap());
            fs::write(path.join("mountinfo"), mountinfo).unwrap();
            fs::write(path.join("cgroup"), "3:cpu:/other\n0::/part/unit\n").unwrap();
            fs::write(path.join("mount/unit/cgroup.events"), "populated 1\n").unwrap();
            Self(path)
        }

        fn place(&self) -> Place {
            Place {
                process: self.0.clone(),
                systemd: self.0.join("systemd"),
            }
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_own_group_is_found_below_the_part_that_is_mounted() {
        let fake = Fake::new("own");
        assert_eq!(own_group(&fake.place()).unwrap(), fake.0.join("mount/unit"));
        fs::write(fake.0.join("cgroup"), "0::/elsewhere\n").unwrap();
        assert!(own_group(&fake.place()).unwrap_err().contains("not below"));
        fs::write(fake.0.join("mountinfo"), "").unwrap();
        assert!(own_group(&fake.place())
            .unwrap_err()
            .contains("no cgroup v2"));
    }

    #[test]
    fn what_systemd_has_not_delegated_is_left_alone() {
        let fake = Fake::new("delegated");
        fs::write(fake.0.join("systemd"), "").unwrap();
        let why = Cgroup::create(&fake.place(), "x").unwrap_err();
        assert!(why.contains("Delegate=yes"), "{why}");
        assert!(!fake.0.join("mount/unit/passenger.x").exists());
    }

    #[test]
    fn only_groups_of_ours_are_recognised() {
        let fake = Fake::new("ours");
        let group = fake.0.join("mount/passenger.abc");
        assert_eq!(Cgroup::at(&group), None, "not there");
        fs::create_dir(&group).unwrap();
        assert_eq!(Cgroup::at(&group), None, "no control group");
        fs::write(group.join("cgroup.procs"), "").unwrap();
        assert_eq!(Cgroup::at(&group), Some(Cgroup(group)));
        let other = fake.0.join("mount/unit");
        fs::write(other.join("cgroup.procs"), "").unwrap();
        assert_eq!(Cgroup::at(&other), None, "another's name");
    }

    /// With the real thing where that can be had, which is where it matters.
    #[test]
    fn everything_in_a_group_is_killed_whatever_session_it_is_in() {
        let name = format!("test-{}", std::process::id());
        let Ok(group) = Cgroup::create(&Place::default(), &name) else {
            eprintln!("no control group can be made here: not tested");
            return;
        };
        // Waits for a line before it forks, as the shim waits for its "go".
        let script = "read line; setsid sleep 1004 & sleep 1005 & wait";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        group.add(i32::try_from(child.id()).unwrap()).unwrap();
        io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let procs = group.path().join("cgroup.procs");
        while fs::read_to_string(&procs).unwrap().lines().count() < 3 {
            assert!(Instant::now() < deadline, "three processes");
        }
        assert_eq!(Cgroup::at(group.path()), Some(group.clone()));
        let mut patience = Patience::new(Instant::now());
        assert_eq!(group.kill(&mut patience), 3);
        assert_eq!(group.kill(&mut patience), 0);
        child.wait().unwrap();
        group.remove();
        assert!(!group.path().exists());
    }
}
