//! Which instances there are: directories in the registries whose watchdog lives.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Failure;
use crate::instance::{self, Properties};

/// Names the one registry to look in.
const VARIABLE: &str = "PASSENGER_INSTANCE_REGISTRY_DIR";

/// Where root's instances are, whoever looks.
const OF_ROOT: &str = "/run/passenger-instreg";

/// A running instance.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Its directory.
    pub(super) path: PathBuf,
    /// The random part of its name.
    pub(super) name: String,
    /// What it wrote about itself, as far as it can be read.
    pub(super) properties: Option<Properties>,
    /// Its watchdog.
    pub(super) watchdog_pid: i32,
    /// Its agent, which may be dead.
    pub(super) agent_pid: Option<i32>,
    /// When its lock was made.
    made: Option<SystemTime>,
}

impl Found {
    /// What httpd calls itself.
    pub(super) fn software(&self) -> &str {
        let properties = self.properties.as_ref();
        properties.map_or("unknown server", |p| p.server_software.as_str())
    }
}

/// The registries to look in.
fn registries() -> Vec<PathBuf> {
    match std::env::var_os(VARIABLE) {
        Some(directory) if !directory.is_empty() => vec![PathBuf::from(directory)],
        _ => {
            let mut all = vec![PathBuf::from(OF_ROOT), instance::default_registry()];
            all.dedup();
            all.retain(|registry| is_trusted(registry));
            all
        }
    }
}

/// Whether nobody else made that directory: below /tmp anybody could, to be told what is meant for an instance.
fn is_trusted(registry: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    let facts = fs::symlink_metadata(registry);
    // What is not there says so later.
    facts.map_or(true, |facts| {
        facts.is_dir() && [0, own].contains(&facts.uid())
    })
}

/// All running instances, in the order of their names.
pub(super) fn all() -> Vec<Found> {
    let directories = registries()
        .into_iter()
        .filter_map(|r| fs::read_dir(r).ok());
    let entries = directories.flatten().flatten();
    let mut found: Vec<Found> = entries.filter_map(|entry| look(&entry.path())).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The instance in that directory, if it runs.
fn look(path: &Path) -> Option<Found> {
    let name = path.file_name()?.to_str()?.strip_prefix("passenger.")?;
    let watchdog_pid = pid_in(path, "watchdog.pid")?;
    let agent_pid = pid_in(path, "agent.pid").filter(|pid| is_alive(*pid));
    let runs = match instance::is_held(path) {
        Ok(is_held) => is_held,
        // Only who may open the lock can ask it; others believe the PIDs. One of the two may have died
        // this moment.
        Err(_) => is_ours(watchdog_pid) || agent_pid.is_some_and(is_ours),
    };
    if !runs {
        return None;
    }
    let properties = fs::read(path.join("properties.json")).ok();
    Some(Found {
        path: path.to_owned(),
        name: name.to_owned(),
        properties: properties.and_then(|text| serde_json::from_slice(&text).ok()),
        watchdog_pid,
        agent_pid,
        made: fs::symlink_metadata(path.join("lock"))
            .and_then(|lock| lock.modified())
            .ok(),
    })
}

fn pid_in(path: &Path, file: &str) -> Option<i32> {
    fs::read_to_string(path.join(file))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Whether that process is a watchdog or an agent, and not somebody who got the number after it.
fn is_ours(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    // Where others' processes are hidden (hidepid) the number has to do.
    name.map_or(is_alive(pid), |name| name.starts_with("passenger-"))
}

fn is_alive(pid: i32) -> bool {
    let pid = nix::unistd::Pid::from_raw(pid);
    !matches!(
        nix::sys::signal::kill(pid, None),
        Err(nix::errno::Errno::ESRCH)
    )
}

/// The instance that is meant.
pub(super) fn choose(prefix: Option<&str>) -> Result<Found, Failure> {
    pick(all(), prefix)
}

fn pick(mut found: Vec<Found>, prefix: Option<&str>) -> Result<Found, Failure> {
    if found.is_empty() {
        return Err(Failure::absent(nothing()));
    }
    match prefix {
        Some(prefix) => found.retain(|instance| instance.name.starts_with(prefix)),
        None => leave_out_replaced(&mut found),
    }
    match (found.len(), prefix) {
        (1, _) => Ok(found.remove(0)),
        (0, Some(prefix)) => Err(Failure::absent(format!(
            "there is no instance whose name begins with {prefix:?}; passenger-config list-instances shows \
             those there are"
        ))),
        _ => Err(Failure::absent(format!(
            "several instances are running; name one of them:\n\n{}",
            table(&found)
        ))),
    }
}

/// After an upgrade an instance goes on for its last requests beside the one that took over: of those of one httpd
/// the newest is meant.
fn leave_out_replaced(found: &mut Vec<Found>) {
    // Two may have begun in the same second.
    let age = |f: &Found| {
        let own = f.properties.as_ref()?;
        Some((own.parent_pid, (own.created_at, f.made)))
    };
    let ages: Vec<_> = found.iter().filter_map(age).collect();
    found.retain(|instance| {
        age(instance).is_none_or(|(own, begun)| {
            !ages
                .iter()
                .any(|(parent, other)| *parent == own && *other > begun)
        })
    });
}

/// Why there may be none.
pub(super) fn nothing() -> String {
    let looked: Vec<String> = registries()
        .iter()
        .map(|r| r.display().to_string())
        .collect();
    format!(
        "no Apache httpd with Passenger is running: there is no living instance in {}. If \
         PassengerInstanceRegistryDir is set, set {VARIABLE} to the same directory",
        looked.join(" or ")
    )
}

/// Names, PIDs and servers in columns.
pub(super) fn table(found: &[Found]) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "{:<25} {:<7} {}\n{}\n",
        "Name",
        "PID",
        "Description",
        "-".repeat(74)
    );
    for instance in found {
        // Writing to a String cannot fail.
        let (name, pid) = (&instance.name, instance.watchdog_pid);
        let _ = writeln!(text, "{name:<25} {pid:<7} {}", instance.software());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn found(name: &str) -> Found {
        Found {
            path: PathBuf::from("/nowhere"),
            name: name.into(),
            properties: None,
            watchdog_pid: 7,
            agent_pid: None,
            made: None,
        }
    }

    #[test]
    fn a_registry_that_somebody_else_made_is_none() {
        let base = std::env::temp_dir().join(format!("psgr-registry-{}", std::process::id()));
        fs::create_dir(&base).unwrap();
        assert!(is_trusted(&base) && is_trusted(&base.join("missing")));
        std::os::unix::fs::symlink(&base, base.join("link")).unwrap();
        assert!(!is_trusted(&base.join("link")));
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&base, Some(65_534), None).unwrap();
            assert!(!is_trusted(&base));
        }
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn the_beginning_of_a_name_is_enough_and_must_be_unique() {
        let two = || vec![found("abcdefg"), found("abxxxxx")];
        assert_eq!(pick(two(), Some("abc")).unwrap().name, "abcdefg");
        assert_eq!(pick(vec![found("x")], None).unwrap().name, "x");
        let several = pick(two(), Some("ab")).unwrap_err();
        assert!(several.status == 1 && several.message.contains("abxxxxx"));
        assert!(pick(two(), Some("z"))
            .unwrap_err()
            .message
            .contains("\"z\""));
        assert_eq!(pick(Vec::new(), None).unwrap_err().status, 1);
    }

    #[test]
    fn of_the_instances_of_one_httpd_the_newest_is_meant() {
        let of = |name: &str, parent_pid, created_at| Found {
            properties: Some(Properties {
                name: name.into(),
                version: String::new(),
                build: String::new(),
                server_software: String::new(),
                parent_pid,
                created_at,
            }),
            ..found(name)
        };
        let two = || vec![of("new", 1, 200), of("old", 1, 100)];
        assert_eq!(pick(two(), None).unwrap().name, "new");
        assert_eq!(pick(two(), Some("o")).unwrap().name, "old");
        let same_second = |millis| Found {
            made: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)),
            ..of(&format!("at{millis}"), 1, 100)
        };
        let both = vec![same_second(100_001), same_second(100_900)];
        assert_eq!(pick(both, None).unwrap().name, "at100900");
        let others = vec![of("new", 1, 200), of("other", 2, 100)];
        assert!(pick(others, None).is_err(), "another httpd's");
    }

    #[test]
    fn any_other_process_is_no_watchdog() {
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let is_it = is_ours(i32::try_from(other.id()).unwrap());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!is_it);
        assert!(look(Path::new("/tmp/passenger.does-not-exist")).is_none());
    }
}
