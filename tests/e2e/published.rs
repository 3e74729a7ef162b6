//! Examples and test suites that frameworks publish, as they are: fetched by `tests/run/deps --frameworks`, run through
//! httpd, and skipped where they are not. docs/frameworks.md lists them with their versions.

use crate::frameworks::is_installed;
use crate::languages::{fixture, ASGI};
use harness::{stage, until, App, Language, Request, Server, Setup, Site};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

/// A directory of what was fetched; without it the test has nothing to say, which it prints.
fn fetched(path: &str) -> Option<PathBuf> {
    let place = stage::prefix().join("frameworks").join(path);
    if place.exists() {
        return Some(place);
    }
    eprintln!("skipped: {path} is not there (tests/run/deps --frameworks)");
    None
}

/// A site whose app is in that directory, which is not ours, and starts with that file.
fn site_of(name: &str, root: &std::path::Path, startup_file: &str) -> Site {
    Site::new(name, App::files())
        .with(&format!("PassengerAppRoot \"{}\"", root.display()))
        .with(&format!("PassengerStartupFile {startup_file}"))
}

fn printed(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

/// httpd itself resolves `..` in a URL, and no app sees it.
const NOT_OURS: &str = "GET /files/../index.js";

/// All of Express' acceptance tests, each example as an app of its own.
#[test]
fn the_acceptance_tests_of_express_pass() {
    let Some(express) = fetched("express-4/test/acceptance") else {
        return;
    };
    let tree = express.parent().and_then(|test| test.parent());
    let tree = tree.expect("it is two directories below");
    let mut names: Vec<String> = std::fs::read_dir(&express)
        .expect("list the tests")
        .map(|entry| entry.expect("an entry").path())
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    // First what gets the requests for other hosts.
    names.sort_by_key(|name| (name != "vhost", name.clone()));
    let mut setup = Setup::default().with("PassengerMaxPoolSize 30");
    for name in &names {
        let startup_file = format!("examples/{name}/index.js");
        let site = site_of(name, tree, &startup_file)
            .with("PassengerAppType node")
            .with("PassengerAppEnv test")
            .with(&format!("PassengerAppGroupName {name}"));
        setup = setup.site(site);
    }
    let server: Server = setup.start();
    let shim = server.root().join("through-httpd.js");
    std::fs::write(&shim, fixture("through-httpd.js")).expect("write the shim");
    let output = Command::new("/usr/bin/node")
        .arg(tree.join("node_modules/mocha/bin/mocha.js"))
        .args(["--exit", "--timeout", "60000", "--require"])
        .arg(&shim)
        .args(["--require", "test/support/env.js", "test/acceptance"])
        .args(["--grep", NOT_OURS, "--invert"])
        .current_dir(tree)
        .env("HTTPD_PORT", server.port().to_string())
        .output()
        .expect("run mocha");
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    let passed = text
        .lines()
        .find_map(|line| line.trim().split_once(" passing"));
    let passed: u32 = passed.expect("a count").0.parse().expect("a number");
    assert!(passed > 100, "{text}");
}

/// Those parts of FastAPI's tutorial whose tests only send requests. The others look into the app's process, mock what is
/// in it, need a database or speak WebSocket with Starlette's own client.
const TUTORIAL: [&str; 28] = [
    "additional_status_codes",
    "bigger_applications",
    "body_fields",
    "body_multiple_params",
    "body_nested_models",
    "body_updates",
    "cookie_params",
    "cors",
    "dataclasses",
    "dependencies",
    "extra_data_types",
    "extra_models",
    "first_steps",
    "handling_errors",
    "header_params",
    "metadata",
    "path_operation_advanced_configurations",
    "path_operation_configurations",
    "query_params",
    "query_params_str_validations",
    "request_files",
    "request_forms",
    "response_change_status_code",
    "response_cookies",
    "response_headers",
    "schema_extra_example",
    "sub_applications",
    "wsgi",
];

/// All of the tutorial's apps in one process.
#[test]
fn the_tutorial_tests_of_fastapi_pass() {
    let Some(tree) = fetched("python/fastapi-0.92.0") else {
        return;
    };
    let needed = ["fastapi", "pytest", "httpx", "multipart"];
    if !needed
        .iter()
        .all(|library| is_installed(Language::Python, library))
    {
        return;
    }
    let app = App::files().file(ASGI, &fixture("fastapi_tutorial.py"));
    let site = Site::new("testserver", app)
        .with(&format!("SetEnv PYTHONPATH \"{}\"", tree.display()))
        .with("SetEnv PYTHONDONTWRITEBYTECODE 1");
    let server = Setup::of(site).start();
    let plugin = server.root().join("through_httpd.py");
    std::fs::write(&plugin, fixture("through_httpd.py")).expect("write the plugin");
    let path = format!("{}:{}", server.root().display(), tree.display());
    let output = Command::new("/usr/bin/python3")
        .args(["-m", "pytest", "-q", "-o", "filterwarnings=ignore"])
        .args(["-p", "no:cacheprovider", "-p", "through_httpd"])
        .args(TUTORIAL.map(|part| format!("tests/test_tutorial/test_{part}")))
        .current_dir(&tree)
        .env("HTTPD_PORT", server.port().to_string())
        .env("PYTHONPATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("run pytest");
    let text = printed(&output);
    assert!(output.status.success(), "{text}");
    let passed = text.lines().find_map(|line| line.split_once(" passed"));
    let passed: u32 = passed.expect("a count").0.parse().expect("a number");
    assert!(passed > 250, "{text}");
}

// --- examples, and what a framework generates ---

/// The body of a 200, of an example that is a site of its own.
fn says(server: &Server, site: &str, target: &str, expected: &str) {
    assert_eq!(server.get(site, target).ok(), expected, "{site}{target}");
}

#[test]
fn the_examples_of_fastify_run() {
    let Some(tree) = fetched("node_modules/fastify/examples") else {
        return;
    };
    let tree = tree.parent().expect("it is below");
    let examples = [
        ("simple", "js"),
        ("simple-module", "mjs"),
        ("asyncawait", "js"),
        ("hooks", "js"),
        ("use-plugin", "js"),
        ("route-prefix", "js"),
        ("shared-schema", "js"),
        ("simple-stream", "js"),
    ];
    let mut setup = Setup::default().with("PassengerMaxPoolSize 10");
    for (name, extension) in examples {
        let file = name.trim_end_matches("-module");
        let site = site_of(name, tree, &format!("examples/{file}.{extension}"))
            .with("PassengerAppType node")
            .with(&format!("PassengerAppGroupName {name}"));
        setup = setup.site(site);
    }
    let server = setup.start();
    let world = "{\"hello\":\"world\"}";
    for name in [
        "simple",
        "simple-module",
        "asyncawait",
        "hooks",
        "use-plugin",
        "shared-schema",
    ] {
        says(&server, name, "/", world);
    }
    says(&server, "asyncawait", "/await", world);
    says(&server, "simple-stream", "/", "hello world");
    says(
        &server,
        "route-prefix",
        "/english/hello",
        "{\"greet\":\"hello\"}",
    );
    says(
        &server,
        "route-prefix",
        "/italian/hello",
        "{\"greet\":\"ciao\"}",
    );
    let json = Request::post("/", b"{\"hello\": \"fastify\"}");
    let posted = server.request("hooks", &json.header("Content-Type", "application/json"));
    assert_eq!(posted.ok(), world);
    server.log().expect("preValidation");
}

/// Where Debian has Rack's examples: the oldest that any Rack developer knows.
#[test]
fn the_lobsters_of_rack_run() {
    let gems = "/usr/share/rubygems-integration/all/gems";
    let found = std::fs::read_dir(gems).into_iter().flatten().flatten();
    let found = found.map(|gem| gem.path().join("example"));
    let Some(tree) = { found }.find(|place| place.join("lobster.ru").exists()) else {
        eprintln!("skipped: the examples of Rack are not installed");
        return;
    };
    let open = site_of("lobster", &tree, "lobster.ru").with("PassengerAppGroupName lobster");
    let locked =
        site_of("locked", &tree, "protectedlobster.ru").with("PassengerAppGroupName locked");
    let server = Setup::of(open.with("PassengerAppType rack"))
        .site(locked.with("PassengerAppType rack"))
        .start();
    assert!(server.get("lobster", "/").ok().contains("Lobstericious!"));
    let flipped = server.get("lobster", "/?flip=left").ok();
    assert!(
        flipped.contains("crustacean") || flipped.contains("<pre>"),
        "{flipped}"
    );
    let crashed = server.get("lobster", "/?flip=crash");
    assert_eq!(crashed.status, 500);
    assert!(
        crashed.text().contains("Lobster crashed"),
        "{}",
        crashed.text()
    );
    assert_eq!(server.get("locked", "/").status, 401);
    // anybody:secret
    let allowed = Request::get("/").header("Authorization", "Basic YW55Ym9keTpzZWNyZXQ=");
    let page = server.request("locked", &allowed).ok();
    assert!(page.contains("Lobstericious!"), "{page}");
}

/// Tests of ws' servers and clients that mean another server than one behind httpd.
const NOT_OF_WS: [&str; 14] = [
    // Sockets of their own, or their ends.
    "emits an error if http server bind fails",
    "binds the server on any IPv6 address",
    "emits the 'close' event after the server closes",
    "if socket is closed prematurely",
    "does not re-emit `net.Socket` errors",
    // What httpd takes for an ordinary request, or for none.
    "fails if the HTTP method is not GET",
    "fails if the Upgrade header field value is not \"websocket\"",
    "emits the 'wsClientError' event",
    // The client alone, against servers that answer wrongly by hand.
    "^WebSocket Connection establishing",
    // The connection to httpd ends, and not the one to the server.
    r"closes the connection if called while connecting \(3/3\)",
    // A server that ends without a word: clients of ours get a close with status 1001.
    "#terminate does nothing if `readyState` is `CLOSED`",
    r"consumes all received data when connection is closed \(1/2\)",
    // What has arrived by the time something is compressed in the same process.
    "handles a close frame received while compressing data",
    "#send calls the callback if the socket is closed prematurely",
];

/// The suite of the library's servers and clients, which are both in the app; more than half of its requests go through
/// httpd, the others never leave the process.
#[test]
fn the_tests_of_ws_pass() {
    let (Some(tree), Some(mocha)) = (fetched("ws"), fetched("express-4/node_modules/mocha")) else {
        return;
    };
    let left_out = NOT_OF_WS.join("|").replace('"', ".").replace('\\', "\\\\");
    let site = Site::new(
        "localhost",
        App::files().file("app.js", &fixture("ws-suite.js")),
    );
    let site = site
        .with("PassengerMaxInstances 1")
        .with(&format!("SetEnv WS_TREE \"{}\"", tree.display()))
        .with(&format!("SetEnv MOCHA \"{}\"", mocha.display()))
        .with(&format!("SetEnv LEFT_OUT \"{left_out}\""))
        .with("SetEnv HTTPD_PORT \"{port}\"");
    let server = Setup::of(site).start();
    assert_eq!(server.get("localhost", "/").ok(), "ready");
    let result = server.app_root("localhost").join("result.json");
    until("the suite to end", Duration::from_secs(300), || {
        result.exists()
    });
    let text = std::fs::read_to_string(result).expect("read the result");
    let result: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(result["failed"], serde_json::json!([]), "{text}");
    assert!(result["passed"].as_u64() > Some(200), "{text}");
    assert!(result["through"].as_u64() > Some(120), "{text}");
}
