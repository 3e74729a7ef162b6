//! Apps under test: the probe of each language (`tests/e2e/fixtures`), or one written inline, copied
//! to a place of its own. As root the copy belongs to an ordinary user, so that user switching works.

use crate::stage::repository;
use nix::unistd::{Uid, User};
use std::fs;
use std::os::unix::fs::{chown, PermissionsExt};
use std::path::{Path, PathBuf};

/// Who owns the apps when the tests run as root: an account of every Debian system that is neither
/// httpd's user nor the default user, so that "runs as its owner" cannot come out by accident.
pub const APP_OWNER: &str = "daemon";

/// A language with a loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Rack, `config.ru`.
    Ruby,
    /// WSGI, `passenger_wsgi.py`.
    Python,
    /// `app.js`.
    Node,
}

impl Language {
    /// All of them.
    pub const ALL: [Language; 3] = [Language::Ruby, Language::Python, Language::Node];

    /// The word used for sites and fixture directories.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Language::Ruby => "ruby",
            Language::Python => "python",
            Language::Node => "node",
        }
    }

    /// The startup file that marks an app of this language.
    #[must_use]
    pub fn startup_file(self) -> &'static str {
        match self {
            Language::Ruby => "config.ru",
            Language::Python => "passenger_wsgi.py",
            Language::Node => "app.js",
        }
    }
}

/// Where an app's files come from.
#[derive(Debug, Clone)]
enum Source {
    Nothing,
    Directory(PathBuf),
    Inline(Language, String),
}

/// An app before it is installed in an instance.
#[derive(Debug, Clone)]
pub struct App {
    source: Source,
    files: Vec<(String, String)>,
}

impl App {
    /// The probe: one app per language that answers the same URLs (`tests/e2e/fixtures/README.md`).
    #[must_use]
    pub fn probe(language: Language) -> App {
        let directory = repository()
            .join("tests/e2e/fixtures")
            .join(language.name());
        App {
            source: Source::Directory(directory),
            files: Vec::new(),
        }
    }

    /// An app that consists of this startup file.
    #[must_use]
    pub fn inline(language: Language, startup_file: &str) -> App {
        App {
            source: Source::Inline(language, startup_file.to_owned()),
            files: Vec::new(),
        }
    }

    /// No app, only the files added to it.
    #[must_use]
    pub fn files() -> App {
        App {
            source: Source::Nothing,
            files: Vec::new(),
        }
    }

    /// Adds a file, by its path under the app's root.
    #[must_use]
    pub fn file(mut self, path: &str, text: &str) -> App {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// Writes the app to `root`, owned by [`APP_OWNER`] when run as root.
    pub(crate) fn install(&self, root: &Path) {
        fs::create_dir_all(root.join("public")).expect("create the app's public directory");
        match &self.source {
            Source::Nothing => {}
            Source::Directory(from) => copy_tree(from, root),
            Source::Inline(language, text) => write(&root.join(language.startup_file()), text),
        }
        for (path, text) in &self.files {
            write(&root.join(path), text);
        }
        hand_over(root);
    }
}

/// A virtual host of one app.
#[derive(Debug, Clone)]
pub struct Site {
    /// Name, which is also `ServerName` and the directory's name.
    pub(crate) name: String,
    pub(crate) app: App,
    pub(crate) directives: Vec<String>,
}

impl Site {
    /// A site `name` that serves `app`.
    #[must_use]
    pub fn new(name: &str, app: App) -> Site {
        Site {
            name: name.to_owned(),
            app,
            directives: Vec::new(),
        }
    }

    /// The probe of a language, on a site named after it.
    #[must_use]
    pub fn probe(language: Language) -> Site {
        Site::new(language.name(), App::probe(language))
    }

    /// Adds a line to the virtual host.
    #[must_use]
    pub fn with(mut self, directive: &str) -> Site {
        self.directives.push(directive.to_owned());
        self
    }
}

/// The uid that owns installed apps: [`APP_OWNER`]'s for root, else our own.
///
/// # Panics
/// When that account does not exist.
#[must_use]
pub fn owner_uid() -> u32 {
    if !Uid::effective().is_root() {
        return Uid::effective().as_raw();
    }
    let user = User::from_name(APP_OWNER).expect("read the user database");
    user.unwrap_or_else(|| panic!("this system has no user {APP_OWNER}"))
        .uid
        .as_raw()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create a directory of the app");
    let entries =
        fs::read_dir(from).unwrap_or_else(|e| panic!("cannot read {}: {e}", from.display()));
    for entry in entries {
        let path = entry.expect("read a directory entry").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            fs::copy(&path, &target)
                .unwrap_or_else(|e| panic!("cannot copy {}: {e}", path.display()));
        }
    }
}

fn write(path: &Path, text: &str) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("create a directory of the app");
    }
    fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}

/// Gives a tree to the apps' owner and makes it readable for httpd.
fn hand_over(path: &Path) {
    let is_directory = path.is_dir();
    let mode = if is_directory { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .expect("set permissions of the app");
    if Uid::effective().is_root() {
        chown(path, Some(owner_uid()), None).expect("give the app to its owner");
        let group = User::from_name(APP_OWNER)
            .ok()
            .flatten()
            .map(|user| user.gid.as_raw());
        chown(path, None, group).expect("give the app to its owner's group");
    }
    if is_directory {
        for entry in fs::read_dir(path).expect("read the app's directory") {
            hand_over(&entry.expect("read a directory entry").path());
        }
    }
}
