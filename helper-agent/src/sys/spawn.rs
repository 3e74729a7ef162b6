//! Starting a program from a descriptor of its image, with exactly the descriptors it shall have.
//!
//! Everything that allocates happens before the fork; the child's half ([`Prepared::child`]) is one
//! function that only makes system calls, so it is correct in a process with threads, too.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::signal::{SigSet, SigmaskHow};

use super::limits::NoFile;
use super::pidfd::Pidfd;
use super::{check, check_size, descriptor, unsigned};

/// What to start, and how.
#[derive(Debug)]
pub struct Program<'a> {
    /// Descriptor of the executable file; its path may have been replaced since it was opened.
    pub image: BorrowedFd<'a>,
    /// Arguments, the program's name first.
    pub arguments: Vec<CString>,
    /// Environment, `NAME=value`.
    pub environment: Vec<CString>,
    /// Descriptors to have, each under its number. No other descriptor is inherited.
    pub descriptors: Vec<(BorrowedFd<'a>, RawFd)>,
    /// Whether it leads a new session (and process group).
    pub new_session: bool,
    /// `oom_score_adj` to restore, if any; a failure is ignored.
    pub oom_score_adj: Option<i32>,
    /// `RLIMIT_NOFILE` to restore, if any.
    pub nofile: Option<NoFile>,
}

/// A child that was started.
#[derive(Debug)]
pub struct Started {
    /// Its PID; names it until the caller reaps it.
    pub pid: i32,
    /// Its descriptor.
    pub pidfd: Pidfd,
}

/// Steps of the child before the program runs, as told by a failure.
const STEPS: [&str; 6] = [
    "start a session",
    "restore the limit of open files",
    "place a descriptor",
    "close descriptors",
    "reset signals",
    "execute the program",
];

/// Starts the program and waits until it has replaced the child (milliseconds). All signals are default
/// and unblocked in it.
///
/// # Errors
/// Those of `pipe`, `fork` and `pidfd_open`, and, naming its step, whatever stopped the child.
pub fn spawn(program: &Program<'_>) -> io::Result<Started> {
    let prepared = Prepared::new(program)?;
    let mut old_mask = SigSet::empty();
    // A handler of ours must not run in the child between the fork and the reset of its signals.
    nix::sys::signal::pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut old_mask),
    )?;
    // SAFETY: the child continues only in `Prepared::child`, which makes async-signal-safe calls on
    // memory prepared before and never returns; the parent is unaffected.
    let forked = check(unsafe { libc::fork() });
    if let Ok(0) = forked {
        prepared.child();
    }
    let restored =
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old_mask), None);
    let pid = forked?;
    restored?;
    let pidfd = Pidfd::open(pid)?;
    prepared.wait_for_exec(&pidfd)?;
    Ok(Started { pid, pidfd })
}

/// Replaces this program by another one, keeping PID, children, and the descriptors that are not
/// close-on-exec. Returns only on failure.
#[must_use]
pub fn replace(image: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> io::Error {
    let argv = pointers(arguments);
    let envp = pointers(environment);
    // SAFETY: both arrays end with a null pointer and point into the CString slices, which outlive
    // the call; the empty path with AT_EMPTY_PATH names `image`.
    match check_size(unsafe { exec_image(image.as_raw_fd(), argv.as_ptr(), envp.as_ptr()) }) {
        Ok(_) => io::Error::other("execveat returned without an error"),
        Err(e) => e,
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// `execveat(image, "", argv, envp, AT_EMPTY_PATH)`.
///
/// # Safety
/// `argv` and `envp` point to null-terminated arrays of pointers to terminated strings that stay valid.
unsafe fn exec_image(
    image: RawFd,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
) -> libc::c_long {
    const EMPTY: &CStr = c"";
    // SAFETY: the arrays are valid by this function's contract; EMPTY is static.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image,
            EMPTY.as_ptr(),
            argv,
            envp,
            libc::AT_EMPTY_PATH,
        )
    }
}

/// All that the child needs, in memory that it only reads.
struct Prepared<'a> {
    /// The program's strings and options.
    program: &'a Program<'a>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// Copies of the descriptors above all target numbers, so that placing one never hits another.
    sources: Vec<(OwnedFd, RawFd)>,
    image: OwnedFd,
    /// Target numbers that get nothing.
    gaps: Vec<RawFd>,
    /// First number that no target has.
    above: libc::c_uint,
    oom_text: Option<CString>,
    report_read: OwnedFd,
    report_write: OwnedFd,
}

impl<'a> Prepared<'a> {
    fn new(program: &'a Program<'a>) -> io::Result<Self> {
        let targets: Vec<RawFd> = program
            .descriptors
            .iter()
            .map(|(_, number)| *number)
            .collect();
        let above = targets.iter().copied().max().unwrap_or(2).max(2) + 1;
        let mut sources = Vec::with_capacity(targets.len());
        for (fd, number) in &program.descriptors {
            sources.push((descriptor::duplicate_above(*fd, above)?, *number));
        }
        let (read, write) = descriptor::pipe()?;
        let oom_text = program
            .oom_score_adj
            .map(|value| CString::new(value.to_string()));
        Ok(Self {
            program,
            argv: pointers(&program.arguments),
            envp: pointers(&program.environment),
            sources,
            image: descriptor::duplicate_above(program.image, above)?,
            gaps: (0..above)
                .filter(|number| !targets.contains(number))
                .collect(),
            above: unsigned(above),
            oom_text: oom_text.transpose()?,
            report_read: read,
            report_write: descriptor::duplicate_above(std::os::fd::AsFd::as_fd(&write), above)?,
        })
    }

    /// The child from the fork to the program. No allocation, no lock, no destructor; on failure it
    /// reports step and errno and leaves with `_exit`.
    fn child(&self) -> ! {
        let (step, errno) = match self.become_program() {
            Ok(()) => (5, 0),
            Err(step) => (step, io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        };
        let mut report = [0u8; 5];
        report[0] = step;
        report[1..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: writes five bytes of a live local to a descriptor that `self` keeps open.
        unsafe {
            libc::write(
                self.report_write.as_raw_fd(),
                report.as_ptr().cast(),
                report.len(),
            )
        };
        // SAFETY: ends this process without running anything of the parent's; 127 is neither 7 nor 15,
        // which would mean something to httpd.
        unsafe { libc::_exit(127) }
    }

    /// Index in [`STEPS`] of the step that failed; errno says why.
    fn become_program(&self) -> Result<(), u8> {
        // SAFETY: system calls only (setsid, open, write, close, prlimit, dup2, close, close_range,
        // rt_sigaction, sigprocmask, execveat), all async-signal-safe, on memory
        // that `Prepared::new` made before the fork and that nobody changes.
        unsafe {
            if self.program.new_session && libc::setsid() < 0 {
                return Err(0);
            }
            if let Some(text) = &self.oom_text {
                let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
                if file >= 0 {
                    libc::write(file, text.as_ptr().cast(), text.as_bytes().len());
                    libc::close(file);
                }
            }
            if let Some(limit) = self.program.nofile {
                let limit = libc::rlimit {
                    rlim_cur: limit.soft,
                    rlim_max: limit.hard,
                };
                if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) < 0 {
                    return Err(1);
                }
            }
            for (source, number) in &self.sources {
                if libc::dup2(source.as_raw_fd(), *number) < 0 {
                    return Err(2);
                }
            }
            for number in &self.gaps {
                libc::close(*number);
            }
            const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
            let last = libc::c_uint::MAX;
            if libc::syscall(libc::SYS_close_range, self.above, last, CLOSE_RANGE_CLOEXEC) < 0 {
                return Err(3);
            }
            self.reset_signals()?;
            exec_image(
                self.image.as_raw_fd(),
                self.argv.as_ptr(),
                self.envp.as_ptr(),
            );
            Err(5)
        }
    }

    /// Default action for all signals, none blocked: `SIG_IGN` and the mask would survive the exec.
    fn reset_signals(&self) -> Result<(), u8> {
        // The kernel's struct sigaction: handler 0 is SIG_DFL, no flags, empty mask. Not libc's
        // `signal`: glibc refuses its own 32 and 33, which a parent may well have left ignored.
        let default = [0u64; 4];
        for number in 1..=64 {
            // SAFETY: `default` is at least as large as the kernel's struct and only read; SIGKILL and
            // SIGSTOP are refused, which is harmless.
            unsafe {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    number,
                    default.as_ptr(),
                    std::ptr::null_mut::<u64>(),
                    8,
                )
            };
        }
        // SAFETY: sigset_t is plain integers; sigemptyset then makes it the empty set.
        let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `none` is a live local.
        unsafe { libc::sigemptyset(&raw mut none) };
        // SAFETY: `none` is initialised; the old mask is not asked for.
        match unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) }
        {
            0 => Ok(()),
            _ => Err(4),
        }
    }

    /// End of file on the report pipe: the program runs, since the exec closed the child's end.
    fn wait_for_exec(self, pidfd: &Pidfd) -> io::Result<()> {
        use std::io::Read;
        drop(self.report_write);
        let mut report = Vec::with_capacity(5);
        let read = std::fs::File::from(self.report_read).read_to_end(&mut report);
        if matches!(read, Ok(0)) {
            return Ok(());
        }
        pidfd.reap_blocking()?;
        read?;
        let (Some(step), Some(errno)) = (
            report
                .first()
                .and_then(|step| STEPS.get(usize::from(*step))),
            report
                .get(1..5)
                .and_then(|bytes| bytes.try_into().ok())
                .map(i32::from_ne_bytes),
        ) else {
            return Err(io::Error::other(
                "the child ended before it could execute the program",
            ));
        };
        let cause = io::Error::from_raw_os_error(errno);
        Err(io::Error::new(
            cause.kind(),
            format!("the child could not {step}: {cause}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::super::process::ExitStatus;
    use super::*;

    fn shell<'a>(image: &'a File, script: &str) -> Program<'a> {
        let text = |s: &str| CString::new(s).unwrap();
        Program {
            image: image.as_fd(),
            arguments: vec![text("sh"), text("-c"), text(script)],
            environment: vec![text("PATH=/usr/bin:/bin"), text("MARK=yes")],
            descriptors: Vec::new(),
            new_session: true,
            oom_score_adj: None,
            nofile: None,
        }
    }

    #[test]
    fn the_program_has_exactly_the_descriptors_it_shall_have() {
        let image = File::open("/bin/sh").unwrap();
        let null = File::open("/dev/null").unwrap();
        let (read, write) = descriptor::pipe().unwrap();
        // Swapped on purpose against the numbers that the pipe may have itself.
        let leaked = File::open("/dev/null").unwrap();
        descriptor::set_cloexec(leaked.as_fd(), false).unwrap();
        // No pipeline: its pipe would show up. The `:` keeps the shell from becoming `ls`.
        let mut program = shell(&image, "echo $MARK; ls /proc/$$/fd; :");
        program.descriptors = vec![
            (null.as_fd(), 0),
            (write.as_fd(), 1),
            (write.as_fd(), 2),
            (read.as_fd(), 7),
        ];
        let started = spawn(&program).unwrap();
        drop(program);
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "yes\n0\n1\n2\n7\n");
        let exit = started.pidfd.reap_blocking().unwrap().unwrap();
        assert_eq!(exit.status, ExitStatus::Exited { code: 0 });
    }

    #[test]
    fn ignored_and_blocked_signals_are_not_inherited() {
        let image = File::open("/bin/sh").unwrap();
        let (read, write) = descriptor::pipe().unwrap();
        // By the shell itself: while it forks it blocks signals.
        let script = "while read -r name value; do echo $name $value; done < /proc/$$/status";
        let mut program = shell(&image, script);
        program.descriptors = vec![(write.as_fd(), 1)];
        let started = spawn(&program).unwrap();
        drop(program);
        drop(write);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        assert!(text.contains("SigBlk: 0000000000000000"), "{text}");
        assert!(text.contains("SigIgn: 0000000000000000"), "{text}");
        started.pidfd.reap_blocking().unwrap();
    }

    #[test]
    fn a_failed_exec_names_its_step_and_leaves_no_zombie() {
        let image = File::open("/etc/passwd").unwrap();
        let error = spawn(&shell(&image, "")).unwrap_err();
        assert!(error.to_string().contains("execute the program"), "{error}");
    }
}
