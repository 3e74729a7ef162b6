//! What only one language has: Rack's hijacking and bodies, all of PEP 3333, Node's ways to listen.
//! The applications are in `tests/fixtures`, one path (or file) per ability.

mod support;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use support::client::{Body, Client, Request, Response};
use support::process::{AppProcess, Launch};
use support::{binary, Language};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn rack() -> Option<AppProcess> {
    Launch::new(Language::Ruby, &fixture("rack")).start_ready()
}

fn wsgi() -> Option<AppProcess> {
    Launch::new(Language::Python, &fixture("wsgi")).start_ready()
}

fn node(name: &str, file: &str) -> Launch {
    Launch::new(Language::Node, &fixture(name)).startup_file(file)
}

fn get(process: &AppProcess, path: &str) -> Response {
    process.connect().call(&Request::get(path))
}

/// The response is cut: its connection ends before its body does.
fn expect_cut(process: &AppProcess, path: &str) {
    let mut client = process.connect();
    client.send(&Request::get(path));
    client.receive("GET").expect_err("the response is cut");
}

/// The last line of a process that could not start.
fn last_line(mut process: AppProcess) -> String {
    let mut last = String::new();
    while let Some(line) = process.next_line() {
        last = line;
    }
    assert_eq!(process.wait().code(), Some(1), "{}", process.log());
    last
}

/// Bodies of iterables and files, in both languages the same.
fn expect_all_kinds_of_bodies(process: &AppProcess) {
    assert_eq!(get(process, "/each").text(), "abc");
    assert_eq!(get(process, "/counted").text(), "abc");
    assert_eq!(
        get(process, "/file").body,
        std::fs::read(process.startup_file()).expect("read")
    );
    expect_cut(process, "/short");
    process.expect_log("shorter than its Content-Length");
    expect_cut(process, "/long");
    process.expect_log("longer than its Content-Length");
    expect_cut(process, "/failing");
}

const LINES: &str = "one\ntwo three\nfour\nfive";

/// A body that is read as a stream: it comes in frames that cut its lines.
fn lines_in_pieces() -> Request {
    let pieces = ["on", "e\ntw", "o three\nfou", "r\nfive"];
    Request::post(
        "/input",
        Body::Pieces(pieces.map(|piece| piece.as_bytes().to_vec()).to_vec()),
    )
}

// --- Rack ---

#[test]
fn rack_lint_is_content() {
    let Some(process) = rack() else { return };
    let mut client = process.connect();
    for body in [
        Body::None,
        Body::Sized(vec![b'x'; 77]),
        Body::Sized(vec![b'x'; 3 << 20]),
    ] {
        let length = if let Body::Sized(bytes) = &body {
            bytes.len()
        } else {
            0
        };
        assert_eq!(
            client.call(&Request::post("/lint", body)).text(),
            length.to_string()
        );
    }
    process.expect_log("linted");
}

#[test]
fn rack_bodies_are_sent_and_closed() {
    let Some(process) = rack() else { return };
    expect_all_kinds_of_bodies(&process);
    process
        .connect()
        .call(&Request::get("/each").method("HEAD"));
    assert_eq!(get(&process, "/closed").text(), "7");
}

#[test]
fn rack_headers_may_be_lists_lines_and_numbers() {
    let Some(process) = rack() else { return };
    let response = get(&process, "/arrays");
    assert_eq!(response.header("x-number"), ["7"]);
    assert_eq!(response.header("x-many"), ["a", "b"]);
    assert_eq!(response.header("x-lines"), ["c", "d"]);
    let response = get(&process, "/text");
    assert_eq!(response.header("x-utf8"), ["é"]);
    assert_eq!(response.body, [0xC3, 0xBC, 0xFF]);
    assert_eq!(get(&process, "/status").status, 418);
}

#[test]
fn rack_headers_cannot_smuggle_another_one() {
    let Some(process) = rack() else { return };
    assert_eq!(get(&process, "/nul").status, 500);
    process.expect_log("NUL");
}

/// Reads a raw stream to its end; returns its head and what followed.
fn raw(client: &mut Client) -> (String, String) {
    let head = binary::receive_head(&mut client.stream).expect("a head");
    assert_eq!(head.flags, binary::RAW | binary::LAST);
    assert_eq!(head.number, client.number());
    let mut rest = String::new();
    client
        .stream
        .read_to_string(&mut rest)
        .expect("a stream that ends");
    (head.text, rest)
}

#[test]
fn rack_applications_may_take_the_connection() {
    let Some(process) = rack() else { return };
    for (path, has_head, text) in [
        ("/partial", true, "raw"),
        ("/stream", true, "streamed"),
        ("/full", false, "HTTP/1.1 299 Mine\r\n\r\nall mine"),
    ] {
        let mut client = process.connect();
        client.send(&Request::get(path));
        let (head, stream) = raw(&mut client);
        assert_eq!(
            head.starts_with("200\0content-type\0text/plain"),
            has_head,
            "{head:?}"
        );
        assert_eq!(head.is_empty(), !has_head, "{head:?}");
        assert_eq!(stream, text);
        assert_eq!(get(&process, "/version").status, 200, "the process goes on");
    }
}

#[test]
fn rack_input_can_be_read_by_line_and_length() {
    let Some(process) = rack() else { return };
    let is_rack2 = get(&process, "/version").text().starts_with('2');
    let first = r#"["one\n", "two", " three\nfour\nfive"]"#;
    let again = match is_rack2 {
        true => r#"["one\n", "two three\n", "four\n", "five"]"#,
        false => "no rewind",
    };
    let mut client = process.connect();
    assert_eq!(
        client.call(&lines_in_pieces()).text(),
        format!("{first} {again}")
    );
    let sized = Request::post("/input", Body::Sized(LINES.as_bytes().to_vec()));
    assert!(client.call(&sized).text().starts_with(first));
}

/// Also where `rewind` must be possible, as Rack 2 demands.
#[test]
fn rack_input_is_read_while_it_arrives_and_leaves_no_file() {
    let scratch = rack_with(
        "uploads",
        "_['rack.input'].then { |i| [i.gets, i.read(2)] }",
        &[],
    );
    let uploads = scratch.0.join("tmp");
    std::fs::create_dir(&uploads).expect("make a directory");
    let launch = Launch::new(Language::Ruby, &scratch.0);
    let launch = launch.variable("TMPDIR", &uploads.to_string_lossy());
    let Some(process) = launch.start_ready() else {
        return;
    };
    let mut client = process.connect();
    let whole = client.encode(&lines_in_pieces());
    let but_the_end = &whole[..whole.len() - "five".len() - 4];
    client.stream.write_all(but_the_end).expect("send a part");
    let response = client
        .receive("POST")
        .expect("a response, before all of it is here");
    assert_eq!(response.text(), "[\"one\\n\", \"tw\"]");
    assert!(response.is_last, "who knows how much would come");
    let left: Vec<_> = std::fs::read_dir(&uploads).expect("read it").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn rack_script_errors_and_foreign_broken_pipes_are_500() {
    let Some(process) = rack() else { return };
    assert_eq!(get(&process, "/not-implemented").status, 500);
    process.expect_log("a ScriptError");
    assert_eq!(get(&process, "/broken-pipe").status, 500);
    process.expect_log("the application's own");
}

#[test]
fn rack_callbacks_run() {
    let Some(mut process) = rack() else { return };
    process.expect_log("starting, forked: false");
    assert_eq!(get(&process, "/finished").status, 200);
    process.expect_log("response finished");
    assert_eq!(get(&process, "/after").status, 200);
    process.expect_log("after the reply");
    process.expect_log("signals are handled");
    process.tell("stop");
    process.wait();
    process.expect_log("stopping");
}

#[test]
fn rack_early_hints_come_before_the_response() {
    const INTERIM: u32 = 4;
    let Some(process) = rack() else { return };
    let mut client = process.connect();
    client.send(&Request::get("/hints").protocol("HTTP/2.0"));
    let hints = binary::receive_head(&mut client.stream).expect("a head");
    assert_eq!((hints.flags, hints.number), (INTERIM, client.number()));
    assert_eq!(
        hints.text,
        "103\0link\0</a.css>; rel=preload\0link\0</b.js>; rel=preload"
    );
    assert_eq!(client.receive("GET").expect("a response").text(), "hinted");
    let text = get(&process, "/hints").text();
    assert_eq!(text, "hinted", "and none for HTTP/1.1");
}

#[test]
fn rack_applications_may_ask_for_out_of_band_work() {
    for threads in ["1", "3"] {
        let launch = Launch::new(Language::Ruby, &fixture("rack"));
        let launch = launch.variable("PASSENGER_THREADS", threads);
        let Some(mut process) = launch.start_ready() else {
            return;
        };
        assert_eq!(get(&process, "/each").text(), "abc");
        let response = get(&process, "/oob");
        assert_eq!(response.text(), "later");
        assert_eq!(response.header("x-kept"), ["yes"]);
        let leaked = response.header("!~Request-OOB-Work");
        assert!(leaked.is_empty(), "the order is not for the client");
        assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
        assert_eq!(get(&process, "/each").text(), "abc");
        assert!(
            !process.log().contains("out of band"),
            "not before the agent says so"
        );
        works(&mut process, 1);
        process.expect_log("out of band");
        assert_eq!(get(&process, "/each").text(), "abc");
        // The older name of the header.
        let response = get(&process, "/old-oob");
        let leaked = response.header("X-Passenger-Request-OOB-Work");
        assert!(leaked.is_empty(), "the order is not for the client");
        assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
        works(&mut process, 2);
        process.expect_log("out of band\nout of band");
        // Told once more (by an agent's successor) it has nothing to do.
        works(&mut process, 3);
        assert_eq!(process.log().matches("out of band").count(), 2);
    }
}

/// Has the process do its out-of-band work.
fn works(process: &mut AppProcess, token: u32) {
    process.tell(&format!("work {token}"));
    let done = format!("work-done {token}");
    assert_eq!(process.next_line().as_deref(), Some(done.as_str()));
}

/// An application of another language: `/header` and `/old` ask by a header, `/call` by the API, `/` does not.
fn expect_out_of_band_work(mut process: AppProcess) {
    for (round, path) in (1..).zip(["/header", "/old", "/call"]) {
        assert_eq!(get(&process, "/").status, 200);
        let response = get(&process, path);
        assert_eq!(response.text(), "later");
        assert_eq!(
            process.next_line().as_deref(),
            Some("work-wanted"),
            "{path}"
        );
        assert_eq!(process.log().matches("out of band").count(), round - 1);
        works(&mut process, 1);
        let lines = "out of band\n".repeat(round);
        process.expect_log(&lines);
        works(&mut process, 2);
        assert_eq!(
            process.log().matches("out of band").count(),
            round,
            "twice for {path}"
        );
    }
    assert_eq!(get(&process, "/").status, 200, "the process goes on");
    // Asked once more in the midst of it, by an agent's successor, it answers when the work is done.
    assert_eq!(get(&process, "/call").text(), "later");
    assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
    let before = process.log().matches("out of band").count();
    process.tell("work 3");
    process.tell("work 4");
    assert_eq!(process.next_line().as_deref(), Some("work-done 3"));
    assert_eq!(process.next_line().as_deref(), Some("work-done 4"));
    let lines = "out of band\n".repeat(before + 1);
    process.expect_log(&lines);
}

#[test]
fn wsgi_applications_may_ask_for_out_of_band_work() {
    for threads in ["1", "3"] {
        let launch = Launch::new(Language::Python, &fixture("oob"));
        let Some(process) = launch.variable("PASSENGER_THREADS", threads).start_ready() else {
            return;
        };
        for path in ["/header", "/old"] {
            let response = get(&process, path);
            assert_eq!(response.header("X-Kept"), ["yes"]);
            assert_eq!(response.headers.len(), 1, "{:?}", response.headers);
        }
        drop(process);
        let launch = Launch::new(Language::Python, &fixture("oob"));
        let launch = launch.variable("PASSENGER_THREADS", threads);
        expect_out_of_band_work(launch.start_ready().expect("it started before"));
    }
}

#[test]
fn asgi_applications_may_ask_for_out_of_band_work() {
    if let Some(process) = Launch::new(Language::Asgi, &fixture("oob")).start_ready() {
        expect_out_of_band_work(process);
    }
}

#[test]
fn node_applications_may_ask_for_out_of_band_work() {
    if let Some(process) = Launch::new(Language::Node, &fixture("oob")).start_ready() {
        expect_out_of_band_work(process);
    }
}

#[test]
fn garbage_is_collected_out_of_band() {
    let launch = Launch::new(Language::Ruby, &fixture("rack")).variable("OOB_GC", "1");
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    let collections = |process: &AppProcess| -> u32 {
        let text = get(process, "/collections").text();
        text.parse().expect("a number")
    };
    let before = collections(&process);
    collections(&process);
    collections(&process);
    assert_eq!(process.next_line().as_deref(), Some("work-wanted"));
    works(&mut process, 1);
    process.expect_log("out of band");
    assert!(collections(&process) > before);
}

#[test]
fn a_gemfile_that_cannot_be_satisfied_is_reported() {
    let launch = Launch::new(Language::Ruby, &fixture("rack-bundler"));
    let Some(process) = launch.start() else {
        return;
    };
    let line = last_line(process);
    assert!(line.starts_with("error load Bundler::"), "{line}");
    assert!(line.contains("a-gem-that-nobody-has"), "{line}");
}

/// A Rack application whose `config.ru` answers with that Ruby expression, and these files beside it.
fn rack_with(name: &str, expression: &str, files: &[(&str, &str)]) -> Scratch {
    let directory = std::env::temp_dir().join(format!("loader-rack-{name}-{}", std::process::id()));
    let config = format!("run ->(_) {{ [200, {{}}, [({expression}).to_s]] }}\n");
    for (file, text) in [("config.ru", config.as_str())].iter().chain(files) {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        std::fs::write(path, text).expect("write a file");
    }
    Scratch(directory)
}

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn bundler_is_set_up_once_and_may_be_again() {
    let app = rack_with(
        "gemfile",
        "require 'bundler/setup'; Bundler.setup; Bundler.require; defined?(Sinatra).inspect + defined?(Rack)",
        &[("Gemfile", "gem 'rack'\n")],
    );
    let Some(process) = Launch::new(Language::Ruby, &app.0).start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "nilconstant");
}

#[test]
fn an_applications_own_load_path_comes_before_bundler() {
    let says = "$said = \"#{$said} path\"";
    let bundle = "raise 'this comes second and must not be read'";
    for (name, files, expected) in [
        (
            "setup",
            vec![
                ("config/setup_load_paths.rb", says),
                (".bundle/environment.rb", bundle),
                ("Gemfile", bundle),
            ],
            " path",
        ),
        (
            "environment",
            vec![(".bundle/environment.rb", says), ("Gemfile", bundle)],
            " path",
        ),
    ] {
        let app = rack_with(name, "$said", &files);
        let Some(process) = Launch::new(Language::Ruby, &app.0).start_ready() else {
            return;
        };
        assert_eq!(get(&process, "/").text(), expected, "{name}");
    }
}

// --- WSGI ---

#[test]
fn wsgiref_validate_is_content() {
    let Some(process) = wsgi() else { return };
    let mut client = process.connect();
    assert_eq!(client.call(&Request::get("/validated")).text(), "written,0");
    let post = Request::post("/validated", Body::Sized(b"hello".to_vec()));
    assert_eq!(client.call(&post).text(), "written,5");
    process.expect_log("validated");
    assert!(!process.log().contains("Error"), "{}", process.log());
}

#[test]
fn wsgi_iterables_are_sent_and_closed() {
    let Some(process) = wsgi() else { return };
    expect_all_kinds_of_bodies(&process);
    assert_eq!(get(&process, "/generator").text(), "latecomer");
    assert_eq!(get(&process, "/file-like").text(), "not really a file");
    let text = std::fs::read_to_string(process.startup_file()).expect("read");
    assert_eq!(get(&process, "/rest-of-a-file").text(), text[3..7]);
    process
        .connect()
        .call(&Request::get("/each").method("HEAD"));
    assert_eq!(get(&process, "/closed").text(), "6");
}

/// As `gevent.monkey.patch_all()` does it.
#[test]
fn wsgi_applications_may_tear_modules_apart() {
    let directory =
        Scratch(std::env::temp_dir().join(format!("loader-wsgi-{}", std::process::id())));
    std::fs::create_dir(&directory.0).expect("make a directory");
    let app = "import select\nimport socket\ndel select.epoll\nsocket.socket = None\n\n\
               def application(environ, start_response):\n    \
               start_response('200 OK', [])\n    return [b'torn']\n";
    std::fs::write(directory.0.join("passenger_wsgi.py"), app).expect("write the app");
    let Some(process) = Launch::new(Language::Python, &directory.0).start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "torn");
}

#[test]
fn wsgi_start_response_follows_the_rules() {
    let Some(process) = wsgi() else { return };
    let response = get(&process, "/changed-mind");
    assert_eq!((response.status, response.text().as_str()), (503, "sorry"));
    expect_cut(&process, "/too-late");
    process.expect_log("too late to change");
    for path in ["/twice", "/no-start", "/nul", "/broken-pipe"] {
        assert_eq!(get(&process, path).status, 500, "{path}");
    }
    process.expect_log("a second time");
    process.expect_log("did not call start_response");
}

#[test]
fn wsgi_strings_are_latin1() {
    let Some(process) = wsgi() else { return };
    let mut client = process.connect();
    client.send(&Request::get("/latin").header("X-Latin", "é"));
    let head = binary::receive_head(&mut client.stream)
        .expect("a head")
        .text;
    // What came as UTF-8 goes back byte for byte; the lone byte E9 is not UTF-8.
    assert!(head.ends_with("X-Latin\0\u{FFFD}\0X-Back\0é"), "{head:?}");
}

#[test]
fn wsgi_input_can_be_read_in_every_way() {
    let Some(process) = wsgi() else { return };
    let expected = r"[b'one\n', b'two', b' t', [b'hree\n', b'four\n', b'five'], b'', []]";
    let mut client = process.connect();
    assert_eq!(client.call(&lines_in_pieces()).text(), expected);
    let sized = Request::post("/input", Body::Sized(LINES.as_bytes().to_vec()));
    assert_eq!(client.call(&sized).text(), expected);
}

// --- Node ---

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
