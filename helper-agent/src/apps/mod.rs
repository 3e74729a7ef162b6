//! The registry of application types: names, startup file, loader and interpreter of each; detection of
//! a directory's type. Knows files and names, nothing of processes.

pub mod passengerfile;

use std::env;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A type of application.
#[derive(Debug, PartialEq, Eq)]
pub struct AppType {
    /// Canonical name, e.g. `ruby`.
    pub name: &'static str,
    /// Other accepted values of `PassengerAppType`.
    pub aliases: &'static [&'static str],
    /// Files in the app root that make a directory an app of this type; the first that exists starts it.
    pub startup_files: &'static [&'static str],
    /// Its loader in the loaders' directory; `None`: it is a command that listens at `$PORT`.
    pub loader: Option<&'static str>,
    /// Directive that names the interpreter.
    pub directive: &'static str,
    /// Interpreters tried when the directive is absent, in order.
    pub interpreters: &'static [&'static str],
    /// Whether its loader can preload an app and fork its processes.
    pub preloading: Preloading,
}

/// What a type's loader does about preloading (`PassengerSpawnMethod`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preloading {
    /// It cannot.
    Never,
    /// It can, where the directive says so.
    IfAsked,
    /// It does, unless the directive says otherwise.
    ByDefault,
}

const PYTHON: &str = "PassengerPython";

/// All types, in order of detection.
pub static TYPES: [AppType; 5] = [
    AppType {
        name: "ruby",
        aliases: &["rack"],
        startup_files: &["config.ru"],
        loader: Some("rack-loader.rb"),
        directive: "PassengerRuby",
        interpreters: &["ruby"],
        preloading: Preloading::ByDefault,
    },
    AppType {
        name: "python",
        aliases: &["wsgi"],
        startup_files: &["passenger_wsgi.py"],
        loader: Some("wsgi-loader.py"),
        directive: PYTHON,
        interpreters: &["python3", "python"],
        preloading: Preloading::IfAsked,
    },
    AppType {
        name: "asgi",
        aliases: &[],
        startup_files: &["passenger_asgi.py"],
        loader: Some("asgi-loader.py"),
        directive: PYTHON,
        interpreters: &["python3", "python"],
        preloading: Preloading::IfAsked,
    },
    AppType {
        name: "nodejs",
        aliases: &["node"],
        startup_files: &["app.js", "app.mjs"],
        loader: Some("node-loader.js"),
        directive: "PassengerNodejs",
        interpreters: &["node", "nodejs"],
        preloading: Preloading::Never,
    },
    AppType {
        name: "meteor",
        aliases: &[],
        startup_files: &[".meteor"],
        loader: None,
        directive: "PATH",
        interpreters: &["meteor"],
        preloading: Preloading::Never,
    },
];

/// What `PassengerAppStartCommand` makes of an app.
pub static GENERIC: AppType = COMMAND;

const COMMAND: AppType = AppType {
    name: "generic",
    aliases: &[],
    startup_files: &[],
    loader: None,
    directive: "PassengerAppStartCommand",
    interpreters: &["sh"],
    preloading: Preloading::Never,
};

/// What the command in a `Passengerfile.json` makes of an app.
pub static PASSENGERFILE: AppType = AppType {
    startup_files: &[passengerfile::NAME],
    ..COMMAND
};

impl AppType {
    /// Meteor's own directories, not the bundles made from them.
    #[must_use]
    pub fn meteor() -> &'static Self {
        &TYPES[TYPES.len() - 1]
    }

    /// The type of that name or alias.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Self> {
        TYPES
            .iter()
            .find(|t| t.name == name || t.aliases.contains(&name))
    }

    /// The type whose startup file is in that directory; `None` if there is none. A start command in
    /// `Passengerfile.json` comes first; a broken one counts where there is nothing else, so that somebody is told.
    /// May block on a file system that does not answer.
    ///
    /// # Errors
    /// When the directory cannot be searched (permission, I/O error).
    pub fn detect(app_root: &Path) -> io::Result<Option<&'static Self>> {
        let command = passengerfile::command(app_root);
        if let Ok(Some(_)) = command {
            return Ok(Some(&PASSENGERFILE));
        }
        for kind in &TYPES {
            for file in kind.startup_files {
                match app_root.join(file).symlink_metadata() {
                    Ok(_) => return Ok(Some(kind)),
                    Err(e) if is_absence(&e) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(command.is_err().then_some(&PASSENGERFILE))
    }

    /// The startup file of an app of this type where none is configured: the first that exists, else the usual one.
    #[must_use]
    pub fn startup_file(&self, app_root: &Path) -> &'static str {
        let exists = |file: &&&str| app_root.join(file).symlink_metadata().is_ok();
        let found = self.startup_files.iter().find(exists);
        found.or(self.startup_files.first()).copied().unwrap_or("")
    }

    /// The program that runs an app of this type: what was configured, looked up in `PATH` unless it is a
    /// path. For Python a path may also be a virtual environment's, and where nothing is configured the one
    /// in the app root counts. A program that does not exist is returned as written; executing it gives the
    /// clear error. May block on a file system that does not answer.
    #[must_use]
    pub fn interpreter(&self, configured: Option<&str>, app_root: &Path) -> PathBuf {
        if self.directive == PYTHON {
            let environment = match configured {
                Some(directory) if directory.contains('/') => Some(PathBuf::from(directory)),
                Some(_) => None,
                None => Some(app_root.join(".venv")),
            };
            let inside = environment.map(|directory| directory.join("bin/python"));
            if let Some(python) = inside.filter(|python| is_program(python)) {
                return python;
            }
        }
        let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let find = |program: &&str| look_up(program, &path);
        match configured {
            Some(program) if program.contains('/') => PathBuf::from(program),
            Some(program) => find(&program).unwrap_or_else(|| PathBuf::from(program)),
            None => {
                let found = self.interpreters.iter().find_map(find);
                found.unwrap_or_else(|| PathBuf::from(self.interpreters[0]))
            }
        }
    }
}

/// Where programs are looked for when the environment does not say.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Finds a program in the directories of a `PATH`.
pub(crate) fn look_up(program: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|candidate| is_program(candidate))
}

pub(crate) fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_are_unique_and_found() {
        let mut seen = std::collections::HashSet::new();
        for kind in &TYPES {
            for name in std::iter::once(&kind.name).chain(kind.aliases) {
                assert!(seen.insert(*name), "{name} twice");
                assert_eq!(AppType::by_name(name), Some(kind));
            }
        }
        assert_eq!(AppType::by_name("perl"), None);
        assert_eq!(AppType::by_name("meteor"), Some(AppType::meteor()));
        assert_eq!(AppType::by_name("generic"), None, "needs a command");
    }

    #[test]
    fn detection_looks_for_the_startup_file_itself() {
        let dir = std::env::temp_dir().join(format!("passenger-apps-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(AppType::detect(&dir).unwrap(), None);
        std::os::unix::fs::symlink("/nonexistent", dir.join("app.js")).unwrap();
        assert_eq!(
            AppType::detect(&dir).unwrap().map(|t| t.name),
            Some("nodejs")
        );
        std::fs::rename(dir.join("app.js"), dir.join("app.mjs")).unwrap();
        let module = AppType::detect(&dir).unwrap().unwrap();
        assert_eq!(module.startup_file(&dir), "app.mjs");
        assert_eq!(module.startup_file(Path::new("/nonexistent")), "app.js");
        std::fs::write(dir.join("config.ru"), "").unwrap();
        assert_eq!(AppType::detect(&dir).unwrap().map(|t| t.name), Some("ruby"));
        let file = dir.join(passengerfile::NAME);
        for (text, kind) in [
            ("{\"app_start_command\": \"x\"}", "generic"),
            ("{}", "ruby"),
            ("{", "ruby"),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(AppType::detect(&dir).unwrap().map(|t| t.name), Some(kind));
        }
        std::fs::remove_file(dir.join("config.ru")).unwrap();
        std::fs::remove_file(dir.join("app.mjs")).unwrap();
        assert_eq!(
            AppType::detect(&dir).unwrap(),
            Some(&PASSENGERFILE),
            "its start says what is wrong"
        );
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            AppType::detect(&dir).unwrap(),
            None,
            "a missing directory is no app"
        );
    }

    #[test]
    fn interpreters_are_looked_up_but_paths_are_taken_as_written() {
        let python = AppType::by_name("wsgi").unwrap();
        let chosen = |configured| python.interpreter(Some(configured), Path::new("/srv/app"));
        assert_eq!(chosen("/no/such"), Path::new("/no/such"));
        assert_eq!(chosen("no-such-thing"), Path::new("no-such-thing"));
        let shell = chosen("sh");
        assert!(shell.is_absolute(), "{shell:?}");
    }

    #[test]
    fn python_comes_from_a_virtual_environment() {
        let root = std::env::temp_dir().join(format!("passenger-venv-{}", std::process::id()));
        let environment = root.join(".venv");
        std::fs::create_dir_all(environment.join("bin")).unwrap();
        let python = environment.join("bin/python");
        let chosen = |name, configured| {
            let kind = AppType::by_name(name).unwrap();
            kind.interpreter(configured, &root)
        };
        assert_ne!(chosen("wsgi", None), python, "there is no program yet");
        std::os::unix::fs::symlink("/bin/sh", &python).unwrap();
        assert_eq!(chosen("wsgi", None), python);
        assert_eq!(chosen("asgi", None), python);
        assert_eq!(chosen("asgi", environment.to_str()), python);
        assert_eq!(chosen("asgi", python.to_str()), python);
        assert_ne!(chosen("wsgi", Some("python3")), python, "said explicitly");
        assert_ne!(chosen("ruby", None), python);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
