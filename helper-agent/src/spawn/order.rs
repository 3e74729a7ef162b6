//! What the shim is told, as a JSON document in a sealed memory file. Everything in it was decided by the
//! agent from what root wrote; the shim only carries it out.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::sys::memfd;

/// Longest order; environments of more than this do not fit an `exec` anyway.
const MAX_BYTES: usize = 2 << 20;

/// Descriptor number of the control socket in shim and loader.
pub const CONTROL_FD: i32 = 3;
/// Descriptor number of the listening socket in shim and loader.
pub const LISTENER_FD: i32 = 4;
/// Descriptor number of the order in the shim.
pub const ORDER_FD: i32 = 5;

/// How to become one app process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnOrder {
    /// Whom to become; `None`: stay who we are, because the agent is not root.
    pub identity: Option<Identity>,
    /// Working directory.
    pub app_root: PathBuf,
    /// The file that is the app; only looked at for a clear error. `None`: a command needs none.
    pub startup_file: Option<PathBuf>,
    /// The interpreter.
    pub program: PathBuf,
    /// Directive that sets the interpreter, for the error.
    pub directive: String,
    /// Its arguments, without its own name.
    pub arguments: Vec<PathBuf>,
    /// Whether the program is one of our loaders, which get control socket and listener.
    pub has_loader: bool,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Whether it becomes a preloader: without a listening socket, and killed by the kernel when the agent dies.
    #[serde(default)]
    pub preloads: bool,
    /// The login shell that sets up more of it first.
    pub login_shell: Option<PathBuf>,
    /// Names of variables that the shell cannot change.
    pub kept: Vec<String>,
}

impl SpawnOrder {
    /// The same app, but loaded by a preloader.
    #[must_use]
    pub fn for_preloader(&self) -> Self {
        let mut order = self.clone();
        order.preloads = true;
        order
            .environment
            .push(("PASSENGER_PRELOAD".to_owned(), "1".to_owned()));
        order
    }

    /// As a sealed memory file.
    ///
    /// # Errors
    /// When it cannot be encoded (a path that is not UTF-8) or no file can be made.
    pub fn to_memfd(&self) -> io::Result<OwnedFd> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::from)?;
        memfd::with_contents(c"passenger spawn order", &bytes)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When it is no order.
    pub fn from_memfd(fd: &impl AsFd) -> io::Result<Self> {
        let bytes = memfd::contents_of(fd, MAX_BYTES)?;
        serde_json::from_slice(&bytes).map_err(io::Error::from)
    }

    /// The command as a person would type it, for reports.
    #[must_use]
    pub fn command(&self) -> String {
        let mut words = vec![self.program.display().to_string()];
        words.extend(self.arguments.iter().map(|word| word.display().to_string()));
        words.join(" ")
    }
}
