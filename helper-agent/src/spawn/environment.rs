//! The variables an app process starts with: a clean base, what the administrator set, and the contract
//! of `docs/protocols.md`, section 4, later ones winning. Nothing of a request, nothing of httpd's own
//! environment but language and time zone.

use std::collections::BTreeMap;

use super::identity::Identity;
use crate::apps::DEFAULT_PATH;
use crate::config::Application;

/// Variables of the agent that apps get too.
const INHERITED: [&str; 9] = [
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LC_TIME",
    "LC_COLLATE",
    "TZ",
];

/// What the environment is made from besides the application.
#[derive(Clone)]
pub struct Source<'a> {
    /// Variables of the agent; only a short list of them is looked at.
    pub own: &'a dyn Fn(&str) -> Option<String>,
    /// The user the app will run as, or that we all are.
    pub identity: &'a Identity,
    /// `SetEnv` of server level.
    pub configured: BTreeMap<String, String>,
    /// What httpd calls itself.
    pub software: &'a str,
    /// Uid that connections must have.
    pub peer_uid: u32,
    /// Where an app without a loader is to listen.
    pub port: Option<u16>,
}

/// Names of the variables that the user's login shell cannot change: all but those of the agent that nobody
/// configured.
#[must_use]
pub fn kept(environment: &[(String, String)], source: &Source<'_>) -> Vec<String> {
    let is_kept = |name: &&String| {
        !INHERITED.contains(&name.as_str()) || source.configured.contains_key(*name)
    };
    let names = environment.iter().map(|(name, _)| name);
    names.filter(is_kept).cloned().collect()
}

/// The whole environment, in alphabetical order.
#[must_use]
pub fn build(app: &Application, source: &Source<'_>) -> Vec<(String, String)> {
    let mut variables = BTreeMap::new();
    let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
    set("PATH", DEFAULT_PATH.to_owned());
    for name in INHERITED {
        if let Some(value) = (source.own)(name) {
            set(name, value);
        }
    }
    let identity = source.identity;
    set("HOME", identity.home.display().to_string());
    set("USER", identity.user.clone());
    set("LOGNAME", identity.user.clone());
    set("SHELL", identity.shell.display().to_string());
    set("SERVER_SOFTWARE", source.software.to_owned());
    set("PYTHONUNBUFFERED", "1".to_owned());
    for (name, value) in &source.configured {
        set(name, value.clone());
    }
    for (name, value) in contract(app, source) {
        set(name, value);
    }
    if app.kind.directive == "PassengerRuby" && app.options.preloads_bundler() {
        let others = variables.get("RUBYOPT").map_or("", String::as_str);
        let options = format!("-rbundler/setup {others}");
        variables.insert("RUBYOPT".to_owned(), options.trim_end().to_owned());
    }
    // What the kernel cannot carry would make the whole exec fail.
    variables.retain(|name, value| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    });
    variables.into_iter().collect()
}

/// Variables whose values are no secret, whoever set them. All others may be one.
const HARMLESS: [&str; 10] = [
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PWD",
    "SERVER_SOFTWARE",
    "PYTHONUNBUFFERED",
    "IN_PASSENGER",
    "RAILS_RELATIVE_URL_ROOT",
    "RACK_BASE_URI",
];
/// Most variables, and most characters of a name or value, that a report shows: it has to fit a message.
const SHOWN: (usize, usize) = (100, 100);

/// The environment as a failure report may show it: values that may be secrets are left out.
#[must_use]
pub fn shown(environment: &[(String, String)]) -> Vec<(String, Option<String>)> {
    let is_harmless = |name: &str| {
        INHERITED.contains(&name)
            || HARMLESS.contains(&name)
            || name.starts_with("PASSENGER_")
            || name.ends_with("_ENV")
    };
    let (variables, characters) = SHOWN;
    let short = |text: &str| text.chars().take(characters).collect::<String>();
    environment
        .iter()
        .take(variables)
        .map(|(name, value)| {
            let value = is_harmless(name).then(|| short(value));
            (short(name), value)
        })
        .collect()
}

fn contract(app: &Application, source: &Source<'_>) -> Vec<(&'static str, String)> {
    let root = app.app_root.display().to_string();
    let mut contract = vec![("PWD", root.clone()), ("IN_PASSENGER", "1".to_owned())];
    if let Some(port) = source.port {
        contract.push(("PORT", port.to_string()));
    } else {
        contract.extend(for_the_loader(app, source, root));
    }
    let env = app.options.app_env();
    for name in [
        "PASSENGER_APP_ENV",
        "RAILS_ENV",
        "RACK_ENV",
        "WSGI_ENV",
        "NODE_ENV",
    ] {
        contract.push((name, env.to_owned()));
    }
    if !app.base_uri.is_empty() {
        for name in [
            "PASSENGER_BASE_URI",
            "RAILS_RELATIVE_URL_ROOT",
            "RACK_BASE_URI",
        ] {
            contract.push((name, app.base_uri.clone()));
        }
    }
    contract
}

/// What the loader takes out of the environment again.
fn for_the_loader(
    app: &Application,
    source: &Source<'_>,
    root: String,
) -> [(&'static str, String); 5] {
    let startup_file = app.startup_file.display().to_string();
    [
        ("PASSENGER_APP_ROOT", root),
        ("PASSENGER_STARTUP_FILE", startup_file),
        ("PASSENGER_APP_GROUP_NAME", app.group_name.clone()),
        ("PASSENGER_PEER_UID", source.peer_uid.to_string()),
        ("PASSENGER_THREADS", app.options.threads().to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use passenger_shm::messages::{Directive, Record};

    use super::*;
    use crate::apps::AppType;
    use crate::config::{AppOptions, OwnerRule};

    fn app(base_uri: &str) -> Application {
        Application {
            options: AppOptions::default(),
            kind: AppType::by_name("rack").unwrap(),
            app_root: "/srv/app".into(),
            real_root: "/srv/releases/7".into(),
            startup_file: "/srv/app/config.ru".into(),
            base_uri: base_uri.into(),
            owner: OwnerRule::Configured,
            group_name: "group".into(),
        }
    }

    fn built(base_uri: &str, configured: &[(&str, &str)]) -> BTreeMap<String, String> {
        built_for(None, base_uri, configured)
    }

    fn built_for(
        port: Option<u16>,
        base_uri: &str,
        configured: &[(&str, &str)],
    ) -> BTreeMap<String, String> {
        environment_of(&app(base_uri), port, configured)
    }

    fn environment_of(
        app: &Application,
        port: Option<u16>,
        configured: &[(&str, &str)],
    ) -> BTreeMap<String, String> {
        let identity = Identity {
            uid: 1000,
            gid: 1000,
            groups: vec![],
            user: "alice".into(),
            group: "alice".into(),
            home: PathBuf::from("/home/alice"),
            shell: PathBuf::from("/bin/sh"),
        };
        let own = |name: &str| match name {
            "PATH" => Some("/opt/bin".to_owned()),
            "LD_PRELOAD" | "SECRET" => Some("evil".to_owned()),
            _ => None,
        };
        let configured = configured
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let source = Source {
            own: &own,
            identity: &identity,
            configured,
            software: "Apache",
            peer_uid: 33,
            port,
        };
        build(app, &source).into_iter().collect()
    }

    #[test]
    fn nothing_of_the_agents_own_environment_leaks() {
        let env = built("", &[]);
        assert!(env.values().all(|value| value != "evil"));
        assert_eq!(env["PATH"], "/opt/bin");
        assert_eq!(env["HOME"], "/home/alice");
        assert_eq!(env["PWD"], "/srv/app", "as configured, links not resolved");
        assert_eq!(env["RAILS_ENV"], "production");
        assert_eq!(env["PASSENGER_PEER_UID"], "33");
        assert!(!env.contains_key("PASSENGER_BASE_URI"));
    }

    #[test]
    fn a_command_gets_its_port_and_nothing_that_is_for_loaders() {
        let env = built_for(Some(8421), "/sub", &[("PORT", "80")]);
        assert_eq!(env["PORT"], "8421", "whatever the administrator wrote");
        assert_eq!(env["PASSENGER_BASE_URI"], "/sub");
        assert_eq!(env["PASSENGER_APP_ENV"], "production");
        let ours = env.keys().filter(|name| name.starts_with("PASSENGER_"));
        assert_eq!(ours.count(), 2);
    }

    #[test]
    fn a_report_shows_no_value_that_may_be_a_secret() {
        let secret = ["DATABASE_URL", "SECRET_KEY_BASE", "API_TOKEN", "LD_PRELOAD"];
        let set: Vec<(&str, &str)> = secret.iter().map(|name| (*name, "hush")).collect();
        let environment: Vec<(String, String)> = built("/sub", &set).into_iter().collect();
        let shown: BTreeMap<String, Option<String>> = shown(&environment).into_iter().collect();
        assert_eq!(shown.len(), environment.len());
        for name in secret {
            assert_eq!(shown[name], None, "{name}");
        }
        assert_eq!(shown["HOME"].as_deref(), Some("/home/alice"));
        assert_eq!(shown["RAILS_ENV"].as_deref(), Some("production"));
        assert_eq!(shown["PASSENGER_BASE_URI"].as_deref(), Some("/sub"));
    }

    #[test]
    fn a_report_of_a_huge_environment_fits_a_message() {
        let huge = (0..10_000).map(|n| (format!("PASSENGER_{n}"), "é".repeat(10_000)));
        let shown = shown(&huge.collect::<Vec<_>>());
        let bytes: usize = shown
            .iter()
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len))
            .sum();
        assert!(shown.len() == 100 && bytes < 32 * 1024, "{bytes}");
    }

    #[test]
    fn bundler_comes_first_where_it_is_asked_for() {
        let record = Record {
            id: 1,
            section: String::new(),
            server: 0,
            directives: vec![Directive {
                name: "PassengerPreloadBundler".into(),
                args: vec!["on".into()],
                file: "x".into(),
                line: 1,
            }],
        };
        let mut app = app("");
        assert!(!environment_of(&app, None, &[]).contains_key("RUBYOPT"));
        app.options = AppOptions::merge([&record]).unwrap();
        let ruby_opt = |app: &Application, configured: &[(&str, &str)]| {
            environment_of(app, None, configured).remove("RUBYOPT")
        };
        assert_eq!(ruby_opt(&app, &[]).as_deref(), Some("-rbundler/setup"));
        let both = ruby_opt(&app, &[("RUBYOPT", "--yjit")]);
        assert_eq!(both.as_deref(), Some("-rbundler/setup --yjit"));
        app.kind = AppType::by_name("wsgi").unwrap();
        assert_eq!(ruby_opt(&app, &[]), None);
    }

    #[test]
    fn the_administrators_variables_win_over_the_base_but_not_over_the_contract() {
        let env = built(
            "/sub",
            &[
                ("HOME", "/elsewhere"),
                ("PASSENGER_PEER_UID", "0"),
                ("A=B", "x"),
                ("N", "a\0b"),
            ],
        );
        assert_eq!(env["HOME"], "/elsewhere");
        assert_eq!(env["PASSENGER_PEER_UID"], "33");
        assert_eq!(env["RAILS_RELATIVE_URL_ROOT"], "/sub");
        assert!(!env.contains_key("A=B") && !env.contains_key("N"));
    }
}
