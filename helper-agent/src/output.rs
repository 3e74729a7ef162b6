//! Reading what apps print, without losing a line to the death of the reader.
//!
//! The pipe of an app has one reader at a time, agent or watchdog. It copies what is in the pipe with
//! `tee` into a private pipe, writes the complete lines to the log, and only then consumes exactly these
//! bytes. Whoever is killed in between leaves everything to its successor; the worst case is a line that
//! appears twice. An unfinished line stays in the pipe until it is finished, is longer than
//! [`MAX_LINE_BYTES`], the app closes its end, or nothing was added to it for [`STALE`].

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::sys::descriptor;

/// Longest line that is logged in one piece.
pub const MAX_LINE_BYTES: usize = 8 * 1024;

/// How long an unfinished line may wait for its end. It cannot wait for ever: a pipe may be full with
/// less than [`MAX_LINE_BYTES`] in it (a process can shrink its own, or fill its 16 slots with crumbs).
pub const STALE: Duration = Duration::from_secs(2);

/// What a pipe holds by default; both copies and reads happen in portions of at most this.
const PORTION: usize = 64 * 1024;

/// Portions per call of [`LineDrain::drain`]: one app that prints without end must not starve others.
const ROUNDS: usize = 16;

/// How a call to [`LineDrain::drain`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing more to log now; at most an unfinished line is left in the pipe. Wait for the next *change*
    /// of readability: the pipe may well stay readable.
    Waiting,
    /// There is more; call again after others had their turn.
    More,
    /// The app has closed its end and everything is logged.
    Closed,
}

/// The private pipe and buffer that all drains of a thread share. Empty between calls.
#[derive(Debug)]
pub struct Scratch {
    read: File,
    write: OwnedFd,
    buffer: Vec<u8>,
}

impl Scratch {
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let (read, write) = descriptor::pipe()?;
        Ok(Self {
            read: File::from(read),
            write,
            buffer: vec![0; PORTION],
        })
    }

    /// Copies what is in `pipe`; `Ok(None)` when there is nothing, `Ok(Some(0))` at its end.
    fn copy(&mut self, pipe: BorrowedFd<'_>) -> io::Result<Option<usize>> {
        let length = match descriptor::tee(pipe, self.write.as_fd(), PORTION) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        let (copy, _) = self.buffer.split_at_mut(length);
        self.read.read_exact(copy)?;
        Ok(Some(length))
    }
}

/// The reader of one pipe.
#[derive(Debug)]
pub struct LineDrain {
    prefix: String,
    is_prepared: bool,
    /// Length of the unfinished line in the pipe, and since when it has that length.
    unfinished: Option<(usize, Instant)>,
}

impl LineDrain {
    /// A reader that puts `prefix` before each line, e.g. `App 1234 output: `.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            is_prepared: false,
            unfinished: None,
        }
    }

    /// A reader for the output of the process with that PID, of the app of that name if it is known.
    #[must_use]
    pub fn for_app(pid: i32, app: &str) -> Self {
        if app.is_empty() {
            Self::new(format!("App {pid} output: "))
        } else {
            Self::new(format!("[{app}] App {pid} output: "))
        }
    }

    /// Hands every complete line in `pipe` to `sink`, prefixed, without line end and without control
    /// characters, and consumes it after `sink` returned. Never blocks by itself. Makes the pipe
    /// non-blocking.
    ///
    /// # Errors
    /// Those of `tee` and `read`: not a pipe.
    pub fn drain(
        &mut self,
        pipe: BorrowedFd<'_>,
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(&str),
    ) -> io::Result<Drained> {
        if !self.is_prepared {
            descriptor::set_nonblocking(pipe, true)?;
            self.is_prepared = true;
        }
        let mut is_final = false;
        let mut short_of = 0;
        for _ in 0..ROUNDS {
            let length = match scratch.copy(pipe)? {
                None => {
                    self.unfinished = None;
                    return Ok(Drained::Waiting);
                }
                Some(0) => return Ok(Drained::Closed),
                Some(length) => length,
            };
            let logged = self.log_lines(&scratch.buffer, length, sink);
            if logged > 0 {
                self.unfinished = None;
                consume(pipe, logged)?;
                continue;
            }
            // Only a part of a line. Is that all there will ever be, or all the copy had room for?
            let force = is_final || (length == short_of && available(pipe)? > length);
            if force || self.is_stale(length) {
                self.log_line(&scratch.buffer, length, sink);
                self.unfinished = None;
                consume(pipe, length)?;
                continue;
            }
            // Asked after the copy; the next round then copies what came before the end.
            is_final = descriptor::poll_now(pipe, 0)? & libc::POLLHUP != 0;
            if !is_final && available(pipe)? <= length {
                return Ok(Drained::Waiting);
            }
            short_of = length;
        }
        Ok(Drained::More)
    }

    /// Whether an unfinished line is waiting: call [`LineDrain::drain`] again after [`STALE`] even if the
    /// pipe reports nothing.
    #[must_use]
    pub fn has_unfinished_line(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Whether the unfinished line has had that length for too long.
    fn is_stale(&mut self, length: usize) -> bool {
        match self.unfinished {
            Some((known, since)) if known == length => since.elapsed() >= STALE,
            _ => {
                self.unfinished = Some((length, Instant::now()));
                false
            }
        }
    }

    /// Logs complete lines and over-long pieces; returns how many bytes these are.
    fn log_lines(&self, buffer: &[u8], length: usize, sink: &mut dyn FnMut(&str)) -> usize {
        let mut rest = buffer.get(..length).unwrap_or_default();
        let mut logged = 0;
        loop {
            let window = rest.get(..MAX_LINE_BYTES).unwrap_or(rest);
            let taken = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None if window.len() == MAX_LINE_BYTES => MAX_LINE_BYTES,
                None => return logged,
            };
            let (line, after) = rest.split_at(taken);
            sink(&printable(&self.prefix, line));
            logged += taken;
            rest = after;
        }
    }

    fn log_line(&self, buffer: &[u8], length: usize, sink: &mut dyn FnMut(&str)) {
        sink(&printable(
            &self.prefix,
            buffer.get(..length).unwrap_or_default(),
        ));
    }
}

/// Takes exactly that many bytes out of a pipe that has them. If somebody else took them (an app can
/// read its own pipe when it runs as our user) there is nothing left to do.
fn consume(pipe: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let mut bin = [0; 4096];
    let mut left = bytes;
    while left > 0 {
        let portion = left.min(bin.len());
        match nix::unistd::read(std::os::fd::AsRawFd::as_raw_fd(&pipe), &mut bin[..portion]) {
            Ok(0) | Err(nix::errno::Errno::EAGAIN) => return Ok(()),
            Ok(count) => left -= count,
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn available(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    descriptor::bytes_readable(pipe)
}

/// A line as it may stand in a log: no line end, control characters and invalid UTF-8 escaped.
fn printable(prefix: &str, line: &[u8]) -> String {
    use std::fmt::Write as _;
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut out = String::with_capacity(prefix.len() + line.len());
    out.push_str(prefix);
    for chunk in line.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() && character != '\t' {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(out, "\\x{byte:02x}");
                }
            } else {
                out.push(character);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Bench {
        read: OwnedFd,
        write: Option<File>,
        drain: LineDrain,
        scratch: Scratch,
        lines: Vec<String>,
    }

    impl Bench {
        fn new() -> Self {
            let (read, write) = descriptor::pipe().unwrap();
            let scratch = Scratch::new().unwrap();
            let drain = LineDrain::new("App 7 output: ");
            Self {
                read,
                write: Some(File::from(write)),
                drain,
                scratch,
                lines: Vec::new(),
            }
        }

        fn print(&mut self, bytes: &[u8]) {
            self.write.as_mut().unwrap().write_all(bytes).unwrap();
        }

        fn drain(&mut self) -> Drained {
            let lines = &mut self.lines;
            self.drain
                .drain(self.read.as_fd(), &mut self.scratch, &mut |line| {
                    lines.push(line.to_owned());
                })
                .unwrap()
        }
    }

    #[test]
    fn complete_lines_are_logged_and_the_unfinished_one_stays_in_the_pipe() {
        let mut bench = Bench::new();
        bench.print(b"one\r\ntwo\nthr");
        assert_eq!(bench.drain(), Drained::Waiting);
        assert_eq!(bench.lines, ["App 7 output: one", "App 7 output: two"]);
        assert_eq!(available(bench.read.as_fd()).unwrap(), 3);
        assert_eq!(bench.drain(), Drained::Waiting);
        bench.print(b"ee\n");
        // Another reader, as after the death of the first.
        bench.drain = LineDrain::new("App 7 output: ");
        assert_eq!(bench.drain(), Drained::Waiting);
        assert_eq!(bench.lines[2..], ["App 7 output: three"]);
    }

    #[test]
    fn a_reader_that_dies_before_it_consumes_loses_nothing() {
        let mut bench = Bench::new();
        bench.print(b"one\ntwo\n");
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut drain = LineDrain::new("");
            let mut scratch = Scratch::new().unwrap();
            drain.drain(bench.read.as_fd(), &mut scratch, &mut |line| {
                assert_ne!(line, "two");
            })
        }));
        assert!(died.is_err());
        bench.drain();
        assert_eq!(bench.lines, ["App 7 output: one", "App 7 output: two"]);
    }

    #[test]
    fn the_end_of_the_pipe_ends_an_unfinished_line() {
        let mut bench = Bench::new();
        bench.print(b"last words");
        bench.write = None;
        assert_eq!(bench.drain(), Drained::Closed);
        assert_eq!(bench.lines, ["App 7 output: last words"]);
        assert_eq!(bench.drain(), Drained::Closed);
    }

    #[test]
    fn an_endless_line_is_split_and_an_empty_one_is_a_line() {
        let mut bench = Bench::new();
        bench.print(&vec![b'x'; MAX_LINE_BYTES + 10]);
        bench.print(b"\n\n");
        assert_eq!(bench.drain(), Drained::Waiting);
        let lengths: Vec<usize> = bench.lines.iter().map(|l| l.len() - 14).collect();
        assert_eq!(lengths, [MAX_LINE_BYTES, 10, 0]);
    }

    #[test]
    fn a_pipe_full_of_crumbs_is_not_stuck() {
        let mut bench = Bench::new();
        // Splicing makes a slot per byte; ordinary writes would be merged.
        let (crumb_read, crumb_write) = descriptor::pipe().unwrap();
        descriptor::set_pipe_capacity(bench.read.as_fd(), 32 * 4096).unwrap();
        for _ in 0..20 {
            File::from(crumb_write.try_clone().unwrap())
                .write_all(b"c")
                .unwrap();
            let target = bench.write.as_ref().unwrap().as_fd();
            assert_eq!(descriptor::tee(crumb_read.as_fd(), target, 1).unwrap(), 1);
            consume(crumb_read.as_fd(), 1).unwrap();
        }
        bench.drain();
        bench.print(b"\n");
        bench.drain();
        let text: String = bench.lines.iter().map(|l| &l[14..]).collect();
        assert_eq!(text, "c".repeat(20));
    }

    #[test]
    fn an_unfinished_line_does_not_wait_for_ever() {
        let mut bench = Bench::new();
        bench.print(b"Connecting... ");
        assert_eq!(bench.drain(), Drained::Waiting);
        assert!(bench.drain.has_unfinished_line() && bench.lines.is_empty());
        let long_ago = Instant::now().checked_sub(STALE).unwrap();
        bench.drain.unfinished = Some((14, long_ago));
        assert_eq!(bench.drain(), Drained::Waiting);
        assert_eq!(bench.lines, ["App 7 output: Connecting... "]);
        assert!(!bench.drain.has_unfinished_line());
    }

    #[test]
    fn an_app_that_prints_without_end_does_not_keep_the_thread() {
        let mut bench = Bench::new();
        let mut write = bench.write.take().unwrap();
        let writer = std::thread::spawn(move || {
            let line = [b"y".repeat(99), b"\n".to_vec()].concat();
            let mut count = 0;
            while count < 50_000 && write.write_all(&line).is_ok() {
                count += 1;
            }
            count
        });
        while bench.drain() != Drained::Closed {}
        assert_eq!(writer.join().unwrap(), bench.lines.len());
        assert!(bench.lines.iter().all(|line| line.len() == 14 + 99));
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(
            printable("p: ", b"a\x1b[0m\tb\xff\xc2\x9b\xc3\xa9"),
            "p: a\\x1b[0m\tb\\xff\\xc2\\x9b\u{e9}"
        );
    }
}
