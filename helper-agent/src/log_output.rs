//! The log's descriptor, written without ever waiting for its reader: httpd's `ErrorLog` may be a pipe to a
//! program that has stopped reading, and agent and watchdog have more to do than to log.
//!
//! Flags belong to the open file, which is httpd's, too: making that non-blocking would lose lines of
//! httpd's workers. So a pipe is opened anew, through `/proc`, for this process alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use log::Level;
use nix::sys::socket::{self, MsgFlags};

use crate::log::format;

/// Where records go.
#[derive(Debug)]
pub(crate) struct LogOutput {
    file: File,
    is_socket: bool,
    /// The end of a record of which only the beginning went out.
    rest: Vec<u8>,
    lost: Lost,
}

/// Records that nobody will ever read.
#[derive(Debug, Default)]
struct Lost {
    count: u64,
    reason: String,
}

impl LogOutput {
    /// Writes to `descriptor`; what `before` has lost is told there.
    pub(crate) fn new(descriptor: OwnedFd, before: Option<LogOutput>) -> Self {
        let file = File::from(descriptor);
        let kind = file.metadata().map(|metadata| metadata.file_type());
        let can_block = kind
            .as_ref()
            .is_ok_and(|k| k.is_fifo() || k.is_char_device());
        let is_socket = kind.as_ref().is_ok_and(FileTypeExt::is_socket);
        Self {
            file: if can_block {
                // A pipe that nobody reads (yet) cannot be opened; writing to it then fails at once.
                reopened(&file).unwrap_or(file)
            } else {
                file
            },
            is_socket,
            rest: Vec::new(),
            lost: before.map(|before| before.lost).unwrap_or_default(),
        }
    }

    /// Writes one record, or counts it as lost. What was lost before is told first.
    pub(crate) fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let written = self.catch_up().and_then(|()| self.put(record));
        if let Err(e) = &written {
            self.lost.count += 1;
            if self.lost.reason.is_empty() {
                self.lost.reason = match e.kind() {
                    io::ErrorKind::WouldBlock => "its reader did not keep up".to_owned(),
                    _ => e.to_string(),
                };
            }
        }
        written
    }

    /// Finishes what was begun, and says what was lost.
    pub(crate) fn catch_up(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            let written = self.write_some(&self.rest)?;
            self.rest.drain(..written);
        }
        if self.lost.count > 0 {
            let text = format!(
                "{} log lines are lost: {}",
                self.lost.count, self.lost.reason
            );
            self.put(format(Level::Warn, &text).as_bytes())?;
            self.lost = Lost::default();
        }
        Ok(())
    }

    /// Writes all of a record or, with an error, nothing; a rest is kept.
    fn put(&mut self, record: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(left) = record.get(done..).filter(|left| !left.is_empty()) {
            match self.write_some(left) {
                Ok(written) => done += written,
                Err(e) if done == 0 => return Err(e),
                Err(_) => {
                    self.rest = left.to_vec();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = if self.is_socket {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                socket::send(self.file.as_raw_fd(), bytes, flags).map_err(io::Error::from)
            } else {
                (&self.file).write(bytes)
            };
            match written {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                other => return other,
            }
        }
    }
}

impl AsFd for LogOutput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The same pipe or terminal, opened for us alone.
fn reopened(file: &File) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::descriptor;

    /// Writes numbered records until one is refused; returns how many were taken.
    fn fill(output: &mut LogOutput) -> usize {
        for number in 0..1_000_000 {
            if output
                .write(format!("record {number}\n").as_bytes())
                .is_err()
            {
                return number;
            }
        }
        panic!("never full");
    }

    fn check_full_and_emptied(writer: OwnedFd, reader: &mut dyn Read) {
        let mut output = LogOutput::new(writer, None);
        let taken = fill(&mut output);
        assert!(output.write(b"another one\n").is_err(), "still full");
        let mut text = vec![0; 1024 * 1024];
        let mut read = reader.read(&mut text).unwrap();
        output.catch_up().unwrap();
        output.write(b"the last\n").unwrap();
        while !text[..read].ends_with(b"the last\n") {
            read += reader.read(&mut text[read..]).unwrap();
        }
        let text = String::from_utf8(text[..read].to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let (records, [told, last]) = lines.split_at(lines.len() - 2) else {
            panic!("{lines:?}")
        };
        assert_eq!(*last, "the last");
        assert!(
            told.ends_with("2 log lines are lost: its reader did not keep up"),
            "{told}"
        );
        let expected: Vec<String> = (0..taken).map(|n| format!("record {n}")).collect();
        assert_eq!(records, expected, "whole records, each once, in order");
    }

    #[test]
    fn a_pipe_that_nobody_reads_stops_nobody_and_the_loss_is_told() {
        let (read, write) = descriptor::pipe().unwrap();
        let httpds = write.try_clone().unwrap();
        check_full_and_emptied(write, &mut File::from(read));
        let flags = nix::fcntl::fcntl(httpds.as_raw_fd(), nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert_eq!(
            flags & libc::O_NONBLOCK,
            0,
            "httpd's own open file is as it was"
        );
    }

    #[test]
    fn a_socket_that_nobody_reads_stops_nobody() {
        let (mut read, write) = UnixStream::pair().unwrap();
        check_full_and_emptied(write.into(), &mut read);
    }

    #[test]
    fn a_full_disk_stops_nobody() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut output = LogOutput::new(full.into(), None);
        assert!(output.write(b"one\n").is_err());
        assert!(output.write(b"two\n").is_err());
        let (read, write) = descriptor::pipe().unwrap();
        let mut output = LogOutput::new(write, Some(output));
        output.write(b"three\n").unwrap();
        drop(output);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        let (told, three) = text.split_once('\n').unwrap();
        assert!(
            told.contains("2 log lines are lost: No space left"),
            "{told}"
        );
        assert_eq!(three, "three\n");
    }
}
