//! Waiting until a command answers at its port, which is all that it ever says of itself.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::tasks::{Happening, Happenings};
use crate::helpers::Helpers;
use crate::pool::ProcessId;
use crate::spawn::port;

/// How often a command is asked whether it serves …
const ASK_PAUSE: Duration = Duration::from_millis(50);
/// … and how long it may take to answer before it is asked on another connection.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Any answer will do, also that there is no such page.
const QUESTION: &[u8] =
    b"HEAD / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Passenger\r\nConnection: close\r\n\r\n";

/// Waits until a command answers HTTP at its port, by a socket of its user.
pub(super) async fn answer(
    process: ProcessId,
    port: u16,
    uid: u32,
    helpers: Helpers,
    out: Happenings,
) -> io::Result<()> {
    let mut has_complained = false;
    loop {
        // There is nothing to wait for: a stranger's socket tells nobody that it listens.
        tokio::time::sleep(ASK_PAUSE).await;
        let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
            continue;
        };
        match owner(port, &helpers).await {
            Ok(Some(owner)) if owner == uid => {}
            Ok(Some(owner)) => {
                if !has_complained {
                    log::error!(
                        "port {port} was reserved for an app of uid {uid}, but a process of uid {owner} listens \
                         there; it gets no requests"
                    );
                }
                has_complained = true;
                continue;
            }
            Ok(None) | Err(_) => continue,
        }
        let answered = tokio::time::timeout(ANSWER_TIME, answers(&stream)).await;
        if matches!(answered, Ok(Ok(true))) {
            let _ = out.send(Happening::Answered { process }).await;
            return Ok(());
        }
    }
}

/// The user who listens at a port, if anybody does; found out by a helper thread.
pub(super) async fn owner(port: u16, helpers: &Helpers) -> io::Result<Option<u32>> {
    let (told, owner) = oneshot::channel();
    // A job that is dropped later drops the end that would be told.
    helpers.run(move || {
        let _ = told.send(port::listener(port));
    })?;
    owner.await.map_err(io::Error::other)?
}

/// Whether the first bytes of an answer are HTTP's.
async fn answers(stream: &TcpStream) -> io::Result<bool> {
    const HTTP: &[u8] = b"HTTP/";
    // It fits into the buffer of a fresh connection.
    stream.writable().await?;
    stream.try_write(QUESTION)?;
    let mut answer = Vec::new();
    while answer.len() < HTTP.len() {
        stream.readable().await?;
        let mut piece = [0; 512];
        match stream.try_read(&mut piece) {
            Ok(0) => return Ok(false),
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(answer.starts_with(HTTP))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use tokio::sync::mpsc;

    use super::*;

    /// Waits for an answer at `port` in a thread of its own; what it tells the loop comes out.
    fn waits(port: u16, uid: u32) -> std::thread::JoinHandle<bool> {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let (out, mut inbox) = mpsc::channel(1);
            let waited = answer(ProcessId(7), port, uid, Helpers::default(), out);
            let limit = Duration::from_secs(20);
            // Whether in time or not: what counts is what it said.
            let _ = runtime.block_on(async { tokio::time::timeout(limit, waited).await });
            matches!(
                inbox.try_recv(),
                Ok(Happening::Answered {
                    process: ProcessId(7)
                })
            )
        })
    }

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn a_command_is_ready_by_its_first_answer_that_is_http() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let waiting = waits(server.local_addr().unwrap().port(), me());
        for answer in ["", "220 mail.example ESMTP\r\n", "HTTP/1.0 404 "] {
            let (mut stream, _) = server.accept().unwrap();
            let mut question = [0; 16];
            stream.read_exact(&mut question).unwrap();
            assert_eq!(&question, b"HEAD / HTTP/1.1\r");
            assert!(!waiting.is_finished());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn a_stranger_at_the_port_is_not_told_anything() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let waiting = waits(port, me() + 1);
        for _ in 0..3 {
            let (mut stream, _) = server.accept().unwrap();
            let mut told = Vec::new();
            stream.read_to_end(&mut told).unwrap();
            assert_eq!(told, b"");
        }
        assert!(!waiting.is_finished());
    }
}
