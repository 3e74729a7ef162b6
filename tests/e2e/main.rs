//! What a user of the whole thing can see, against a real httpd. In the order of a server's life:
//!
//! * `serve`: three languages under three MPMs, static files, bodies, streaming.
//! * `mapping`: which app a URL belongs to, and what the app is told about it.
//! * `failures`: apps that do not start, and apps that fail at a request.
//! * `users`: who the apps run as.
//! * `languages`: checkers, frameworks, server-sent events, ASGI.
//! * `crash`: kill -9 of each kind of process, idle, under load and in the middle of a request.
//! * `restart`: graceful, and what stays warm.
//! * `shipped`: the demo of `make run` and the files of `apache-conf`.
//! * `stop`: nothing is left, whatever the apps do against it.
//!
//! `tests/e2e/fixtures/README.md` lists the URLs of the probe, the app that most tests run against.
#![deny(unsafe_code)]

mod crash;
mod environment;
mod failures;
mod mapping;
mod languages;
mod restart;
mod serve;
mod shipped;
mod stop;
mod users;

use harness::{Language, Site};

/// A site of exactly one process, started at its first request.
fn one_process(language: Language) -> Site {
    Site::probe(language).with("PassengerMinInstances 1")
}
