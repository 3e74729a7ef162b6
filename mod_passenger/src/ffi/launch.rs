//! Starts the watchdog from httpd's parent: fork, a fixed order of steps in the child, exec.
//!
//! Not `std::process::Command`: the child must leave httpd's session (its MPMs signal the whole
//! group), get exactly four descriptors, and start with the signals of a fresh process.

use std::ffi::{c_char, c_int, CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// Exit status of a child that could not exec. Never 7 or 15: httpd takes those from any child as
/// an order to stop.
const EXIT_FAILED: c_int = 127;
/// Where the watchdog expects its channel.
const CHANNEL_FD: RawFd = 3;
/// Descriptors are moved out of the way of 0 to 3 before these are assigned.
const ABOVE: RawFd = 10;
/// Highest signal number of Linux.
const LAST_SIGNAL: c_int = 64;

/// What to start, and with what.
pub(crate) struct Launch<'a> {
    /// Absolute path of the program.
    pub(crate) program: &'a CStr,
    /// `argv[0]`.
    pub(crate) name: &'a CStr,
    /// One variable beside this process' environment.
    pub(crate) variable: (&'a str, String),
    /// Becomes descriptor 3.
    pub(crate) channel: BorrowedFd<'a>,
    /// Becomes standard output and error.
    pub(crate) log: BorrowedFd<'a>,
    /// Becomes its directory, where a relative core pattern puts a core file; if it cannot, that is `/`.
    pub(crate) directory: &'a CStr,
}

/// A program by its open file, whatever its path leads to by now.
pub(crate) struct Image {
    path: CString,
    _file: OwnedFd,
}

impl Image {
    /// The program behind that descriptor.
    ///
    /// # Errors
    /// Too many open files.
    pub(crate) fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: duplicates a number that the borrow keeps open.
        let fd = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, ABOVE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, above what the child assigns, and nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            path: CString::new(format!("/proc/self/fd/{fd}"))?,
            _file: file,
        })
    }

    /// Where this process, and a child of it until its exec, finds the program.
    pub(crate) fn path(&self) -> &CStr {
        &self.path
    }
}

/// Which step failed in the child.
fn step_name(step: u8) -> &'static str {
    match step {
        1 => "moving its descriptors",
        2 => "closing the others",
        3 => "executing it",
        _ => "starting",
    }
}

impl Launch<'_> {
    /// Starts the program; returns its process id once it has really been executed.
    ///
    /// # Errors
    /// A sentence naming the step and the reason. Blocks until the exec, some milliseconds.
    pub(crate) fn run(&self) -> Result<i32, String> {
        let environment = self.environment();
        let environment: Vec<*const c_char> = pointers(&environment);
        let arguments = [self.name.as_ptr(), std::ptr::null()];
        let null = File::open("/dev/null").map_err(|e| format!("cannot open /dev/null: {e}"))?;
        let (report, end) = pipe().map_err(|e| format!("cannot create a pipe: {e}"))?;
        let child = Child {
            program: self.program.as_ptr(),
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            null: null.as_raw_fd(),
            log: self.log.as_raw_fd(),
            channel: self.channel.as_raw_fd(),
            report: end.as_raw_fd(),
            directory: self.directory.as_ptr(),
        };
        // SAFETY: httpd's parent has one thread, so the child may go on in `become_program`, which
        // makes only async-signal-safe calls anyway, and never returns.
        let pid = match unsafe { libc::fork() } {
            -1 => return Err(format!("cannot fork: {}", io::Error::last_os_error())),
            // SAFETY: this is the child; the pointers point into what lives on this stack.
            0 => unsafe { child.become_program() },
            pid => pid,
        };
        drop(end);
        let mut message = [0_u8; 5];
        match File::from(report).read_exact(&mut message) {
            // End of file: the exec closed the pipe.
            Err(_) => Ok(pid),
            Ok(()) => {
                let [step, number @ ..] = message;
                let why = io::Error::from_raw_os_error(i32::from_ne_bytes(number));
                Err(format!("failed at {}: {why}", step_name(step)))
            }
        }
    }

    fn environment(&self) -> Vec<CString> {
        let (name, value) = &self.variable;
        let assign = |name: &OsString, value: &OsString| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        };
        std::env::vars_os()
            .filter(|(other, _)| other != *name)
            .chain([(OsString::from(name), OsString::from(value))])
            .filter_map(|(name, value)| assign(&name, &value))
            .collect()
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just made and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// The child between fork and exec: numbers and pointers that the parent prepared.
struct Child {
    program: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    null: RawFd,
    log: RawFd,
    channel: RawFd,
    report: RawFd,
    directory: *const c_char,
}

impl Child {
    /// # Safety
    /// 1. Called in a freshly forked child. 2. The pointers are valid for `execve`.
    unsafe fn become_program(&self) -> ! {
        // SAFETY: only async-signal-safe calls (signal-safety(7)) on numbers and on memory the
        // parent prepared before the fork.
        unsafe {
            // Out of httpd's session: prefork signals the whole group, a terminal its foreground.
            libc::setsid();
            libc::umask(0o022);
            // httpd ignores SIGPIPE and more after a restart; ignored signals survive an exec.
            for signal in 1..=LAST_SIGNAL {
                libc::signal(signal, libc::SIG_DFL);
            }
            let report = libc::fcntl(self.report, libc::F_DUPFD_CLOEXEC, ABOVE);
            // First away from 0 to 3, so that no dup2 overwrites one that is still needed.
            let null = libc::fcntl(self.null, libc::F_DUPFD_CLOEXEC, ABOVE);
            let log = libc::fcntl(self.log, libc::F_DUPFD_CLOEXEC, ABOVE);
            let channel = libc::fcntl(self.channel, libc::F_DUPFD_CLOEXEC, ABOVE);
            let is_moved = libc::dup2(null, 0) == 0
                && libc::dup2(log, 1) == 1
                && libc::dup2(log, 2) == 2
                && libc::dup2(channel, CHANNEL_FD) == CHANNEL_FD;
            if !is_moved {
                fail(report, 1);
            }
            // httpd's pipes to log programs are not close-on-exec: close all others with the exec
            // (and not now: `report` shall tell if that fails).
            let first = CHANNEL_FD + 1;
            let flags = libc::CLOSE_RANGE_CLOEXEC;
            if libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) != 0 {
                fail(report, 2);
            }
            if libc::chdir(self.directory) != 0 {
                libc::chdir(c"/".as_ptr());
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::execve(self.program, self.arguments, self.environment);
            fail(report, 3)
        }
    }
}

/// Tells the parent which step failed and why, and ends the child.
///
/// # Safety
/// Called in the forked child.
unsafe fn fail(report: RawFd, step: u8) -> ! {
    let number = io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(0)
        .to_ne_bytes();
    let message = [step, number[0], number[1], number[2], number[3]];
    // SAFETY: writes five bytes of this stack; write and _exit are async-signal-safe.
    unsafe {
        libc::write(report, message.as_ptr().cast(), message.len());
        libc::_exit(EXIT_FAILED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    fn launch(program: &CStr, channel: &OwnedFd, log: &File) -> Result<i32, String> {
        Launch {
            program,
            name: c"tested",
            variable: ("PASSENGER_PARENT_PID", "17".to_owned()),
            channel: channel.as_fd(),
            log: log.as_fd(),
            directory: c"/tmp",
        }
        .run()
    }

    fn reap(pid: i32) {
        let mut status = 0;
        // SAFETY: waits for a child of this test.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    }

    #[test]
    fn a_program_that_is_not_there_is_reported() {
        let (_read, write) = pipe().expect("pipe");
        let log = File::create("/dev/null").expect("log");
        let why = launch(c"/no/such/program", &write, &log).unwrap_err();
        assert!(
            why.contains("executing it") && why.contains("No such file"),
            "{why}"
        );
    }

    /// The child prints where it is; the test reads it through the log descriptor.
    #[test]
    fn the_child_has_its_own_session_and_only_its_descriptors() {
        let (read, write) = pipe().expect("pipe");
        let (channel, _far) = pipe().expect("pipe");
        let script = std::env::temp_dir().join(format!("psgr-launch-{}", std::process::id()));
        let mut file = File::create(&script).expect("script");
        file.write_all(
            b"#!/bin/sh\nexec 3<&3 && cut -d' ' -f6 /proc/$$/stat\necho $$\n\
              ls /proc/$$/fd | tr '\\n' ' '\necho\necho $PASSENGER_PARENT_PID\n",
        )
        .expect("script");
        drop(file);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).expect("mode");
        let program = CString::new(script.as_os_str().as_bytes()).expect("path");
        let pid = launch(&program, &channel, &File::from(write)).expect("launched");
        let mut output = String::new();
        File::from(read)
            .read_to_string(&mut output)
            .expect("output");
        reap(pid);
        std::fs::remove_file(&script).expect("cleanup");
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[0], lines[1], "own session: {output}");
        // 10 is the shell's own descriptor of the script.
        let fds = lines[2]
            .split_whitespace()
            .filter(|fd| *fd != "10")
            .collect::<Vec<_>>();
        assert_eq!(fds, ["0", "1", "2", "3"], "{output}");
        assert_eq!(lines[3], "17");
    }
}
