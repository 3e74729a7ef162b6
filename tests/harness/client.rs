//! A small HTTP/1.1 client that does exactly what a test says: keep a connection, send a body in
//! pieces, read a response as it arrives, or go away in the middle.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Longest silence a client puts up with.
const SILENCE: Duration = Duration::from_secs(60);

/// A request to send.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without a body.
    #[must_use]
    pub fn new(method: &str, target: &str) -> Request {
        let (method, target) = (method.to_owned(), target.to_owned());
        Request {
            method,
            target,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// `GET target`.
    #[must_use]
    pub fn get(target: &str) -> Request {
        Request::new("GET", target)
    }

    /// `POST target` with a body and its `Content-Length`.
    #[must_use]
    pub fn post(target: &str, body: &[u8]) -> Request {
        let length = body.len().to_string();
        let mut request = Request::new("POST", target).header("Content-Length", &length);
        request.body = body.to_owned();
        request
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn head(&self, host: &str) -> String {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {host}\r\n",
            self.method, self.target
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }
}

/// A response that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, transfer coding removed.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of a 200.
    ///
    /// # Panics
    /// When the status is another one; the message has the body.
    #[must_use]
    pub fn ok(&self) -> String {
        assert_eq!(
            self.status,
            200,
            "the response was {self:?}",
            self = self.text()
        );
        self.text()
    }
}

/// How the body of the response being read is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
    Ended,
}

/// One connection to a site.
#[derive(Debug)]
pub struct Client {
    host: String,
    stream: BufReader<TcpStream>,
    framing: Framing,
    last_method: String,
}

impl Client {
    /// Connects to a port of this machine, to talk to the site `host`.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(port: u16, host: &str) -> io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Client {
            host: host.to_owned(),
            stream: BufReader::new(stream),
            framing: Framing::Ended,
            last_method: String::new(),
        })
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    /// When the connection breaks or the response is not HTTP; `UnexpectedEof` when it was cut.
    pub fn exchange(&mut self, request: &Request) -> io::Result<Response> {
        self.send(request)?;
        self.response()
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.last_method.clone_from(&request.method);
        let mut bytes = request.head(&self.host).into_bytes();
        bytes.extend_from_slice(&request.body);
        self.send_bytes(&bytes)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads a whole response.
    ///
    /// # Errors
    /// As [`Client::exchange`].
    pub fn response(&mut self) -> io::Result<Response> {
        let (status, headers) = self.response_head()?;
        let mut body = Vec::new();
        loop {
            let piece = self.body_piece()?;
            if piece.is_empty() {
                return Ok(Response {
                    status,
                    headers,
                    body,
                });
            }
            body.extend_from_slice(&piece);
        }
    }

    /// Reads a response's head; interim responses are skipped.
    ///
    /// # Errors
    /// As [`Client::exchange`]; `ConnectionAborted` when the connection ended before the first byte.
    pub fn response_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        self.await_bytes()?;
        if self.stream.fill_buf()?.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "closed before any response",
            ));
        }
        loop {
            let status_line = self.line()?;
            let status: u16 = status_line
                .split(' ')
                .nth(1)
                .and_then(|code| code.parse().ok())
                .ok_or_else(|| bad(&format!("not a status line: {status_line:?}")))?;
            let headers = self.header_lines()?;
            if status >= 200 {
                self.framing = self.framing_of(status, &headers)?;
                return Ok((status, headers));
            }
        }
    }

    /// Reads what has arrived of the body, at least a byte; empty at its end. Blocks until then.
    ///
    /// # Errors
    /// As [`Client::exchange`].
    pub fn body_piece(&mut self) -> io::Result<Vec<u8>> {
        match self.framing {
            Framing::Ended | Framing::Length(0) => Ok(Vec::new()),
            Framing::Length(left) => {
                let piece = self.some(left)?;
                if piece.is_empty() {
                    return Err(cut("the body"));
                }
                self.framing = Framing::Length(left - piece.len() as u64);
                Ok(piece)
            }
            Framing::UntilClose => self.some(u64::MAX),
            Framing::Chunked => self.chunk(),
        }
    }

    /// The port of this end.
    ///
    /// # Panics
    /// When the socket has none, which cannot be.
    #[must_use]
    pub fn local_port(&self) -> u16 {
        self.stream
            .get_ref()
            .local_addr()
            .expect("a connected socket has an address")
            .port()
    }

    /// Goes away without a word, as a browser whose user closed the tab.
    pub fn abort(self) {
        // Whether the peer went first does not matter here.
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }

    /// A process that is stopped and goes on, or a machine that is paused, finds a read that has a deadline interrupted.
    fn await_bytes(&mut self) -> io::Result<()> {
        loop {
            match self.stream.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                filled => return filled.map(|_| ()),
            }
        }
    }

    fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default();
        let length =
            usize::from_str_radix(digits.trim(), 16).map_err(|e| bad(&format!("{line:?}: {e}")))?;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        let after = self.line()?;
        if length == 0 {
            self.framing = Framing::Ended;
        }
        if after.is_empty() {
            Ok(bytes)
        } else {
            Err(bad(&format!("{after:?} after a chunk")))
        }
    }

    fn some(&mut self, limit: u64) -> io::Result<Vec<u8>> {
        self.await_bytes()?;
        let available = self.stream.fill_buf()?;
        let length = available
            .len()
            .min(usize::try_from(limit).unwrap_or(usize::MAX));
        let piece = available[..length].to_vec();
        self.stream.consume(length);
        Ok(piece)
    }

    fn header_lines(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(headers);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn framing_of(&self, status: u16, headers: &[(String, String)]) -> io::Result<Framing> {
        if self.last_method == "HEAD" || status == 204 || status == 304 {
            return Ok(Framing::Ended);
        }
        if header(headers, "transfer-encoding").is_some_and(|coding| coding == "chunked") {
            return Ok(Framing::Chunked);
        }
        match header(headers, "content-length") {
            Some(length) => length.parse().map(Framing::Length).map_err(|_| bad(length)),
            None => Ok(Framing::UntilClose),
        }
    }

    /// Reads a line of a head, for what is not a response or not yet.
    ///
    /// # Errors
    /// As [`Client::exchange`].
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(cut("a line"));
        }
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(cut("a line")),
        }
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.as_str())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what}"))
}

fn cut(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("the connection ended within {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// What the client makes of a server that answers one request with these bytes and hangs up.
    fn reading(bytes: &'static [u8]) -> io::Result<Response> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let server = thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut request = BufReader::new(stream.try_clone()?);
            let mut line = String::new();
            while request.read_line(&mut line)? > 2 {
                line.clear();
            }
            stream.write_all(bytes)
        });
        let response = Client::connect(port, "test")?.exchange(&Request::get("/"));
        server.join().expect("the server does not panic")?;
        response
    }

    #[test]
    fn chunks_are_put_together() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(reading(bytes).expect("a response").ok(), "abcde");
    }

    #[test]
    fn a_cut_response_is_an_error() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Le",
        ] {
            let kind = reading(bytes).expect_err("the response is cut").kind();
            assert_eq!(kind, io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_connection_without_any_response_is_told_apart() {
        let kind = reading(b"").expect_err("there is no response").kind();
        assert_eq!(kind, io::ErrorKind::ConnectionAborted);
    }
}
