//! Makes the order for one start: finds the application again (a deployment may have switched a link),
//! says as whom it runs, with which interpreter and variables. Looks at files of the app's user and asks
//! the name service, so it can block: run it where that hurts nobody, under the start's deadline.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use passenger_shm::messages::Registration;

use super::accounts::{Accounts, System};
use super::environment::{self, Source};
use super::identity::{self, FileOwner, Identity, Rules};
use super::login_shell;
use super::order::SpawnOrder;
use super::port::Reservation;
use super::{command, ownership};
use crate::app_log::{Owner, Target};
use crate::config::{Application, Configuration, OwnerRule};
use crate::status::board::GroupFacts;
use crate::sys::process::effective_uid;

/// A start that may begin.
#[derive(Debug)]
pub struct Prepared {
    /// What the shim is told.
    pub order: SpawnOrder,
    /// Uid the process will have.
    pub uid: u32,
    /// That user's name.
    pub user: String,
    /// What the app is, for who looks.
    pub about: GroupFacts,
    /// Budget of the whole start.
    pub timeout: Duration,
    /// Requests at once whatever the process says; 0 = unlimited.
    pub forced_concurrency: Option<u32>,
    /// Where it is to listen, if it has no loader.
    pub port: Option<Arc<Reservation>>,
    /// Whether a preloader is to load it.
    pub preloads: bool,
    /// Name of the app's group.
    pub group_name: String,
    /// Facts for a failure report.
    pub facts: Vec<(&'static str, String)>,
}

/// Makes the order. `loaders` is the directory of the loaders.
///
/// # Errors
/// A sentence that completes "the app could not be started: …".
pub fn prepare(
    config: &Configuration,
    registration: &Registration,
    loaders: &Path,
) -> Result<Prepared, String> {
    let app = Application::find(config, registration)?;
    let euid = effective_uid();
    let identity = (euid == 0).then(|| choose(config, &app)).transpose()?;
    let me = match &identity {
        Some(identity) => identity.clone(),
        None => myself(euid, app.owner)?,
    };
    let mut configured = config.global.default_ruby.as_deref();
    if app.kind.directive != "PassengerRuby" || app.options.ruby.is_some() {
        configured = app.configured_interpreter();
    }
    let port = match app.kind.loader {
        Some(_) => None,
        None => Some(
            Reservation::new()
                .map(Arc::new)
                .map_err(|e| format!("there is no free port for it: {e}"))?,
        ),
    };
    let source = Source {
        port: port.as_ref().map(|reserved| reserved.port),
        own: &|name| env::var(name).ok(),
        identity: &me,
        configured: config.environment(&registration.document_root),
        software: &config.apache.software,
        peer_uid: if euid == 0 { config.apache.uid } else { euid },
    };
    let environment = environment::build(&app, &source);
    let path = environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or("", |(_, path)| path);
    let (program, arguments) = match (app.kind.loader, &port) {
        (None, Some(reserved)) => command::of(&app, reserved.port, path, &me.home)?,
        (loader, _) => (
            app.kind.interpreter(configured, &app.app_root),
            loader
                .map(|loader| loaders.join(loader))
                .into_iter()
                .collect(),
        ),
    };
    let asks_shell = app.options.loads_shell_variables() && login_shell::is_usable(&me.shell);
    let order = SpawnOrder {
        identity,
        program,
        directive: app.kind.directive.to_owned(),
        arguments,
        app_root: app.app_root.clone(),
        startup_file: app.kind.loader.map(|_| app.startup_file.clone()),
        has_loader: app.kind.loader.is_some(),
        login_shell: asks_shell.then(|| me.shell.clone()),
        kept: environment::kept(&environment, &source),
        environment,
        preloads: false,
    };
    let mut facts = vec![
        ("app root", app.app_root.display().to_string()),
        ("app type", app.kind.name.to_owned()),
        ("environment", app.options.app_env().to_owned()),
    ];
    match &port {
        Some(reserved) => facts.push(("port", reserved.port.to_string())),
        None => facts.push(("startup file", app.startup_file.display().to_string())),
    }
    Ok(Prepared {
        order,
        uid: me.uid,
        user: me.user.clone(),
        about: GroupFacts::of(&app),
        timeout: app.options.start_timeout(),
        forced_concurrency: app.options.forced_concurrency(),
        port,
        preloads: app.options.preloads(app.kind),
        group_name: app.group_name,
        facts,
    })
}

/// Which log of its own an app has (`PassengerAppLogFile`). Blocks like [`prepare`]; needs less, so that it is known
/// also when a start cannot begin.
#[must_use]
pub fn log_target(config: &Configuration, registration: &Registration) -> Option<Target> {
    let app = Application::find(config, registration).ok()?;
    let path = app.app_root.join(app.options.app_log_file.as_deref()?);
    let is_root = effective_uid() == 0;
    let identity = is_root.then(|| choose(config, &app).ok()).flatten();
    let owner = identity.as_ref().map(Owner::from);
    let name = app.group_name;
    Some(Target { path, name, owner })
}

fn choose(config: &Configuration, app: &Application) -> Result<Identity, String> {
    let rules = Rules {
        switching: config.global.user_switching,
        user: app.options.user.as_deref(),
        group: app.options.group.as_deref(),
        default_user: &config.global.default_user,
        default_group: config.global.default_group.as_deref(),
        owner: app.owner,
    };
    let file = if rules.ask_the_file() {
        ownership::of_startup_file(&app.app_root, &app.startup_file)?
    } else {
        plain_owner(&app.startup_file)?
    };
    identity::choose(&rules, file, &System)
}

/// The file itself and not what it links to: a link says nothing about who may run its target.
fn plain_owner(startup_file: &Path) -> Result<FileOwner, String> {
    let file = fs::symlink_metadata(startup_file).map_err(|e| {
        format!(
            "cannot look at the startup file {}: {e}",
            startup_file.display()
        )
    })?;
    Ok(FileOwner {
        uid: file.uid(),
        gid: file.gid(),
    })
}

/// Without root's rights everything runs as the agent's own user.
fn myself(euid: u32, owner: OwnerRule) -> Result<Identity, String> {
    if let OwnerRule::Only { uid } = owner {
        if uid != euid {
            return Err(format!(
                "the app belongs to uid {uid}, its document root is not in the configuration, and the \
                 agent is not root and cannot become its owner"
            ));
        }
    }
    let account = System.user_of(euid);
    let gid = nix::unistd::getegid().as_raw();
    Ok(Identity {
        uid: euid,
        gid,
        groups: vec![],
        group: System.group_name(gid).unwrap_or_else(|| gid.to_string()),
        user: account
            .as_ref()
            .map_or_else(|| euid.to_string(), |a| a.name.clone()),
        home: account
            .as_ref()
            .map_or_else(|| "/".into(), |a| a.home.clone()),
        shell: account.map_or_else(|| "/bin/sh".into(), |a| a.shell),
    })
}
