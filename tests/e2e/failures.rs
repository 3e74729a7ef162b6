//! Apps that do not start and apps that fail: a clear 5xx, a log that says which step failed with the
//! app's own words, and another try at the next request.

use crate::one_process;
use harness::app::APP_OWNER;
use harness::{App, Language, Server, Setup, Site};
use nix::unistd::Uid;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Ruby, Python and JavaScript that greet.
fn greeting(language: Language) -> &'static str {
    match language {
        Language::Ruby => "run ->(env) { [200, {}, ['mended']] }\n",
        Language::Python => {
            "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'mended']\n"
        }
        Language::Node => "require('http').createServer((q, s) => s.end('mended')).listen(3000)\n",
    }
}

fn site(language: Language, startup_file: &str) -> Site {
    Site::new("app", App::inline(language, startup_file))
}

/// The first request fails with a page that keeps the details to itself, the log has them, and once the
/// startup file is mended the next request is answered.
fn fails_then_recovers(language: Language, startup_file: &str, step: &str, words: &str) {
    let server = Setup::of(site(language, startup_file)).start();
    let response = server.get("app", "/");
    assert!(
        (500..600).contains(&response.status),
        "{language:?}: status {}",
        response.status
    );
    assert!(
        response.text().contains("<html"),
        "{language:?}: not a page: {}",
        response.text()
    );
    assert!(
        !response.text().contains(words),
        "{language:?}: details in production: {}",
        response.text()
    );
    server.log().expect(words);
    assert!(
        server.log().count(step) > 0,
        "{language:?}: the log does not name the step {step:?}"
    );
    fs::write(
        server.app_root("app").join(language.startup_file()),
        greeting(language),
    )
    .expect("mend the app");
    assert_eq!(server.get("app", "/").ok(), "mended", "{language:?}");
}

#[test]
fn a_ruby_app_that_prints_and_exits() {
    fails_then_recovers(
        Language::Ruby,
        "$stderr.puts 'no database today'\nexit 3\n",
        "load",
        "no database today",
    );
}

#[test]
fn a_python_app_that_prints_and_exits() {
    let source = "import sys\nprint('no database today', flush=True)\nsys.exit(3)\n";
    fails_then_recovers(Language::Python, source, "load", "no database today");
}

#[test]
fn a_node_app_that_prints_and_exits() {
    let source = "console.log('no database today')\nprocess.exit(3)\n";
    fails_then_recovers(Language::Node, source, "load", "no database today");
}

#[test]
fn an_app_that_raises_while_loading() {
    fails_then_recovers(
        Language::Ruby,
        "raise 'the moon is full'\n",
        "load",
        "the moon is full",
    );
    fails_then_recovers(
        Language::Python,
        "raise RuntimeError('the moon is full')\n",
        "load",
        "the moon is full",
    );
    fails_then_recovers(
        Language::Node,
        "throw new Error('the moon is full')\n",
        "load",
        "the moon is full",
    );
}

#[test]
fn an_app_with_a_syntax_error() {
    fails_then_recovers(
        Language::Ruby,
        "run ->(env) { [200, {}, ['x']\n",
        "load",
        "config.ru",
    );
    fails_then_recovers(
        Language::Python,
        "def application(:\n",
        "load",
        "SyntaxError",
    );
    fails_then_recovers(Language::Node, "const = 1;\n", "load", "SyntaxError");
}

#[test]
fn an_app_that_hangs_at_start_is_given_up_after_its_start_timeout() {
    let hangs = "import time\nprint('going to sleep', flush=True)\ntime.sleep(3600)\n";
    let server = Setup::of(site(Language::Python, hangs).with("PassengerStartTimeout 2")).start();
    let response = server.get("app", "/");
    assert!(
        (500..600).contains(&response.status),
        "status {}",
        response.status
    );
    server.log().expect("going to sleep");
    assert_eq!(
        server.app_pids("app"),
        [0; 0],
        "the process that hangs is still there"
    );
}

#[test]
fn a_node_app_that_never_listens_is_given_up_after_its_start_timeout() {
    let source = "console.log('I forgot to listen'); setInterval(() => {}, 1000)\n";
    let server = Setup::of(site(Language::Node, source).with("PassengerStartTimeout 2")).start();
    let response = server.get("app", "/");
    assert!(
        (500..600).contains(&response.status),
        "status {}",
        response.status
    );
    server.log().expect("I forgot to listen");
}

#[test]
fn an_interpreter_that_does_not_exist() {
    let wrong =
        site(Language::Python, greeting(Language::Python)).with("PassengerPython /no/such/python");
    let server = Setup::of(wrong).start();
    assert!((500..600).contains(&server.get("app", "/").status));
    server.log().expect("/no/such/python");
    assert!(
        server.log().count("exec") > 0,
        "the log does not name the step"
    );
}

#[test]
fn a_directory_that_the_apps_user_may_not_enter() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let site = site(Language::Python, greeting(Language::Python)).with("PassengerUser games");
    let server = Setup::of(site).start();
    // httpd may look inside, the app's user may not.
    let root = server.app_root("app");
    let web = nix::unistd::Group::from_name("www-data")
        .ok()
        .flatten()
        .expect("the group www-data")
        .gid;
    std::os::unix::fs::chown(&root, None, Some(web.as_raw()))
        .expect("give the directory to httpd's group");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o750)).expect("close the directory");
    assert!((500..600).contains(&server.get("app", "/").status));
    server.log().expect(root.to_str().expect("a path of text"));
    assert!(
        server.log().count("directory") > 0,
        "the log does not name the step"
    );
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("open the directory");
    assert_eq!(
        server.get("app", "/").ok(),
        "mended",
        "with the directory open (owner {APP_OWNER})"
    );
}

#[test]
fn details_are_shown_in_development() {
    let broken = site(Language::Python, "raise RuntimeError('the moon is full')\n");
    let server = Setup::of(broken.with("PassengerAppEnv development")).start();
    let response = server.get("app", "/");
    assert!(
        (500..600).contains(&response.status),
        "status {}",
        response.status
    );
    assert!(
        response.text().contains("the moon is full"),
        "no details: {}",
        response.text()
    );
}

#[test]
fn what_an_app_printed_cannot_become_markup() {
    let broken = site(
        Language::Python,
        "raise RuntimeError('<script>alert(1)</script>')\n",
    );
    let server = Setup::of(broken.with("PassengerAppEnv development")).start();
    let page = server.get("app", "/").text();
    assert!(!page.contains("<script>alert"), "unescaped: {page}");
    assert!(page.contains("&lt;script&gt;"), "not shown at all: {page}");
}

#[test]
fn one_app_that_does_not_start_leaves_the_others_alone() {
    let broken = Site::new("broken", App::inline(Language::Ruby, "raise 'never'\n"));
    let server = Setup::of(broken)
        .site(one_process(Language::Python))
        .start();
    for _ in 0..3 {
        assert!((500..600).contains(&server.get("broken", "/").status));
        assert_eq!(server.get("python", "/").status, 200);
    }
}

#[test]
pub(crate) fn an_exception_at_a_request_is_a_500_and_the_process_stays() {
    for language in Language::ALL {
        let name = language.name();
        let server = Setup::of(one_process(language)).start();
        let before = server.get(name, "/pid").ok();
        assert_eq!(server.get(name, "/raise").status, 500, "{name}");
        server.log().expect("the probe was asked to raise");
        assert_eq!(
            server.get(name, "/pid").ok(),
            before,
            "{name}: the process was replaced"
        );
    }
}

#[test]
pub(crate) fn a_process_that_exits_at_a_request_is_replaced_for_the_next() {
    for language in Language::ALL {
        let name = language.name();
        let server = Setup::of(one_process(language)).start();
        let before = server.get(name, "/pid").ok();
        let response = server.post(name, "/exit", b"not to be sent twice");
        assert!(
            (500..600).contains(&response.status),
            "{name}: status {}",
            response.status
        );
        assert_ne!(greets_again(&server, name), before, "{name}");
    }
}

fn greets_again(server: &Server, name: &str) -> String {
    assert_eq!(server.get(name, "/").ok(), format!("hello from {name}\n"));
    server.get(name, "/pid").ok()
}
