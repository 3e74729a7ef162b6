//! A directory for one test of the agent: installation, registry, apps, log, and the configurations that name them.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use passenger_shm::messages::{Apache, Config, Directive, Record, Server};

use super::scene;

/// A private installation with apps in it.
pub(crate) struct Stage {
    pub(crate) directory: PathBuf,
}

impl Stage {
    pub(crate) fn new(test: &str) -> Self {
        let name = format!("psgr-agent-{}-{test}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&directory);
        for part in ["libexec", "share/passenger", "apps"] {
            fs::create_dir_all(directory.join(part)).unwrap();
        }
        let image = directory.join("libexec/passenger-helper-agent");
        let built = Path::new(env!("CARGO_BIN_EXE_passenger-helper-agent"));
        scene::install(built, &image);
        let loaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("loaders");
        let staged = directory.join("share/passenger/loaders");
        copy_all(&loaders, &staged);
        Self { directory }
    }

    /// Makes an app; returns its document root. Files are (name, text).
    pub(crate) fn app(&self, name: &str, files: &[(&str, &str)]) -> String {
        let root = self.directory.join("apps").join(name);
        fs::create_dir_all(root.join("public")).unwrap();
        for (file, text) in files {
            fs::write(root.join(file), text).unwrap();
        }
        root.join("public").to_str().unwrap().to_owned()
    }

    pub(crate) fn log(&self) -> String {
        scene::log(&self.directory)
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        scene::wait_for_log(&self.directory, text);
    }

    pub(super) fn log_file(&self) -> OwnedFd {
        scene::log_file(&self.directory).into()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        scene::strike(&self.directory);
    }
}

/// A directory with everything in it.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_all(&source, &target);
        } else {
            fs::copy(&source, &target).unwrap();
        }
    }
}

pub(crate) fn directive(name: &str, value: &str) -> Directive {
    Directive {
        name: name.into(),
        args: vec![value.into()],
        file: "test.conf".into(),
        line: 1,
    }
}

/// A configuration: one server per document root, one record with these directives for each of them.
pub(crate) fn config(
    generation: u64,
    global: &[(&str, &str)],
    sites: &[(&str, &[(&str, &str)])],
) -> Config {
    let mut all = vec![directive("PassengerLogLevel", "4")];
    all.extend(global.iter().map(|(name, value)| directive(name, value)));
    Config {
        generation,
        build: "test".into(),
        apache: Apache {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            software: "Test/1.0".into(),
            mpm: "event".into(),
            server_limit: 4,
            max_threads: 64,
        },
        global: all,
        servers: sites
            .iter()
            .map(|(root, _)| Server {
                name: String::new(),
                document_root: (*root).into(),
                env: vec![("FROM_SERVER".into(), "yes".into())],
            })
            .collect(),
        records: sites
            .iter()
            .zip(1..)
            .map(|((root, directives), id)| Record {
                id,
                section: format!("<VirtualHost {root}>"),
                server: id - 1,
                directives: directives
                    .iter()
                    .zip(1..)
                    .map(|((name, value), line)| Directive {
                        line: id * 100 + line,
                        ..directive(name, value)
                    })
                    .collect(),
            })
            .collect(),
    }
}
