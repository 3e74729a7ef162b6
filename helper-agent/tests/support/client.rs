//! Requests and responses as the tests see them, and the connection that carries them in the
//! language's own protocol.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{binary, http, Language, DEADLINE};

/// A request. `Default` is `GET /`.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) protocol: &'static str,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

/// How the body travels.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    None,
    /// Its length is announced.
    Sized(Vec<u8>),
    /// In pieces, its length unknown until the end.
    Pieces(Vec<Vec<u8>>),
}

impl Request {
    /// `GET` of a path with an optional query.
    pub(crate) fn get(target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Request {
            method: "GET",
            path: path.to_owned(),
            query: query.to_owned(),
            protocol: "HTTP/1.1",
            headers: Vec::new(),
            body: Body::None,
        }
    }

    pub(crate) fn post(target: &str, body: Body) -> Self {
        Request {
            method: "POST",
            body,
            ..Request::get(target)
        }
    }

    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// What the client spoke with httpd.
    pub(crate) fn protocol(mut self, protocol: &'static str) -> Self {
        self.protocol = protocol;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Path and query as in a request line.
    pub(crate) fn target(&self) -> String {
        match self.query.as_str() {
            "" => self.path.clone(),
            query => format!("{}?{query}", self.path),
        }
    }
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The process said that it closes the connection.
    pub(crate) is_last: bool,
}

impl Response {
    /// All values of a header, in order.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let same = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(same)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of an `echo` fixture.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }
}

/// One connection to an application process.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    language: Language,
    number: u64,
}

impl Client {
    pub(crate) fn connect(language: Language, socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("connect to the process");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("set a timeout");
        stream
            .set_write_timeout(Some(DEADLINE))
            .expect("set a timeout");
        // Seat 5: so that both halves of a number are in use.
        Client {
            stream,
            language,
            number: 5 << 32,
        }
    }

    /// The number of the last request sent.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The bytes of the request as they go over the wire. Each call takes a new number.
    pub(crate) fn encode(&mut self, request: &Request) -> Vec<u8> {
        self.number += 1;
        if self.language.is_binary() {
            binary::encode(request, self.number)
        } else {
            http::encode(request)
        }
    }

    /// Sends a request.
    pub(crate) fn send(&mut self, request: &Request) {
        let bytes = self.encode(request);
        self.stream.write_all(&bytes).expect("send the request");
    }

    /// Reads the response to a request of that method. An error when the process closes before the
    /// response is complete.
    pub(crate) fn receive(&mut self, method: &str) -> io::Result<Response> {
        if self.language.is_binary() {
            binary::receive(&mut self.stream, self.number)
        } else {
            http::receive(&mut self.stream, method)
        }
    }

    /// Sends a request and reads its response, which must be complete.
    pub(crate) fn call(&mut self, request: &Request) -> Response {
        self.send(request);
        self.receive(request.method).expect("a complete response")
    }
}
