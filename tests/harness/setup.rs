//! A server before it starts: what it serves, under which MPM, with which lines of configuration.

use crate::app::Site;
use crate::httpd::Server;
use crate::under_test::UnderTest;
use nix::unistd::Uid;
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// Where instance directories are made, below the server's root. Short: `sun_path` has 108 bytes.
pub(crate) const REGISTRY: &str = "i";

/// Where the sites' apps are, below the server's root.
pub(crate) const SITES: &str = "sites";

/// httpd's multi-processing modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mpm {
    /// Threads, and a listener that keeps idle connections.
    Event,
    /// Threads, one per connection.
    Worker,
    /// Processes, one per connection.
    Prefork,
}

impl Mpm {
    /// All of them.
    pub const ALL: [Mpm; 3] = [Mpm::Event, Mpm::Worker, Mpm::Prefork];

    /// Its name in module file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mpm::Event => "event",
            Mpm::Worker => "worker",
            Mpm::Prefork => "prefork",
        }
    }

    fn sizes(self) -> &'static str {
        match self {
            Mpm::Event | Mpm::Worker => {
                // One child alone has threads for 25 clients: httpd closes kept-alive connections when
                // it has not, which would look like a failure of ours.
                "StartServers 2\nServerLimit 4\nThreadsPerChild 32\nMinSpareThreads 32\n\
                 MaxSpareThreads 128\nMaxRequestWorkers 128"
            }
            Mpm::Prefork => {
                "StartServers 4\nServerLimit 32\nMinSpareServers 2\nMaxSpareServers 8\n\
                 MaxRequestWorkers 32"
            }
        }
    }
}

thread_local! {
    /// The MPM of servers of which nobody says another.
    static USUAL: Cell<Mpm> = const { Cell::new(Mpm::Event) };
}

/// Runs a test whose servers are to run under that MPM, where it does not name one itself.
pub fn under(mpm: Mpm, test: impl FnOnce()) {
    USUAL.set(mpm);
    // If it panics, its thread ends with it.
    test();
    USUAL.set(Mpm::Event);
}

/// A server before it starts.
#[derive(Debug, Clone)]
pub struct Setup {
    pub(crate) under_test: UnderTest,
    prefix: Option<PathBuf>,
    mpm: Mpm,
    allows_htaccess: bool,
    names_interpreters: bool,
    directives: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Who starts httpd, if not we ourselves.
    pub(crate) starter: Option<u32>,
    pub(crate) sites: Vec<Site>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            under_test: UnderTest::chosen(),
            prefix: None,
            mpm: USUAL.get(),
            allows_htaccess: true,
            names_interpreters: true,
            directives: Vec::new(),
            environment: Vec::new(),
            starter: None,
            sites: Vec::new(),
        }
    }
}

impl Setup {
    /// Whether httpd itself may crash when it is stopped: a thread of mod_http2 takes prefork's SIGTERM and frees what
    /// the others work with.
    pub(crate) fn crashes_at_stop(&self) -> bool {
        let speaks_h2 = |line: &String| line.contains("http2_module");
        self.mpm == Mpm::Prefork && self.directives.iter().any(speaks_h2)
    }

    /// A server under the event MPM with one site.
    #[must_use]
    pub fn of(site: Site) -> Setup {
        Setup::default().site(site)
    }

    /// Chooses whose module serves the apps.
    #[must_use]
    pub fn under_test(mut self, under_test: UnderTest) -> Setup {
        self.under_test = under_test;
        self
    }

    /// Chooses the MPM.
    #[must_use]
    pub fn mpm(mut self, mpm: Mpm) -> Setup {
        self.mpm = mpm;
        self
    }

    /// Has httpd look for no `.htaccess`, as Debian's configuration does.
    #[must_use]
    pub fn without_htaccess(mut self) -> Setup {
        self.allows_htaccess = false;
        self
    }

    /// Leaves it to the module which interpreters run the apps.
    #[must_use]
    pub fn without_interpreters(mut self) -> Setup {
        self.names_interpreters = false;
        self
    }

    /// Adds a line of global configuration; `{root}` in it, or in a site's, becomes the `ServerRoot`, and
    /// `{port}` the port it listens on.
    #[must_use]
    pub fn with(mut self, directive: &str) -> Setup {
        self.directives.push(directive.to_owned());
        self
    }

    /// Starts httpd with another variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Has an ordinary user start httpd (which needs root).
    #[must_use]
    pub fn started_by(mut self, uid: u32) -> Setup {
        self.starter = Some(uid);
        self
    }

    /// Adds a virtual host.
    #[must_use]
    pub fn site(mut self, site: Site) -> Setup {
        self.sites.push(site);
        self
    }

    /// Takes a site back.
    #[must_use]
    pub fn without_site(mut self, name: &str) -> Setup {
        self.sites.retain(|site| site.name != name);
        self
    }

    /// Replaces the lines of a site's virtual host.
    #[must_use]
    pub fn with_lines_of(mut self, name: &str, directives: &[&str]) -> Setup {
        for site in self.sites.iter_mut().filter(|site| site.name == name) {
            site.directives = directives.iter().map(|&line| line.to_owned()).collect();
        }
        self
    }

    /// Uses an installation of its own instead of the staged one.
    #[must_use]
    pub fn installed_in(mut self, prefix: &Path) -> Setup {
        self.prefix = Some(prefix.to_owned());
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    /// When it does not start; the message has its log.
    #[must_use]
    pub fn start(self) -> Server {
        Server::start(self)
    }

    /// The server's `httpd.conf`.
    pub(crate) fn configuration(&self, root: &Path, port: u16) -> String {
        let place = root.display();
        let mut lines = vec![
            format!("ServerRoot \"{place}\""),
            format!("Listen 127.0.0.1:{port}"),
            "ServerName localhost".to_owned(),
            "DefaultRuntimeDir run\nPidFile run/httpd.pid\nErrorLog error.log\nLogLevel info"
                .to_owned(),
            "KeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\nTimeout 60".to_owned(),
            "GracefulShutdownTimeout 20".to_owned(),
        ];
        let mpm = format!("mpm_{}", self.mpm.name());
        for module in [
            &mpm,
            "authz_core",
            "dir",
            "mime",
            "alias",
            "env",
            "setenvif",
            "rewrite",
            "autoindex",
        ] {
            lines.push(format!(
                "LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so"
            ));
        }
        lines.push(self.mpm.sizes().to_owned());
        lines.push("TypesConfig /dev/null\nAddType text/html .html".to_owned());
        if Uid::effective().is_root() && self.starter.is_none() {
            lines.push("User www-data\nGroup www-data".to_owned());
        }
        let registry = root.join(REGISTRY);
        let module = self
            .under_test
            .configuration(&registry, self.prefix.as_deref());
        let is_wanted =
            |lines: &String| self.names_interpreters || !lines.contains("PassengerRuby");
        lines.extend(module.into_iter().filter(is_wanted));
        lines.extend(self.directives.iter().cloned());
        let overrides = if self.allows_htaccess { "All" } else { "None" };
        lines.push(format!(
            "<Directory />\n    Require all granted\n    AllowOverride {overrides}\n</Directory>"
        ));
        lines.extend(self.sites.iter().map(|site| virtual_host(site, root, port)));
        // A test cannot know this before it has a server.
        lines
            .join("\n")
            .replace("{root}", &place.to_string())
            .replace("{port}", &port.to_string())
            + "\n"
    }
}

fn virtual_host(site: &Site, root: &Path, port: u16) -> String {
    let public = root.join(SITES).join(&site.name).join("public");
    format!(
        "<VirtualHost *:{port}>\n    ServerName {}\n    DocumentRoot \"{}\"\n    {}\n</VirtualHost>",
        site.name,
        public.display(),
        site.directives.join("\n    ")
    )
}
