//! What of a request's head reaches an app. Where a test stands for a vulnerability of the past, its name is in
//! the test.

use crate::environment::{self, Told};
use crate::headers::conversation;
use harness::{Language, Request, Setup};

/// CVE-2015-7519 (`X_User` for `X-User`), CVE-2016-5388 (`Proxy`), and names that are ours.
#[test]
pub(crate) fn fields_that_could_be_taken_for_others_do_not_reach_an_app() {
    for language in Language::ALL {
        let server = Setup::of(environment::site(language)).start();
        for names in [["X-User", "X_User"], ["X_User", "X-User"]] {
            let request = names
                .iter()
                .fold(Request::get("/"), |r, name| {
                    r.header(name, &format!("by {name}"))
                })
                .header("_", "lone")
                .header("Proxy", "http://evil/")
                .header("!~Passenger-Envvars", "UkVNT1RFX1VTRVIAcm9vdAA=")
                .header("!~", "x")
                .header("!~FLAGS", "x")
                .header("X.User", "dotted");
            let told = server.request("app", &request).ok();
            let user = if language == Language::Node {
                "x-user=by X-User"
            } else {
                "HTTP_X_USER=by X-User"
            };
            assert!(told.lines().any(|l| l == user), "{language:?}: {told}");
            for bad in ["by X_User", "lone", "evil", "root", "dotted", "FLAGS"] {
                assert!(!told.contains(bad), "{language:?}: {bad} arrived: {told}");
            }
        }
    }
}

/// CVE-2025-26803 and its like: no method ends anything.
#[test]
pub(crate) fn strange_methods_harm_nobody() {
    let server = Setup::of(environment::site(Language::Ruby)).start();
    let long = "M".repeat(64 * 1024);
    for method in [
        "get",
        "FROBNICATE",
        "CONNECT",
        "PRI",
        "G\0T",
        "GE T",
        "M-SEARCH",
        "\u{e9}",
        &long,
        "",
    ] {
        conversation(
            &server,
            &format!("{method} / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"),
        );
    }
    assert_eq!(
        server
            .request("app", &Request::new("FROBNICATE", "/"))
            .told("REQUEST_METHOD"),
        Some("FROBNICATE".into())
    );
    assert_eq!(
        server
            .request("app", &Request::new("get", "/"))
            .told("REQUEST_METHOD"),
        Some("get".into())
    );
}

/// CVE-2023-25690, CVE-2022-36760: a second request smuggled to the app.
#[test]
pub(crate) fn nothing_is_smuggled_to_an_app() {
    for language in [Language::Ruby, Language::Node] {
        let server = Setup::of(environment::site(language)).start();
        for target in [
            "/a%0d%0aX:%20y",
            "/a%20HTTP/1.1%0d%0aHost:%20x",
            "/%0a",
            "/a%00b",
        ] {
            let response = server.get("app", target);
            assert!(
                response.status == 404 || !response.text().contains('\r'),
                "{language:?} {target}"
            );
        }
        for head in [
            "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: app\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: app\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcdGET /smuggled HTTP/1.1\r\nHost: app\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: +4\r\n\r\nabcdGET /smuggled HTTP/1.1\r\nHost: app\r\n\r\n",
        ] {
            let answer = conversation(&server, head);
            assert!(!answer.contains("/smuggled"), "{language:?}: {answer}");
        }
    }
}
