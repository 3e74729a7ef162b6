//! The `admin` socket: what tools may ask the agent to do. One question and one answer per connection, each a
//! datagram (`SOCK_SEQPACKET`) with a JSON document. The listener is in the watchdog's store, so who asks while
//! the agent is dead is answered by its successor.
//!
//! Who asks is what the kernel says: root and the user of the instance may do everything, others what concerns
//! the apps that run as them.

use passenger_shm::messages::{Config, Registration};
use serde::{Deserialize, Serialize};

/// Name of the socket in the instance directory.
pub const SOCKET: &str = "admin";

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Replace every process of that app by one that starts from now on.
    RestartApp {
        /// The exact name of its group.
        name: String,
        /// Whether nobody is to wait for the new code, whatever is configured for the app.
        #[serde(default)]
        rolling: bool,
    },
    /// Say how that app is configured.
    Configuration {
        /// The exact name of its group.
        name: String,
    },
    /// Send no more requests to that process; it finishes what it has, ends, and is replaced if it is missed.
    DetachProcess {
        /// Its PID.
        pid: i32,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done, or begun.
    Done,
    /// How an app is configured, and what leads to it.
    Configured {
        /// What concerns it.
        config: Box<Config>,
        /// Its records and its document root.
        registration: Registration,
    },
    /// There is no such app or process, or it is somebody else's: the answer is the same.
    Unknown,
    /// Not understood, or not possible now: a sentence.
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_on_the_socket() {
        let request = Request::DetachProcess { pid: 7 };
        let text = r#"{"detach_process":{"pid":7}}"#;
        let older = r#"{"restart_app":{"name":"a"}}"#;
        let restart = Request::RestartApp {
            name: "a".to_owned(),
            rolling: false,
        };
        assert_eq!(serde_json::from_str::<Request>(older).unwrap(), restart);
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        assert!(serde_json::from_str::<Request>(r#"{"shutdown":{}}"#).is_err());
        assert_eq!(serde_json::to_string(&Answer::Done).unwrap(), r#""done""#);
    }
}
