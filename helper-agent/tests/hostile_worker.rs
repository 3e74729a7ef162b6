//! A worker of httpd that somebody has taken over, against the real watchdog and agent: whatever it says
//! on the channels it has, both go on serving the others, are not replaced and do not grow.

mod watchdog_harness;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use helper_agent::sys::descriptor;
use helper_agent::sys::spawn::{spawn, Program};
use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromWorker, Hello, Question, Registration, Reply, ToWorker};
use watchdog_harness::{is_running, wait_for, Instance, Stage, PATIENCE};

/// An instance with the real agent, which must be the same at the end.
struct Attacked {
    instance: Instance,
    agent: i32,
}

impl Attacked {
    fn start(test: &str) -> Self {
        let mut instance = Instance::launch(Stage::with_real_agent(test));
        instance.take_ready();
        let agent = instance.pid_in("agent.pid");
        Self { instance, agent }
    }

    fn hello(&self) -> &Channel {
        self.instance.hello.as_ref().unwrap()
    }

    /// A connection as an honest worker makes it, with a copy of the end that was given away.
    fn connect(&self) -> (Channel, OwnedFd) {
        let (ours, theirs) = Channel::pair().unwrap();
        let copy = theirs.as_fd().try_clone_to_owned().unwrap();
        self.hello()
            .send(&Hello::Worker {}, &[theirs.as_fd()])
            .unwrap();
        (ours, copy)
    }

    /// Another process asks for an identity and gets it.
    fn others_are_served(&self) {
        let (worker, told) = self.instance.worker();
        assert!(told.starts_with("welcome "), "{told}");
        worker.pidfd.signal(libc::SIGKILL).unwrap();
        worker.pidfd.reap_blocking().unwrap();
    }

    fn end(self) {
        self.others_are_served();
        assert!(is_running(self.agent), "the agent died");
        assert_eq!(
            self.instance.pid_in("agent.pid"),
            self.agent,
            "the agent was replaced"
        );
        for pid in [self.agent, self.instance.watchdog.pid] {
            let memory = resident_kb(pid);
            assert!(memory < 64 * 1024, "process {pid} has grown to {memory} kB");
        }
        self.instance.stop(5000);
    }
}

fn resident_kb(pid: i32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let status = status.unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn answer(channel: &Channel) -> ToWorker {
    assert!(channel.wait_readable(PATIENCE).unwrap(), "no answer");
    channel.recv::<ToWorker>().unwrap().unwrap().message
}

/// What the agent answers to a question.
fn reply(channel: &Channel) -> ToWorker {
    assert!(channel.wait_readable(PATIENCE).unwrap(), "no answer");
    channel.recv::<Reply>().unwrap().unwrap().message.answer
}

fn question(question: FromWorker) -> Question {
    Question {
        number: 1,
        question,
    }
}

fn send_raw(channel: &Channel, bytes: &[u8], fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() {
        &rights[..0]
    } else {
        &rights
    };
    let iov = [IoSlice::new(bytes)];
    // A full queue makes this wait until it is read: the receiver has to keep up.
    sendmsg::<()>(
        channel.as_raw_fd(),
        &iov,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .unwrap();
}

/// Numbers that look random and are the same in every run.
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
}

#[test]
fn hellos_that_are_none_cost_nobody_else_anything() {
    let attacked = Attacked::start("hello-noise");
    let null = File::open("/dev/null").unwrap();
    for round in 0..2_000u64 {
        let length = usize::try_from(round % 97).unwrap();
        let bytes: Vec<u8> = noise(round).take(length).collect();
        send_raw(attacked.hello(), &bytes, &[]);
    }
    for count in [0, 1, 2, 16, 17, 253] {
        let fds = vec![null.as_raw_fd(); count];
        send_raw(attacked.hello(), br#"{"Worker":{}}"#, &fds);
        send_raw(attacked.hello(), b"{", &fds);
    }
    attacked.end();
}

#[test]
fn a_connection_that_would_block_its_reader_blocks_nobody() {
    let attacked = Attacked::start("hello-full");
    // Full before it is given away: a welcome has no room in it.
    let (ours, theirs) = Channel::pair().unwrap();
    let copy = Channel::from(theirs.as_fd().try_clone_to_owned().unwrap());
    copy.set_nonblocking(true).unwrap();
    while copy.send(&Hello::Worker {}, &[]).is_ok() {}
    copy.set_nonblocking(false).unwrap();
    attacked
        .hello()
        .send(&Hello::Worker {}, &[theirs.as_fd()])
        .unwrap();
    // And one that is made blocking again after the agent has it.
    let (own, copy) = attacked.connect();
    assert!(matches!(answer(&own), ToWorker::Welcome { .. }));
    let question = question(FromWorker::WhySpawnFailed {
        group: 7,
        generation: 7,
    });
    own.send(&question, &[]).unwrap();
    assert!(matches!(reply(&own), ToWorker::SpawnFailure(_)));
    descriptor::set_nonblocking(copy.as_fd(), false).unwrap();
    // The agent wakes, but the thief may have read it first: it must not wait for another.
    for _ in 0..50 {
        own.send(&question, &[]).unwrap();
        let thief = Channel::foreign(copy.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let _ = thief.wait_readable(Duration::ZERO).unwrap() && thief.recv::<Reply>().is_ok();
    }
    attacked.end();
    drop(ours);
}

#[test]
fn registrations_of_all_kinds_are_refused_one_by_one() {
    let attacked = Attacked::start("registrations");
    let (own, _) = attacked.connect();
    assert!(matches!(answer(&own), ToWorker::Welcome { .. }));
    let registration = |generation, chain: Vec<u32>, document_root: String| {
        question(FromWorker::Register(Registration {
            generation,
            chain,
            document_root,
            base_uri: String::new(),
        }))
    };
    let mut hostile = vec![
        registration(1, vec![u32::MAX; 5_000], "/srv".into()),
        registration(1, (0..9_000).collect(), "/srv".into()),
        registration(0, vec![], "/srv".into()),
        registration(1, vec![], "/".repeat(60_000)),
        registration(1, vec![], "a/".repeat(30_000)),
        registration(1, vec![], "/srv/\u{0}/public\n[fake] log line".into()),
        registration(1, vec![], "/proc/self/root/public".into()),
        registration(1, vec![], "/proc/1/fd/public".into()),
    ];
    hostile.extend((0..150).map(|n| registration(1, vec![], format!("/srv/{n}/public"))));
    for message in &hostile {
        own.send(message, &[]).unwrap();
        let told = reply(&own);
        assert!(matches!(told, ToWorker::RegisterRefused { .. }), "{told:?}");
    }
    assert!(!attacked.instance.stage.log().contains("\n[fake] log line"));
    // A configuration that never comes is waited for, but holds up nobody.
    own.send(&registration(u64::MAX, vec![], "/srv".into()), &[])
        .unwrap();
    let (another, _) = attacked.connect();
    assert!(matches!(answer(&another), ToWorker::Welcome { .. }));
    another
        .send(&registration(1, vec![], "/srv".into()), &[])
        .unwrap();
    assert!(matches!(reply(&another), ToWorker::RegisterRefused { .. }));
    // What is no message ends the conversation, and only that.
    send_raw(&another, br#"{"Register":{"generation":-1}}"#, &[]);
    wait_for("the agent to give up on it", || {
        let log = attacked.instance.stage.log();
        log.contains("is not heard any more").then_some(())
    });
    attacked.end();
}

#[test]
fn a_process_that_says_hello_for_ever_has_one_identity() {
    let attacked = Attacked::start("hello-again");
    let (first, _) = attacked.connect();
    let identity = answer(&first);
    assert!(matches!(identity, ToWorker::Welcome { .. }));
    for _ in 0..300 {
        let (own, _) = attacked.connect();
        assert_eq!(answer(&own), identity);
    }
    // The agent answers on the newest connection.
    let (own, _) = attacked.connect();
    assert_eq!(answer(&own), identity);
    let question = question(FromWorker::WhySpawnFailed {
        group: 0,
        generation: 0,
    });
    own.send(&question, &[]).unwrap();
    assert!(matches!(reply(&own), ToWorker::SpawnFailure(_)));
    attacked.end();
}

#[test]
fn what_a_worker_forks_gets_no_identity() {
    let attacked = Attacked::start("grandchild");
    let (read, write) = descriptor::pipe().unwrap();
    let shell = File::open(fs::canonicalize("/bin/sh").unwrap()).unwrap();
    let null = File::open("/dev/null").unwrap();
    let stand_in = attacked.instance.stage.path("libexec/stand-in");
    let script = format!("{} --worker & wait", stand_in.display());
    let worker = spawn(&Program {
        image: shell.as_fd(),
        arguments: ["sh", "-c", &script]
            .map(|text| CString::new(text).unwrap())
            .to_vec(),
        environment: attacked.instance.stage.environment(&[]),
        descriptors: vec![
            (null.as_fd(), 0),
            (write.as_fd(), 1),
            (write.as_fd(), 2),
            (attacked.hello().as_fd(), 3),
        ],
        new_session: true,
        oom_score_adj: None,
        nofile: None,
    })
    .unwrap();
    drop(write);
    let mut told = String::new();
    BufReader::new(File::from(read))
        .read_line(&mut told)
        .unwrap();
    helper_agent::sys::pidfd::signal_group_of_child(worker.pid, libc::SIGKILL).unwrap();
    worker.pidfd.reap_blocking().unwrap();
    assert!(told.contains("not a child of httpd's parent"), "{told}");
    attacked.end();
}
