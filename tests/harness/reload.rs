//! What an administrator does to a running server: another configuration, `graceful`, `restart`.

use crate::httpd::Server;
use crate::processes;
use crate::setup::{Setup, SITES};
use nix::sys::signal::Signal;
use std::fs;

/// What httpd's parent says when it has taken a configuration.
const RESUMING: &str = "resuming normal operations";

impl Server {
    /// `apachectl graceful`, and waits until the parent took the configuration.
    pub fn graceful(&self) {
        self.reload(Signal::SIGUSR1);
    }

    /// `apachectl restart`, which ends requests in the middle, and waits as [`Server::graceful`].
    pub fn restart(&self) {
        self.let_connections_end();
        self.reload(Signal::SIGHUP);
    }

    /// Writes another configuration, and no more: the running httpd does not know of it. Apps of sites that
    /// are new are installed.
    pub fn rewrite(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
        for site in &self.setup.sites {
            let root = self.root.join(SITES).join(&site.name);
            if !root.exists() {
                site.app.install(&root);
            }
        }
        self.write_configuration();
    }

    /// Another configuration with `graceful`.
    pub fn reconfigure(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.rewrite(change);
        self.graceful();
    }

    pub(crate) fn write_configuration(&self) {
        let text = self.setup.configuration(&self.root, self.port);
        fs::write(self.root.join("httpd.conf"), text).expect("write httpd.conf");
    }

    fn reload(&self, signal: Signal) {
        let before = self.log().count(RESUMING);
        processes::signal(self.parent(), signal);
        self.log().expect_times(RESUMING, before + 1);
    }
}
