//! The URLs of `PassengerPreStart`: each is requested once with HEAD, so that its app is started and has had a
//! request before the first visitor comes. In threads of their own: an app may take long, and nobody waits.
//!
//! The request goes to this machine, whatever the host's name resolves to. TLS is left to `openssl s_client`,
//! run as the default user.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::spawn::accounts::{Accounts, System};
use crate::sys::process::effective_uid;

/// Requests at a time: the others wait, not httpd's threads.
const AT_ONCE: usize = 4;
/// An app that starts slowly may take so long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest first line of an answer.
const LINE_BYTES: u64 = 8 * 1024;

/// A URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Url {
    is_tls: bool,
    host: String,
    port: u16,
    /// What the `Host` field says.
    authority: String,
    target: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| format!("{text:?} is not a URL: it has no \"://\""))?;
        let is_tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(format!("{text:?} is neither an http nor an https URL")),
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let is_printable = |c: char| c.is_ascii_graphic();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse();
                (
                    host,
                    port.map_err(|_| format!("{text:?} has an impossible port"))?,
                )
            }
            _ => (authority, if is_tls { 443 } else { 80 }),
        };
        if host.is_empty() || !rest.chars().all(is_printable) {
            return Err(format!("{text:?} is not a URL"));
        }
        let path = path.split('#').next().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            is_tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.to_owned(),
            target: format!("{slash}{path}"),
        })
    }

    fn request(&self) -> String {
        format!(
            "HEAD {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: mod_passenger/{} (PassengerPreStart)\r\n\
             Connection: close\r\n\r\n",
            self.target,
            self.authority,
            env!("CARGO_PKG_VERSION")
        )
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.target)
    }
}

/// Requests all of them, without waiting for it.
pub fn begin(urls: &[String], user: &str) {
    let mut parsed = Vec::new();
    for url in urls {
        match Url::parse(url) {
            Ok(url) => parsed.push(url),
            Err(e) => log::warn!("PassengerPreStart: {e}"),
        }
    }
    if parsed.is_empty() {
        return;
    }
    let user = user.to_owned();
    let run = move || {
        for some in parsed.chunks(AT_ONCE) {
            thread::scope(|scope| {
                for url in some {
                    let user = &user;
                    scope.spawn(move || request(url, user));
                }
            });
        }
    };
    if let Err(e) = thread::Builder::new().name("prestart".into()).spawn(run) {
        log::warn!("PassengerPreStart: cannot start a thread: {e}");
    }
}

fn request(url: &Url, user: &str) {
    let begun = Instant::now();
    let answer = if url.is_tls {
        over_tls(url, user)
    } else {
        in_clear_text(url)
    };
    match answer {
        Ok(line) => log::info!(
            "PassengerPreStart: {url} answered {:?} after {} ms",
            line.trim_end(),
            begun.elapsed().as_millis()
        ),
        Err(e) => log::warn!("PassengerPreStart: {url} does not answer: {e}"),
    }
}

fn in_clear_text(url: &Url) -> io::Result<String> {
    let mut stream = connect(url)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(url.request().as_bytes())?;
    first_line(stream)
}

/// The loopback first: behind a load balancer the name is another machine's.
fn connect(url: &Url) -> io::Result<TcpStream> {
    let mut last = None;
    let local = [([127, 0, 0, 1], url.port).into(), loopback_v6(url.port)];
    for address in local {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = Some(e),
        }
    }
    for address in (&url.host[..], url.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn loopback_v6(port: u16) -> SocketAddr {
    (std::net::Ipv6Addr::LOCALHOST, port).into()
}

/// The certificate is httpd's own and not checked.
fn over_tls(url: &Url, user: &str) -> io::Result<String> {
    let mut command = Command::new("openssl");
    command
        .args([
            "s_client",
            "-quiet",
            "-verify_quiet",
            "-servername",
            &url.host,
        ])
        .arg("-connect")
        .arg(format!("127.0.0.1:{}", url.port))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    if effective_uid() == 0 {
        let account = System.user(user).filter(|account| account.uid != 0);
        let account =
            account.ok_or_else(|| io::Error::other("there is no user to run openssl as"))?;
        command.uid(account.uid).gid(account.gid).current_dir("/");
    }
    let mut child = command
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run openssl: {e}")))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (Some(mut input), Some(output)) = (input, output) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    input.write_all(url.request().as_bytes())?;
    let watch = thread::spawn(move || first_line(output));
    let end = Instant::now() + PATIENCE;
    while !watch.is_finished() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    // The agent's loop may reap it first: then there is nothing to kill or to wait for.
    let _ = child.kill();
    let _ = child.wait();
    drop(input);
    watch
        .join()
        .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

fn first_line(from: impl Read) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(from.take(LINE_BYTES)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse("https://Shop.example.com/a/b?c=d#e").unwrap();
        assert_eq!((url.is_tls, url.port), (true, 443));
        assert_eq!(
            (&url.host[..], &url.target[..]),
            ("Shop.example.com", "/a/b?c=d")
        );
        let url = Url::parse("http://[::1]:8080").unwrap();
        assert_eq!(
            (&url.host[..], url.port, &url.target[..]),
            ("::1", 8080, "/")
        );
        assert_eq!(url.authority, "[::1]:8080");
        assert_eq!(Url::parse("http://h?x").unwrap().target, "/?x");
        for wrong in [
            "shop.example.com",
            "ftp://h/",
            "http://",
            "http://h:x/",
            "http://h/a b",
            "http://h/\r\nX: y",
        ] {
            assert!(Url::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_server_of_this_machine_is_asked_whatever_the_name_resolves_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = String::new();
            BufReader::new(&stream).read_line(&mut head).unwrap();
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .unwrap();
            head
        });
        let url = Url::parse(&format!("http://name.invalid:{port}/up")).unwrap();
        assert_eq!(
            in_clear_text(&url).unwrap().trim_end(),
            "HTTP/1.1 204 No Content"
        );
        assert_eq!(server.join().unwrap(), "HEAD /up HTTP/1.1\r\n");
    }
}
