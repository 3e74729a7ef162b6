//! TLS and HTTP/2, through `curl`, which speaks both.

use crate::environment;
use crate::modules::{load, MPMS};
use harness::{under, Language, Mpm, Request, Server, Setup};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A self-made certificate and key, removed at the end.
struct Certificate(PathBuf);

impl Certificate {
    fn new(name: &str) -> Certificate {
        let directory =
            std::env::temp_dir().join(format!("psgr-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("create a directory");
        let status = Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=app",
            ])
            .arg("-keyout")
            .arg(directory.join("key.pem"))
            .arg("-out")
            .arg(directory.join("cert.pem"))
            .output()
            .expect("run openssl (Debian package openssl)")
            .status;
        assert!(status.success(), "openssl made no certificate");
        Certificate(directory)
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }

    /// The directives of a TLS site.
    fn directives(&self) -> String {
        format!(
            "SSLEngine on\nSSLCertificateFile {}\nSSLCertificateKeyFile {}",
            self.path("cert.pem"),
            self.path("key.pem")
        )
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // What is left is in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What `curl` prints for a target of the site `app`.
fn curl(server: &Server, scheme: &str, target: &str, options: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--max-time", "60"])
        .arg("--resolve")
        .arg(format!("app:{}:127.0.0.1", server.port()))
        .args(options)
        .arg(format!("{scheme}://app:{}{target}", server.port()))
        .output()
        .expect("run curl (Debian package curl)");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{complaint}\n{}",
        server.evidence()
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file of `size` bytes below the server's root, to upload.
fn upload(server: &Server, size: usize) -> PathBuf {
    let path = server.root().join("upload");
    std::fs::write(&path, vec![b'x'; size]).expect("write the upload");
    path
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|l| l == line)
}

#[test]
fn an_app_is_told_about_tls() {
    let certificate = Certificate::new("facts");
    for language in Language::ALL {
        let site = environment::site(language)
            .with(&certificate.directives())
            .with("SSLOptions +StdEnvVars");
        let setup = load(Setup::of(site), &["ssl"]);
        for mpm in MPMS {
            let server = setup.clone().mpm(mpm).start();
            let told = curl(&server, "https", "/x", &[]);
            let prefix = if language == Language::Node {
                "var "
            } else {
                ""
            };
            assert!(
                has(&told, &format!("{prefix}HTTPS=on")),
                "{language:?}: {told}"
            );
            assert!(
                told.contains(&format!("{prefix}SSL_PROTOCOL=TLSv1")),
                "{language:?}: {told}"
            );
            if language == Language::Node {
                assert!(has(&told, "x-forwarded-proto=https"), "{told}");
            } else {
                assert!(
                    has(&told, &format!("SERVER_PORT={}", server.port())),
                    "{told}"
                );
            }
        }
    }
}

#[test]
pub(crate) fn without_tls_nothing_claims_it() {
    let server = Setup::of(environment::site(Language::Ruby)).start();
    let request = Request::get("/")
        .header("HTTPS", "on")
        .header("X-Forwarded-Proto", "https");
    let told = server.request("app", &request).ok();
    assert!(!told.lines().any(|l| l.starts_with("HTTPS=")), "{told}");
    let node = Setup::of(environment::site(Language::Node)).start();
    let told = node.request("app", &request).ok();
    assert!(has(&told, "x-forwarded-proto=http"), "{told}");
}

/// Requests of every kind over HTTP/2, on a server with an echo at `/echo`.
fn speaks_h2(server: &Server, scheme: &str, option: &str) {
    let echo = |path: &Path| format!("@{}", path.display());
    let version = [
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_version} %{response_code}",
        option,
    ];
    assert_eq!(curl(server, scheme, "/", &version), "2 200");
    assert_eq!(curl(server, scheme, "/", &[option]), "hello from python\n");
    let head = curl(server, scheme, "/", &["--head", option]);
    assert!(head.starts_with("HTTP/2 200"), "{head}");
    let path = upload(server, 3 << 20);
    let back = curl(
        server,
        scheme,
        "/echo",
        &["--data-binary", &echo(&path), option],
    );
    assert_eq!(back.len(), 3 << 20);
    assert_eq!(curl(server, scheme, "/nowhere", &version), "2 404");
}

#[test]
fn apps_are_served_over_http_2() {
    let site = || harness::Site::new("app", harness::App::probe(Language::Python));
    let clear = load(Setup::of(site().with("Protocols h2c http/1.1")), &["http2"]).start();
    speaks_h2(&clear, "http", "--http2-prior-knowledge");
    let certificate = Certificate::new("h2");
    let site = site()
        .with(&certificate.directives())
        .with("Protocols h2 http/1.1");
    let encrypted = load(Setup::of(site), &["ssl", "http2"]).start();
    speaks_h2(&encrypted, "https", "--http2");
    assert_eq!(
        curl(&encrypted, "https", "/", &["--http1.1"]),
        "hello from python\n"
    );
}

/// mod_http2 offers itself to TLS clients under threaded MPMs only; clear-text ones are served one stream at a time.
#[test]
fn under_prefork_tls_clients_get_http_1_1_and_others_http_2() {
    under(Mpm::Prefork, || {
        let site = || harness::Site::new("app", harness::App::probe(Language::Python));
        let clear = site().with("Protocols h2c http/1.1");
        let clear = load(Setup::of(clear), &["http2"]).start();
        speaks_h2(&clear, "http", "--http2-prior-knowledge");
        let certificate = Certificate::new("h2-prefork");
        let site = site()
            .with(&certificate.directives())
            .with("Protocols h2 http/1.1");
        let encrypted = load(Setup::of(site), &["ssl", "http2"]).start();
        let version = ["--output", "/dev/null", "--write-out", "%{http_version}"];
        let version = [&version[..], &["--http2"]].concat();
        assert_eq!(curl(&encrypted, "https", "/", &version), "1.1");
        assert_eq!(
            curl(&encrypted, "https", "/", &["--http2"]),
            "hello from python\n"
        );
    });
}
