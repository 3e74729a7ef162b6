//! Every way a request can fail on our side of httpd, who is to blame, and the one mapping to a status.

use crate::upstream::head::HeadError;
use passenger_shm::messages::SpawnFailure;
use std::fmt;
use std::io;
use std::time::Duration;

/// A request that gets no answer of the app.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The client's body is unusable; httpd's filters chose the status.
    ClientBody { status: i32 },
    /// The client left while its request waited.
    ClientGone,
    /// The body could not be buffered (disk full, directory missing).
    BufferFile { error: io::Error },
    /// The worker has no connection to the instance.
    NoInstance { reason: String },
    /// The agent refuses this configuration.
    Refused { reason: String },
    /// All seats and the queue are full.
    QueueFull {
        length: u32,
        limit: u32,
        oldest: Duration,
        processes: String,
        status: u16,
    },
    /// It has waited for a seat as long as it may.
    QueueTimedOut {
        limit: u32,
        length: u32,
        oldest: Duration,
        processes: String,
        status: u16,
    },
    /// A subrequest wants a seat while the request it is part of holds one.
    WouldDeadlock { outer: String },
    /// The app does not start.
    Spawn(Box<SpawnFailure>),
    /// The app's response is not one.
    BadResponse {
        pid_hint: String,
        error: HeadError,
        sample: String,
    },
    /// The app named a file that httpd may not or cannot send (`X-Sendfile`).
    SendFile { path: String, error: io::Error },
    /// The app's process was killed because this request took too long.
    TookTooLong { process: String },
    /// The app died or closed before it answered, and the request may not be sent again.
    NoResponse { process: String, error: io::Error },
}

impl RequestError {
    /// The HTTP status for the client.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::ClientBody { status } => u16::try_from(*status).unwrap_or(400),
            // nginx's convention; nobody reads it but the access log.
            Self::ClientGone => 499,
            Self::BufferFile { error } if error.raw_os_error() == Some(libc::ENOSPC) => 507,
            Self::SendFile { error, .. } if error.kind() == io::ErrorKind::NotFound => 404,
            Self::SendFile { .. } => 403,
            Self::BufferFile { .. } | Self::Refused { .. } | Self::Spawn(_) => 500,
            Self::WouldDeadlock { .. } => 508,
            Self::NoInstance { .. } => 503,
            Self::QueueFull { status, .. } | Self::QueueTimedOut { status, .. } => *status,
            Self::TookTooLong { .. } => 504,
            Self::BadResponse { .. } | Self::NoResponse { .. } => 502,
        }
    }

    /// Code for the log; `docs/error-codes.md` has an entry for each.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::ClientBody { .. } => "PSGR0201",
            Self::ClientGone => "PSGR0202",
            Self::BufferFile { .. } => "PSGR0203",
            Self::NoInstance { .. } => "PSGR0204",
            Self::Refused { .. } => "PSGR0205",
            Self::QueueFull { .. } => "PSGR0206",
            Self::QueueTimedOut { .. } => "PSGR0214",
            Self::Spawn(_) => "PSGR0207",
            Self::BadResponse { .. } => "PSGR0208",
            Self::NoResponse { .. } => "PSGR0209",
            Self::TookTooLong { .. } => "PSGR0215",
            Self::WouldDeadlock { .. } => "PSGR0212",
            Self::SendFile { .. } => "PSGR0213",
        }
    }

    /// Whether the same request may succeed a moment later.
    pub(crate) fn may_retry_later(&self) -> bool {
        matches!(
            self,
            Self::NoInstance { .. } | Self::QueueFull { .. } | Self::QueueTimedOut { .. }
        )
    }

    /// Whether the administrator should hear of it; clients' mistakes are for the access log.
    pub(crate) fn is_worth_logging(&self) -> bool {
        !matches!(self, Self::ClientBody { .. } | Self::ClientGone)
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientBody { status } => write!(f, "the client's request body is unusable (status {status})"),
            Self::ClientGone => write!(f, "the client left while its request waited"),
            Self::BufferFile { error } => write!(
                f,
                "the request body could not be buffered: {error}; check free space, or set PassengerDataBufferDir"
            ),
            Self::NoInstance { reason } => write!(
                f,
                "this worker has no connection to the watchdog: {reason}; the next request tries again"
            ),
            Self::Refused { reason } => write!(f, "the helper agent refuses to run this application: {reason}"),
            Self::QueueTimedOut { limit, length, oldest, processes, .. } => write!(
                f,
                "the request waited for {limit} s, which is all it may (PassengerMaxRequestQueueTime): {length} \
                 waiting, the oldest for {} ms; {processes}",
                oldest.as_millis()
            ),
            Self::QueueFull { length, limit, oldest, processes, .. } => write!(
                f,
                "the request queue is full: {length} waiting, limit {limit}, the oldest for {} ms; {processes}; \
                 see PassengerMaxRequestQueueSize and PassengerMaxPoolSize",
                oldest.as_millis()
            ),
            Self::WouldDeadlock { outer } => write!(
                f,
                "all processes are busy, and this subrequest cannot wait for one: it is part of {outer}, which \
                 occupies a process itself; give the application more processes (PassengerMaxPoolSize) or threads"
            ),
            Self::Spawn(failure) => write!(
                f,
                "the application does not start (error {}, step {}): {}; its output is in the agent's log",
                failure.id, failure.step, failure.summary
            ),
            Self::BadResponse { pid_hint, error, sample } => {
                write!(f, "application process {pid_hint} sent an unusable response: {error}; it begins {sample}")
            }
            Self::SendFile { path, error } => {
                write!(f, "the application's X-Sendfile {path:?} cannot be sent: {error}")
            }
            Self::TookTooLong { process } => write!(
                f,
                "application process {process} was ended because the request took longer than it may \
                 (PassengerMaxRequestTime); the request was not repeated"
            ),
            Self::NoResponse { process, error } => write!(
                f,
                "application process {process} ended or closed the connection before it answered ({error}); \
                 the request was not repeated because it may have run"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_507_and_a_full_queue_503() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(RequestError::BufferFile { error: full }.status(), 507);
        let queue = RequestError::QueueFull {
            length: 100,
            limit: 100,
            oldest: Duration::from_millis(12),
            processes: String::new(),
            status: 503,
        };
        assert_eq!(queue.status(), 503);
        assert!(queue.to_string().contains("100 waiting"));
    }

    #[test]
    fn codes_are_never_shared() {
        let io = || io::Error::from_raw_os_error(5);
        let all = [
            RequestError::ClientBody { status: 400 },
            RequestError::ClientGone,
            RequestError::BufferFile { error: io() },
            RequestError::NoInstance {
                reason: String::new(),
            },
            RequestError::Refused {
                reason: String::new(),
            },
            RequestError::QueueFull {
                length: 0,
                limit: 0,
                oldest: Duration::ZERO,
                processes: String::new(),
                status: 503,
            },
            RequestError::QueueTimedOut {
                limit: 1,
                length: 1,
                oldest: Duration::ZERO,
                processes: String::new(),
                status: 503,
            },
            RequestError::BadResponse {
                pid_hint: String::new(),
                error: HeadError::OddPieces,
                sample: String::new(),
            },
            RequestError::NoResponse {
                process: String::new(),
                error: io(),
            },
            RequestError::WouldDeadlock {
                outer: String::new(),
            },
            RequestError::TookTooLong {
                process: String::new(),
            },
            RequestError::SendFile {
                path: String::new(),
                error: io(),
            },
        ];
        let mut codes: Vec<_> = all.iter().map(RequestError::code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all.len());
    }
}
