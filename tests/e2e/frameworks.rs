//! Popular frameworks, unmodified, where they are installed (`tests/run/deps --frameworks`; docs/frameworks.md has
//! the versions). The apps are in `fixtures/languages`, as each framework's own documentation writes them.

use crate::frames;
use crate::languages::{self, fixture, site, APP_JS, ASGI, CONFIG_RU, WSGI};
use harness::{stage, Language, Server, Setup, Site};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian's packages put the libraries of Node.
const DEBIAN_NODE: &str = "/usr/share/nodejs";

/// Says why a test has nothing to say.
fn skip(library: &str) {
    eprintln!("skipped: {library} is not installed (tests/run/deps --frameworks)");
}

/// Whether the interpreter can load that library.
pub(crate) fn is_installed(language: Language, library: &str) -> bool {
    let (interpreter, option, probe) = match language {
        Language::Ruby => ("/usr/bin/ruby", "-e", format!("require '{library}'")),
        Language::Python => ("/usr/bin/python3", "-c", format!("import {library}")),
        Language::Node => return node_modules(library).is_some(),
    };
    let found = Command::new(interpreter)
        .args([option, &probe])
        .current_dir("/")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        skip(library);
    }
    found
}

/// The `node_modules` that have it: those of npm first, then Debian's. Those find each other only by Debian's own
/// Node, so it is tried.
fn node_modules(library: &str) -> Option<PathBuf> {
    let is_usable = |modules: &PathBuf| {
        modules.join(library).join("package.json").exists()
            && Command::new("/usr/bin/node")
                .args(["-e", "require(process.argv[1])"])
                .arg(modules.join(library))
                .current_dir("/")
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
    };
    let found = [
        stage::prefix().join("frameworks/node_modules"),
        PathBuf::from(DEBIAN_NODE),
    ]
    .into_iter()
    .find(is_usable);
    if found.is_none() {
        skip(library);
    }
    found
}

/// A server of one Node app, which finds its libraries as it would after `npm install`.
fn node_server(site: Site, name: &str, modules: &Path) -> Server {
    let server = Setup::of(site).start();
    symlink(modules, server.app_root(name).join("node_modules")).expect("link the libraries");
    server
}

/// The same five pages of each framework: a URL, a form, a stream, a file, an error.
fn answers_as_it_should(server: &Server, name: &str, source: &str) {
    assert_eq!(
        server.get(name, "/").ok(),
        format!("hello from {name} at http://{name}/\n")
    );
    let form = harness::Request::post("/form", b"name=Ada&colour=b%6cue")
        .header("Content-Type", "application/x-www-form-urlencoded");
    assert_eq!(server.request(name, &form).ok(), "Ada likes blue\n");
    assert_eq!(server.get(name, "/stream").ok(), "0\n1\n2\n");
    assert_eq!(server.get(name, "/file").ok(), source);
    let oops = server.get(name, "/oops");
    assert_eq!((oops.status, oops.text().as_str()), (500, "sorry\n"));
    assert_eq!(server.get(name, "/nowhere").status, 404);
}

fn framework_works(name: &str, startup_file: &str, fixture_file: &str) {
    let server = Setup::of(site(name, startup_file, fixture_file)).start();
    answers_as_it_should(&server, name, &fixture(fixture_file));
}

fn node_framework_works(name: &str, startup_file: &str, fixture_file: &str) {
    if let Some(modules) = node_modules(name) {
        let server = node_server(site(name, startup_file, fixture_file), name, &modules);
        answers_as_it_should(&server, name, &fixture(fixture_file));
    }
}

/// What a client written with the framework's own library prints.
fn client_prints(server: &Server, site: &str, client: &str, modules: &Path) -> String {
    let script = server.root().join(client);
    std::fs::write(&script, fixture(client)).expect("write the client");
    let output = Command::new("/usr/bin/node")
        .arg(&script)
        .args([server.port().to_string().as_str(), site])
        .env("NODE_PATH", modules)
        .output()
        .expect("run node");
    assert!(output.status.success(), "{client}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

// --- Ruby ---

#[test]
fn sinatra_works() {
    if is_installed(Language::Ruby, "sinatra/base") {
        framework_works("sinatra", CONFIG_RU, "sinatra.ru");
    }
}

/// `RUBYLIB` with Rack 3 and Sinatra 4, which go before what the system has.
fn rack_3() -> Option<String> {
    let Ok(gems) = std::fs::read_dir(stage::prefix().join("frameworks/rack3")) else {
        skip("Rack 3");
        return None;
    };
    let mut directories: Vec<String> = gems
        .map(|gem| gem.expect("an entry").path().join("lib"))
        .map(|lib| lib.display().to_string())
        .collect();
    directories.sort();
    Some(format!("SetEnv RUBYLIB {}", directories.join(":")))
}

#[test]
fn lint_of_rack_3_is_content() {
    if let Some(directive) = rack_3() {
        let site = site("checked", CONFIG_RU, "lint.ru").with(&directive);
        languages::checker_is_content(site);
    }
}

#[test]
fn sinatra_4_works_on_rack_3() {
    let Some(directive) = rack_3().filter(|_| is_installed(Language::Ruby, "tilt")) else {
        return;
    };
    let site = site("sinatra", CONFIG_RU, "sinatra.ru").with(&directive);
    let server = Setup::of(site).start();
    answers_as_it_should(&server, "sinatra", &fixture("sinatra.ru"));
}

#[test]
fn bodies_of_rack_3_may_write_themselves() {
    let Some(directive) = rack_3() else { return };
    let server = Setup::of(site("rack3", CONFIG_RU, "rack3.ru").with(&directive)).start();
    assert!(server.get("rack3", "/release").ok().starts_with("3."));
    assert_eq!(server.get("rack3", "/stream").ok(), "one\ntwo\n");
    assert_eq!(server.get("rack3", "/hijack").ok(), "taken");
    let (mut socket, head) = frames::connect(&server, "/socket");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    frames::echoes(&mut socket, frames::TEXT, "grüße".as_bytes());
    // An upload is read while it arrives, and not rewindable.
    let body = vec![b'x'; 3 << 20];
    let length = server.post("rack3", "/upload", &body).ok();
    assert_eq!(length, format!("{} false", body.len()));
}

#[test]
fn rails_works() {
    if is_installed(Language::Ruby, "action_controller/railtie") {
        framework_works("rails", CONFIG_RU, "rails.ru");
    }
}

#[test]
fn action_cable_works() {
    const CHANNEL: &str = r#""identifier":"{\"channel\":\"EchoChannel\"}""#;
    if !is_installed(Language::Ruby, "action_cable") {
        return;
    }
    let server = Setup::of(site("cable", CONFIG_RU, "cable.ru")).start();
    let (mut socket, head) = frames::connect(&server, "/cable");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let hears = |socket: &mut TcpStream, words: &str| loop {
        let (kind, payload) = frames::read_frame(socket).expect("a message");
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert_eq!(kind, frames::TEXT, "{text}");
        if text.contains(words) {
            break;
        }
        assert!(text.contains(r#""type":"ping""#), "{text}");
    };
    let say = |socket: &mut TcpStream, text: String| {
        let bytes = frames::frame(frames::TEXT, text.as_bytes());
        socket.write_all(&bytes).expect("send");
    };
    hears(&mut socket, "welcome");
    say(
        &mut socket,
        format!(r#"{{"command":"subscribe",{CHANNEL}}}"#),
    );
    hears(&mut socket, "confirm_subscription");
    let data = r#""data":"{\"action\":\"say\",\"words\":\"hello\"}""#;
    say(
        &mut socket,
        format!(r#"{{"command":"message",{CHANNEL},{data}}}"#),
    );
    hears(&mut socket, r#""said":"hello""#);
}

// --- Python ---

#[test]
fn flask_works() {
    if is_installed(Language::Python, "flask") {
        framework_works("flask", WSGI, "flask_app.py");
    }
}

#[test]
fn django_works_over_wsgi() {
    if is_installed(Language::Python, "django") {
        framework_works("django", WSGI, "django_app.py");
    }
}

#[test]
fn django_works_over_asgi() {
    if is_installed(Language::Python, "django") {
        framework_works("django", ASGI, "django_app.py");
    }
}

#[test]
fn starlette_works() {
    if !is_installed(Language::Python, "starlette") {
        return;
    }
    let mut server = Setup::of(site("starlette", ASGI, "starlette_app.py")).start();
    let source = fixture("starlette_app.py");
    answers_as_it_should(&server, "starlette", &source);
    assert_eq!(
        server.get("starlette", "/static/passenger_asgi.py").ok(),
        source
    );
    assert_eq!(server.get("starlette", "/later").ok(), "at once\n");
    server.await_file("starlette", "done-later");
    let (mut socket, head) = frames::connect(&server, "/echo");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    frames::echoes(&mut socket, frames::TEXT, "grüße".as_bytes());
    drop(socket);
    server.await_file("starlette", "started");
    let ended = server.app_root("starlette").join("ended");
    assert!(!ended.exists());
    server.stop_within(harness::wait::PATIENCE);
    assert!(ended.exists(), "its lifespan is over");
}

#[test]
fn fastapi_works() {
    if !is_installed(Language::Python, "fastapi") {
        return;
    }
    let server = Setup::of(site("fastapi", ASGI, "fastapi_app.py")).start();
    answers_as_it_should(&server, "fastapi", &fixture("fastapi_app.py"));
    let (mut socket, head) = frames::connect(&server, "/greet/Ada");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    frames::echoes(&mut socket, frames::TEXT, "grüße".as_bytes());
    frames::echoes(&mut socket, frames::TEXT, &[b'x'; 100_000]);
    let (_, head) = frames::connect(&server, "/greet/Mallory");
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
}

// --- Node ---

#[test]
fn express_works() {
    node_framework_works("express", APP_JS, "express.js");
}

#[test]
fn koa_works_as_an_es_module() {
    node_framework_works("koa", "app.mjs", "koa.mjs");
}

#[test]
fn fastify_works() {
    node_framework_works("fastify", APP_JS, "fastify.js");
}

#[test]
fn ws_works() {
    if let Some(modules) = node_modules("ws") {
        let server = node_server(site("ws", APP_JS, "ws.js"), "ws", &modules);
        assert_eq!(server.get("ws", "/").ok(), "plain");
        let printed = client_prints(&server, "ws", "ws-client.js", &modules);
        assert_eq!(printed, "grüße\ntrue\nall together\n3001\n");
    }
}

#[test]
fn socket_io_works_by_polling_and_by_websocket() {
    if let Some(modules) = node_modules("socket.io") {
        let server = node_server(site("io", APP_JS, "socketio.js"), "io", &modules);
        assert_eq!(server.get("io", "/").ok(), "plain");
        let printed = client_prints(&server, "io", "socketio-client.js", &modules);
        assert_eq!(printed, "echo over websocket\n");
    }
}
