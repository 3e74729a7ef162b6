//! Who descends from whom, through `/proc`. A snapshot that is old when it is read: before acting on an
//! entry open its pidfd and look again ([`Entry::open`]).

use std::collections::HashMap;
use std::fs;
use std::io;

use super::pidfd::Pidfd;

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its PID.
    pub pid: i32,
    /// PID of its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// State letter; `Z` is a zombie.
    pub state: char,
    /// When it started, in clock ticks since boot: with the PID an identity.
    pub started: u64,
    /// Short name.
    pub name: String,
}

impl Entry {
    /// What `/proc` says about a process now; `None` if it is gone.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name is in parentheses and may itself contain spaces and parentheses.
    fn parse(stat: &str) -> Option<Self> {
        let (before, after) = stat.rsplit_once(')')?;
        let (pid, name) = before.split_once('(')?;
        let fields: Vec<&str> = after.split_ascii_whitespace().collect();
        Some(Self {
            pid: pid.trim().parse().ok()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            started: fields.get(19)?.parse().ok()?,
            name: name.to_owned(),
        })
    }

    /// Opens the very process this entry is about. `None`: it has ended.
    ///
    /// # Errors
    /// Too many open files.
    pub fn open(&self) -> io::Result<Option<Pidfd>> {
        let pidfd = match Pidfd::open(self.pid) {
            Ok(pidfd) => pidfd,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(e) => return Err(e),
        };
        // Looked at after the pidfd was opened: if this is the same process, so is the pidfd's.
        let same = Self::of(self.pid).is_some_and(|now| now.started == self.started);
        Ok(same.then_some(pidfd))
    }
}

/// All descendants of a process, parents before children, zombies included.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn descendants(of: i32) -> io::Result<Vec<Entry>> {
    let mut children: HashMap<i32, Vec<Entry>> = HashMap::new();
    for directory in fs::read_dir("/proc")? {
        let name = directory?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(entry) = Entry::of(pid) {
            children.entry(entry.parent).or_default().push(entry);
        }
    }
    let mut found = children.remove(&of).unwrap_or_default();
    let mut next = 0;
    while let Some(entry) = found.get(next) {
        let below = children.remove(&entry.pid).unwrap_or_default();
        found.extend(below);
        next += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_parser() {
        let mut stat = String::from("42 (a) b (c) S 7 8 9");
        for n in 4..=18 {
            stat.push_str(&format!(" {n}"));
        }
        stat.push_str(" 999 0");
        let entry = Entry::parse(&stat).unwrap();
        assert_eq!((entry.pid, entry.parent, entry.group), (42, 7, 8));
        assert_eq!(
            (entry.name.as_str(), entry.state, entry.started),
            ("a) b (c", 'S', 999)
        );
    }

    #[test]
    fn a_number_that_belongs_to_another_process_by_now_is_not_opened() {
        let mut child = Command::new("sleep").arg("62").spawn().unwrap();
        let entry = Entry::of(i32::try_from(child.id()).unwrap()).unwrap();
        let earlier = Entry {
            started: entry.started - 1,
            ..entry.clone()
        };
        assert!(earlier.open().unwrap().is_none(), "a stranger");
        assert!(entry.open().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(entry.open().unwrap().is_none(), "gone");
    }

    #[test]
    fn grandchildren_are_descendants() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 61 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(shell.stdout.take().unwrap()),
            &mut line,
        )
        .unwrap();
        let grandchild: i32 = line.trim().parse().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let found = descendants(me).unwrap();
        let entry = found.iter().find(|entry| entry.pid == grandchild).unwrap();
        assert_eq!(entry.parent, i32::try_from(shell.id()).unwrap());
        entry
            .open()
            .unwrap()
            .unwrap()
            .signal(libc::SIGKILL)
            .unwrap();
        shell.wait().unwrap();
    }
}
