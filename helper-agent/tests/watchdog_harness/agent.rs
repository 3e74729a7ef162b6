//! A stand-in agent as its test sees it: commands to it, events from it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, TryRecvError};

use super::scene::wait_for;

/// A stand-in agent that runs.
pub(crate) struct Agent {
    pub(crate) pid: i32,
    stream: UnixStream,
    events: Receiver<String>,
}

impl Agent {
    /// An agent that has just connected.
    pub(super) fn greeted(stream: UnixStream) -> Self {
        let reader = BufReader::new(stream.try_clone().unwrap());
        let (send, events) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut agent = Agent {
            pid: 0,
            stream,
            events,
        };
        let hello = agent.wait_for_event("hello ");
        agent.pid = hello.trim_start_matches("hello ").parse().unwrap();
        agent
    }

    /// Waits for an event that contains the text, skipping others.
    pub(crate) fn wait_for_event(&mut self, text: &str) -> String {
        wait_for(&format!("event {text:?} of agent {}", self.pid), || loop {
            match self.events.try_recv() {
                Ok(line) if line.contains(text) => return Some(line),
                Ok(_) => {}
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => {
                    panic!("agent {} is gone; waited for {text:?}", self.pid)
                }
            }
        })
    }

    /// Waits for one of these events; `gone` is the end of the agent.
    pub(crate) fn wait_for_any(&mut self, texts: &[&'static str]) -> &'static str {
        wait_for(
            &format!("one of {texts:?} of agent {}", self.pid),
            || loop {
                match self.events.try_recv() {
                    Ok(line) => {
                        if let Some(text) = texts.iter().find(|text| line.contains(**text)) {
                            return Some(*text);
                        }
                    }
                    Err(TryRecvError::Empty) => return None,
                    Err(TryRecvError::Disconnected) => return Some("gone"),
                }
            },
        )
    }

    pub(crate) fn command(&mut self, text: &str) {
        writeln!(self.stream, "{text}").unwrap();
    }

    /// Starts an app that runs this shell script; returns its PID.
    pub(crate) fn spawn(&mut self, script: &str) -> i32 {
        self.command(&format!("spawn {script}"));
        self.wait_for_event("spawned ")
            .trim_start_matches("spawned ")
            .parse()
            .unwrap()
    }
}
