//! What a user of the whole thing can see, against a real httpd. In the order of a server's life:
//!
//! * `on_prefork`: tests of other modules once more, under prefork.
//! * `serve`: three languages under three MPMs, static files, bodies, streaming.
//! * `directives`: every directive in every context, with right and wrong values.
//! * `mapping`: which app a URL belongs to, and what the app is told about it.
//! * `modules`, `neighbours`: together with httpd's own modules.
//! * `tls`: TLS and HTTP/2.
//! * `hosting`: document roots that are known only at run time.
//! * `headers`: what an app's response may do.
//! * `hygiene`: what of a request's head reaches an app.
//! * `smuggling`: requests that mean two things; `poison`: responses that say too much.
//! * `identities`: what belongs to one request is never seen by another.
//! * `sendfile`: files that httpd sends for an app.
//! * `requests`: what a client's request may do.
//! * `starts`: reports of starts that fail, and how often they are tried.
//! * `failures`: apps that do not start, and apps that fail at a request.
//! * `error_pages`: what a browser sees of an app that does not start.
//! * `languages`: checkers, server-sent events, ASGI, threads, early hints; `frameworks`: popular ones;
//!   `published`: their own examples and test suites; `projects`: whole projects with a database.
//! * `passengerfile`: start commands in a file.
//! * `node`: connections to Node.js servers, and their end.
//! * `commands`: programs that serve HTTP themselves; `meteor`: Meteor, by a stand-in for its command.
//! * `python_sockets`: WebSockets of ASGI and WSGI; `browser`: what Chromium makes of those of all languages.
//! * `logs`: what apps print, and logs of single apps; `tidiness`: what a process starts with and leaves.
//! * `users`: who the apps run as; `variables`: their environment; `surroundings`: odd directories and locales.
//! * `users`: who the apps run as; `identity`: every row of that table.
//! * `crash`: kill -9 of each kind of process, idle, under load and in the middle of a request.
//! * `out_of_band`: processes that are away to do work of their own.
//! * `hung`: watchdog and agent that hang, die of other signals, or both at once.
//! * `stopped`: suspended apps and workers.
//! * `trouble`: full disks, no descriptors, processes or memory to be had; `pretended`: no open files, clocks that jump.
//! * `concurrency`: requests a process gets at once, and the time each may take.
//! * `queue`: requests that wait.
//! * `prestart`: apps that run before anybody asks.
//! * `under_load`: many apps, deployments and killed processes under load, with figures.
//! * `pool`: restarts by file, full queues, sharing; `limits`: retiring processes.
//! * `routing`: which process gets a request, and that the others retire; `dumps`: core files.
//! * `hooks`, `hooks_trouble`, `hooks_httpd`: programs of root's that are run when something happens (`scripts`: those programs).
//! * `leaving`: processes that are to go; the log's order.
//! * `reload`: other configurations by graceful and restart.
//! * `preloading`: processes that are forked from one that has loaded the app.
//! * `restart`: graceful, and what stays warm.
//! * `retry`: apps that die while they answer; `idle_closes`: servers that close connections nobody uses.
//! * `slow`: slow clients and clients that go away; `slow_streams`: those of HTTP/2.
//! * `streams`: responses that come in parts, clients that ask without end.
//! * `websocket`: connections that are upgraded, `websocket_crowd`: many of them, `websocket_refused`: requests that only
//!   look like it; `frames`: the client's side; `sockets`: what they mean for the processes.
//! * `hijack`: Rack apps that take the connection.
//! * `sticky`: clients that stay with a process.
//! * `shipped`: the demo of `make run` and the files of `apache-conf`.
//! * `tools`: passenger-status; `steering`: passenger-config; `memory_stats`: passenger-memory-stats;
//!   `metrics`: figures for monitoring; `compat`: what scripts for the original call.
//! * `cleanup`: nothing is left when any of the parts is killed, and nobody else is touched.
//! * `stop`: nothing is left, whatever the apps do against it.
//! * `upgrade`: another build is installed under a running server.
//!
//! `tests/e2e/README.md` says for each clause of the contract of HTTP which tests hold us to it (`contract` keeps it true);
//! `tests/e2e/fixtures/README.md` lists the URLs of the probe, the app that most tests run against.
#![deny(unsafe_code)]

mod browser;
mod cleanup;
mod clients;
mod commands;
mod compat;
mod concurrency;
mod contract;
mod crash;
mod directive_rows;
mod directives;
mod dumps;
mod environment;
mod error_pages;
mod failures;
mod frames;
mod frameworks;
mod headers;
mod hijack;
mod hooks;
mod hooks_httpd;
mod hooks_trouble;
mod hosting;
mod hung;
mod hygiene;
mod identities;
mod identity;
mod idle_closes;
mod keep_alive;
mod languages;
mod leaving;
mod limits;
mod logs;
mod mapping;
mod memory_stats;
mod meteor;
mod metrics;
mod modules;
mod neighbours;
mod node;
mod on_prefork;
mod out_of_band;
mod passengerfile;
mod poison;
mod pool;
mod preloading;
mod preloading_trouble;
mod prestart;
mod pretended;
mod projects;
mod published;
mod python_sockets;
mod queue;
mod reload;
mod requests;
mod restart;
mod retry;
mod routing;
mod scripts;
mod sendfile;
mod serve;
mod shipped;
mod slow;
mod slow_streams;
mod smuggling;
mod sockets;
mod starts;
mod steering;
mod sticky;
mod stop;
mod stopped;
mod streams;
mod surroundings;
mod tidiness;
mod tls;
mod tools;
mod traffic;
mod trouble;
mod under_load;
mod upgrade;
mod users;
mod variables;
mod websocket;
mod websocket_crowd;
mod websocket_refused;

use harness::{Language, Site};

/// A site of exactly one process, started with the server.
fn one_process(language: Language) -> Site {
    Site::probe(language)
        .with("PassengerMinInstances 1")
        // A busy machine lets a request wait long enough for another process.
        .with("PassengerMaxInstances 1")
}
