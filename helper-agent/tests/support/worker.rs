//! A worker that a preloader was asked to fork, with the test in the agent's place.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use helper_agent::spawn::fork::{self, Asked};

use super::client::Client;
use super::process::collect;
use super::{wait_until, Language, DEADLINE};

/// A forked worker; it ends with this value, because its control socket does.
pub(crate) struct Worker {
    language: Language,
    /// As the kernel knows it.
    pub(crate) pid: i32,
    socket: PathBuf,
    control: BufReader<UnixStream>,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Worker {
    /// Asks a preloader for one and hears its hello; it waits for `go` then.
    pub(crate) fn ask(language: Language, preloader: &UnixStream, socket: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket).expect("bind the listening socket");
        let Asked { control, output } =
            fork::ask(preloader, listener.into()).expect("ask for a worker");
        let mut hello = None;
        wait_until(|| {
            hello = fork::hear(&control).ok();
            hello.is_some()
        });
        control.set_nonblocking(false).expect("wait for its lines");
        control
            .set_read_timeout(Some(DEADLINE))
            .expect("set a timeout");
        let output = File::from(output);
        helper_agent::sys::descriptor::set_nonblocking(std::os::fd::AsFd::as_fd(&output), false)
            .expect("wait for its output");
        Worker {
            language,
            pid: hello.expect("it said hello").pid,
            socket,
            control: BufReader::new(control),
            log: collect(output),
        }
    }

    /// Lets it go on; its lines until it is ready or has closed the control socket.
    pub(crate) fn go(&mut self) -> Vec<String> {
        self.tell("go");
        let mut lines = Vec::new();
        while let Some(line) = self.next_line() {
            let is_ready = line.starts_with("ready ");
            lines.push(line);
            if is_ready {
                break;
            }
        }
        lines
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let control = self.control.get_mut();
        control
            .write_all(format!("{line}\n").as_bytes())
            .expect("write a control line");
    }

    /// The next line; `None` when it has closed the control socket.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end_matches('\n').to_owned()),
            Err(error) => panic!("no line on the control socket: {error}\n{}", self.log()),
        }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.language, &self.socket)
    }

    /// Everything printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().expect("the collector lives")).into_owned()
    }

    pub(crate) fn expect_log(&self, text: &str) {
        wait_until(|| self.log().contains(text));
    }
}
