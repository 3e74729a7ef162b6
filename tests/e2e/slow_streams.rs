//! Slow clients of HTTP/2: a stream gives httpd's modules no sign of being slow, and writing to it may block.
//!
//! Under event only: mod_http2 says that it does not support prefork, and crashes there when it is told to stop while
//! a stream is open.

use crate::clients::{with_h2, Program};
use crate::modules::load;
use crate::slow::{one_process, single, site, LARGE};
use harness::{processes, App, Language, Mpm, Server, Setup, Site};
use std::path::PathBuf;

/// Writes `/pauses?N` pieces of 256 KiB and pauses after each, `/dies?N` the same and ends its process then.
const PAUSING: &str = "
import os, signal, time

def application(env, start_response):
    path, count = env['PATH_INFO'], int(env['QUERY_STRING'] or 0)
    start_response('200 OK', [])
    return pieces(path, count) if count else [b'small']

def pieces(path, count):
    for _ in range(count):
        yield b'0123456789abcdef' * (32768 if path == '/large' else 16384)
        # Long enough to count as a pause.
        time.sleep(0.06)
    while path == '/large' and not os.path.exists('gate'):
        time.sleep(0.005)
    if path == '/dies':
        open('dying', 'w').close()
        os.kill(os.getpid(), signal.SIGKILL)
";

/// More than curl, its pipe, httpd and the socket hold together.
const PIECES: usize = 48;
const PIECE: usize = 256 * 1024;

fn pausing() -> Server {
    let site = Site::new("slow", App::inline(Language::Python, PAUSING));
    with_h2(one_process(Mpm::Event)).site(site).start()
}

#[test]
fn a_slow_reader_over_h2_occupies_no_process() {
    let server = with_h2(one_process(Mpm::Event)).site(single()).start();
    let mut readers: Vec<_> = (0..3)
        .map(|_| Program::h2(&server, "slow", &format!("/big?{}", 4 * LARGE)))
        .collect();
    for reader in &mut readers {
        assert_eq!(reader.bytes_of(16), b"0123456789abcdef");
    }
    assert_eq!(server.get("slow", "/").ok(), "small");
    let (rest, is_whole) = readers.remove(0).rest();
    assert_eq!((rest.len(), is_whole), (4 * LARGE - 16, true));
}

#[test]
fn an_app_that_pauses_does_not_wait_for_an_h2_client() {
    let server = pausing();
    let target = format!("/pauses?{PIECES}");
    let mut reader = Program::h2(&server, "slow", &target);
    assert_eq!(reader.bytes_of(16), b"0123456789abcdef");
    // Answered when the app is done, although nobody has read what it wrote.
    assert_eq!(server.get("slow", "/").ok(), "small");
    let (rest, is_whole) = reader.rest();
    assert_eq!((rest.len(), is_whole), (PIECES * PIECE - 16, true));
    assert!(
        rest[..rest.len() - rest.len() % 16]
            .chunks_exact(16)
            .all(|chunk| chunk == b"0123456789abcdef"),
        "not the body"
    );
}

#[test]
fn an_app_that_dies_while_an_h2_client_does_not_read_cuts_its_response() {
    let server = pausing();
    let mut reader = Program::h2(&server, "slow", &format!("/dies?{PIECES}"));
    assert_eq!(reader.bytes_of(16), b"0123456789abcdef");
    server.await_file("slow", "dying");
    let (rest, is_whole) = reader.rest();
    assert!(!is_whole, "{} bytes look complete", rest.len());
    server.log().expect("PSGR0210");
    assert_eq!(server.get("slow", "/").ok(), "small");
}

#[test]
fn what_an_h2_client_got_is_not_kept_open() {
    let server = pausing();
    // Each of these is more than is held in memory.
    let mut reader = Program::h2(&server, "slow", "/large?20");
    reader.bytes_of(20 * 2 * PIECE);
    let is_buffer = |file: &PathBuf| file.to_string_lossy().ends_with(" (deleted)");
    let count = |worker: i32| {
        let files = processes::open_files(worker);
        files.iter().filter(|file| is_buffer(file)).count()
    };
    let kept: usize = server.workers().into_iter().map(count).sum();
    assert!(kept < 10, "{kept} files are open that nobody needs");
    server.touch("slow", "gate");
    assert!(reader.rest().1);
}

#[test]
fn an_h2_client_that_vanishes_while_it_does_not_read_leaves_the_app_free() {
    let server = pausing();
    for _ in 0..3 {
        let mut reader = Program::h2(&server, "slow", &format!("/pauses?{PIECES}"));
        assert_eq!(reader.bytes_of(16), b"0123456789abcdef");
        drop(reader);
        assert_eq!(server.get("slow", "/").ok(), "small");
    }
}

#[test]
fn an_app_learns_that_an_h2_client_is_gone() {
    let server = with_h2(Setup::default()).site(site()).start();
    let client = Program::h2(&server, "slow", "/compute");
    server.await_file("slow", "begun");
    drop(client);
    server.await_file("slow", "noticed");
}

/// Writes without a pause that would count as one, until `gate` is there.
const TRICKLING: &str = "
import os, time

def application(env, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    while not os.path.exists('gate'):
        yield b'tick\\n'
        time.sleep(0.002)
";

#[test]
fn an_app_that_never_pauses_is_heard_over_h2_and_through_filters() {
    let site = Site::new("slow", App::inline(Language::Python, TRICKLING))
        .with("<Location /zipped>\nSetOutputFilter DEFLATE\n</Location>");
    let setup = load(with_h2(Setup::of(site)), &["filter", "deflate"]);
    for (target, option) in [
        ("/", "--http2-prior-knowledge"),
        ("/zipped", "--compressed"),
    ] {
        let server = setup.clone().start();
        let mut client = Program::curl(&server, "slow", target, option);
        for _ in 0..100 {
            assert_eq!(client.line(), "tick", "{target}");
        }
        server.touch("slow", "gate");
        let (rest, is_whole) = client.rest();
        assert!(is_whole && rest.ends_with(b"tick\n") || rest.is_empty());
    }
}
