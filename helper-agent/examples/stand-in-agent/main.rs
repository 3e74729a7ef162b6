//! The watchdog's tests run this in the place of the helper agent, httpd's parent and its workers. As an
//! agent (`agent.rs`) it keeps to the store protocol, reads outputs like the real one, and obeys its test.

mod agent;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;

use helper_agent::sys::descriptor;
use helper_agent::sys::spawn::{spawn, Program};
use passenger_shm::channel::Channel;
use passenger_shm::messages::{FromParent, Hello, ToParent, ToWorker};

use agent::Agent;

fn main() {
    let channel = Channel::from(descriptor::take_inherited(3).expect("a channel on descriptor 3"));
    match std::env::args().nth(1).as_deref() {
        None => Agent::start(channel).run(),
        Some("--parent") => parent(&channel),
        Some("--worker") => worker(&channel),
        Some("--say-stop") => {
            channel
                .send(&FromParent::Stop { deadline_ms: 0 }, &[])
                .expect("send");
        }
        Some(other) => panic!("unknown role {other}"),
    }
}

/// httpd's parent: starts the watchdog that the environment names and waits to be killed. Descriptor 3 is
/// here a channel to the test, on which it gets configuration and log and to which it relays `Ready`.
fn parent(test: &Channel) {
    let configure = test
        .recv::<FromParent>()
        .expect("recv")
        .expect("a configuration");
    let (ours, theirs) = Channel::pair().expect("socketpair");
    let image = File::open(std::env::var("STAND_IN_WATCHDOG").expect("watchdog")).expect("open");
    let null = File::open("/dev/null").expect("null");
    let log = configure.fds[1].as_fd();
    spawn(&Program {
        image: image.as_fd(),
        arguments: vec![c"passenger-watchdog".into()],
        environment: environment(&[("PASSENGER_PARENT_PID", &std::process::id().to_string())]),
        descriptors: vec![(null.as_fd(), 0), (log, 1), (log, 2), (theirs.as_fd(), 3)],
        new_session: true,
        oom_score_adj: None,
        nofile: None,
    })
    .expect("start the watchdog");
    drop(theirs);
    let fds: Vec<_> = configure.fds.iter().map(AsFd::as_fd).collect();
    ours.send(&configure.message, &fds).expect("send");
    let ready = ours.recv::<ToParent>().expect("recv").expect("an answer");
    test.send(&ready.message, &[]).expect("send");
    loop {
        std::thread::park();
    }
}

/// A worker: says hello on descriptor 3, prints its identity, waits to be killed.
fn worker(hello: &Channel) {
    let (ours, theirs) = Channel::pair().expect("socketpair");
    hello
        .send(&Hello::Worker {}, &[theirs.as_fd()])
        .expect("send");
    drop(theirs);
    match ours
        .recv::<ToWorker>()
        .expect("recv")
        .expect("an answer")
        .message
    {
        ToWorker::Welcome { slot, generation } => println!("welcome {slot} {generation}"),
        other => println!("{other:?}"),
    }
    loop {
        std::thread::park();
    }
}

/// This process's own, with these variables besides or instead.
fn environment(more: &[(&str, &str)]) -> Vec<CString> {
    std::env::vars()
        .filter(|(name, _)| more.iter().all(|(new, _)| name != new))
        .chain(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        )
        .map(|(name, value)| CString::new(format!("{name}={value}")).expect("no NUL"))
        .collect()
}
