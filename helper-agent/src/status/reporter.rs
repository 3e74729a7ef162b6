//! The reporter's program: one connection, one report, gone. It is started by the watchdog with the tables
//! opened for reading, trusts nothing but what the kernel says about its peer, and reads nothing from him.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::time::{clock_gettime, ClockId};
use passenger_shm::InspectView;
use serde::{Deserialize, Serialize};

use super::board::Board;
use super::compose::{compose, Sources};
use super::report::{AgentReport, InstanceReport};
use super::usage::Usage;
use super::viewer::Viewer;
use crate::instance::Properties;
use crate::sys::{descriptor, memfd, process};

/// Number of the connection.
pub const CONNECTION_FD: i32 = 3;
/// Number of `routes`.
pub const ROUTES_FD: i32 = 4;
/// Number of `traffic`.
pub const TRAFFIC_FD: i32 = 5;
/// Number of the board.
pub const BOARD_FD: i32 = 6;
/// Number of what the watchdog says: a memory file with a [`FromWatchdog`].
pub const FACTS_FD: i32 = 7;

/// A reporter ends after so many seconds, whatever it waits for.
const LIFETIME_SECONDS: u32 = 5;
/// Counting the pages of a large process takes the kernel milliseconds: after so long the rest are not counted.
const COUNTING: Duration = Duration::from_secs(2);
/// Who does not read for so long does not want to know.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest facts, in bytes.
const FACTS_BYTES: usize = 64 * 1024;

/// What only the watchdog knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FromWatchdog {
    /// The instance directory.
    pub directory: String,
    /// The watchdog's PID.
    pub watchdog_pid: i32,
    /// The agent.
    pub agent: AgentReport,
}

/// The program. Returns its exit status.
#[must_use]
pub fn main() -> u8 {
    // The default action of SIGALRM ends us.
    nix::unistd::alarm::set(LIFETIME_SECONDS);
    process::set_name(c"passenger-report");
    match run() {
        Ok(()) => 0,
        // Who asked has gone, or does not read.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::WouldBlock
            ) =>
        {
            0
        }
        Err(e) => {
            log::error!("cannot report the status of the instance: {e}");
            1
        }
    }
}

fn run() -> io::Result<()> {
    let connection = descriptor::take_inherited(CONNECTION_FD)?;
    let peer = getsockopt(&connection, PeerCredentials)?;
    let mut connection = UnixStream::from(connection);
    connection.set_nonblocking(false)?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let viewer = Viewer::of(peer.uid(), process::effective_uid());
    let mut text = match report(viewer) {
        Ok(text) => text,
        Err(e) => {
            let error = serde_json::json!({ "error": e.to_string() });
            serde_json::to_vec(&error)?
        }
    };
    text.push(b'\n');
    connection.write_all(&text)
}

fn report(viewer: Viewer) -> io::Result<Vec<u8>> {
    let began = Instant::now();
    let inherited = |number| descriptor::take_inherited(number);
    let (routes, traffic): (OwnedFd, OwnedFd) = (inherited(ROUTES_FD)?, inherited(TRAFFIC_FD)?);
    let facts = memfd::contents_of(&inherited(FACTS_FD)?, FACTS_BYTES)?;
    let facts: FromWatchdog = serde_json::from_slice(&facts)?;
    let view =
        InspectView::attach(routes.as_fd(), Some(traffic.as_fd())).map_err(io::Error::other)?;
    // The tables first: `compose` counts on it.
    let snapshot = view.snapshot();
    let notes = Board::open(inherited(BOARD_FD)?).notes()?;
    let sources = Sources {
        viewer,
        instance: instance(&facts),
        agent: facts.agent,
        now_ms: monotonic_ms()?,
        usage: &|pid| {
            if began.elapsed() < COUNTING {
                Usage::of(pid)
            } else {
                Usage::roughly_of(pid)
            }
        },
    };
    let report = compose(&snapshot, &notes, sources);
    Ok(serde_json::to_vec(&report)?)
}

fn instance(facts: &FromWatchdog) -> InstanceReport {
    let path = Path::new(&facts.directory).join("properties.json");
    let properties: Option<Properties> = fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let mut report = InstanceReport {
        directory: facts.directory.clone(),
        watchdog_pid: facts.watchdog_pid,
        ..InstanceReport::default()
    };
    if let Some(properties) = properties {
        report.name = properties.name;
        report.passenger_version = properties.version;
        report.server_software = properties.server_software;
        report.server_pid = properties.parent_pid;
        report.created_at = properties.created_at;
    }
    report
}

fn monotonic_ms() -> io::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    Ok(seconds * 1_000 + u64::try_from(now.tv_nsec()).unwrap_or(0) / 1_000_000)
}
