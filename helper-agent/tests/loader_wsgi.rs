//! WSGI applications: all of PEP 3333, threads, and what an application may do to Python itself.

mod support;

use std::io::Write;

use support::apps::{
    expect_all_kinds_of_bodies, expect_cut, fixture, get, lines_in_pieces, Scratch, LINES,
};
use support::client::{Body, Request};
use support::process::{AppProcess, Launch};
use support::{binary, Language};

fn wsgi() -> Option<AppProcess> {
    Launch::new(Language::Python, &fixture("wsgi")).start_ready()
}

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
    // As Flask sends it: the announced length is the file's, which httpd sends.
    let sendfile = get(&process, "/sendfile");
    assert_eq!((sendfile.status, sendfile.body.len()), (200, 0));
    assert!(
        !process.log().contains("GET /sendfile"),
        "{}",
        process.log()
    );
    process
        .connect()
        .call(&Request::get("/each").method("HEAD"));
    assert_eq!(get(&process, "/closed").text(), "7");
}

/// `write` and an iterable make one body, held to its length.
#[test]
fn wsgi_applications_may_write_and_return() {
    let Some(process) = wsgi() else { return };
    let mut client = process.connect();
    assert_eq!(client.call(&Request::get("/both")).text(), "written too");
    assert_eq!(
        client.call(&Request::get("/only-written")).text(),
        "written"
    );
    expect_cut(&process, "/both-too-long");
    process.expect_log("longer than its Content-Length");
}

#[test]
fn wsgi_iterables_that_fail_to_close_have_answered_all_the_same() {
    let Some(process) = wsgi() else { return };
    let mut client = process.connect();
    for _ in 0..2 {
        let response = client.call(&Request::get("/stubborn"));
        assert_eq!(response.text(), "all the same");
        assert!(!response.is_last);
    }
    process.expect_log("cannot close");
}

#[test]
fn wsgi_generators_are_closed_when_the_client_is_gone() {
    let Some(process) = wsgi() else { return };
    let mut client = process.connect();
    client.send(&Request::get("/endless"));
    binary::receive_head(&mut client.stream).expect("a head");
    drop(client);
    process.expect_log("the generator was closed");
    assert_eq!(get(&process, "/generator").text(), "latecomer");
    assert!(!process.log().contains("Traceback"), "{}", process.log());
}

/// As `gevent.monkey.patch_all()` does it.
#[test]
fn wsgi_applications_may_tear_modules_apart() {
    let text = "import select\nimport socket\ndel select.epoll\nsocket.socket = None\n\n\
                def application(environ, start_response):\n    \
                start_response('200 OK', [])\n    return [b'torn']\n";
    let app = Scratch::app(&[("passenger_wsgi.py", text)]);
    let Some(process) = Launch::new(Language::Python, app.path()).start_ready() else {
        return;
    };
    assert_eq!(get(&process, "/").text(), "torn");
}

#[test]
fn wsgi_start_response_follows_the_rules() {
    let Some(process) = wsgi() else { return };
    let response = get(&process, "/changed-mind");
    assert_eq!((response.status, response.text().as_str()), (503, "sorry"));
    // Not even the status decides for good whether there is a body.
    let response = get(&process, "/had-nothing-to-say");
    assert_eq!((response.status, response.text().as_str()), (500, "sorry"));
    expect_cut(&process, "/too-late");
    process.expect_log("too late to change");
    for path in ["/twice", "/no-start", "/nul", "/broken-pipe"] {
        assert_eq!(get(&process, path).status, 500, "{path}");
    }
    process.expect_log("a second time");
    process.expect_log("did not call start_response");
}

/// Workers say the same names first in each request, which the loader reads faster than other heads.
#[test]
fn wsgi_heads_mean_the_same_in_any_order_and_the_last_word_counts() {
    type Pairs = Vec<(String, String)>;
    fn set(pairs: &mut Pairs) {
        let last = [
            ("PATH_INFO", "/scheme/"),
            ("HTTPS", "on"),
            ("wsgi.version", "mine"),
        ];
        pairs.extend(last.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let Some(process) = wsgi() else { return };
    let scheme = |client: &mut support::client::Client, change: fn(&mut Pairs)| {
        let bytes = client.encode(&Request::get("/scheme"));
        let bytes = binary::with_head(&bytes, change);
        client.stream.write_all(&bytes).expect("send");
        client.receive("GET").expect("a response").text()
    };
    // A connection's first head shows how all of them begin.
    let mut usual = process.connect();
    assert_eq!(scheme(&mut usual, |_| {}), "http (1, 0) /scheme");
    assert_eq!(scheme(&mut usual, set), "https (1, 0) /scheme/");
    assert_eq!(scheme(&mut usual, |_| {}), "http (1, 0) /scheme");
    let mut other = process.connect();
    assert_eq!(
        scheme(&mut other, |pairs| pairs.reverse()),
        "http (1, 0) /scheme"
    );
    assert_eq!(scheme(&mut other, set), "https (1, 0) /scheme/");
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

/// Where Python's threads have become greenlets, which only run when somebody gives way, the server's own are real.
#[test]
fn wsgi_threads_are_real_where_the_application_has_replaced_them() {
    let text = "import _thread, threading\n\
                def never(*_arguments, **_named): return 0\n\
                real, _thread.start_new_thread = _thread.start_new_thread, never\n\
                threading._start_new_thread = threading._start_joinable_thread = never\n\
                both = _thread.allocate_lock()\n\
                both.acquire()\n\n\
                def application(environ, start_response):\n    \
                start_response('200 OK', [])\n    \
                if environ['PATH_INFO'] == '/wait': both.acquire()\n    \
                else: both.release()\n    \
                return [b'%d' % (_thread.get_ident() != threading.main_thread().ident)]\n";
    let app = Scratch::app(&[("passenger_wsgi.py", text)]);
    let launch = Launch::new(Language::Python, app.path()).variable("PASSENGER_THREADS", "2");
    let Some(mut process) = launch.start_ready() else {
        return;
    };
    let mut waiting = process.connect();
    waiting.send(&Request::get("/wait"));
    assert_eq!(get(&process, "/go").text(), "1");
    assert_eq!(waiting.receive("GET").expect("a response").text(), "1");
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
}

/// The real one, where it is installed (python3-gevent).
#[test]
fn wsgi_applications_may_patch_everything_with_gevent() {
    let python = Language::Python.interpreter();
    let has_gevent = |python: std::path::PathBuf| {
        let mut command = std::process::Command::new(python);
        let output = command.args(["-c", "import gevent.monkey"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !python.is_some_and(has_gevent) {
        eprintln!("skipped: gevent is not installed (tests/run/deps --frameworks)");
        return;
    }
    let text = "from gevent import monkey; monkey.patch_all()\n\
                import subprocess, threading, time\n\n\
                def application(environ, start_response):\n    \
                time.sleep(0.01)\n    \
                said = []\n    \
                beside = threading.Thread(target=lambda: said.append(b'beside '))\n    \
                beside.start()\n    \
                beside.join()\n    \
                main = threading.current_thread() is threading.main_thread()\n    \
                said.append(subprocess.check_output(['echo', 'below']) if main else b'in a thread')\n    \
                start_response('200 OK', [])\n    \
                return said\n";
    let app = Scratch::app(&[("passenger_wsgi.py", text)]);
    // gevent starts programs from the main thread only.
    for (threads, expected) in [("1", "beside below\n"), ("3", "beside in a thread")] {
        let launch = Launch::new(Language::Python, app.path());
        let launch = launch.variable("PASSENGER_THREADS", threads);
        let mut process = launch.start_ready().expect("Python is there");
        let mut clients: Vec<_> = (0..3).map(|_| process.connect()).collect();
        for client in &mut clients {
            client.send(&Request::get("/"));
        }
        for client in &mut clients {
            let response = client.receive("GET").expect("a response");
            assert_eq!(response.text(), expected, "{}", process.log());
        }
        process.tell("stop");
        assert_eq!(process.wait().code(), Some(0), "{}", process.log());
    }
}
