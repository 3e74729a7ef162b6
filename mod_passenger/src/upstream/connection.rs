//! Connections of this worker process to app processes, kept alive between requests.
//!
//! One connection serves one request at a time. The cache is per worker process and keyed by process
//! slot *and* generation, so a recycled slot never sees an old connection.

use super::peer;
use nix::sys::socket::{self, socket, AddressFamily, SockFlag, SockType, UnixAddr};
use parking_lot::Mutex;
use passenger_shm::{Port, ProcessRef, Protocol};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest a plain read sleeps before its caller looks at the client and the process.
pub(crate) const READ_SLICE: Duration = Duration::from_millis(100);
/// Longest a `connect` sleeps.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Size of a connection's read buffer; a response up to this size costs one `recv`.
pub(crate) const BUFFER_BYTES: usize = 32 * 1024;
/// Idle connections kept per process slot.
const MAX_IDLE: usize = 64;

/// Longest a connection over TCP may have been idle and be used again: servers that know nothing of us close
/// theirs after some seconds, and a request must not cross with that.
const MAX_TCP_IDLE: Duration = Duration::from_secs(1);

/// A connection to one app process.
pub(crate) struct Connection {
    /// Over TCP if the app is a command with a port; the type says "Unix" because `std` has none for both, and
    /// nothing is called on it that is not the same for both.
    stream: UnixStream,
    is_tcp: bool,
    /// Initialised to its end, so that a read clears nothing; `start..end` was read and not yet used.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    is_reused: bool,
}

impl Connection {
    fn open(path: &Path, port: Option<Port>) -> io::Result<Self> {
        let is_tcp = port.is_some();
        let stream = match port {
            Some(port) => connect_tcp(port)?,
            None => connect(path)?,
        };
        stream.set_read_timeout(Some(READ_SLICE))?;
        Ok(Self {
            stream,
            is_tcp,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            is_reused: false,
        })
    }

    /// Whether a reset says nothing of what the app has read: over TCP, unlike a Unix socket, it may come after
    /// the app took the request.
    pub(crate) fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// Whether it has served a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// Sends without blocking; how much was accepted, or `WouldBlock`.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        use nix::sys::socket::{send, MsgFlags};
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match send(self.stream.as_raw_fd(), bytes, flags) {
                Err(nix::errno::Errno::EINTR) => {}
                other => return other.map_err(io::Error::from),
            }
        }
    }

    /// Whether nothing was sent by the app since the last response, and it has not closed. An HTTP response has
    /// no number, so surplus bytes would answer the next request.
    pub(crate) fn is_quiet(&self) -> bool {
        use nix::sys::socket::{recv, MsgFlags};
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        recv(self.stream.as_raw_fd(), &mut [0; 1], flags) == Err(nix::errno::Errno::EAGAIN)
    }

    /// Tells the app that nothing more will come (and, mid-request, that nobody listens any more).
    pub(crate) fn half_close(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// The socket alone, and unused input.
    pub(crate) fn into_parts(self) -> (UnixStream, Vec<u8>) {
        let unused = self.input().to_vec();
        (self.stream, unused)
    }

    /// Unused input.
    pub(crate) fn input(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Marks `n` bytes of [`Self::input`] as used.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once, appending to the input. Sleeps up to [`READ_SLICE`], then `WouldBlock`. `Ok(0)` is end
    /// of file.
    pub(crate) fn read(&mut self) -> io::Result<usize> {
        self.make_room();
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(n) => {
                    self.end += n;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Makes a quarter of a buffer available: first by moving unused input to the front, then by growing.
    fn make_room(&mut self) {
        const ENOUGH: usize = BUFFER_BYTES / 4;
        if self.buffer.len() - self.end >= ENOUGH {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.buffer.len() - self.end < ENOUGH {
            self.buffer.resize(self.end + BUFFER_BYTES, 0);
        }
    }
}

/// Connects, sleeping at most [`CONNECT_TIME`] while the backlog is full: how long it is, the app decides
/// (it may call `listen` again), and this thread does not look at its client meanwhile.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let stream = UnixStream::from(fd);
    // unix(7): `connect` waits as long as a send would.
    stream.set_write_timeout(Some(CONNECT_TIME))?;
    socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream)
}

/// Connects to a port of this machine, which a listener that exists accepts at once. It must be the app's user's.
fn connect_tcp(port: Port) -> io::Result<UnixStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number));
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIME)?;
    peer::check(&stream, port.uid)?;
    stream.set_nodelay(true)?;
    Ok(UnixStream::from(OwnedFd::from(stream)))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

struct Idle {
    generation: u32,
    /// Only where it matters: over TCP.
    since: Option<Instant>,
    connection: Box<Connection>,
}

/// The idle connections of this worker process.
pub(crate) struct ConnectionCache {
    slots: Box<[Mutex<Vec<Idle>>]>,
    directory: std::path::PathBuf,
}

impl ConnectionCache {
    /// A cache for processes `0..processes`, whose sockets are in `directory`.
    pub(crate) fn new(directory: std::path::PathBuf, processes: usize) -> Self {
        Self {
            slots: (0..processes).map(|_| Mutex::new(Vec::new())).collect(),
            directory,
        }
    }

    /// An idle connection to `process`, or a new one: to `port`, or to its Unix socket if there is none. Connecting
    /// blocks only while the backlog is full.
    ///
    /// `has_one_chance`: a server that closes an idle connection in the very moment in which it is used must not cost
    /// this request, which cannot be sent again. Over TCP nobody can tell that from a server that took it, so there
    /// it gets a connection which has never been idle (our loaders never close idle ones).
    ///
    /// # Errors
    /// Those of `connect(2)`, and somebody else's socket at that port: nothing was sent.
    pub(crate) fn checkout(
        &self,
        process: ProcessRef,
        protocol: Protocol,
        has_one_chance: bool,
        port: impl FnOnce() -> Option<Port>,
    ) -> io::Result<Box<Connection>> {
        if let Some(slot) = self.slots.get(process.slot() as usize) {
            let mut idle = slot.lock();
            while let Some(entry) = idle.pop() {
                if has_one_chance && entry.connection.is_tcp {
                    // The new one takes its place: there are never more of them than requests at once.
                    break;
                }
                let is_old = entry.since.is_some_and(|t| t.elapsed() >= MAX_TCP_IDLE);
                let is_usable =
                    protocol == Protocol::Binary || (!is_old && entry.connection.is_quiet());
                if entry.generation == process.generation() && is_usable {
                    return Ok(entry.connection);
                }
            }
        }
        let name = format!("{}.{}", process.slot(), process.generation());
        let port = match protocol {
            Protocol::Binary => None,
            Protocol::Http => port(),
        };
        Connection::open(&self.directory.join(name), port).map(Box::new)
    }

    /// Keeps a connection whose request and response were both complete. One with unread input is
    /// dropped: no response may reach another request.
    pub(crate) fn checkin(&self, process: ProcessRef, mut connection: Box<Connection>) {
        if !connection.input().is_empty() {
            return;
        }
        connection.is_reused = true;
        if connection.buffer.len() > 2 * BUFFER_BYTES {
            connection.buffer = vec![0; BUFFER_BYTES];
        }
        let Some(slot) = self.slots.get(process.slot() as usize) else {
            return;
        };
        let mut idle = slot.lock();
        if idle
            .last()
            .is_some_and(|entry| entry.generation != process.generation())
        {
            idle.clear();
        }
        if idle.len() < MAX_IDLE {
            idle.push(Idle {
                generation: process.generation(),
                since: connection.is_tcp.then(Instant::now),
                connection,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    fn cache() -> (ConnectionCache, std::path::PathBuf) {
        let directory = std::env::temp_dir().join(format!(
            "passenger-conn-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::create_dir_all(&directory).unwrap();
        (ConnectionCache::new(directory.clone(), 4), directory)
    }

    #[test]
    fn a_connection_is_reused_for_its_generation_only() {
        let (cache, directory) = cache();
        let _one = UnixListener::bind(directory.join("1.7")).unwrap();
        let _two = UnixListener::bind(directory.join("1.8")).unwrap();
        let process = ProcessRef::new(1, 7);
        let connection = cache
            .checkout(process, Protocol::Http, false, || None)
            .unwrap();
        assert!(!connection.is_reused());
        cache.checkin(process, connection);
        assert!(cache
            .checkout(process, Protocol::Http, false, || None)
            .unwrap()
            .is_reused());
        let connection = cache
            .checkout(process, Protocol::Http, false, || None)
            .unwrap();
        cache.checkin(process, connection);
        assert!(!cache
            .checkout(ProcessRef::new(1, 8), Protocol::Http, false, || None)
            .unwrap()
            .is_reused());
        assert!(cache
            .checkout(ProcessRef::new(1, 9), Protocol::Http, false, || None)
            .is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_command_is_reached_at_its_port_and_old_connections_are_not_used_again() {
        let (cache, directory) = cache();
        let server = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = Some(Port {
            number: server.local_addr().unwrap().port(),
            uid: nix::unistd::geteuid().as_raw(),
        });
        let process = ProcessRef::new(1, 7);
        let connect = || {
            cache
                .checkout(process, Protocol::Http, false, || port)
                .unwrap()
        };
        let connection = connect();
        assert!(connection.is_tcp() && !connection.is_reused());
        cache.checkin(process, connection);
        let connection = connect();
        assert!(connection.is_reused());
        cache.checkin(process, connection);
        // What cannot be sent again does not trust it, and takes its place.
        let fresh = cache.checkout(process, Protocol::Http, true, || port);
        let fresh = fresh.unwrap();
        assert!(!fresh.is_reused() && cache.slots[1].lock().is_empty());
        cache.checkin(process, fresh);
        let long_ago = Instant::now().checked_sub(MAX_TCP_IDLE);
        for idle in cache.slots[1].lock().iter_mut() {
            idle.since = long_ago;
        }
        assert!(!connect().is_reused());
        drop(server);
        let refused = cache
            .checkout(process, Protocol::Http, false, || port)
            .err();
        assert_eq!(
            refused.map(|e| e.kind()),
            Some(io::ErrorKind::ConnectionRefused)
        );
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn an_app_that_shrinks_its_backlog_does_not_hold_the_thread() {
        let (cache, directory) = cache();
        let listener = UnixListener::bind(directory.join("0.1")).unwrap();
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let process = ProcessRef::new(0, 1);
        let held: Vec<_> = (0..4)
            .map(|_| cache.checkout(process, Protocol::Binary, false, || None))
            .collect();
        let refused = held.into_iter().find_map(Result::err);
        assert_eq!(refused.map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn input_survives_moving_and_growing() {
        let (cache, directory) = cache();
        let listener = UnixListener::bind(directory.join("3.1")).unwrap();
        let mut connection = cache
            .checkout(ProcessRef::new(3, 1), Protocol::Binary, false, || None)
            .unwrap();
        let (mut app, _) = listener.accept().unwrap();
        let sent: Vec<u8> = (0..200_000u32)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        let (mut used, mut written) = (Vec::new(), 0);
        while used.len() + connection.input().len() < sent.len() {
            let n = (sent.len() - written).min(10_000);
            app.write_all(&sent[written..written + n]).unwrap();
            written += n;
            connection.read().unwrap();
            let n = connection.input().len().min(3_000);
            used.extend_from_slice(&connection.input()[..n]);
            connection.consume(n);
        }
        used.extend_from_slice(connection.input());
        assert!(used == sent);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn unread_input_keeps_a_connection_out_of_the_cache() {
        let (cache, directory) = cache();
        let listener = UnixListener::bind(directory.join("2.1")).unwrap();
        let process = ProcessRef::new(2, 1);
        let mut connection = cache
            .checkout(process, Protocol::Http, false, || None)
            .unwrap();
        let (mut app, _) = listener.accept().unwrap();
        app.write_all(b"surplus").unwrap();
        assert_eq!(connection.read().unwrap(), 7);
        connection.consume(3);
        assert_eq!(connection.input(), b"plus");
        cache.checkin(process, connection);
        assert!(!cache
            .checkout(process, Protocol::Http, false, || None)
            .unwrap()
            .is_reused());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
