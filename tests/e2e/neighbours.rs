//! Together with more of httpd's modules: mod_proxy, mod_speling, old rewrites to `dispatch.cgi`; HTTP/2 by two clients.

use crate::clients::{with_h2, Program};
use crate::modules::{load, MPMS};
use harness::{App, Language, Request, Setup, Site};
use std::process::{Command, Stdio};

#[test]
fn what_is_proxied_is_not_the_apps() {
    let backend = Setup::of(Site::probe(Language::Ruby)).start();
    let port = backend.port();
    let site = Site::probe(Language::Python)
        .with(&format!("ProxyPass /api http://127.0.0.1:{port}"))
        .with("ProxyPass /api/own !")
        .with("RewriteEngine On")
        .with(&format!(
            "RewriteRule ^/moved/(.*) http://127.0.0.1:{port}/$1 [P]"
        ));
    for mpm in MPMS {
        let server = load(Setup::of(site.clone()), &["proxy", "proxy_http"])
            .mpm(mpm)
            .start();
        let greeting = |target: &str| server.get("python", target).ok();
        assert_eq!(greeting("/"), "hello from python\n");
        assert_eq!(greeting("/api/"), "hello from ruby\n");
        assert_eq!(greeting("/moved/"), "hello from ruby\n");
        assert_eq!(greeting("/request"), "GET||/request|\n");
        let echo = Request::post("/api/echo", &[b'x'; 100_000]);
        assert_eq!(server.request("python", &echo).body.len(), 100_000);
    }
}

#[test]
fn urls_of_an_app_are_nobodys_typos() {
    let site = Site::probe(Language::Ruby)
        .with("CheckSpelling On")
        .with("CheckCaseOnly Off");
    for mpm in MPMS {
        let server = load(Setup::of(site.clone()), &["speling"]).mpm(mpm).start();
        assert_eq!(server.get("ruby", "/static.txt").status, 200);
        // One letter off: the app's to answer, without a redirect to the file.
        let answer = server.get("ruby", "/statik.txt");
        assert_eq!(answer.header("location"), None, "{answer:?}");
        assert_eq!(server.get("ruby", "/request").ok(), "GET||/request|\n");
    }
}

/// Rails applications of old came with such a file.
const DISPATCH: &str = "RewriteEngine On
RewriteRule ^$ index.html [QSA]
RewriteRule ^([^.]+)$ $1.html [QSA]
RewriteCond %{REQUEST_FILENAME} !-f
RewriteRule ^(.*)$ dispatch.KIND [QSA,L]
";

#[test]
fn old_rewrites_to_a_dispatcher_reach_the_app() {
    for (mpm, name) in MPMS.into_iter().zip(["cgi", "fcgi"]) {
        let app = App::probe(Language::Ruby)
            .file("public/.htaccess", &DISPATCH.replace("KIND", name))
            .file("public/cached.html", "a cached page");
        let server = Setup::of(Site::new("ruby", app)).mpm(mpm).start();
        assert_eq!(
            server.get("ruby", "/request?a=b").ok(),
            "GET||/request|a=b\n"
        );
        assert_eq!(server.get("ruby", "/cached").ok(), "a cached page");
        assert_eq!(server.get("ruby", "/static.txt").status, 200);
        assert_eq!(server.post("ruby", "/echo", b"body").ok(), "body");
    }
}

/// Five lines, each after a pause that lasts until the test says go.
const PAUSING: &str = "require('http').createServer((q, s) => {
  const fs = require('fs');
  let n = 0;
  s.write('line 0\\n');
  const wait = setInterval(() => {
    if (!fs.existsSync('go' + n)) return;
    n += 1;
    if (n === 5) { clearInterval(wait); return s.end('end\\n'); }
    s.write('line ' + n + '\\n');
  }, 5);
}).listen(3000)";

#[test]
fn an_app_that_pauses_again_and_again_is_passed_on_over_h2_each_time() {
    for mpm in MPMS {
        let site = Site::new("app", App::inline(Language::Node, PAUSING));
        let server = with_h2(Setup::default().mpm(mpm)).site(site).start();
        let mut client = Program::h2(&server, "app", "/");
        for n in 0..5 {
            assert_eq!(client.line(), format!("line {n}"), "{mpm:?}");
            server.touch("app", &format!("go{n}"));
        }
        assert_eq!(client.rest(), (b"end\n".to_vec(), true), "{mpm:?}");
    }
}

#[test]
fn many_streams_of_one_h2_connection_are_answered() {
    let has_nghttp = Command::new("nghttp")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !has_nghttp {
        eprintln!("skipped: nghttp is not installed (Debian package nghttp2-client)");
        return;
    }
    for mpm in MPMS {
        let setup = with_h2(Setup::default().mpm(mpm)).with("PassengerMaxPoolSize 2");
        let server = setup.site(Site::probe(Language::Python)).start();
        let port = server.port();
        let mut urls: Vec<String> = (0..20)
            .map(|n| format!("http://127.0.0.1:{port}/request?q{n}."))
            .collect();
        urls.push(format!("http://127.0.0.1:{port}/static.txt"));
        let output = Command::new("nghttp")
            .arg("--header=:authority: python")
            .args(&urls)
            .output()
            .expect("run nghttp");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{mpm:?}: {output:?}");
        for n in 0..20 {
            let answer = format!("GET||/request|q{n}.");
            assert_eq!(text.matches(&answer).count(), 1, "{mpm:?} {n}: {text}");
        }
    }
}
