//! Which app a URL belongs to, and how the app is told the URL: base URIs, aliases, files, cached pages.

use crate::environment::{self, Told};
use harness::{App, Language, Mpm, Request, Server, Setup, Site};
use std::os::unix::fs::symlink;

/// The site `app` with another app `inner` beside it, whose path is `{root}/sites/inner`.
fn two_apps(directives: &[&str]) -> Setup {
    let site = directives
        .iter()
        .fold(environment::site(Language::Ruby), |site, d| site.with(d));
    // One process each: how many a busy machine starts is not the question here.
    Setup::default()
        .with("PassengerMaxInstancesPerApp 1")
        .site(site)
        .site(Site::new("inner", environment::app(Language::Ruby)))
}

/// Links `uri` of the site `app` to the public directory of `inner`.
fn link(server: &Server, uri: &str) {
    let link = server.app_root("app").join("public").join(uri);
    std::fs::create_dir_all(link.parent().expect("a parent")).expect("create the link's directory");
    symlink(server.app_root("inner").join("public"), link).expect("link the sub-URI");
}

#[test]
pub(crate) fn a_linked_sub_uri_is_the_linked_app() {
    let server = two_apps(&["PassengerBaseURI /sub"]).start();
    link(&server, "sub");
    let inner = server.get("app", "/sub/x%20y/z?q=1");
    assert_eq!(inner.paths(), "/sub|/x%20y/z|/sub/x%20y/z?q=1|q=1");
    assert_eq!(server.app_pids("inner").len(), 1);
    assert_eq!(server.app_pids("app"), [0; 0]);
    assert_eq!(server.get("app", "/sub").paths(), "/sub|/|/sub|");
    assert_eq!(server.get("app", "/s%75b/x").paths(), "/sub|/x|/s%75b/x|");
    assert_eq!(
        server.get("app", "/subway/x").paths(),
        "|/subway/x|/subway/x|"
    );
    assert_eq!(server.app_pids("app").len(), 1);
}

#[test]
pub(crate) fn the_longest_base_uri_wins() {
    let server = two_apps(&["PassengerBaseURI /a", "PassengerBaseURI /a/b"]).start();
    link(&server, "a");
    std::fs::create_dir_all(server.app_root("inner").join("public")).expect("create public");
    symlink(
        server.app_root("inner").join("public"),
        server.app_root("inner").join("public/b"),
    )
    .expect("link /a/b");
    assert_eq!(server.get("app", "/a/b/c").paths(), "/a/b|/c|/a/b/c|");
    assert_eq!(server.get("app", "/a/bc").paths(), "/a|/bc|/a/bc|");
}

#[test]
fn an_alias_with_an_app_root_is_an_app() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = two_apps(&[
            "Alias /sub {root}/sites/inner/public",
            "<Location /sub>\nPassengerBaseURI /sub\nPassengerAppRoot {root}/sites/inner\n</Location>",
        ])
        .mpm(mpm)
        .start();
        assert_eq!(server.get("app", "/sub/x?y").paths(), "/sub|/x|/sub/x?y|y");
        assert_eq!(server.app_pids("inner").len(), 1);
        assert_eq!(server.get("app", "/x").paths(), "|/x|/x|");
    }
}

#[test]
pub(crate) fn what_an_alias_does_not_have_is_the_hosts_app_to_answer() {
    let server = two_apps(&["Alias /files {root}/sites/inner/public"]).start();
    std::fs::write(server.app_root("inner").join("public/there.txt"), "there")
        .expect("write a file");
    assert_eq!(server.get("app", "/files/there.txt").ok(), "there");
    assert_eq!(
        server.get("app", "/files/missing.txt").paths(),
        "|/files/missing.txt|/files/missing.txt|"
    );
    assert_eq!(server.app_pids("inner"), [0; 0]);
}

#[test]
pub(crate) fn a_base_uri_without_an_app_is_left_to_httpd() {
    let server = two_apps(&["PassengerBaseURI /none"]).start();
    std::fs::create_dir_all(server.root().join("elsewhere/none")).expect("create a directory");
    symlink(
        server.root().join("elsewhere/none"),
        server.app_root("app").join("public/none"),
    )
    .expect("link it");
    assert_eq!(server.get("app", "/none/x").status, 404);
}

#[test]
pub(crate) fn escaped_paths_reach_the_app_as_they_were_sent() {
    let server =
        Setup::of(environment::site(Language::Ruby).with("AllowEncodedSlashes On")).start();
    for (target, paths) in [
        (
            "/%7Euser/caf%C3%A9?a=%20b",
            "|/%7Euser/caf%C3%A9|/%7Euser/caf%C3%A9?a=%20b|a=%20b",
        ),
        ("/a%2Fb", "|/a/b|/a/b|"),
        ("//a//b", "|/a/b|/a/b|"),
        ("/a/../b", "|/b|/b|"),
        ("/a+b;c=d&e", "|/a+b;c=d&e|/a+b;c=d&e|"),
        ("/a%3Fb%23c%25", "|/a%3Fb%23c%25|/a%3Fb%23c%25|"),
        ("/x?", "|/x|/x?|"),
    ] {
        assert_eq!(server.get("app", target).paths(), paths, "{target}");
    }
    let long = format!("/{}", "t".repeat(300));
    assert_eq!(server.get("app", &long).told("PATH_INFO"), Some(long));
}

#[test]
pub(crate) fn encoded_slashes_are_kept_where_asked_for() {
    let site = environment::site(Language::Ruby)
        .with("AllowEncodedSlashes On")
        .with("<Location /kept>\nPassengerAllowEncodedSlashes on\n</Location>");
    let server = Setup::of(site).start();
    assert_eq!(
        server.get("app", "/kept/a%2fb").paths(),
        "|/kept/a%2fb|/kept/a%2fb|"
    );
    assert_eq!(
        server.get("app", "/other/a%2fb").paths(),
        "|/other/a/b|/other/a/b|"
    );
    let off = Setup::of(environment::site(Language::Ruby)).start();
    assert_eq!(off.get("app", "/a%2fb").status, 404);
    let undecoded =
        Setup::of(environment::site(Language::Ruby).with("AllowEncodedSlashes NoDecode")).start();
    assert_eq!(
        undecoded.get("app", "/a%2Fb").told("PATH_INFO"),
        Some("/a%2Fb".into())
    );
}

/// A site whose public directory has cached pages.
fn pages() -> Site {
    let app = environment::app(Language::Python)
        .file("public/foo.html", "foo page")
        .file("public/dir/index.html", "index page")
        .file("public/dir.html", "dir page")
        .file("public/empty/.keep", "");
    Site::new("app", app).with("DirectoryIndex disabled")
}

#[test]
fn a_cached_page_answers_get_and_head_without_the_app() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = Setup::of(pages()).mpm(mpm).start();
        for (target, page) in [
            ("/foo", "foo page"),
            ("/foo?query=1", "foo page"),
            ("/foo.html", "foo page"),
            ("/dir/", "index page"),
            ("/dir", "dir page"),
        ] {
            let response = server.get("app", target);
            assert_eq!(response.ok(), page, "{target}");
            assert_eq!(
                response.header("content-type"),
                Some("text/html"),
                "{target}"
            );
        }
        let head = server.request("app", &Request::new("HEAD", "/foo"));
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("8"))
        );
        assert_eq!(
            server.app_pids("app"),
            [0; 0],
            "a cached page started the app"
        );
        let posted = server.post("app", "/foo", b"x");
        assert_eq!(posted.told("REQUEST_METHOD"), Some("POST".into()));
        assert_eq!(
            server.get("app", "/foo/").told("PATH_INFO"),
            Some("/foo/".into())
        );
        assert_eq!(
            server.get("app", "/foo/bar").told("PATH_INFO"),
            Some("/foo/bar".into())
        );
        assert_eq!(
            server.get("app", "/empty/").told("PATH_INFO"),
            Some("/empty/".into())
        );
        assert_eq!(
            server.get("app", "/empty").told("PATH_INFO"),
            Some("/empty".into())
        );
    }
}

#[test]
pub(crate) fn a_file_wins_for_every_method() {
    let app = environment::app(Language::Python).file("public/file.txt", "file");
    let server = Setup::of(Site::new("app", app)).start();
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let response = server.request("app", &Request::new(method, "/file.txt"));
        assert!(
            !response.text().contains("REQUEST_METHOD"),
            "{method} reached the app"
        );
    }
    assert_eq!(server.app_pids("app"), [0; 0]);
    assert_eq!(
        server.get("app", "/file.txt/more").told("PATH_INFO"),
        Some("/file.txt/more".into())
    );
}

#[test]
pub(crate) fn a_protected_page_is_not_given_away_by_the_page_cache() {
    let app = environment::app(Language::Python)
        .file("public/secret.html", "secret")
        .file(
            "public/.htaccess",
            "<Files secret.html>\nRequire all denied\n</Files>\n",
        );
    let server = Setup::of(Site::new("app", app)).start();
    assert_ne!(server.get("app", "/secret").text(), "secret");
    assert_eq!(server.get("app", "/secret.html").status, 403);
}

#[test]
pub(crate) fn htaccess_can_switch_apps_off_and_set_variables() {
    let app = environment::app(Language::Python)
        .file("public/off/.htaccess", "PassengerEnabled off\n")
        .file("public/on/.htaccess", "SetEnv FROM_HTACCESS yes\n");
    let server = Setup::of(Site::new("app", app)).start();
    assert_eq!(server.get("app", "/off/x").status, 404);
    assert_eq!(
        server.get("app", "/on/x").told("FROM_HTACCESS"),
        Some("yes".into())
    );
    assert_eq!(server.get("app", "/x").told("FROM_HTACCESS"), None);
}

#[test]
fn high_performance_skips_htaccess_but_not_files_and_pages() {
    let app = environment::app(Language::Python)
        .file("public/.htaccess", "SetEnv FROM_HTACCESS yes\n")
        .file("public/file.txt", "file")
        .file("public/foo.html", "foo page");
    let site = Site::new("app", app)
        .with("SetEnv FROM_HOST yes")
        .with("RewriteEngine on\nRewriteRule ^/old$ /new [PT]")
        .with("PassengerHighPerformance on");
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = Setup::of(site.clone()).mpm(mpm).start();
        let dynamic = server.get("app", "/x/y?z");
        assert_eq!(dynamic.paths(), "|/x/y|/x/y?z|z");
        assert_eq!(dynamic.told("FROM_HTACCESS"), None);
        assert_eq!(dynamic.told("FROM_HOST"), Some("yes".into()));
        assert_eq!(
            server.get("app", "/old").told("PATH_INFO"),
            Some("/new".into())
        );
        assert_eq!(server.get("app", "/file.txt").ok(), "file");
        assert_eq!(server.get("app", "/foo").ok(), "foo page");
        let trace = server.request("app", &Request::new("TRACE", "/x"));
        assert!(
            trace.text().starts_with("TRACE /x HTTP/1.1"),
            "{}",
            trace.text()
        );
    }
}

#[test]
pub(crate) fn an_app_says_the_type_whatever_the_name_looks_like() {
    let app = App::inline(
        Language::Ruby,
        "run ->(env) { [200, env['PATH_INFO'] == '/typed.html' ? {'content-type' => 'application/json'} : {}, ['{}']] }",
    );
    let site = Site::new("app", app)
        .with("AddType text/html .html\nAddEncoding x-gzip .gz\nAddLanguage de .de");
    let server = Setup::of(site).start();
    assert_eq!(
        server.get("app", "/typed.html").header("content-type"),
        Some("application/json")
    );
    let untyped = server.get("app", "/page.html.de.gz");
    assert_eq!(untyped.header("content-type"), None);
    assert_eq!(untyped.header("content-encoding"), None);
    assert_eq!(untyped.header("content-language"), None);
}
