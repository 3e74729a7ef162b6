//! Rack applications on requests: bodies, headers, hijacking, `rack.input`, callbacks, early hints. How a
//! Ruby process loads its application is in `loader_ruby.rs`.

mod support;

use std::io::{Read, Write};

use support::apps::{expect_all_kinds_of_bodies, fixture, get, lines_in_pieces, Scratch, LINES};
use support::client::{Body, Client, Request};
use support::process::{AppProcess, Launch};
use support::{binary, wait_until, Language};

fn rack() -> Option<AppProcess> {
    Launch::new(Language::Ruby, &fixture("rack")).start_ready()
}

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
    let scratch = Scratch::app(&[(
        "config.ru",
        "run ->(env) { [200, {}, [[env['rack.input'].gets, env['rack.input'].read(2)].to_s]] }\n",
    )]);
    let uploads = scratch.path().join("tmp");
    std::fs::create_dir(&uploads).expect("make a directory");
    let launch = Launch::new(Language::Ruby, scratch.path());
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

/// Nothing of a request or a message may keep an exception from being told.
#[test]
fn rack_exceptions_are_told_in_any_encoding() {
    let app = Scratch::app(&[("config.ru", "run ->(_) { raise 'zu groß' }\n")]);
    let Some(process) = Launch::new(Language::Ruby, app.path()).start_ready() else {
        return;
    };
    let mut client = process.connect();
    for target in ["/plain", "/caf\u{e9}"] {
        assert_eq!(client.call(&Request::get(target)).status, 500);
        process.expect_log(&format!("GET {target}: "));
    }
    assert_eq!(process.log().matches("zu groß").count(), 2);
}

#[test]
fn rack_threads_are_announced() {
    let app = Scratch::app(&[(
        "config.ru",
        "begun = Queue.new\n\
         PhusionPassenger.on_event(:starting_request_handler_thread) { begun << Thread.current }\n\
         run ->(_) { [200, {}, [[begun.size, Thread.current.equal?(Thread.main)].inspect]] }\n",
    )]);
    let launch = Launch::new(Language::Ruby, app.path()).variable("PASSENGER_THREADS", "3");
    let Some(process) = launch.start_ready() else {
        return;
    };
    support::wait_until(|| get(&process, "/").text() == "[3, false]");
}

/// Workers say the same names first in each request, which the loader reads faster than other heads.
#[test]
fn heads_mean_the_same_in_any_order_and_the_last_word_counts() {
    let Some(process) = Launch::new(Language::Ruby, &Language::Ruby.app("echo")).start_ready()
    else {
        return;
    };
    let env_of = |client: &mut Client, change: fn(&mut Vec<(String, String)>)| {
        let bytes = client.encode(&Request::get("/a?b=c"));
        client
            .stream
            .write_all(&binary::with_head(&bytes, change))
            .expect("send");
        client.receive("GET").expect("a response").json()["env"].take()
    };
    let (mut usual, mut other) = (process.connect(), process.connect());
    let expected = env_of(&mut usual, |_| {});
    assert_eq!(expected["REMOTE_PORT"], "4711");
    assert_eq!(env_of(&mut usual, |_| {}), expected, "the second time");
    assert_eq!(env_of(&mut other, |pairs| pairs.reverse()), expected);
    let overridden = |pairs: &mut Vec<(String, String)>| {
        let last = [
            ("REMOTE_ADDR", "::1"),
            ("HTTPS", "on"),
            ("rack.run_once", "x"),
            ("LAST", ""),
        ];
        pairs.extend(last.map(|(name, value)| (name.to_owned(), value.to_owned())));
    };
    for client in [&mut usual, &mut other] {
        let env = env_of(client, overridden);
        assert_eq!(env["REMOTE_ADDR"], "::1");
        assert_eq!((&env["HTTPS"], &env["LAST"]), (&"on".into(), &"".into()));
        assert_eq!(env["PATH_INFO"], "/a");
    }
}

#[test]
fn what_is_remembered_of_a_connection_is_not_taken_for_another_site() {
    let Some(process) = Launch::new(Language::Ruby, &Language::Ruby.app("echo")).start_ready()
    else {
        return;
    };
    let mut client = process.connect();
    // More of them than a connection remembers, longer and shorter, and each again.
    for turn in 0..60 {
        let name = "x".repeat(if turn % 3 == 0 { 1 } else { turn / 2 * 7 });
        let target = "/".repeat(1 + turn % 2 * 90);
        let request = match turn % 4 {
            3 => Request::post(&target, Body::Sized(b"a\0b=c".to_vec())),
            _ => Request::get(&target),
        };
        let bytes = binary::with_head(&client.encode(&request), |pairs| {
            for (_, value) in pairs.iter_mut().filter(|(key, _)| key == "SERVER_NAME") {
                value.clone_from(&name);
            }
            if turn % 5 == 4 {
                // Nothing tells such a head's end from the body.
                pairs.truncate(11);
            }
        });
        client.stream.write_all(&bytes).expect("send");
        let json = client.receive("GET").expect("a response").json();
        assert_eq!(json["env"]["SERVER_NAME"], name.as_str(), "{turn}: {json}");
        assert_eq!(json["env"]["PATH_INFO"], target.as_str(), "{turn}");
        assert_eq!(json["env"]["REMOTE_PORT"], "4711", "{turn}: {json}");
        assert_eq!(json["env"]["SERVER_PORT"], "80", "{turn}");
    }
}

#[test]
fn the_empty_input_is_the_same_whatever_was_done_to_the_last_one() {
    let app = Scratch::app(&[(
        "config.ru",
        "run ->(env) do\n\
         \x20 input = env['rack.input']\n\
         \x20 seen = [input.read, input.read(1), input.gets, input.pos, input.external_encoding, input.closed?, input.eof?]\n\
         \x20 input.set_encoding('UTF-8'); input.seek(7); input.rewind; input.ungetc('x'); input.close\n\
         \x20 [200, {}, [seen.inspect]]\n\
         end\n",
    )]);
    let Some(process) = Launch::new(Language::Ruby, app.path()).start_ready() else {
        return;
    };
    let mut client = process.connect();
    for _ in 0..3 {
        assert_eq!(
            client.call(&Request::get("/")).text(),
            "[\"\", nil, nil, 0, #<Encoding:ASCII-8BIT>, false, true]"
        );
    }
}

#[test]
fn callbacks_of_one_request_are_not_those_of_the_next() {
    let app = Scratch::app(&[(
        "config.ru",
        "run ->(env) do\n\
         \x20 if env['PATH_INFO'] == '/once'\n\
         \x20   env['rack.after_reply'] << -> { $ran = $ran.to_i + 1 }\n\
         \x20   env['rack.response_finished'] << ->(*) { $ran = $ran.to_i + 10 }\n\
         \x20 end\n\
         \x20 [200, {}, [$ran.inspect]]\n\
         end\n",
    )]);
    let Some(process) = Launch::new(Language::Ruby, app.path()).start_ready() else {
        return;
    };
    let mut client = process.connect();
    for (target, expected) in [
        ("/", "nil"),
        ("/once", "nil"),
        ("/", "11"),
        ("/", "11"),
        ("/once", "11"),
        ("/", "22"),
    ] {
        assert_eq!(
            client.call(&Request::get(target)).text(),
            expected,
            "{target}"
        );
    }
}

#[test]
fn an_application_that_ends_its_thread_costs_only_its_request() {
    let app = Scratch::app(&[(
        "config.ru",
        "run ->(env) { env['PATH_INFO'] == '/end' ? Thread.exit : [200, {}, ['still here']] }\n",
    )]);
    let launch = Launch::new(Language::Ruby, app.path()).variable("PASSENGER_THREADS", "2");
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    // More often than there are threads.
    for _ in 0..5 {
        let mut client = process.connect();
        client.send(&Request::get("/end"));
        assert!(client.receive("GET").is_err());
    }
    assert!(process.ask_busy("1").is_empty());
    assert_eq!(get(&process, "/").text(), "still here");
}

/// No thread of the pool keeps a process from ending.
#[test]
fn an_application_that_exits_while_another_request_runs_ends_its_process() {
    let app = Scratch::app(&[(
        "config.ru",
        "run ->(env) { env['PATH_INFO'] == '/end' ? exit : File.write('runs', '') && sleep }\n",
    )]);
    let launch = Launch::new(Language::Ruby, app.path()).variable("PASSENGER_THREADS", "2");
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    let mut waiting = process.connect();
    waiting.send(&Request::get("/"));
    wait_until(|| app.path().join("runs").exists());
    let mut ending = process.connect();
    ending.send(&Request::get("/end"));
    process.wait();
}
