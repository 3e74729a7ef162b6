//! Whole projects as their framework makes or publishes them, with a database and a visitor who signs in: Django's
//! `startproject` with its admin site, over WSGI and over ASGI, Flask's tutorial, and what `rails new` makes, with a scaffold.

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

/// Runs a program in the app's directory as its owner, who then owns what it makes.
fn run(
    server: &Server,
    site: &str,
    program: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(server.app_root(site))
        .envs(environment.iter().copied());
    if nix::unistd::Uid::effective().is_root() {
        command.uid(owner_uid());
    }
    let output = command.output().expect("run a program");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn python(server: &Server, site: &str, arguments: &[&str]) {
    let environment = [
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("DJANGO_SUPERUSER_PASSWORD", "analytical"),
    ];
    run(server, site, "/usr/bin/python3", arguments, &environment);
}

/// The text of a page between two others.
fn between<'p>(page: &'p str, before: &str, after: &str) -> &'p str {
    let rest = page.split_once(before).map(|(_, rest)| rest);
    let found = rest.and_then(|rest| rest.split(after).next());
    found.unwrap_or_else(|| panic!("no {before:?} in {page}"))
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
    let token = between(&page, "name=\"csrfmiddlewaretoken\" value=\"", "\"");
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

/// What `rails new` makes, without what needs a package of Node.js or a compiler; then a scaffold with its table.
fn a_rails_blog(server: &Server, site: &str, environment: &str) {
    let root = server.app_root(site);
    let ruby = |arguments: &[&str]| {
        let home = root.to_str().expect("a plain path");
        let variables = [("RAILS_ENV", environment), ("HOME", home)];
        run(server, site, "/usr/bin/ruby", arguments, &variables);
    };
    let cli = "gem 'railties'; load Gem.bin_path('railties', 'rails')";
    ruby(&[
        "-e",
        cli,
        "--",
        "new",
        ".",
        "--force",
        "--minimal",
        "--skip-gemfile",
        "--skip-listen",
        "--skip-sprockets",
        "--skip-git",
        "--skip-test",
    ]);
    ruby(&[
        "bin/rails",
        "generate",
        "scaffold",
        "post",
        "title:string",
        "body:text",
    ]);
    ruby(&["bin/rails", "db:migrate"]);
}

fn a_rails_project_works(environment: &str, spawn_method: &str) {
    const HOST: &str = "blog.localhost";
    const GEMS: [&str; 4] = ["actionpack", "activerecord", "railties", "sqlite3"];
    if !is_installed(Language::Ruby, "rails")
        || !is_installed(Language::Ruby, "active_record")
        || !is_installed(Language::Ruby, "sqlite3")
        || !is_installed(Language::Ruby, "bundler")
    {
        return;
    }
    let gemfile = GEMS.map(|gem| format!("gem '{gem}'\n")).concat();
    let site = Site::new(HOST, App::files().file("Gemfile", &gemfile))
        .with(&format!("PassengerAppEnv {environment}"))
        .with(&format!("PassengerSpawnMethod {spawn_method}"))
        .with("PassengerStartupFile config.ru");
    let server = Setup::of(site).start();
    a_rails_blog(&server, HOST, environment);

    let mut ada = Visitor::of(&server, HOST);
    let page = ada.get("/posts/new").ok();
    let token = between(&page, "name=\"authenticity_token\" value=\"", "\"");
    let token = token
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let form = format!(
        "authenticity_token={token}&post[title]=Notes&post[body]=gr%C3%BC%C3%9Fe+on+engines"
    );
    let place = ada.submits("/posts", &form);
    assert!(place.ends_with("/posts/1"), "{place}");
    // The notice is in the session, for one page.
    let page = ada.get("/posts/1").ok();
    assert!(page.contains("successfully created"), "{page}");
    assert!(page.contains("grüße on engines"), "{page}");
    assert!(!ada.get("/posts/1").ok().contains("successfully created"));

    // A stranger has no session in which the token would be right.
    let mut stranger = Visitor::of(&server, HOST);
    assert!(stranger.get("/posts").ok().contains("Notes"));
    let forged = Request::post("/posts", form.as_bytes())
        .header("Content-Type", "application/x-www-form-urlencoded");
    assert_eq!(stranger.send(forged).status, 422);
    let missing = stranger.get("/posts/7");
    assert_eq!(missing.status, 404);
    let says_more = missing.text().contains("ActiveRecord::RecordNotFound");
    assert_eq!(
        says_more,
        environment == "development",
        "{}",
        missing.text()
    );

    let page = ada.get("/posts").ok();
    let token = between(&page, "name=\"csrf-token\" content=\"", "\"");
    let token = token
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let place = ada.submits(
        "/posts/1",
        &format!("_method=delete&authenticity_token={token}"),
    );
    assert!(place.ends_with("/posts"), "{place}");
    assert!(!stranger.get("/posts").ok().contains("Notes"));
}

#[test]
fn a_new_rails_project_works_in_production() {
    a_rails_project_works("production", "direct");
}

/// The preloader's connection to the database is no worker's.
#[test]
fn a_new_rails_project_works_preloaded() {
    a_rails_project_works("production", "smart");
}

#[test]
fn a_new_rails_project_works_in_development() {
    a_rails_project_works("development", "direct");
}
