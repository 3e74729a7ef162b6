//! Machines that lack something: a disk of a few hundred kilobytes, a control group with room for a few
//! processes or little memory, a process that may open no more files. All of it needs root, and some of it a
//! kernel that lets this test arrange control groups; what cannot be had is `None`, and the test says so.

use crate::processes::ProcessId;
use crate::wait::{until, PATIENCE};
use nix::unistd::Uid;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static COUNTER: AtomicU32 = AtomicU32::new(0);

fn unique(what: &str) -> String {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("psgr-{what}-{}-{number}", std::process::id())
}

/// Runs a program of the system; whether it succeeded.
fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).status();
    status.is_ok_and(|status| status.success())
}

/// A small file system in memory. Unmounted when dropped: declare it before the server that uses it.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one with room for `kilobytes` and `files`.
    #[must_use]
    pub fn mount(kilobytes: u32, files: u32) -> Option<Disk> {
        if !Uid::effective().is_root() {
            eprintln!("only root can mount a small disk: not tested");
            return None;
        }
        let path = std::env::temp_dir().join(unique("disk"));
        fs::create_dir(&path).expect("create a mount point");
        let options = format!("size={kilobytes}k,nr_inodes={files},mode=1777");
        let name = path.to_str().expect("a plain path");
        if run("mount", &["-t", "tmpfs", "-o", &options, "none", name]) {
            return Some(Disk { path });
        }
        eprintln!("this system does not let root mount: not tested");
        fs::remove_dir(&path).expect("remove the mount point");
        None
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.path.join("filler")).expect("create a file");
        for size in [4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Uses up all its files.
    pub fn use_up_files(&self) {
        let mut number = 0;
        while fs::File::create(self.path.join(format!("filler{number}"))).is_ok() {
            number += 1;
        }
    }

    /// Lets nobody write to it while `f` runs: another mount lies over it, since this one is in use.
    pub fn while_read_only(&self, f: impl FnOnce()) {
        let name = self.path.to_str().expect("a plain path");
        assert!(run("mount", &["--bind", name, name]), "cannot mount {name}");
        assert!(
            run("mount", &["-o", "remount,bind,ro", name]),
            "cannot protect {name}"
        );
        f();
        assert!(run("umount", &[name]), "cannot unmount {name}");
    }

    /// Removes what it was filled with.
    pub fn free(&self) {
        for entry in fs::read_dir(&self.path).expect("read the disk").flatten() {
            if entry.file_name().to_string_lossy().starts_with("filler") {
                fs::remove_file(entry.path()).expect("remove a file");
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, with what lies over it: after a failure something may still use it.
        run(
            "umount",
            &["-l", "-R", self.path.to_str().unwrap_or_default()],
        );
        let _ = fs::remove_dir(&self.path);
    }
}

/// A control group of version 1 or 2 that limits one thing. Removed when dropped: declare it before the
/// server whose processes are put into it.
#[derive(Debug)]
pub struct Cage {
    path: PathBuf,
    limit: PathBuf,
}

impl Cage {
    /// One that limits how many processes and threads there may be.
    #[must_use]
    pub fn of_processes() -> Option<Cage> {
        Self::make("pids", &["pids.max"])
    }

    /// One that limits memory.
    #[must_use]
    pub fn of_memory() -> Option<Cage> {
        Self::make("memory", &["memory.max", "memory.limit_in_bytes"])
    }

    fn make(controller: &str, limits: &[&str]) -> Option<Cage> {
        let name = unique(controller);
        let roots = [
            PathBuf::from("/sys/fs/cgroup").join(controller),
            PathBuf::from("/sys/fs/cgroup"),
        ];
        for root in roots {
            let path = root.join(&name);
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let limit = limits.iter().map(|limit| path.join(limit));
            if let Some(limit) = limit.into_iter().find(|limit| limit.exists()) {
                return Some(Cage { path, limit });
            }
            let _ = fs::remove_dir(&path);
        }
        eprintln!("no control group for {controller} can be made here: not tested");
        None
    }

    /// Puts a process into it, with all its threads; its children will be in it, too.
    pub fn lock_up(&self, pid: ProcessId) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("move a process");
    }

    /// Allows that much; nothing for no limit.
    pub fn allow(&self, most: Option<u64>) {
        let unlimited = if self.limit.ends_with("memory.limit_in_bytes") {
            "-1"
        } else {
            "max"
        };
        let text = most.map_or_else(|| unlimited.to_owned(), |most| most.to_string());
        fs::write(&self.limit, text).expect("set a limit");
    }

    /// How many processes and threads are in it.
    #[must_use]
    pub fn tasks(&self) -> u64 {
        let text = fs::read_to_string(self.path.join("pids.current")).expect("read the count");
        text.trim().parse().expect("a count")
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let procs = self.path.join("cgroup.procs");
        let members = || fs::read_to_string(&procs).unwrap_or_default();
        if !std::thread::panicking() {
            until("the control group to be empty", PATIENCE, || {
                members().is_empty()
            });
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// Limits the open files of a running process; returns what allows it as many as before.
///
/// # Panics
/// When that cannot be done: it needs the rights over the process.
#[must_use]
pub fn limit_open_files(pid: ProcessId, most: u64) -> OpenFiles {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("read its limits");
    let line = text
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a line");
    let words: Vec<&str> = line.split_whitespace().collect();
    let before = (words[3].to_owned(), words[4].to_owned());
    let limit = OpenFiles { pid, before };
    assert!(
        limit.set(&most.to_string()),
        "cannot limit the open files of process {pid}"
    );
    limit
}

/// A process that may open no more files, until this is dropped.
#[derive(Debug)]
pub struct OpenFiles {
    pid: ProcessId,
    before: (String, String),
}

impl OpenFiles {
    /// As the user of that process: even root may be too weak to do it to others (`CAP_SYS_RESOURCE`).
    fn set(&self, soft: &str) -> bool {
        let limit = format!("--nofile={soft}:{}", self.before.1);
        let mut command = Command::new("prlimit");
        command.args(["--pid", &self.pid.to_string(), &limit]);
        let (uid, gid) = (
            status_number(self.pid, "Uid:"),
            status_number(self.pid, "Gid:"),
        );
        if let (true, Some(uid), Some(gid)) = (Uid::effective().is_root(), uid, gid) {
            command.uid(uid).gid(gid);
        }
        command.status().is_ok_and(|status| status.success())
    }
}

/// The first number of a line of `/proc/<pid>/status`.
fn status_number(pid: ProcessId, name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

impl Drop for OpenFiles {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.set(&self.before.0);
    }
}
