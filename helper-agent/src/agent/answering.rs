//! Waiting until a command answers at its port, which is all that it ever says of itself.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::tasks::{Happening, Happenings};
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
    out: Happenings,
) -> io::Result<()> {
    let mut has_complained = false;
    loop {
        // There is nothing to wait for: a stranger's socket tells nobody that it listens.
        tokio::time::sleep(ASK_PAUSE).await;
        let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
            continue;
        };
        let owner = tokio::task::spawn_blocking(move || port::listener(port)).await;
        match owner {
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
