//! Clients the harness has none of: HTTP/2 by `curl`, TLS by `openssl s_client`. Neither reads ahead of a test
//! that does not read: their output is a pipe.

use harness::{Server, Setup, Site};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

/// A server that also speaks HTTP/2 on clear text.
pub(crate) fn with_h2(setup: Setup) -> Setup {
    setup
        .with("LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so")
        .with("Protocols h2c http/1.1")
}

/// A server whose only site is reached over TLS.
pub(crate) fn with_tls(setup: Setup, site: Site) -> Setup {
    let pem = certificate().display();
    setup
        .with("LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so")
        .with("LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so")
        .site(
            site.with("SSLEngine on")
                .with(&format!("SSLCertificateFile \"{pem}\"")),
        )
}

/// Key and certificate of these tests, made once.
fn certificate() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("clients-{}.pem", std::process::id()));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
            .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"])
            .args(["-subj", "/CN=localhost", "-keyout"])
            .arg(&path)
            .arg("-out")
            .arg(path.with_extension("crt"))
            .output()
            .expect("run openssl (Debian package openssl)");
        assert!(made.status.success(), "openssl: {made:?}");
        let certificate = std::fs::read(path.with_extension("crt")).expect("the certificate");
        let _ = std::fs::remove_file(path.with_extension("crt"));
        let mut both = std::fs::read(&path).expect("the key");
        both.extend(certificate);
        std::fs::write(&path, both).expect("write key and certificate");
        path
    })
}

/// A program that talks to the server for us.
pub(crate) struct Program {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(command: &mut Command) -> Program {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start curl or openssl (Debian packages of these names)");
        let output = child.stdout.take().expect("its output is a pipe");
        Program {
            child,
            output: BufReader::new(output),
        }
    }

    /// `GET target` over HTTP/2; what comes out is the body.
    pub(crate) fn h2(server: &Server, site: &str, target: &str) -> Program {
        Program::curl(server, site, target, "--http2-prior-knowledge")
    }

    /// `GET target` with one more option of curl's; what comes out is the body.
    pub(crate) fn curl(server: &Server, site: &str, target: &str, option: &str) -> Program {
        let port = server.port();
        Program::start(
            Command::new("curl")
                // Who waits in vain is told so, by an end that is none.
                .args(["-sN", "--max-time", "120", option, "--resolve"])
                .arg(format!("{site}:{port}:127.0.0.1"))
                .arg(format!("http://{site}:{port}{target}")),
        )
    }

    /// A TLS connection; in and out is what goes through it.
    pub(crate) fn tls(server: &Server, site: &str) -> Program {
        Program::start(
            Command::new("openssl")
                .args(["s_client", "-quiet", "-servername", site, "-connect"])
                .arg(format!("127.0.0.1:{}", server.port())),
        )
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let input = self.child.stdin.as_mut().expect("its input is a pipe");
        input.write_all(bytes).expect("the program reads");
        input.flush().expect("the program reads");
    }

    /// Exactly `length` bytes.
    pub(crate) fn bytes_of(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.output
            .read_exact(&mut bytes)
            .expect("more of the response");
        bytes
    }

    /// A line without its end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line of text");
        line.trim_end().to_owned()
    }

    /// Reads a response's head; returns its status line.
    pub(crate) fn head(&mut self) -> String {
        let status = self.line();
        while !self.line().is_empty() {}
        status
    }

    /// Everything until the end, and whether the program is content with it.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        self.output
            .read_to_end(&mut bytes)
            .expect("read to the end");
        let status = self.child.wait().expect("wait for the program");
        (bytes, status.success())
    }
}

impl Read for Program {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.output.read(buffer)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `VmRSS` of a process.
pub(crate) fn resident_kib(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .expect("a running process has a resident size")
}
