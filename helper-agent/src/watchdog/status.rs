//! The `status` socket: whoever connects gets a reporter, a child that looks at the tables for him and is
//! gone ([`crate::status`]). Nothing is read from the connection here, and nothing waited for.
//!
//! Any local user may connect, so each has one reporter at a time, all together [`MAX_REPORTERS`]; root is
//! never refused. Who is turned away finds the connection closed and tries again.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::core::{Source, Watchdog};
use crate::status::report::AgentReport;
use crate::status::reporter::{
    FromWatchdog, BOARD_FD, CONNECTION_FD, FACTS_FD, ROUTES_FD, TRAFFIC_FD,
};
use crate::sys::epoll::Trigger;
use crate::sys::pidfd::Pidfd;
use crate::sys::spawn::{self, Program};
use crate::sys::{listener, memfd};

/// Reporters of ordinary users at once.
const MAX_REPORTERS: usize = 8;
/// Reporters of root at once; more are turned away so that a loop of a script cannot fill the machine.
const MAX_FOR_ROOT: usize = 8;
/// Connections that are accepted before others get their turn.
const PER_TURN: usize = 8;

/// A reporter that runs.
#[derive(Debug)]
pub(super) struct Reporter {
    pidfd: Pidfd,
    uid: u32,
}

/// What the watchdog remembers of its agents, for reports.
#[derive(Debug, Default)]
pub(super) struct AgentHistory {
    started_at: u64,
    deaths: u32,
    last_end: Option<(String, u64)>,
}

impl AgentHistory {
    pub(super) fn started(&mut self) {
        self.started_at = now();
    }

    pub(super) fn died(&mut self, how: &str) {
        self.deaths = self.deaths.saturating_add(1);
        self.last_end = Some((how.to_owned(), now()));
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

impl Watchdog {
    pub(super) fn on_status(&mut self) {
        for _ in 0..PER_TURN {
            let connection = match listener::accept(self.descriptors.status.as_fd()) {
                Ok(Some(connection)) => connection,
                Ok(None) => return,
                Err(e) => {
                    // Out of descriptors: it stays readable, and asking at once again would be a busy loop.
                    log::warn!("cannot accept a connection on the status socket: {e}");
                    if let Some(token) = self.status_token.take() {
                        self.events.remove(self.descriptors.status.as_fd(), token);
                    }
                    return;
                }
            };
            let Ok(peer) = getsockopt(&connection, PeerCredentials) else {
                continue;
            };
            if !self.may_report_to(peer.uid()) {
                continue;
            }
            match self.start_reporter(&connection) {
                Ok(pidfd) => self.reporters.push(Reporter {
                    pidfd,
                    uid: peer.uid(),
                }),
                Err(e) => log::warn!("cannot start a reporter: {e}"),
            }
        }
    }

    /// Once a round: perhaps connections can be accepted now.
    pub(super) fn watch_status_again(&mut self) {
        if self.status_token.is_none() {
            let status = self.descriptors.status.as_fd();
            let added = self.events.add(status, Source::Status, Trigger::Readable);
            self.status_token = added.ok();
        }
    }

    fn may_report_to(&mut self, uid: u32) -> bool {
        self.reporters
            .retain(|reporter| !reporter.pidfd.has_exited());
        let own = self.reporters.iter().filter(|r| r.uid == uid).count();
        if uid == 0 {
            return own < MAX_FOR_ROOT;
        }
        let others = self.reporters.iter().filter(|r| r.uid != 0).count();
        own == 0 && others < MAX_REPORTERS
    }

    fn start_reporter(&self, connection: &OwnedFd) -> io::Result<Pidfd> {
        let facts = serde_json::to_vec(&self.facts())?;
        let facts = memfd::with_contents(c"passenger-facts", &facts)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let log = crate::log::descriptor()?;
        let started = spawn::spawn(&Program {
            image: self.descriptors.agent_image.as_fd(),
            arguments: vec![
                CString::new("passenger-helper-agent")?,
                CString::new("--report")?,
            ],
            environment: vec![],
            descriptors: vec![
                (null.as_fd(), 0),
                (log.as_fd(), 1),
                (log.as_fd(), 2),
                (connection.as_fd(), CONNECTION_FD),
                (self.descriptors.routes_read_only.as_fd(), ROUTES_FD),
                (self.descriptors.traffic.as_fd(), TRAFFIC_FD),
                (self.descriptors.board.as_fd(), BOARD_FD),
                (facts.as_fd(), FACTS_FD),
            ],
            new_session: true,
            oom_score_adj: self.originals.oom_score_adj,
            nofile: self.originals.nofile,
        })?;
        Ok(started.pidfd)
    }

    fn facts(&self) -> FromWatchdog {
        let history = &self.agent_history;
        let (last_end, last_end_at) = history.last_end.clone().unzip();
        FromWatchdog {
            directory: self.instance_dir.to_string_lossy().into_owned(),
            watchdog_pid: i32::try_from(std::process::id()).unwrap_or(0),
            agent: AgentReport {
                pid: self.agent.as_ref().map(|agent| agent.pid),
                is_ready: self.supervisor.is_ready(),
                started_at: history.started_at,
                restarts: history.deaths,
                last_end,
                last_end_at,
            },
        }
    }
}
