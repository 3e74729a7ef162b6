//! What `/proc` says about the processes of a test: who belongs to a directory, who listens where,
//! who is whose child.

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;
use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A process id as `/proc` spells it.
pub type ProcessId = i32;

/// Whether that process exists and is not a zombie.
#[must_use]
pub fn is_alive(pid: ProcessId) -> bool {
    stat_field(pid, 3).is_some_and(|state| state != "Z" && state != "X")
}

/// The parent of a process, while it exists.
#[must_use]
pub fn parent_of(pid: ProcessId) -> Option<ProcessId> {
    stat_field(pid, 4)?.parse().ok()
}

/// The real uid a process runs as, while it exists.
#[must_use]
pub fn uid_of(pid: ProcessId) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process could get any uid, effective capability or group of root.
#[must_use]
pub fn has_root_anywhere(pid: ProcessId) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    status.lines().any(|line| {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Uid:" | "Gid:" | "Groups:") => words.any(|id| id == "0"),
            Some("CapEff:" | "CapPrm:") => words.any(|set| set.bytes().any(|b| b != b'0')),
            _ => false,
        }
    })
}

/// The working directory of a process, while it exists.
#[must_use]
pub fn directory_of(pid: ProcessId) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// The command line of a process, for messages.
#[must_use]
pub fn command_of(pid: ProcessId) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: ProcessId, signal: Signal) {
    // The answer does not matter: whoever asks looks at the effect, with a deadline.
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Every process id there is now.
#[must_use]
pub fn all() -> Vec<ProcessId> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut pids: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

/// The live children of a process.
#[must_use]
pub fn children_of(parent: ProcessId) -> Vec<ProcessId> {
    all()
        .into_iter()
        .filter(|pid| parent_of(*pid) == Some(parent) && is_alive(*pid))
        .collect()
}

/// Every live process that names `directory` in its command line, environment, working directory or
/// open files: whatever came out of an instance that lives there. This process is not counted.
#[must_use]
pub fn members_of(directory: &Path) -> Vec<ProcessId> {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    all()
        .into_iter()
        .filter(|pid| *pid != me && is_alive(*pid) && names(*pid, directory))
        .collect()
}

/// The inodes of listening Unix sockets bound to a path under `directory`.
#[must_use]
pub fn sockets_under(directory: &Path) -> HashSet<String> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (inode, path) = (words.get(6)?, words.get(7)?);
            Path::new(path)
                .starts_with(directory)
                .then(|| format!("socket:[{inode}]"))
        })
        .collect()
}

/// The server's end of a TCP connection on the loopback, as `/proc` links name it.
#[must_use]
pub fn peer_socket(server_port: u16, client_port: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (format!(":{server_port:04X}"), format!(":{client_port:04X}"));
    table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.get(1)?.ends_with(&local) && words.get(2)?.ends_with(&remote);
        let inode = words.get(9)?;
        (is_it && *inode != "0").then(|| format!("socket:[{inode}]"))
    })
}

/// How many connections to that port of this machine a server has not closed yet.
#[must_use]
pub fn open_connections(server_port: u16) -> usize {
    /// `TCP_TIME_WAIT` and `TCP_LISTEN`, the states in which no process has a connection.
    const OF_NOBODY: [&str; 2] = ["06", "0A"];
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let local = format!(":{server_port:04X}");
    let is_open = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, address, _, state, ..] = words[..] else {
            return false;
        };
        address.ends_with(&local) && !OF_NOBODY.contains(&state)
    };
    table.lines().filter(is_open).count()
}

/// Whether a process has one of these files open (as `/proc` links name them).
#[must_use]
pub fn holds_any(pid: ProcessId, links: &HashSet<String>) -> bool {
    open_files(pid)
        .iter()
        .any(|link| link.to_str().is_some_and(|link| links.contains(link)))
}

/// Whether every thread of a process sleeps: none works, and none waits for a processor.
#[must_use]
pub fn is_at_rest(pid: ProcessId) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        field_of(&stat, 3).is_none_or(|state| state != "R" && state != "D")
    })
}

/// What a process's descriptors point to, as `/proc` names it.
#[must_use]
pub fn open_files(pid: ProcessId) -> Vec<PathBuf> {
    descriptors(pid).into_iter().map(|(_, link)| link).collect()
}

/// A process's descriptors, and what each points to.
#[must_use]
pub fn descriptors(pid: ProcessId) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .collect()
}

/// The memory that a process has written and shares with nobody, in KiB, while it exists (what Passenger's
/// tools call private dirty). Pages of its program that nobody else runs are files, and do not count.
#[must_use]
pub fn private_memory_kib(pid: ProcessId) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("Private_Dirty:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn names(pid: ProcessId, directory: &Path) -> bool {
    let needle = directory.as_os_str().as_bytes();
    let file_names = |file: &str| {
        fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| contains(&bytes, needle))
    };
    file_names("cmdline")
        || file_names("environ")
        || directory_of(pid).is_some_and(|cwd| cwd.starts_with(directory))
        || open_files(pid)
            .iter()
            .any(|path| path.starts_with(directory))
}

/// Whether that path, or one below it, occurs: `/tmp/psgr-7-1` is not in `/tmp/psgr-7-12`, whose processes
/// belong to another test.
fn contains(haystack: &[u8], path: &[u8]) -> bool {
    let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let ends_there = |start: usize| !haystack.get(start + path.len()).is_some_and(goes_on);
    haystack
        .windows(path.len())
        .enumerate()
        .any(|(start, window)| window == path && ends_there(start))
}

/// A field of `/proc/<pid>/stat`, numbered as in proc(5); only those after the command's name.
fn stat_field(pid: ProcessId, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    field_of(&stat, number).map(str::to_owned)
}

fn field_of(stat: &str, number: usize) -> Option<&str> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(number - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_whose_name_only_begins_the_same_is_another() {
        let root = b"/tmp/psgr-7-1";
        for own in [
            "-d\0/tmp/psgr-7-1\0-f",
            "/tmp/psgr-7-1",
            "/tmp/psgr-7-1/sites",
            "/tmp/psgr-7-12 /tmp/psgr-7-1:",
        ] {
            assert!(contains(own.as_bytes(), root), "{own}");
        }
        for other in [
            "-d\0/tmp/psgr-7-12\0-f",
            "/tmp/psgr-7-1-old",
            "/tmp/psgr-7",
            "",
        ] {
            assert!(!contains(other.as_bytes(), root), "{other}");
        }
    }

    #[test]
    fn a_process_at_work_is_not_at_rest() {
        let me = i32::try_from(std::process::id()).expect("a pid fits");
        assert!(!is_at_rest(me), "this thread is looking");
    }
}
