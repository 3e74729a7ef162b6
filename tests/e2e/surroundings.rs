//! Apps in odd places: directories with spaces, umlauts and signs that mean something elsewhere, very long paths, and
//! httpd in the locale C, as Debian starts it.

use harness::{App, Server, Setup, Site};

/// Names that mean something to shells, URLs and format strings.
const ODD: &str = "mein Ärger \u{2603} it's a;b&c?d#e %41%s {0}";

/// Of each kind of app: its startup file, and a text that says where it is, prints, and has more than ASCII in it.
const APPS: [(&str, &str); 5] = [
    (
        "config.ru",
        "# für Umlaute\nputs \"früh #{Dir.pwd}\"\nrun ->(_) { [200, {}, [\"größer #{Dir.pwd}\"]] }\n",
    ),
    (
        "passenger_wsgi.py",
        "import os\nprint('früh', os.getcwd())\n\n\
         def application(environ, start_response):\n    start_response('200 OK', [])\n    \
         return [('größer ' + os.getcwd()).encode()]\n",
    ),
    (
        "passenger_asgi.py",
        "import os\nprint('früh', os.getcwd())\n\n\
         async def application(scope, receive, send):\n    assert scope['type'] == 'http'\n    \
         await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n    \
         await send({'type': 'http.response.body', 'body': ('größer ' + os.getcwd()).encode()})\n",
    ),
    (
        "app.js",
        "console.log('früh', process.cwd());\n\
         require('http').createServer((q, s) => s.end(`größer ${process.cwd()}`)).listen();\n",
    ),
    (
        "app.mjs",
        "import http from 'node:http';\nconsole.log('früh', process.cwd());\n\
         http.createServer((q, s) => s.end(`größer ${process.cwd()}`)).listen();\n",
    ),
];

/// A server in the locale C whose site has its app in that directory below the site's.
fn server(directory: &str, startup_file: &str, text: &str) -> Server {
    let app = App::files().file(&format!("{directory}/{startup_file}"), text);
    let root = format!("PassengerAppRoot \"{{root}}/sites/app/{directory}\"");
    let site = Site::new("app", app)
        .with(&root)
        .with(&format!("PassengerStartupFile {startup_file}"))
        .with("PassengerAppEnv development");
    Setup::of(site).env("LANG", "C").start()
}

fn serves_from(directory: &str) {
    for (startup_file, text) in APPS {
        let server = server(directory, startup_file, text);
        let place = server.app_root("app").join(directory);
        assert_eq!(
            server.get("app", "/").ok(),
            format!("größer {}", place.display()),
            "{startup_file}"
        );
        server.log().expect(&format!("früh {}", place.display()));
    }
}

#[test]
fn an_app_may_live_in_a_directory_of_any_name() {
    serves_from(ODD);
}

#[test]
fn an_app_may_live_far_below() {
    serves_from(&vec!["ü".repeat(100); 9].join("/"));
}

#[test]
fn a_failure_is_told_wherever_an_app_lives() {
    for (startup_file, breaks) in [
        ("config.ru", "raise 'zu groß'\n"),
        ("passenger_wsgi.py", "raise RuntimeError('zu groß')\n"),
        ("app.js", "throw new Error('zu groß');\n"),
    ] {
        let server = server(ODD, startup_file, breaks);
        let page = server.get("app", "/");
        assert_eq!(page.status, 500);
        assert!(page.text().contains("zu groß"), "{}", page.text());
        server.log().expect("zu groß");
    }
}

#[test]
fn bundler_may_be_loaded_before_everything_else() {
    let text = "run ->(_) { [200, {}, [ENV['RUBYOPT'], Object.const_defined?(:Bundler).to_s].join(' ').lines] }\n";
    let app = App::files().file("config.ru", text);
    let site = Site::new("app", app.file("Gemfile", "gem 'rack'\n"))
        .with("PassengerPreloadBundler on")
        .with("SetEnv RUBYOPT --disable=did_you_mean");
    let server = Setup::of(site).start();
    let answer = server.get("app", "/").ok();
    // Bundler adds itself once more, for the app's children.
    let given = "-rbundler/setup --disable=did_you_mean true";
    assert!(answer.ends_with(given), "{answer}");
}
