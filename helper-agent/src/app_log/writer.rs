//! The app-log process: what comes through a pipe is written to the app's file, by a thread for each. If one of these
//! hangs in somebody's file system, no other log waits for it, and neither does the agent, who could neither end nor
//! become the watchdog with such a thread of its own.
//!
//! It ends when the agent's end of the channel is closed, after what is in the pipes is written or [`LAST_LINES`] are over.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use passenger_shm::channel::Channel;
use serde::{Deserialize, Serialize};

use super::place::{self, Target};
use super::{CHECK_PERIOD, MARK};
use crate::log as sink;
use crate::sys::{descriptor, process};

/// Descriptor of the channel from the agent.
pub const CHANNEL_FD: i32 = 3;

/// How long last lines may take. A hung file system may keep a thread for ever, and with it a dead process that nobody
/// waits for.
const LAST_LINES: Duration = Duration::from_secs(5);

/// What a thread reads, and writes, at once.
const PORTION: usize = 64 * 1024;

/// A line can wait for its end this long in memory; the agent's lines are far shorter.
const LONGEST: usize = 1 << 20;

/// From the agent to the app-log process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWriter {
    /// Write what comes through that pipe to that file. Descriptor: the pipe's reading end.
    Open(Target),
    /// The main log is another one, at this `PassengerLogLevel`. Descriptor: the log.
    MainLog {
        /// As in the directive.
        level: u32,
    },
}

/// The program: returns the status to exit with.
#[must_use]
pub fn main() -> u8 {
    sink::install();
    process::set_name(c"passenger-logs");
    match run() {
        Ok(()) => 0,
        Err(e) => {
            log::error!("the app-log process cannot go on: {e}");
            1
        }
    }
}

fn run() -> io::Result<()> {
    let channel = Channel::from(descriptor::take_inherited(CHANNEL_FD)?);
    // Opened anew: nobody waits for the main log either.
    sink::replace(sink::descriptor()?);
    let mut threads = Threads::default();
    loop {
        if !threads.start_waiting() && !channel.wait_readable(CHECK_PERIOD)? {
            continue;
        }
        let received = match channel.recv::<ToWriter>() {
            Ok(Some(received)) => received,
            Ok(None) => break,
            // Also when no descriptor was left for the one that came: the agent has the pipe and starts another process.
            Err(e) => return Err(e),
        };
        let Some(descriptor) = received.fds.into_iter().next() else {
            continue;
        };
        match received.message {
            ToWriter::Open(target) => threads.start(target, descriptor),
            ToWriter::MainLog { level } => {
                sink::replace(descriptor);
                sink::set_level(level);
            }
        }
    }
    threads.wait(Instant::now() + LAST_LINES);
    Ok(())
}

/// How many there are, and a bell for the end of one; logs that wait for a thread.
#[derive(Default)]
struct Threads {
    living: Arc<Living>,
    waiting: Vec<(Target, Arc<File>)>,
}

#[derive(Default)]
struct Living {
    count: Mutex<usize>,
    bell: Condvar,
}

impl Threads {
    fn start(&mut self, target: Target, pipe: OwnedFd) {
        self.waiting.push((target, Arc::new(File::from(pipe))));
        if !self.start_waiting() {
            log::error!(
                "cannot start a thread for the log of an app: too many tasks (TasksMax, ulimit -u)? Its lines wait \
                 meanwhile"
            );
        }
    }

    /// Starts threads for those who wait for one. `false`: not all can be had now.
    fn start_waiting(&mut self) -> bool {
        while let Some((target, pipe)) = self.waiting.pop() {
            let (living, own) = (
                Arc::clone(&self.living),
                (target.clone(), Arc::clone(&pipe)),
            );
            *living.count() += 1;
            let started = std::thread::Builder::new()
                .name("psgr-app-log".to_owned())
                .spawn(move || {
                    serve(&own.0, &own.1);
                    living.one_less();
                });
            if started.is_err() {
                self.living.one_less();
                self.waiting.push((target, pipe));
                return false;
            }
        }
        true
    }

    fn wait(&self, deadline: Instant) {
        let mut count = self.living.count();
        while *count > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("{count} logs of apps do not take their last lines");
                return;
            }
            let waited = self.living.bell.wait_timeout(count, left);
            count = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A thread's life: to the end of the pipe, also through a panic, which the hook has said.
fn serve(target: &Target, pipe: &File) {
    while std::panic::catch_unwind(|| AppFile::new(target.clone()).serve(pipe)).is_err() {
        std::thread::sleep(CHECK_PERIOD);
    }
}

impl Living {
    fn count(&self) -> std::sync::MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_less(&self) {
        *self.count() -= 1;
        self.bell.notify_all();
    }
}

/// The file of one app, and what is to be written there.
struct AppFile {
    target: Target,
    file: Option<File>,
    /// What is wrong with it, said once.
    complaint: Option<String>,
    checked: Option<Instant>,
    was_written: bool,
    /// Whole lines and perhaps the beginning of one.
    pending: Vec<u8>,
}

impl AppFile {
    fn new(target: Target) -> Self {
        Self {
            target,
            file: None,
            complaint: None,
            checked: None,
            was_written: false,
            pending: Vec::new(),
        }
    }

    /// Writes what comes through the pipe, to its end.
    fn serve(mut self, pipe: &File) {
        let mut buffer = vec![0; PORTION];
        self.look();
        loop {
            let is_due = self.was_written || self.file.is_none();
            let has_come = wait(pipe, is_due.then_some(CHECK_PERIOD));
            if self.checked.is_none_or(|at| at.elapsed() >= CHECK_PERIOD) {
                self.look();
            }
            if !has_come {
                continue;
            }
            match (&*pipe).read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    self.pending.extend_from_slice(&buffer[..length]);
                    self.write_lines();
                }
            }
        }
        if !self.pending.is_empty() {
            // A line whose end the agent could not write any more.
            self.pending.push(b'\n');
            self.write_lines();
        }
    }

    /// Looks whether the file still has its name, and opens that name anew if not.
    fn look(&mut self) {
        self.checked = Some(Instant::now());
        self.was_written = false;
        let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let current = self.file.as_ref().and_then(|file| file.metadata().ok());
        let named = fs::symlink_metadata(&self.target.path).ok();
        if current.is_some() && current.map(id) == named.map(id) {
            return;
        }
        match place::open(&self.target) {
            Ok(file) => {
                self.file = Some(file);
                self.complaint = None;
            }
            Err(complaint) => {
                self.file = None;
                if self.complaint.as_ref() != Some(&complaint) {
                    log::error!("{complaint}; what this app prints goes to this log meanwhile");
                    self.complaint = Some(complaint);
                }
            }
        }
    }

    /// Writes the whole lines there are.
    fn write_lines(&mut self) {
        let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') else {
            if self.pending.len() > LONGEST {
                self.pending.clear();
            }
            return;
        };
        let rest = self.pending.split_off(end + 1);
        let lines = std::mem::replace(&mut self.pending, rest);
        self.was_written = true;
        let text: Vec<u8> = lines
            .iter()
            .copied()
            .filter(|b| char::from(*b) != MARK)
            .collect();
        let written = match &self.file {
            Some(file) => write_all(file, &text),
            None => 0,
        };
        // A full disk, or no file: the main log takes them.
        let is_whole = |byte: &&u8| **byte == b'\n';
        let done = text[..written].iter().filter(is_whole).count();
        if written < text.len() {
            lines
                .split(|byte| *byte == b'\n')
                .skip(done)
                .filter(|line| !line.is_empty())
                .for_each(|line| divert(&self.target.name, line));
        }
    }
}

/// How much of it was written, in one call if possible: what several processes write does not mix then.
fn write_all(mut file: &File, text: &[u8]) -> usize {
    let mut done = 0;
    while done < text.len() {
        match file.write(&text[done..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(length) => done += length,
        }
    }
    done
}

/// Writes a line to the main log, without its time and with the app's name where lines have prefixes. What was only
/// said about the app stands there already.
fn divert(name: &str, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    if let Some((time, text)) = line.split_once(MARK) {
        // A full disk must not stop anything; there is nobody to tell.
        let _ = match time.is_empty() {
            true => sink::app_output(text),
            false => sink::app_output(&format!("[{name}] {text}")),
        };
    }
}

/// Whether there is something to read, or nobody who writes any more.
fn wait(pipe: &File, limit: Option<Duration>) -> bool {
    let limit = limit.and_then(|limit| PollTimeout::try_from(limit).ok());
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let ready = nix::poll::poll(&mut fds, limit.unwrap_or(PollTimeout::NONE));
    ready.is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::thread::JoinHandle;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    struct Bench {
        directory: PathBuf,
        pipe: Option<File>,
        thread: Option<JoinHandle<()>>,
    }

    impl Bench {
        fn new(name: &str) -> Self {
            let name = format!("app-log-writer-{name}-{}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            fs::create_dir(&directory).unwrap();
            let (read, write) = descriptor::pipe().unwrap();
            // Not root's alone, and no user: with the rights that there are.
            let owner = place::Owner {
                uid: nix::unistd::geteuid().as_raw(),
                gid: nix::unistd::getegid().as_raw(),
                groups: vec![],
            };
            let target = Target {
                path: directory.join("own.log"),
                name: "app".into(),
                owner: Some(owner),
            };
            let thread = std::thread::spawn(move || AppFile::new(target).serve(&File::from(read)));
            Self {
                directory,
                pipe: Some(File::from(write)),
                thread: Some(thread),
            }
        }

        fn say(&mut self, text: &str) {
            self.pipe
                .as_mut()
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }

        fn file(&self) -> PathBuf {
            self.directory.join("own.log")
        }

        fn end(&mut self) {
            self.pipe = None;
            self.thread.take().unwrap().join().unwrap();
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn whole_lines_are_written_without_their_marks_and_the_end_of_the_pipe_ends_the_last() {
        let mut bench = Bench::new("lines");
        bench.say("[now] \x1fApp 7 output: one\n[now] [passenger] a note\n\x1ftw");
        until("the first line", || {
            text(&bench.file()).ends_with("a note\n")
        });
        assert!(text(&bench.file()).starts_with("[now] App 7 output: one\n"));
        bench.say("o");
        bench.end();
        assert!(text(&bench.file()).ends_with("a note\ntwo\n"));
    }

    #[test]
    fn lines_follow_the_name_through_a_rotation() {
        let mut bench = Bench::new("rotation");
        bench.say("\x1fone\n");
        until("the first line", || text(&bench.file()) == "one\n");
        fs::rename(bench.file(), bench.directory.join("own.log.1")).unwrap();
        // It was written to, so it is looked at once more, without another line.
        until("a new file", || bench.file().exists());
        bench.say("\x1ftwo\n");
        bench.end();
        assert_eq!(text(&bench.file()), "two\n");
        assert_eq!(text(&bench.directory.join("own.log.1")), "one\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_tried_again() {
        let mut bench = Bench::new("again");
        until("the first file", || bench.file().exists());
        bench.say("\x1fone\n");
        fs::remove_file(bench.file()).unwrap();
        fs::create_dir(bench.file()).unwrap();
        bench.say("\x1ftwo\n");
        std::thread::yield_now();
        fs::remove_dir(bench.file()).unwrap();
        until("the next file", || {
            bench.say("\x1fthree\n");
            text(&bench.file()).contains("three\n")
        });
        bench.end();
    }

    #[test]
    fn a_full_disk_tells_how_far_it_got() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write_all(&full, b"one\n"), 0);
        let (read, write) = descriptor::pipe().unwrap();
        assert_eq!(write_all(&File::from(write), b"one\n"), 4);
        drop(read);
    }
}
