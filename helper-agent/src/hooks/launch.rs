//! Starting a runner: this program once more, in a session of its own, with the log and nothing else.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use passenger_shm::hooks::Hook;

use super::{Facts, Programs};
use crate::sys::limits::NoFile;
use crate::sys::spawn::{self, Program, Started};

/// Starts a runner for these programs. Blocks until it has been executed, some milliseconds.
///
/// # Errors
/// When the machine gives no process or descriptors.
pub(crate) fn launch(
    agent_image: BorrowedFd<'_>,
    (nofile, oom_score_adj): (Option<NoFile>, Option<i32>),
    hook: Hook,
    programs: &Programs,
    facts: &Facts,
) -> io::Result<Started> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let log = crate::log::descriptor()?;
    let mut arguments = vec![
        CString::new("passenger-helper-agent")?,
        CString::new("--hook")?,
        CString::new(hook.name())?,
        CString::new(programs.place.as_str())?,
    ];
    for path in &programs.paths {
        arguments.push(CString::new(path.as_os_str().as_encoded_bytes())?);
    }
    spawn::spawn(&Program {
        image: agent_image,
        arguments,
        environment: facts.environment(hook),
        descriptors: vec![(null.as_fd(), 0), (log.as_fd(), 1), (log.as_fd(), 2)],
        new_session: true,
        oom_score_adj,
        nofile,
    })
}
