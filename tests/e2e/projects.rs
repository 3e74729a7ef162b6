//! Whole projects as their framework makes or publishes them, with a database and a visitor who signs in: Django's
//! `startproject` with its admin site, over WSGI and over ASGI, and Flask's tutorial.

use crate::frameworks::is_installed;
use harness::app::owner_uid;
use harness::{stage, App, Language, Request, Response, Server, Setup, Site};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Somebody with a browser's memory for cookies.
struct Visitor<'s> {
    server: &'s Server,
    site: &'s str,
    cookies: BTreeMap<String, String>,
}

impl<'s> Visitor<'s> {
    fn of(server: &'s Server, site: &'s str) -> Self {
        let cookies = BTreeMap::new();
        Visitor {
            server,
            site,
            cookies,
        }
    }

    fn send(&mut self, request: Request) -> Response {
        let cookies: Vec<_> = self
            .cookies
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let response = self
            .server
            .request(self.site, &request.header("Cookie", &cookies.join("; ")));
        for (name, value) in &response.headers {
            let pair = value
                .split(';')
                .next()
                .and_then(|pair| pair.split_once('='));
            if let (true, Some((cookie, value))) = (name == "set-cookie", pair) {
                self.cookies.insert(cookie.to_owned(), value.to_owned());
            }
        }
        response
    }

    fn get(&mut self, target: &str) -> Response {
        self.send(Request::get(target))
    }

    /// Submits a form; where it leads to.
    fn submits(&mut self, target: &str, form: &str) -> String {
        let request = Request::post(target, form.as_bytes())
            .header("Content-Type", "application/x-www-form-urlencoded");
        let response = self.send(request);
        assert_eq!(response.status, 302, "{}", response.text());
        response.header("location").unwrap_or_default().to_owned()
    }
}

/// Runs Python in the app's directory as its owner, who then owns what it makes.
fn python(server: &Server, site: &str, arguments: &[&str]) {
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(arguments)
        .current_dir(server.app_root(site))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("DJANGO_SUPERUSER_PASSWORD", "analytical");
    if nix::unistd::Uid::effective().is_root() {
        command.uid(owner_uid());
    }
    let output = command.output().expect("run python3");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn django_admin_works(app_type: &str) {
    // A name that a fresh project's settings allow.
    const HOST: &str = "project.localhost";
    if !is_installed(Language::Python, "django") {
        return;
    }
    let site = Site::new(HOST, App::files())
        .with(&format!("PassengerAppType {app_type}"))
        .with(&format!("PassengerStartupFile mysite/{app_type}.py"));
    let server = Setup::of(site).start();
    python(
        &server,
        HOST,
        &["-m", "django", "startproject", "mysite", "."],
    );
    python(&server, HOST, &["manage.py", "migrate"]);
    let ada = ["--noinput", "--username", "ada", "--email", "ada@localhost"];
    let arguments = ["manage.py", "createsuperuser"].iter().chain(&ada);
    python(&server, HOST, &arguments.copied().collect::<Vec<_>>());

    let mut ada = Visitor::of(&server, HOST);
    assert!(ada
        .get("/")
        .ok()
        .contains("The install worked successfully"));
    let away = ada.get("/admin/");
    assert_eq!(away.header("location"), Some("/admin/login/?next=/admin/"));
    let page = ada.get("/admin/login/?next=/admin/").ok();
    let token = page
        .split_once("name=\"csrfmiddlewaretoken\" value=\"")
        .and_then(|(_, rest)| rest.split('"').next());
    let token = token.expect("a token in the form");
    let form = format!("csrfmiddlewaretoken={token}&username=ada&password=analytical&next=/admin/");
    let next = ada.submits("/admin/login/?next=/admin/", &form);
    assert_eq!(next, "/admin/");
    let page = ada.get("/admin/").ok();
    assert!(page.contains("Site administration"), "{page}");
    assert!(page.contains("ada"), "{page}");
}

#[test]
fn a_new_django_project_works_over_wsgi() {
    django_admin_works("wsgi");
}

#[test]
fn a_new_django_project_works_over_asgi() {
    django_admin_works("asgi");
}

/// Adds all text files below a directory to an app.
fn with_all(mut app: App, from: &Path, to: &str) -> App {
    for entry in fs::read_dir(from).expect("list a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let target = format!("{to}/{}", name.expect("a plain name"));
        if path.is_dir() {
            app = with_all(app, &path, &target);
        } else {
            let text = fs::read_to_string(&path).expect("read a file");
            app = app.file(&target, &text);
        }
    }
    app
}

#[test]
fn the_blog_of_flasks_tutorial_works() {
    let tutorial = "frameworks/python/Flask-2.2.2/examples/tutorial/flaskr";
    let tutorial = stage::prefix().join(tutorial);
    if !tutorial.exists() || !is_installed(Language::Python, "flask") {
        eprintln!("skipped: Flask's tutorial is not there (tests/run/deps --frameworks)");
        return;
    }
    let starts = "from flaskr import create_app\n\napplication = create_app()\n";
    let app = App::files().file("passenger_wsgi.py", starts);
    let server = Setup::of(Site::new("blog", with_all(app, &tutorial, "flaskr"))).start();
    python(
        &server,
        "blog",
        &["-m", "flask", "--app", "flaskr", "init-db"],
    );

    let mut ada = Visitor::of(&server, "blog");
    let who = "username=ada&password=analytical";
    assert_eq!(ada.submits("/auth/register", who), "/auth/login");
    assert_eq!(ada.submits("/auth/login", who), "/");
    assert_eq!(
        ada.submits("/create", "title=Notes&body=gr%C3%BC%C3%9Fe+on+engines"),
        "/"
    );
    let mut stranger = Visitor::of(&server, "blog");
    for visitor in [&mut ada, &mut stranger] {
        let page = visitor.get("/").ok();
        assert!(
            page.contains("Notes") && page.contains("grüße on engines"),
            "{page}"
        );
    }
    assert_eq!(
        stranger.get("/1/update").header("location"),
        Some("/auth/login")
    );
    assert_eq!(ada.submits("/1/delete", ""), "/");
    assert!(!stranger.get("/").ok().contains("Notes"));
    assert!(stranger
        .get("/static/style.css")
        .ok()
        .contains("font-family"));
}
