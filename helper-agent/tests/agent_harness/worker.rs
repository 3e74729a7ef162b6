//! A worker that is the test: registers, takes seats, speaks the binary protocol.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use helper_agent::instance;
use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromWorker, Question, Registration, Reply, SpawnFailure, ToWorker};
use passenger_shm::{Client, ClientId, GroupRef, ModuleView, ProcessRef, Seat};

use super::PATIENCE;

/// A worker that is the test.
pub(crate) struct Worker {
    pub(crate) client: Client,
    pub(crate) view: ModuleView,
    pub(crate) channel: Channel,
    pub(super) id: ClientId,
    pub(super) far_end: Option<OwnedFd>,
    pub(super) instance_dir: PathBuf,
}

impl Worker {
    pub(crate) fn ask(&self, message: &FromWorker) -> ToWorker {
        let question = message.clone();
        let asked = Question {
            number: 7,
            question,
        };
        self.channel.send(&asked, &[]).unwrap();
        assert!(
            self.channel.wait_readable(PATIENCE).unwrap(),
            "no answer to {message:?}"
        );
        let reply = self.channel.recv::<Reply>().unwrap();
        let Reply { number, answer } = reply.expect("an answer").message;
        assert_eq!(number, 7);
        answer
    }

    pub(crate) fn register(&self, registration: &Registration) -> GroupRef {
        match self.ask(&FromWorker::Register(registration.clone())) {
            ToWorker::Registered { group, generation } => GroupRef::new(group, generation),
            other => panic!("{registration:?} was not registered: {other:?}"),
        }
    }

    pub(crate) fn refused(&self, registration: &Registration) -> String {
        match self.ask(&FromWorker::Register(registration.clone())) {
            ToWorker::RegisterRefused { message } => message,
            other => panic!("{registration:?} was not refused: {other:?}"),
        }
    }

    pub(crate) fn why(&self, group: GroupRef) -> SpawnFailure {
        let question = FromWorker::WhySpawnFailed {
            group: group.index(),
            generation: group.generation(),
        };
        match self.ask(&question) {
            ToWorker::SpawnFailure(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    /// A seat, waited for as a request does.
    pub(crate) fn seat(&self, group: GroupRef) -> Seat<'_> {
        self.try_seat(group).expect("a seat, not a failed spawn")
    }

    /// As [`Worker::seat`]; `None` when a spawn failed while it waited.
    pub(crate) fn try_seat(&self, group: GroupRef) -> Option<Seat<'_>> {
        let failures = self.view.group(group).unwrap().spawn_failures;
        if let Ok(seat) = self.client.take(group, None) {
            return Some(seat);
        }
        let mut waiter = self.client.enqueue(group).unwrap();
        self.client.hint(passenger_shm::Hint::CapacityWanted(group));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(seat) = waiter.wait(Duration::from_millis(50)) {
                return Some(seat);
            }
            if self.view.group(group).unwrap().spawn_failures != failures {
                return None;
            }
        }
        panic!("no seat within {PATIENCE:?}")
    }

    pub(crate) fn connect(&self, process: ProcessRef) -> UnixStream {
        let path = instance::app_socket(&self.instance_dir, process.slot(), process.generation());
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One GET over the binary protocol on a connection of its own; gives the seat back.
    pub(crate) fn get(&self, group: GroupRef, path: &str) -> (ProcessRef, String) {
        let seat = self.seat(group);
        let process = seat.process();
        let mut stream = self.connect(process);
        send_get(&mut stream, seat.number(), path);
        let body = read_answer(&mut stream, seat.number());
        seat.release();
        (process, body)
    }
}

pub(crate) fn send_get(stream: &mut UnixStream, number: u64, path: &str) {
    let head = [
        "REQUEST_METHOD",
        "GET",
        "SCRIPT_NAME",
        "",
        "PATH_INFO",
        path,
        "QUERY_STRING",
        "",
        "REQUEST_URI",
        path,
        "SERVER_NAME",
        "test",
        "SERVER_PORT",
        "80",
        "SERVER_PROTOCOL",
        "HTTP/1.1",
        "REMOTE_ADDR",
        "127.0.0.1",
    ]
    .join("\0");
    let mut request = Vec::new();
    request.extend(0x5053_5201u32.to_be_bytes());
    request.extend(u32::try_from(head.len()).unwrap().to_be_bytes());
    request.extend(number.to_be_bytes());
    request.extend(0u64.to_be_bytes());
    request.extend(head.as_bytes());
    stream.write_all(&request).unwrap();
}

pub(crate) fn read_answer(stream: &mut UnixStream, number: u64) -> String {
    let mut header = [0; 24];
    stream.read_exact(&mut header).unwrap();
    let word = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().unwrap());
    let head = u32::from_be_bytes(header[4..8].try_into().unwrap());
    assert_eq!(word(8), number, "the answer belongs to another request");
    std::io::copy(&mut (&*stream).take(u64::from(head)), &mut std::io::sink()).unwrap();
    let mut body = Vec::new();
    if word(16) == u64::MAX {
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            match u32::from_be_bytes(length) {
                0 => break,
                n => (&*stream)
                    .take(u64::from(n))
                    .read_to_end(&mut body)
                    .unwrap(),
            };
        }
    } else {
        (&*stream).take(word(16)).read_to_end(&mut body).unwrap();
    }
    String::from_utf8(body).unwrap()
}
