//! Asking an instance: its status, and to do something.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use passenger_shm::channel::Channel;

use super::registry::Found;
use super::Failure;
use crate::admin::{self, Answer, Request};
use crate::status::{self, report::Report};

/// How long an instance may take to answer: longer than its watchdog takes to replace a dead agent.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pause before asking again when the instance had no time.
const RETRY: Duration = Duration::from_millis(100);
/// Longest report that is read, in bytes.
const REPORT_BYTES: u64 = 64 << 20;

/// The report as it came.
fn status_document(instance: &Found) -> Result<Vec<u8>, Failure> {
    let path = instance.path.join(status::SOCKET);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let document = read_report(&path).map_err(|e| no_answer(&path, &e))?;
        if !document.is_empty() {
            return Ok(document);
        }
        // Others asked at the same time and there was no reporter left for us.
        if Instant::now() >= deadline {
            let busy = io::Error::new(io::ErrorKind::TimedOut, "it is busy with other questions");
            return Err(no_answer(&path, &busy));
        }
        std::thread::sleep(RETRY);
    }
}

fn read_report(path: &Path) -> io::Result<Vec<u8>> {
    let connection = UnixStream::connect(path)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut document = Vec::new();
    match connection.take(REPORT_BYTES).read_to_end(&mut document) {
        // Turned away before it was read.
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(Vec::new()),
        Err(e) => Err(e),
        Ok(_) => Ok(document),
    }
}

/// The report as JSON; an error where the instance could not make one.
pub(super) fn status_value(instance: &Found) -> Result<serde_json::Value, Failure> {
    let document = status_document(instance)?;
    let value: serde_json::Value =
        serde_json::from_slice(&document).map_err(|e| Failure::unable(not_understood(&e)))?;
    match value.get("error").and_then(serde_json::Value::as_str) {
        Some(error) => Err(Failure::unable(format!(
            "the instance {} cannot report its status: {error}",
            instance.name
        ))),
        None => Ok(value),
    }
}

/// The report, understood.
pub(super) fn status(instance: &Found) -> Result<Report, Failure> {
    serde_json::from_value(status_value(instance)?).map_err(|e| Failure::unable(not_understood(&e)))
}

fn not_understood(error: &serde_json::Error) -> String {
    format!(
        "the instance's report is not understood, it may be of another version than this tool (try \
         --json): {error}"
    )
}

/// Has the agent do something.
pub(super) fn ask(instance: &Found, request: &Request) -> Result<Answer, Failure> {
    let path = instance.path.join(admin::SOCKET);
    converse(&path, request).map_err(|e| no_answer(&path, &e))
}

fn converse(path: &Path, request: &Request) -> io::Result<Answer> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd: OwnedFd = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    socket::connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let channel = Channel::from(fd);
    match channel.send(request, &[]) {
        // Turned away before it was asked; the answer says why.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
        sent => sent?,
    }
    if !channel.wait_readable(PATIENCE)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match channel.recv::<Answer>()? {
        Some(received) => Ok(received.message),
        None => Err(io::Error::other(
            "it closed the connection without an answer",
        )),
    }
}

fn no_answer(path: &Path, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            "nobody listens there: it has just ended".to_owned()
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("nothing came within {} seconds", PATIENCE.as_secs())
        }
        _ => error.to_string(),
    };
    Failure::unable(format!("no answer from {}: {why}", path.display()))
}
