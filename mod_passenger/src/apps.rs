//! Which directory is an app? What the worker remembers of its looks at the file system.
//!
//! A look (one `stat` per startup file) is repeated after `PassengerStatThrottleRate` seconds. The agent
//! decides for itself what it runs; this is only about whether a URL is an app's at all.

use crate::passengerfile;
use crate::restarts::RestartFiles;
use parking_lot::{Mutex, RwLock};
use passenger_shm::messages::Registration;
use passenger_shm::{GroupRef, ModuleView};
use std::collections::hash_map::DefaultHasher;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries after which the cache starts over; wildcard hosts could fill it without end.
const MAX_ENTRIES: usize = 4096;

/// Startup files by which an app without `PassengerAppType` is known, in order of preference.
const STARTUP_FILES: [&str; 6] = [
    "config.ru",
    "passenger_wsgi.py",
    "passenger_asgi.py",
    "app.js",
    "app.mjs",
    ".meteor",
];

/// An app as this worker knows it.
pub(crate) struct App {
    /// What the agent is asked.
    pub(crate) registration: Registration,
    /// Its directory, if the worker can tell.
    pub(crate) root: Option<PathBuf>,
    /// Its restart files.
    pub(crate) restart_files: RestartFiles,
    group: Mutex<Option<GroupRef>>,
}

impl App {
    /// The group that served last, while it exists.
    pub(crate) fn group(&self, view: &ModuleView) -> Option<GroupRef> {
        (*self.group.lock()).filter(|group| view.group(*group).is_some())
    }

    /// Remembers what the agent answered.
    pub(crate) fn set_group(&self, group: Option<GroupRef>) {
        *self.group.lock() = group;
    }
}

/// What decides where an app is.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Record numbers of the request's configuration.
    pub(crate) chain: &'a [u32],
    /// Document root of the URL's context.
    pub(crate) document_root: &'a [u8],
    /// Base URI, empty for the root.
    pub(crate) base_uri: &'a str,
    /// `PassengerAppRoot`.
    pub(crate) app_root: Option<&'a str>,
    /// `PassengerStartupFile`.
    pub(crate) startup_file: Option<&'a str>,
    /// `PassengerRestartDir`.
    pub(crate) restart_dir: &'a str,
    /// The type or command is configured, so no file needs to say so.
    pub(crate) is_declared: bool,
}

struct Entry {
    chain: Box<[u32]>,
    document_root: Box<[u8]>,
    base_uri: Box<str>,
    checked: Instant,
    app: Option<Arc<App>>,
}

impl Entry {
    fn is_for(&self, place: &Place<'_>) -> bool {
        *self.chain == *place.chain
            && *self.document_root == *place.document_root
            && *self.base_uri == *place.base_uri
    }
}

/// The looks of this worker process.
pub(crate) struct Apps {
    entries: RwLock<HashMap<u64, Entry>>,
}

impl Apps {
    /// An empty cache.
    pub(crate) fn new() -> Self {
        Self {
            entries: RwLock::new(HashMap::new()),
        }
    }

    /// The app at that place, if there is one. Looks at the file system at most once per `throttle`.
    pub(crate) fn find(
        &self,
        place: &Place<'_>,
        generation: u64,
        throttle: Duration,
    ) -> Option<Arc<App>> {
        let key = key(place);
        let now = Instant::now();
        if let Some(entry) = self.entries.read().get(&key).filter(|e| e.is_for(place)) {
            let is_fresh = now.duration_since(entry.checked) < throttle;
            if is_fresh {
                return entry.app.clone();
            }
        }
        self.look(key, place, generation, now)
    }

    fn look(&self, key: u64, place: &Place<'_>, generation: u64, now: Instant) -> Option<Arc<App>> {
        let is_app = is_app(place);
        let mut entries = self.entries.write();
        if entries.len() >= MAX_ENTRIES {
            entries.clear();
        }
        let before = entries
            .get(&key)
            .filter(|e| e.is_for(place))
            .and_then(|e| e.app.clone());
        let app = is_app.then(|| before.unwrap_or_else(|| Arc::new(describe(place, generation))));
        if let Some(app) = &app {
            app.restart_files.look();
        }
        let entry = Entry {
            chain: place.chain.into(),
            document_root: place.document_root.into(),
            base_uri: place.base_uri.into(),
            checked: now,
            app: app.clone(),
        };
        entries.insert(key, entry);
        app
    }
}

fn key(place: &Place<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (place.chain, place.document_root, place.base_uri).hash(&mut hasher);
    hasher.finish()
}

fn describe(place: &Place<'_>, generation: u64) -> App {
    App {
        registration: Registration {
            generation,
            chain: place.chain.to_vec(),
            document_root: String::from_utf8_lossy(place.document_root).into_owned(),
            base_uri: place.base_uri.to_owned(),
        },
        root: app_root(place),
        restart_files: RestartFiles::in_directory(
            app_root(place)
                .map(|root| root.join(place.restart_dir))
                .as_deref(),
        ),
        group: Mutex::new(None),
    }
}

fn is_app(place: &Place<'_>) -> bool {
    if place.is_declared {
        return true;
    }
    let Some(root) = app_root(place) else {
        return false;
    };
    match place.startup_file {
        Some(file) => root.join(file).exists(),
        None => {
            STARTUP_FILES.iter().any(|file| root.join(file).exists())
                || passengerfile::may_name_a_command(&root)
        }
    }
}

/// `PassengerAppRoot`, or the parent of the public directory. A base URI's public directory may be a link
/// to another app's; it is resolved one level, as the original does.
fn app_root(place: &Place<'_>) -> Option<PathBuf> {
    if let Some(root) = place.app_root {
        return Some(PathBuf::from(root));
    }
    if place.document_root.is_empty() {
        return None;
    }
    let document_root = Path::new(OsStr::from_bytes(place.document_root));
    if place.base_uri.is_empty() {
        return document_root.parent().map(Path::to_path_buf);
    }
    let public = document_root.join(place.base_uri.trim_start_matches('/'));
    let target = match std::fs::read_link(&public) {
        Ok(link) => public.parent()?.join(link),
        Err(_) => public,
    };
    target.parent().map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place<'a>(document_root: &'a str, base_uri: &'a str) -> Place<'a> {
        Place {
            chain: &[1, 2],
            document_root: document_root.as_bytes(),
            base_uri,
            app_root: None,
            startup_file: None,
            restart_dir: "tmp",
            is_declared: false,
        }
    }

    fn directory(name: &str) -> PathBuf {
        let directory =
            std::env::temp_dir().join(format!("passenger-apps-{name}-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("public")).unwrap();
        directory
    }

    #[test]
    fn an_app_is_known_by_its_startup_file_and_kept_while_it_is_there() {
        let root = directory("file");
        let public = root.join("public").to_str().unwrap().to_owned();
        let apps = Apps::new();
        let look = || apps.find(&place(&public, ""), 3, Duration::ZERO);
        assert!(look().is_none());
        std::fs::write(root.join("config.ru"), "").unwrap();
        let (first, second) = (look().unwrap(), look().unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.registration.generation, 3);
        std::fs::remove_file(root.join("config.ru")).unwrap();
        let throttled = apps.find(&place(&public, ""), 3, Duration::from_secs(3600));
        assert!(throttled.is_some(), "the last look is younger than an hour");
        assert!(look().is_none());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_base_uri_that_is_a_link_belongs_to_the_linked_app() {
        let (host, app) = (directory("host"), directory("linked"));
        std::fs::write(app.join("app.js"), "").unwrap();
        std::os::unix::fs::symlink(app.join("public"), host.join("public/sub")).unwrap();
        let public = host.join("public").to_str().unwrap().to_owned();
        let apps = Apps::new();
        assert!(apps
            .find(&place(&public, "/sub"), 1, Duration::ZERO)
            .is_some());
        assert!(apps.find(&place(&public, ""), 1, Duration::ZERO).is_none());
        std::fs::remove_dir_all(host).unwrap();
        std::fs::remove_dir_all(app).unwrap();
    }
}
