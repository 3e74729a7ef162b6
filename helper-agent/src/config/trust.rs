//! The trust rule: which application a worker's registration may mean. Workers run as Apache's user and
//! count as hostile; they can recombine what the administrator wrote, never invent a path, user or command
//! (`design-review.md`, B6).
//!
//! * App root: from a record, or beside a document root of the configuration: trusted.
//! * Any other document root (mod_userdir, VirtualDocumentRoot): runs only as the one non-root owner of
//!   app root and startup file, and only if nobody else can write any part of the way there.
//!
//! Looks at files that belong to apps' users, so it can block on their file systems: call it where that
//! hurts nobody.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use passenger_shm::messages::Registration;

use super::{AppOptions, Configuration};
use crate::apps::{self, AppType};

/// As whom an application may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnerRule {
    /// As the configuration says, by default as the owner of the startup file.
    Configured,
    /// As this user and nobody else: the owner of an app that the administrator did not name.
    Only {
        /// Its uid, never 0.
        uid: u32,
    },
}

/// An application that may be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Its options, merged.
    pub options: AppOptions,
    /// Its type.
    pub kind: &'static AppType,
    /// Its directory as configured: links in it are followed at each start anew, so that a deployment
    /// may switch a link.
    pub app_root: PathBuf,
    /// The same with all links resolved now.
    pub real_root: PathBuf,
    /// Startup file, absolute; a command without one has its directory here, whose owner then counts.
    pub startup_file: PathBuf,
    /// Base URI, empty for the root of the host.
    pub base_uri: String,
    /// As whom it may run.
    pub owner: OwnerRule,
    /// Name of its group.
    pub group_name: String,
}

impl Application {
    /// Finds what a registration means.
    ///
    /// # Errors
    /// A sentence for the log when it means nothing that may be run.
    pub fn find(config: &Configuration, registration: &Registration) -> Result<Self, String> {
        let options = config.options(&registration.chain)?;
        let base_uri = &registration.base_uri;
        if !base_uri.is_empty() && !options.base_uris.contains(base_uri) {
            return Err(format!(
                "no PassengerBaseURI {base_uri:?} is configured here"
            ));
        }
        let (app_root, is_known) = match &options.app_root {
            Some(root) => (checked_path("PassengerAppRoot", root)?, true),
            None => (
                beside_public(&registration.document_root, base_uri)?,
                config.knows_document_root(&registration.document_root, &registration.chain)?,
            ),
        };
        let kind = kind_of(&options, &app_root)?;
        let real_root = fs::canonicalize(&app_root).map_err(|e| unreadable(&app_root, &e))?;
        let startup_file = match &options.startup_file {
            Some(file) => app_root.join(file),
            None if kind.startup_files.is_empty() => real_root.clone(),
            None => app_root.join(kind.startup_file(&app_root)),
        };
        let owner = if is_known {
            OwnerRule::Configured
        } else if startup_file == real_root {
            // Nothing there says that it is an app.
            return Err(format!(
                "PassengerAppStartCommand runs below a document root of the configuration or in a \
                 PassengerAppRoot, not in {}",
                app_root.display()
            ));
        } else {
            sole_owner(&real_root, &startup_file)?
        };
        let group_name = options.group_name.clone();
        let group_name =
            group_name.unwrap_or_else(|| format!("{} ({})", app_root.display(), options.app_env()));
        Ok(Self {
            kind,
            real_root,
            startup_file,
            base_uri: base_uri.clone(),
            owner,
            group_name,
            app_root,
            options,
        })
    }

    /// The interpreter that was configured for its type.
    #[must_use]
    pub fn configured_interpreter(&self) -> Option<&str> {
        match self.kind.directive {
            "PassengerRuby" => self.options.ruby.as_deref(),
            "PassengerPython" => self.options.python.as_deref(),
            _ => self.options.nodejs.as_deref(),
        }
    }
}

/// An absolute path without `..`, as only such can be compared and logged without surprise.
fn checked_path(what: &str, path: &str) -> Result<PathBuf, String> {
    let checked = Path::new(path);
    let has_parent = checked.components().any(|c| c == Component::ParentDir);
    if !checked.is_absolute() || has_parent || path.contains('\0') {
        return Err(format!(
            "{what} {path:?} is not an absolute path without \"..\""
        ));
    }
    Ok(checked.to_path_buf())
}

/// The app root of a public directory is its parent. Under a base URI the public directory may be a link
/// into the app, and is followed one level.
fn beside_public(document_root: &str, base_uri: &str) -> Result<PathBuf, String> {
    let document_root = checked_path("document root", document_root)?;
    let mut public = document_root;
    if !base_uri.is_empty() {
        checked_path("base URI", base_uri)?;
        public.push(base_uri.trim_matches('/'));
        if let Ok(target) = fs::read_link(&public) {
            let parent = public.parent().unwrap_or(Path::new("/"));
            public = parent.join(target);
        }
    }
    match public.parent() {
        Some(root) => Ok(root.to_path_buf()),
        None => Err(format!(
            "{} cannot be the public directory of an app",
            public.display()
        )),
    }
}

fn kind_of(options: &AppOptions, app_root: &Path) -> Result<&'static AppType, String> {
    if options.start_command.is_some() {
        return Ok(&apps::GENERIC);
    }
    if let Some(name) = &options.app_type {
        return AppType::by_name(name)
            .ok_or_else(|| format!("PassengerAppType {name:?} is not a type of application"));
    }
    let found = AppType::detect(app_root).map_err(|e| unreadable(app_root, &e))?;
    found.ok_or_else(|| {
        let types = crate::apps::TYPES.iter();
        let files: Vec<&str> = types.flat_map(|t| t.startup_files).copied().collect();
        format!(
            "there is no app in {}: none of {}",
            app_root.display(),
            files.join(", ")
        )
    })
}

/// The strict rule for apps that the administrator did not name.
fn sole_owner(real_root: &Path, startup_file: &Path) -> Result<OwnerRule, String> {
    let refuse = |why: String| {
        format!("{why}; an app outside the configured document roots runs only as the sole owner of its files")
    };
    let root = fs::metadata(real_root).map_err(|e| unreadable(real_root, &e))?;
    let file = fs::symlink_metadata(startup_file).map_err(|e| unreadable(startup_file, &e))?;
    if !file.is_file() && !file.is_dir() {
        return Err(refuse(format!(
            "{} is neither a file nor a directory",
            startup_file.display()
        )));
    }
    if root.uid() == 0 || root.uid() != file.uid() {
        return Err(refuse(format!(
            "{} belongs to uid {} and {} to uid {}",
            real_root.display(),
            root.uid(),
            startup_file.display(),
            file.uid()
        )));
    }
    for part in real_root.ancestors().chain([startup_file]) {
        let meta = fs::symlink_metadata(part).map_err(|e| unreadable(part, &e))?;
        let is_foreign = meta.uid() != 0 && meta.uid() != root.uid();
        if is_foreign || meta.permissions().mode() & 0o022 != 0 {
            return Err(refuse(format!(
                "{} can be changed by other users",
                part.display()
            )));
        }
    }
    Ok(OwnerRule::Only { uid: root.uid() })
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("cannot look at {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::super::tests::configuration;
    use super::*;

    /// A directory of its own under a path only root can change, removed at the end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let is_root = nix::unistd::geteuid().is_root();
            let base = if is_root {
                PathBuf::from("/var/lib")
            } else {
                std::env::temp_dir()
            };
            let dir = base.join(format!("passenger-trust-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("app/public")).unwrap();
            fs::write(dir.join("app/config.ru"), "").unwrap();
            Self(dir)
        }

        fn path(&self, rest: &str) -> String {
            self.0.join(rest).to_str().unwrap().to_owned()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn registration(document_root: &str, base_uri: &str, chain: &[u32]) -> Registration {
        Registration {
            generation: 1,
            chain: chain.to_vec(),
            document_root: document_root.into(),
            base_uri: base_uri.into(),
        }
    }

    #[test]
    fn a_configured_document_root_means_the_app_beside_it() {
        let dir = Dir::new("beside");
        let public = dir.path("app/public");
        let config = configuration(1, &[&public], &[]);
        let app = Application::find(&config, &registration(&public, "", &[])).unwrap();
        assert_eq!(app.app_root, dir.0.join("app"));
        assert_eq!(app.startup_file, dir.0.join("app/config.ru"));
        assert_eq!(app.owner, OwnerRule::Configured);
        assert_eq!(app.kind.name, "ruby");
        assert_eq!(app.group_name, format!("{} (production)", dir.path("app")));
    }

    #[test]
    fn a_base_uri_must_be_configured_and_its_link_is_followed_once() {
        let dir = Dir::new("base");
        fs::create_dir(dir.0.join("www")).unwrap();
        symlink("../app/public", dir.0.join("www/sub")).unwrap();
        let www = dir.path("www");
        let config = configuration(1, &[&www], &[("v", &[("PassengerBaseURI", "/sub")])]);
        let app = Application::find(&config, &registration(&www, "/sub", &[1])).unwrap();
        assert_eq!(app.real_root, dir.0.canonicalize().unwrap().join("app"));
        let refused = Application::find(&config, &registration(&www, "/other", &[1]));
        assert!(refused.unwrap_err().contains("no PassengerBaseURI"));
        assert!(Application::find(&config, &registration(&www, "/sub", &[])).is_err());
    }

    #[test]
    fn a_worker_cannot_point_root_at_another_directory() {
        let dir = Dir::new("foreign");
        let config = configuration(1, &["/srv/www"], &[]);
        let public = dir.path("app/public");
        let claim = registration(&public, "", &[]);
        let me = nix::unistd::geteuid();
        if me.is_root() {
            // Root's files never run because a worker says so.
            let refused = Application::find(&config, &claim).unwrap_err();
            assert!(refused.contains("belongs to uid 0"), "{refused}");
            chown(dir.0.join("app"), Some(1234), None).unwrap();
            chown(dir.0.join("app/config.ru"), Some(33), None).unwrap();
            let refused = Application::find(&config, &claim).unwrap_err();
            assert!(
                refused.contains("uid 1234") && refused.contains("uid 33"),
                "{refused}"
            );
            chown(dir.0.join("app/config.ru"), Some(1234), None).unwrap();
            let app = Application::find(&config, &claim).unwrap();
            assert_eq!(app.owner, OwnerRule::Only { uid: 1234 });
        }
        let writable = fs::Permissions::from_mode(0o777);
        fs::set_permissions(dir.0.join("app"), writable).unwrap();
        let refused = Application::find(&config, &claim).unwrap_err();
        assert!(
            refused.contains("can be changed by other users"),
            "{refused}"
        );
        for path in [
            "relative/public",
            "/a/../etc/public",
            "/a\0b/public",
            "/",
            "",
        ] {
            assert!(
                Application::find(&config, &registration(path, "", &[])).is_err(),
                "{path:?}"
            );
        }
    }

    #[test]
    fn a_command_runs_only_where_the_administrator_said() {
        let dir = Dir::new("command");
        let public = dir.path("app/public");
        let command = [("PassengerAppStartCommand", "./server")];
        let claim = registration(&public, "", &[1]);
        let config = configuration(1, &[&public], &[("", &command)]);
        let app = Application::find(&config, &claim).unwrap();
        assert_eq!(
            (app.kind.name, app.owner),
            ("generic", OwnerRule::Configured)
        );
        assert_eq!(app.startup_file, app.real_root, "whose owner it runs as");
        let elsewhere = configuration(1, &["/srv/www"], &[("", &command)]);
        let refused = Application::find(&elsewhere, &claim).unwrap_err();
        assert!(
            refused.contains("below a document root of the configuration"),
            "{refused}"
        );
        let root = dir.path("app");
        let named = [command[0], ("PassengerAppRoot", root.as_str())];
        let config = configuration(1, &["/srv/www"], &[("", &named)]);
        assert_eq!(
            Application::find(&config, &claim).unwrap().kind.name,
            "generic"
        );
    }

    #[test]
    fn an_unknown_type_or_an_empty_directory_is_refused_in_a_sentence() {
        let dir = Dir::new("empty");
        let public = dir.path("app/public");
        let config = configuration(1, &[&public], &[("v", &[("PassengerAppType", "perl")])]);
        let refused = Application::find(&config, &registration(&public, "", &[1])).unwrap_err();
        assert_eq!(
            refused,
            "PassengerAppType \"perl\" is not a type of application"
        );
        fs::remove_file(dir.0.join("app/config.ru")).unwrap();
        let refused = Application::find(&config, &registration(&public, "", &[])).unwrap_err();
        assert!(
            refused.contains(
                "none of config.ru, passenger_wsgi.py, passenger_asgi.py, app.js, app.mjs, .meteor"
            ),
            "{refused}"
        );
    }
}
