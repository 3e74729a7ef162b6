//! What a browser sees of an app that does not start.

use harness::{App, Language, Mpm, Request, Setup, Site};
use std::os::unix::fs::symlink;

const BROKEN: &str = "import os\nprint('KEY is', os.environ['SECRET_KEY'][::-1])\nraise RuntimeError('the moon is full')\n";

fn site() -> Site {
    Site::new("app", App::inline(Language::Python, BROKEN)).with("SetEnv SECRET_KEY hush-hush")
}

#[test]
fn a_production_page_says_nothing_but_an_id_that_the_log_has() {
    for mpm in Mpm::ALL {
        let server = Setup::of(site()).mpm(mpm).start();
        let response = server.get("app", "/");
        assert_eq!(response.status, 500);
        assert_eq!(
            response.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let page = response.text();
        let root = server.app_root("app");
        for secret in [
            "hush",
            "moon",
            "Python",
            "passenger_wsgi",
            root.to_str().expect("text"),
        ] {
            assert!(!page.contains(secret), "{secret} in {page}");
        }
        let id = page
            .split("<code>")
            .nth(1)
            .and_then(|rest| rest.split('<').next());
        server
            .log()
            .expect(&format!("error {}", id.expect("an id")));
        let head = server.request("app", &Request::new("HEAD", "/"));
        assert_eq!((head.status, head.body.len()), (500, 0));
    }
}

#[test]
fn a_developers_page_has_the_whole_story_but_no_secret() {
    let server = Setup::of(site().with("PassengerFriendlyErrorPages on")).start();
    let page = server.get("app", "/").text();
    let root = server.app_root("app");
    for part in [
        "the moon is full",
        "RuntimeError",
        "What to try",
        "<li class=\"failed\"><span class=\"mark\">✗</span><b>load</b>",
        "<li class=\"done\"><span class=\"mark\">✓</span><b>exec</b>",
        "KEY is hsuh-hsuh",
        "SECRET_KEY",
        "set, not shown",
        "PASSENGER_APP_ENV",
        "<th>shell</th><td>",
        root.to_str().expect("text"),
    ] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    assert!(!page.contains("hush-hush"), "{page}");
}

#[test]
fn off_hides_the_story_in_development_too() {
    let site = site()
        .with("PassengerAppEnv development")
        .with("PassengerFriendlyErrorPages off");
    let server = Setup::of(site).start();
    assert!(!server.get("app", "/").text().contains("moon"));
}

#[test]
fn the_administrators_page_wins_and_cannot_be_led_elsewhere() {
    let app = App::inline(Language::Python, BROKEN)
        .file("sorry.html", "<p>We are closed today.</p>")
        .file("elsewhere/other.html", "<p>nobody's business</p>");
    let site = Site::new("app", app)
        .with("SetEnv SECRET_KEY hush-hush")
        .with("PassengerFriendlyErrorPages on")
        .with("PassengerCustomErrorPage sorry.html");
    let server = Setup::of(site).start();
    let response = server.get("app", "/");
    assert_eq!(response.status, 500);
    assert_eq!(response.text(), "<p>We are closed today.</p>");
    assert_eq!(
        response.header("content-type"),
        Some("text/html; charset=utf-8")
    );

    let page = server.app_root("app").join("sorry.html");
    std::fs::remove_file(&page).expect("remove the page");
    symlink("/etc/passwd", &page).expect("plant a link");
    let text = server.get("app", "/").text();
    assert!(
        text.contains("the moon is full") && !text.contains("root:"),
        "{text}"
    );
    server.log().expect("PSGR0221");
    std::fs::remove_file(&page).expect("remove the link");
}
