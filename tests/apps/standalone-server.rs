//! A small HTTP/1.1 server that knows nothing of Passenger: what `PassengerAppStartCommand` is for. Takes its port
//! as the only argument, keeps connections, finishes its requests after SIGTERM.
//!
//! | URL | answer |
//! |---|---|
//! | `/pid` | its PID |
//! | `/env` | its variables and `cwd`, one `NAME=value` per line |
//! | `/head` | the request's head |
//! | `/echo` | the request's body |
//! | `/wait` | when there is a file `go-on` in its directory |
//! | `/broken` | half of what it announces, and the connection closes |
//!
//! While there is a file `mute` in its directory it accepts connections and answers nothing.
#![deny(unsafe_code)]

use nix::sys::signal::{SigSet, Signal};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Requests being answered.
static BUSY: AtomicUsize = AtomicUsize::new(0);

fn main() {
    let port: u16 = std::env::args()
        .nth(1)
        .and_then(|argument| argument.parse().ok())
        .expect("usage: standalone-server PORT");
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block().expect("block SIGTERM");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("bind the port");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(&stream));
        }
    });
    signals.wait().expect("wait for SIGTERM");
    println!("finishing {} requests", BUSY.load(Ordering::SeqCst));
    while BUSY.load(Ordering::SeqCst) > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn serve(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut input = BufReader::new(stream);
    while let Ok(Some((head, body))) = request(&mut input) {
        while Path::new("mute").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        BUSY.fetch_add(1, Ordering::SeqCst);
        let kept = answer(stream, &head, &body);
        BUSY.fetch_sub(1, Ordering::SeqCst);
        if !matches!(kept, Ok(true)) {
            return;
        }
    }
}

/// Head and body of the next request; `None` at the end of the connection.
fn request(input: &mut impl BufRead) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let mut body = Vec::new();
    if field(&head, "transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            input.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            input.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = field(&head, "content-length") {
        body = vec![0; length.parse().map_err(io::Error::other)?];
        input.read_exact(&mut body)?;
    }
    Ok(Some((head, body)))
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Answers; whether the connection may serve another request.
fn answer(mut stream: &TcpStream, head: &str, body: &[u8]) -> io::Result<bool> {
    let mut words = head.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or("/"));
    let text = match target {
        "/pid" => std::process::id().to_string().into_bytes(),
        "/env" => environment().into_bytes(),
        "/head" => head.as_bytes().to_vec(),
        "/echo" => body.to_vec(),
        "/wait" => {
            while !Path::new("go-on").exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            b"waited\n".to_vec()
        }
        "/broken" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf\n")?;
            return Ok(false);
        }
        _ => b"standalone\n".to_vec(),
    };
    let mut response =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len()).into_bytes();
    if method != Some("HEAD") {
        response.extend_from_slice(&text);
    }
    stream.write_all(&response)?;
    Ok(field(head, "connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")))
}

fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    lines.sort();
    let here = std::env::current_dir().unwrap_or_default();
    lines.push(format!("cwd={}\n", here.display()));
    lines.concat()
}
