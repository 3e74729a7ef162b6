//! The server of a Node application: the times it gives its connections, its end by the application's own will, and
//! other servers beside it.

mod support;

use support::apps::{get, Scratch};
use support::client::{Body, Request};
use support::process::{AppProcess, Launch};
use support::{wait_until, Language};

/// An application of these files; the first is its startup file.
fn app(files: &[(&str, &str)]) -> (Scratch, Launch) {
    let app = Scratch::app(files);
    let launch = Launch::new(Language::Node, app.path()).startup_file(files[0].0);
    (app, launch)
}

/// Lines of the process until that one.
fn expect_line(process: &mut AppProcess, line: &str) {
    while process.next_line().expect("a line") != line {}
}

#[test]
fn node_never_closes_an_idle_connection_whatever_times_it_is_given() {
    let (_app, launch) = app(&[(
        "app.js",
        "const server = require('http').createServer((request, response) => {\n  \
           if (request.url === '/limited') response.setTimeout(20);\n  \
           if (request.url === '/wait') return setTimeout(() => response.end('waited'), 300);\n  \
           if (request.url === '/mute') return;\n  \
           response.end('here');\n\
         });\n\
         server.keepAliveTimeout = 10;\n\
         server.listen(3000);\n\
         server.keepAliveTimeout = 20;\n\
         server.on('connection', () => { server.closeIdleConnections?.(); });\n",
    )]);
    let Some(process) = launch.start_ready() else {
        return;
    };
    let mut idle = process.connect();
    assert_eq!(idle.call(&Request::get("/")).text(), "here");
    let mut limited = process.connect();
    assert_eq!(limited.call(&Request::get("/limited")).text(), "here");
    // More than all of its times, by its own clock.
    assert_eq!(get(&process, "/wait").text(), "waited");
    let post = Request::post("/", Body::Sized(vec![b'x'; 100_000]));
    assert_eq!(idle.call(&post).text(), "here");
    assert_eq!(limited.call(&post).text(), "here");
}

#[test]
fn node_servers_keep_their_time_for_requests() {
    let (_app, launch) = app(&[(
        "app.js",
        "const server = require('http').createServer((request, response) => {\n  \
           if (request.url !== '/mute') response.end('here');\n\
         });\n\
         server.listen(3000);\n\
         server.setTimeout(50);\n\
         server.on('timeout', (socket) => { console.log('took too long'); socket.destroy(); });\n",
    )]);
    let Some(process) = launch.start_ready() else {
        return;
    };
    let mut client = process.connect();
    assert_eq!(client.call(&Request::get("/")).text(), "here");
    client.send(&Request::get("/mute"));
    client.receive("GET").expect_err("it is given up");
    process.expect_log("took too long");
}

/// As applications end that have caught an exception nobody expected.
#[test]
fn node_applications_that_close_their_server_are_replaced_first() {
    let (_app, launch) = app(&[(
        "app.js",
        "const server = require('http').createServer((request, response) => {\n  \
           if (request.url === '/throw') setImmediate(() => { throw new Error('nobody expects it'); });\n  \
           response.end(request.url);\n\
         });\n\
         process.on('uncaughtException', (error) => {\n  \
           console.log(error.message);\n  \
           server.close(() => { console.log('closed'); process.exit(3); });\n\
         });\n\
         server.listen(3000);\n",
    )]);
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    let mut client = process.connect();
    assert_eq!(client.call(&Request::get("/throw")).text(), "/throw");
    expect_line(&mut process, "leave");
    process.expect_log("nobody expects it");
    // What workers send before they know is answered: on this connection, on a new one, and with a body.
    assert_eq!(client.call(&Request::get("/late")).text(), "/late");
    let post = Request::post("/post", Body::Sized(vec![b'x'; 100_000]));
    assert_eq!(client.call(&post).text(), "/post");
    assert_eq!(get(&process, "/new").text(), "/new");
    assert!(!process.log().contains("closed"));
    // Node 16 waits for it.
    drop(client);
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(3));
    process.expect_log("closed");
}

#[test]
fn node_servers_that_close_may_listen_again() {
    let (_app, launch) = app(&[(
        "app.js",
        "const server = require('http').createServer((request, response) => response.end('here'));\n\
         server.listen(3000, () => {\n  \
           server.close();\n  \
           server.listen(3000, () => console.log('again, listening:', server.listening));\n\
         });\n",
    )]);
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    process.expect_log("again, listening: true");
    assert_eq!(get(&process, "/").text(), "here");
    expect_line(&mut process, "leave");
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
}

/// Only the HTTP server is ours; what else an application serves is its own.
#[test]
fn node_applications_may_have_servers_of_other_kinds() {
    let (_app, launch) = app(&[
        (
            "app.js",
            "const http = require('http');\n\
             const { Worker } = require('worker_threads');\n\
             const ports = {};\n\
             const others = {\n  \
               net: require('net').createServer(),\n  \
               https: require('https').createServer({}),\n  \
               http2: require('http2').createServer(),\n\
             };\n\
             for (const [name, server] of Object.entries(others)) {\n  \
               server.listen(0, '127.0.0.1', () => { ports[name] = server.address().port; });\n\
             }\n\
             new Worker('./thread.js').on('message', (port) => { ports.thread = port; });\n\
             http.createServer((request, response) => response.end(JSON.stringify(ports))).listen(3000);\n",
        ),
        (
            "thread.js",
            "const server = require('http').createServer((request, response) => response.end('of a thread'));\n\
             server.listen(0, '127.0.0.1', () => require('worker_threads').parentPort.postMessage(server.address().port));\n",
        ),
    ]);
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    let mut ports = serde_json::Map::new();
    wait_until(|| {
        let told = get(&process, "/").json();
        told.as_object().expect("an object").clone_into(&mut ports);
        ports.len() == 4
    });
    assert!(ports
        .values()
        .all(|port| port.as_u64().is_some_and(|port| port > 0)));
    let port = ports["thread"].as_u64().expect("a port");
    let address = ("127.0.0.1", u16::try_from(port).expect("a port"));
    std::net::TcpStream::connect(address).expect("the thread's own server");
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
}

/// What compilers make of TypeScript: CommonJS and modules in a directory of their own.
#[test]
fn node_runs_what_was_compiled() {
    for (file, kind, text) in [
        (
            "dist/server.js",
            "commonjs",
            "\"use strict\";\n\
             Object.defineProperty(exports, \"__esModule\", { value: true });\n\
             const http_1 = require(\"http\");\n\
             const word_1 = require(\"./word\");\n\
             (0, http_1.createServer)((request, response) => { response.end(word_1.word); }).listen(3000);\n",
        ),
        (
            "dist/server.js",
            "module",
            "import { createServer } from 'node:http';\n\
             const { word } = await import('./word.js');\n\
             createServer((request, response) => { response.end(word); }).listen(3000);\n\
             export {};\n",
        ),
        (
            "app.cjs",
            "module",
            "const { word } = { word: 'compiled' };\n\
             require('http').createServer((request, response) => response.end(word)).listen(3000);\n",
        ),
    ] {
        let word = match kind {
            "module" => "export const word = 'compiled';\n",
            _ => "exports.word = 'compiled';\n",
        };
        let manifest = format!("{{\"type\": \"{kind}\"}}\n");
        let files = [(file, text), ("dist/word.js", word), ("package.json", &manifest)];
        let (_app, launch) = app(&files);
        let Some(process) = launch.start_ready() else {
            return;
        };
        assert_eq!(get(&process, "/").text(), "compiled", "{file} {kind}");
    }
}
