//! The environment of app processes: what every language finds there, what the administrator puts there, what is only a
//! request's, and what nobody else gets to see.

use harness::{stage, App, Language, Server, Setup, Site};
use std::collections::BTreeMap;
use std::process::Command;

/// Answers with the environment of its process, one `NAME=value` per line.
fn app(language: Language) -> App {
    let source = match language {
        Language::Ruby => {
            "run ->(_) { [200, {}, [ENV.map { |name, value| \"#{name}=#{value}\\n\" }.join]] }\n"
        }
        Language::Python => {
            "import os\n\ndef application(environ, start_response):\n    start_response('200 OK', [])\n    \
             return [''.join(f'{k}={v}\\n' for k, v in os.environ.items()).encode()]\n"
        }
        Language::Node => {
            "require('http').createServer((q, s) => s.end(Object.entries(process.env)\
             .map(([k, v]) => `${k}=${v}\\n`).join(''))).listen()\n"
        }
    };
    App::inline(language, source)
}

fn site(language: Language) -> Site {
    Site::new("app", app(language))
}

fn environment(server: &Server, target: &str) -> BTreeMap<String, String> {
    let text = server.get("app", target).ok();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn every_language_finds_the_same_variables() {
    for language in Language::ALL {
        let site = site(language)
            .with("PassengerAppEnv staging")
            .with("SetEnv HOME /somewhere/else");
        let server = Setup::of(site).start();
        let found = environment(&server, "/");
        let root = server.app_root("app").display().to_string();
        for (name, value) in [
            ("RAILS_ENV", "staging"),
            ("RACK_ENV", "staging"),
            ("WSGI_ENV", "staging"),
            ("NODE_ENV", "staging"),
            ("PASSENGER_APP_ENV", "staging"),
            ("IN_PASSENGER", "1"),
            ("PYTHONUNBUFFERED", "1"),
            ("PWD", root.as_str()),
            ("HOME", "/somewhere/else"),
            ("LANG", "C.UTF-8"),
        ] {
            assert_eq!(
                found.get(name).map(String::as_str),
                Some(value),
                "{language:?} {name}"
            );
        }
        for name in ["USER", "LOGNAME", "SHELL", "PATH", "SERVER_SOFTWARE"] {
            assert!(found.contains_key(name), "{language:?} {name}: {found:?}");
        }
        // What only concerns the loader is gone by now, and so is everything that is httpd's own business.
        let ours = found.keys().filter(|name| name.starts_with("PASSENGER_"));
        assert_eq!(
            ours.collect::<Vec<_>>(),
            ["PASSENGER_APP_ENV"],
            "{language:?}"
        );
        for name in ["APACHE_RUN_USER", "RAILS_RELATIVE_URL_ROOT", "PORT"] {
            assert!(!found.contains_key(name), "{language:?} {name}");
        }
    }
}

#[test]
fn the_base_uri_is_in_the_environment() {
    let site = site(Language::Ruby)
        .with("PassengerBaseURI /below")
        .with("PassengerAppRoot \"{root}/sites/app\"");
    let server = Setup::of(site).start();
    let found = environment(&server, "/below/x");
    for name in [
        "RAILS_RELATIVE_URL_ROOT",
        "RACK_BASE_URI",
        "PASSENGER_BASE_URI",
    ] {
        assert_eq!(
            found.get(name).map(String::as_str),
            Some("/below"),
            "{name}"
        );
    }
}

#[test]
fn what_is_set_for_the_host_is_the_process_s_and_what_is_set_for_requests_is_not() {
    for language in Language::ALL {
        let site = site(language)
            .with("SetEnv DATABASE_URL postgres://db.example/app")
            .with("SetEnv RACK_ENV mine")
            .with("SetEnvIf Request_URI ^ FOR_THIS_REQUEST=yes")
            .with("<Location />\n    SetEnv FOR_A_LOCATION yes\n</Location>");
        let server = Setup::of(site).with("SetEnv FOR_ALL_HOSTS yes").start();
        let found = environment(&server, "/");
        let value = |name: &str| found.get(name).map(String::as_str);
        assert_eq!(
            value("DATABASE_URL"),
            Some("postgres://db.example/app"),
            "{language:?}"
        );
        assert_eq!(value("FOR_ALL_HOSTS"), Some("yes"), "{language:?}");
        assert_eq!(
            value("RACK_ENV"),
            Some("production"),
            "PassengerAppEnv says what it is"
        );
        assert_eq!(value("FOR_THIS_REQUEST"), None, "{language:?}");
        assert_eq!(value("FOR_A_LOCATION"), None, "{language:?}");
    }
}

#[test]
fn node_finds_libraries_by_its_path() {
    let app = App::inline(
        Language::Node,
        "const greeting = require('greeting');\nrequire('http').createServer((q, s) => s.end(greeting)).listen()\n",
    );
    let app = app.file("lib/greeting/index.js", "module.exports = 'found';\n");
    let site = Site::new("app", app).with("SetEnv NODE_PATH \"{root}/sites/app/lib\"");
    let server = Setup::of(site).start();
    assert_eq!(server.get("app", "/").ok(), "found");
}

#[test]
fn hosts_do_not_see_each_others_variables() {
    let one = site(Language::Python).with("SetEnv SECRET_OF_ONE gehe1m");
    let two = Site::new("two", app(Language::Python)).with("SetEnv SECRET_OF_TWO geheim2");
    let server = Setup::of(one).site(two).start();
    assert!(!environment(&server, "/").contains_key("SECRET_OF_TWO"));
    let other = server.get("two", "/").ok();
    assert!(
        other.contains("SECRET_OF_TWO=geheim2") && !other.contains("gehe1m"),
        "{other}"
    );
    // Nor does the log, or the status.
    assert_eq!(server.log().count("gehe1m"), 0);
    for form in ["--show=pool", "--json"] {
        let status = Command::new(stage::prefix().join("bin/passenger-status"))
            .arg(form)
            .env("PASSENGER_INSTANCE_REGISTRY_DIR", server.registry())
            .output()
            .expect("run passenger-status");
        let told = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(told.contains("sites/two"), "{status:?}");
        assert!(
            !told.contains("gehe1m") && !told.contains("SECRET"),
            "{told}"
        );
    }
}
