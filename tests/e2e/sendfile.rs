//! `X-Sendfile`: files that an app names and httpd sends.

use crate::modules::MPMS;
use harness::{App, Language, Request, Response, Server, Setup, Site};
use std::os::unix::fs::symlink;

/// An app of one process that names the file in the query, in each language.
fn naming(language: Language) -> App {
    let source = match language {
        Language::Ruby => {
            "run ->(env) { env['PATH_INFO'] == '/plain' ? [200, {}, ['fine']] :
              [200, {'content-type' => 'text/plain', 'x-sendfile' => env['QUERY_STRING'], 'x-more' => 'kept'}, []] }\n"
        }
        // As Flask: the length is the file's, and there is no body.
        Language::Python => {
            "def application(e, s):\n    s('200 OK', [('Content-Type', 'text/plain'), ('X-Sendfile', e['QUERY_STRING']), \
             ('X-More', 'kept'), ('Content-Length', '10')])\n    return iter([])\n"
        }
        Language::Node => {
            "require('http').createServer((q, s) => {\n  \
             s.setHeader('X-Sendfile', q.url.split('?')[1]); s.setHeader('X-More', 'kept');\n  \
             s.setHeader('Content-Type', 'text/plain'); s.end('never sent');\n}).listen(3000);\n"
        }
    };
    App::inline(language, source)
        .file("files/letters.txt", "abcdefghij")
        .file("files/with space.txt", "space")
}

/// What `httpd` makes of a file of the app's directory.
fn named(server: &Server, file: &str, request: impl Fn(Request) -> Request) -> Response {
    let path = server.app_root("app").join(file);
    let get = Request::get(&format!("/file?{}", path.display()));
    server.request("app", &request(get))
}

#[test]
fn a_file_of_the_app_is_sent_with_ranges_and_conditions() {
    for language in Language::ALL {
        for mpm in MPMS {
            let setup = Setup::of(Site::new("app", naming(language))).mpm(mpm);
            let server = setup.with("PassengerMaxPoolSize 1").start();
            let whole = named(&server, "files/letters.txt", |r| r);
            assert_eq!(whole.ok(), "abcdefghij", "{language:?}");
            assert_eq!(whole.header("content-length"), Some("10"));
            assert_eq!(whole.header("content-type"), Some("text/plain"));
            assert_eq!(whole.header("x-more"), Some("kept"));
            assert_eq!(
                whole.header("x-sendfile"),
                None,
                "the path reached the client"
            );
            let etag = whole.header("etag").expect("an ETag").to_owned();
            let date = whole.header("last-modified").expect("a date").to_owned();

            let range = named(&server, "files/letters.txt", |r| {
                r.header("Range", "bytes=2-4")
            });
            assert_eq!(
                (range.status, range.text().as_str()),
                (206, "cde"),
                "{language:?}"
            );
            assert_eq!(range.header("content-range"), Some("bytes 2-4/10"));
            for (name, value) in [("If-None-Match", &etag), ("If-Modified-Since", &date)] {
                let unchanged = named(&server, "files/letters.txt", |r| r.header(name, value));
                assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{name}");
                assert_eq!(unchanged.header("etag"), Some(etag.as_str()), "{name}");
            }
            let changed = named(&server, "files/letters.txt", |r| {
                r.header("If-Match", "\"other\"")
            });
            assert_eq!(changed.status, 412);
            let stale = named(&server, "files/letters.txt", |r| {
                r.header("Range", "bytes=2-4")
                    .header("If-Range", "\"other\"")
            });
            assert_eq!(stale.ok(), "abcdefghij");
        }
    }
}

#[test]
pub(crate) fn head_has_the_length_and_no_body() {
    let server = Setup::of(Site::new("app", naming(Language::Ruby))).start();
    let path = server.app_root("app").join("files/letters.txt");
    let head = Request::new("HEAD", &format!("/file?{}", path.display()));
    let mut client = server.client("app");
    let response = client.exchange(&head).expect("a response");
    assert_eq!(
        (response.status, response.header("content-length")),
        (200, Some("10"))
    );
    assert_eq!(
        client
            .exchange(&Request::get("/plain"))
            .expect("a response")
            .ok(),
        "fine"
    );
}

#[test]
pub(crate) fn only_files_of_the_app_and_of_allowed_directories_are_sent() {
    let site = Site::new("app", naming(Language::Ruby))
        .with("<Location /file/allowed>\nPassengerXSendfilePath {root}/shared\n</Location>");
    let server = Setup::of(site).start();
    std::fs::create_dir(server.root().join("shared")).expect("create a directory");
    std::fs::write(server.root().join("shared/s.txt"), "shared").expect("write a file");
    symlink(
        server.root().join("shared/s.txt"),
        server.app_root("app").join("files/out.txt"),
    )
    .expect("link out");
    symlink("letters.txt", server.app_root("app").join("files/in.txt")).expect("link in");
    let status = |file: &str| named(&server, file, |r| r).status;
    assert_eq!(status("files/in.txt"), 200);
    assert_eq!(status("files/with%20space.txt"), 200);
    assert_eq!(status("files/missing.txt"), 404);
    for file in [
        "files/out.txt",
        "../../shared/s.txt",
        "files",
        "../../error.log",
        "%2e%2e/%2e%2e/shared/s.txt",
    ] {
        let refused = named(&server, file, |r| r);
        assert!(
            matches!(refused.status, 403 | 404),
            "{file}: {}",
            refused.status
        );
        assert!(
            !refused.text().contains("shared\n") && refused.text() != "shared",
            "{file} was sent"
        );
    }
    for path in [
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "relative.txt",
    ] {
        assert_eq!(
            server.get("app", &format!("/file?{path}")).status,
            403,
            "{path}"
        );
    }
    server.log().expect("PSGR0213");
    let shared = server.root().join("shared/s.txt");
    let target = |prefix: &str| format!("{prefix}?{}", shared.display());
    assert_eq!(server.get("app", &target("/file")).status, 403);
    assert_eq!(server.get("app", &target("/file/allowed")).ok(), "shared");
    assert_eq!(server.get("app", "/plain").ok(), "fine");
}
