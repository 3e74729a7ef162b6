//! Node applications: every way to listen, ES modules, pipelining, sockets, the end of a process.

mod support;

use std::io::{Read, Write};

use nix::sys::signal::Signal;

use support::apps::{fixture, get, last_line, Scratch};
use support::client::Request;
use support::process::Launch;
use support::Language;

fn node(name: &str, file: &str) -> Launch {
    Launch::new(Language::Node, &fixture(name)).startup_file(file)
}

#[test]
fn node_runs_es_modules() {
    let Some(process) = node("node-module", "app.js").start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "from a module");
}

#[test]
fn node_reports_a_module_that_fails() {
    let Some(process) = node("node-module", "failing.mjs").start() else {
        return;
    };
    let line = last_line(process);
    assert!(
        line.starts_with("error load ") && line.contains("RangeError: no luck"),
        "{line}"
    );
}

#[test]
fn node_applications_may_choose_their_server() {
    let Some(mut process) = node("node-api", "app.js").start_ready() else {
        return;
    };
    process.expect_log("attached");
    let json = get(&process, "/").json();
    assert!(
        json["port"].as_u64().is_some_and(|port| port > 0),
        "the other one has a real port"
    );
    assert_eq!(json["main"], true);
    assert_eq!(
        json["argument"],
        process.startup_file().to_string_lossy().as_ref()
    );
    assert_eq!(json["remoteAddress"], "127.0.0.1");
    assert_eq!(json["address"], "passenger");
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
    process.expect_log("leaving");
}

#[test]
fn node_listens_in_every_form() {
    for form in [
        "nothing",
        "callback",
        "port",
        "port as text",
        "port, callback",
        "port, host",
        "port, host, backlog",
        "path",
        "options with a port",
        "options with a path",
        "options with a descriptor",
        "options with a signal",
        "a handle",
        "another server",
        "port, no host, callback",
        "passenger",
        "/passenger",
        "undefined",
        "null",
    ] {
        let launch = node("node-listen", "app.js").variable("LISTEN", form);
        let Some(process) = launch.start_ready() else {
            return;
        };
        assert_eq!(get(&process, "/").text(), format!("{form} at passenger"));
        process.expect_log("returns itself: true");
        if process.log().contains("has a callback: true") {
            process.expect_log("called back, listening: true");
        }
    }
}

#[test]
fn node_answers_in_the_order_of_requests_on_a_connection() {
    let Some(process) = node("node-listen", "pipeline.js").start_ready() else {
        return;
    };
    let mut client = process.connect();
    let mut bytes = client.encode(&Request::get("/slow"));
    bytes.extend(client.encode(&Request::get("/quick")));
    client.stream.write_all(&bytes).expect("send both at once");
    assert_eq!(get(&process, "/quick").text(), "/quick", "on another one");
    assert_eq!(get(&process, "/go").text(), "/go");
    for expected in ["/slow", "/quick"] {
        let response = client.receive("GET").expect("a response");
        assert_eq!(response.text(), expected);
    }
}

#[test]
fn node_ends_upgraded_connections_when_it_stops() {
    let Some(mut process) = node("node-listen", "upgrade.js").start_ready() else {
        return;
    };
    let mut client = process.connect();
    let request = Request::get("/")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket");
    client.send(&request);
    let mut read_up_to = |end: &[u8]| {
        let mut seen = Vec::new();
        while !seen.ends_with(end) {
            let mut byte = [0];
            client.stream.read_exact(&mut byte).expect("more");
            seen.extend(byte);
        }
        client.stream.write_all(b"hello").expect("send");
    };
    read_up_to(b"\r\n\r\n");
    read_up_to(b"hello");
    assert!(process.ask_busy("1").is_empty(), "its seat is free");
    process.tell("stop");
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest).expect("the end");
    drop(client);
    assert_eq!(process.wait().code(), Some(0));
    process.expect_log("the socket is ended");
}

#[test]
fn node_refuses_to_listen_twice() {
    let Some(process) = node("node-api", "twice.js").start() else {
        return;
    };
    let line = last_line(process);
    assert!(
        line.starts_with("error load ") && line.contains("autoInstall: false"),
        "{line}"
    );
}

#[test]
fn node_reports_a_script_that_never_listens() {
    let Some(process) = node("node-silent", "app.js").start() else {
        return;
    };
    let line = last_line(process);
    assert!(
        line.starts_with("error listen ") && line.contains("without calling listen"),
        "{line}"
    );
}

#[test]
fn node_applications_that_make_workers_are_one() {
    let Some(process) = node("node-cluster", "app.js").start_ready() else {
        return;
    };
    let expected = format!("worker 1 of {}", process.pid());
    assert_eq!(get(&process, "/").text(), expected);
}

#[test]
fn node_modules_that_make_workers_are_told_why_not() {
    let Some(process) = node("node-cluster", "forks.mjs").start() else {
        return;
    };
    let line = last_line(process);
    assert!(line.contains("PassengerMaxPoolSize"), "{line}");
}

/// An application whose script is that one.
fn script(text: &str) -> (Scratch, Launch) {
    let app = Scratch::app(&[("app.js", text)]);
    let launch = Launch::new(Language::Node, app.path());
    (app, launch)
}

#[test]
fn node_servers_end_by_the_signal_they_were_given() {
    let (_app, launch) = script(
        "const end = new AbortController();\n\
         const server = require('http').createServer((request, response) => {\n  \
           response.end('bye', () => end.abort());\n\
         });\n\
         server.on('close', () => console.log('closed by its signal'));\n\
         server.listen({ port: 3000, signal: end.signal });\n",
    );
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "bye");
    // Others may be on their way: the agent finds them another process first.
    assert_eq!(process.next_line().as_deref(), Some("leave"));
    process.tell("stop");
    process.expect_log("closed by its signal");
}

/// As many applications have it, for a life without us.
#[test]
fn node_applications_may_handle_the_end_themselves() {
    let (_app, launch) = script(
        "const http = require('http');\n\
         let go = null;\n\
         const server = http.createServer((request, response) => {\n  \
           console.log('got', request.url);\n  \
           if (request.url === '/wait') go = () => response.end('waited'); else response.end('quick');\n\
         }).listen(3000);\n\
         process.on('SIGTERM', () => {\n  \
           console.log('told to end');\n  \
           server.close(() => { console.log('ended by itself'); process.exit(0); });\n  \
           setImmediate(() => go());\n\
         });\n",
    );
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    let mut client = process.connect();
    client.send(&Request::get("/wait"));
    process.expect_log("got /wait");
    process.signal(Signal::SIGTERM);
    assert_eq!(client.receive("GET").expect("a response").text(), "waited");
    drop(client);
    assert_eq!(process.wait().code(), Some(0));
    process.expect_log("ended by itself");
}

#[test]
fn node_applications_may_wait_for_the_message_shutdown() {
    let (_app, launch) = script(
        "require('http').createServer((request, response) => response.end('here')).listen(3000);\n\
         process.on('message', (message) => {\n  \
           console.log('told:', message);\n  \
           process.exit(0);\n\
         });\n",
    );
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "here");
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
    process.expect_log("told: shutdown");
}

#[test]
fn node_modules_may_listen_when_they_are_ready() {
    let app = Scratch::app(&[(
        "app.mjs",
        "import http from 'node:http';\n\
         import { once } from 'node:events';\n\
         const word = await new Promise((resolve) => { setTimeout(resolve, 20, 'awaited'); });\n\
         const server = http.createServer((request, response) => response.end(word));\n\
         await once(server.listen(0, '127.0.0.1'), 'listening');\n\
         console.log('listening at', server.address(), server.listening);\n",
    )]);
    let launch = Launch::new(Language::Node, app.path()).startup_file("app.mjs");
    let Some(process) = launch.start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "awaited");
    process.expect_log("listening at passenger true");
}
