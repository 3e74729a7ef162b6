//! One suite for all loaders: each is started as the agent starts it (control socket on 3, listener
//! on 4, environment) and must answer requests the same. `loader_life.rs` has the life of their processes,
//! `loader_surroundings.rs` where these find themselves, `loader_binary.rs` the two that speak the binary protocol; what
//! only one language has is in files of its name. A language that is not installed is skipped, and says so.

mod support;

use std::io::Write;

use support::client::{Body, Client, Request};
use support::process::{AppProcess, Launch};
use support::{binary, http, suite, Language};

/// SHA-256 of `hello`.
const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// SHA-256 of 1 MiB of `x`.
const MEBIBYTE_SHA256: &str = "8f990ba0b577b51cf009ea049368c16bbda1b21e1b93be07a824758bb253c39b";
const MEBIBYTE: usize = 1 << 20;

suite! {
    all:
        answers_a_get
        receives_small_bodies
        receives_a_mebibyte
        receives_a_body_of_unknown_length
        sends_large_responses_whole
        sends_a_chunk_when_the_application_yields_it
        a_streamed_response_ends
        head_is_answered_without_body
        no_content_has_no_body
        keeps_repeated_headers
        keeps_empty_header_values
        answers_many_requests_on_one_connection
        answers_on_many_connections
        survives_peers_that_close_early
        an_exception_is_a_500_and_is_logged
        an_exception_after_the_head_cuts_the_response
        a_crash_in_a_request_closes_the_connection
        output_is_not_held_back;
    binary: ;
}

fn echo(language: Language) -> Option<AppProcess> {
    Launch::new(language, &language.app("echo")).start_ready()
}

fn hello(language: Language) -> Option<AppProcess> {
    Launch::new(language, &language.app("hello")).start_ready()
}

fn answers_a_get(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let request = Request::get("/some/where?x=1&y=%C3%A9").header("X-Colour", "blue");
    let response = process.connect().call(&request);
    let json = response.json();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("Content-Type"), ["application/json"]);
    assert_eq!(json["method"], "GET");
    assert_eq!(json["path"], "/some/where");
    assert_eq!(json["query"], "x=1&y=%C3%A9");
    assert_eq!(json["uri"], "/some/where?x=1&y=%C3%A9");
    assert_eq!(json["headers"]["x-colour"], "blue");
    assert_eq!(json["pid"], process.pid());
    assert_eq!(json["body"]["length"], 0);
}

fn expect_body(client: &mut Client, body: Body, length: usize, digest: &str) {
    let json = client.call(&Request::post("/", body)).json();
    assert_eq!(
        (&json["body"]["length"], &json["body"]["sha256"]),
        (&length.into(), &digest.into())
    );
}

fn receives_small_bodies(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    for _ in 0..3 {
        expect_body(&mut client, Body::Sized(b"hello".to_vec()), 5, HELLO_SHA256);
    }
}

fn receives_a_mebibyte(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    // Twice the size does not fit into memory by the loaders' bound.
    for _ in 0..2 {
        let body = Body::Sized(vec![b'x'; MEBIBYTE]);
        expect_body(&mut client, body, MEBIBYTE, MEBIBYTE_SHA256);
        let json = client
            .call(&Request::post("/", Body::Sized(vec![b'x'; 2 * MEBIBYTE])))
            .json();
        assert_eq!(json["body"]["length"], 2 * MEBIBYTE);
    }
}

fn receives_a_body_of_unknown_length(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    let pieces = ["h", "el", "lo"]
        .map(|piece| piece.as_bytes().to_vec())
        .to_vec();
    expect_body(&mut client, Body::Pieces(pieces), 5, HELLO_SHA256);
    let pieces = vec![vec![b'x'; MEBIBYTE / 16]; 16];
    expect_body(&mut client, Body::Pieces(pieces), MEBIBYTE, MEBIBYTE_SHA256);
    expect_body(&mut client, Body::Sized(b"hello".to_vec()), 5, HELLO_SHA256);
}

fn sends_large_responses_whole(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    for length in [0, 1, 65_536, 3_000_000] {
        let response = client.call(&Request::get(&format!("/?bytes={length}")));
        let expected: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
        assert!(response.body == expected, "{length} bytes arrive unchanged");
    }
}

fn sends_a_chunk_when_the_application_yields_it(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    // The second chunk is out of reach of any deadline here: the first must come without it.
    client.send(&Request::get("/?chunks=2&chunk_ms=3600000"));
    let first = if language.is_binary() {
        binary::receive_head(&mut client.stream).expect("a head");
        binary::receive_frame(&mut client.stream).expect("a frame")
    } else {
        http::receive_head(&mut client.stream).expect("a head");
        http::receive_chunk(&mut client.stream).expect("a chunk")
    };
    assert_eq!(first, b"chunk 0\n");
}

fn a_streamed_response_ends(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    for _ in 0..2 {
        let response = client.call(&Request::get("/?chunks=3"));
        assert_eq!(response.text(), "chunk 0\nchunk 1\nchunk 2\n");
    }
}

fn head_is_answered_without_body(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    for target in ["/", "/?bytes=1000", "/?chunks=3"] {
        let response = client.call(&Request::get(target).method("HEAD"));
        assert_eq!((response.status, response.body.len()), (200, 0));
    }
    assert_eq!(client.call(&Request::get("/?chunks=1")).text(), "chunk 0\n");
}

fn no_content_has_no_body(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    for status in [204, 304] {
        let response = client.call(&Request::get(&format!("/?status={status}")));
        assert_eq!((response.status, response.body.len()), (status, 0));
    }
    assert_eq!(client.call(&Request::get("/?status=418")).status, 418);
}

fn keeps_repeated_headers(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let request = Request::get("/?header=Set-Cookie:a=1&header=Set-Cookie:b=2");
    let response = process.connect().call(&request);
    assert_eq!(response.header("Set-Cookie"), ["a=1", "b=2"]);
}

fn keeps_empty_header_values(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    let request = Request::get("/?header=X-Empty:")
        .header("X-Void", "")
        .header("X-Last", "");
    let response = client.call(&request);
    assert_eq!(response.header("X-Empty"), [""]);
    assert_eq!(response.json()["headers"]["x-void"], "");
    assert_eq!(response.json()["headers"]["x-last"], "");
}

// --- connections ---

fn answers_many_requests_on_one_connection(language: Language) {
    let Some(process) = hello(language) else {
        return;
    };
    let mut client = process.connect();
    for _ in 0..300 {
        assert!(client.call(&Request::get("/")).text().starts_with("Hello"));
    }
}

fn answers_on_many_connections(language: Language) {
    let Some(process) = hello(language) else {
        return;
    };
    let mut clients: Vec<_> = (0..31).map(|_| process.connect()).collect();
    for _ in 0..3 {
        clients
            .iter_mut()
            .for_each(|client| client.send(&Request::get("/")));
        for client in &mut clients {
            assert_eq!(client.receive("GET").expect("a response").status, 200);
        }
    }
}

fn survives_peers_that_close_early(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let whole = process
        .connect()
        .encode(&Request::post("/", Body::Sized(vec![b'x'; 5000])));
    for length in [
        0,
        1,
        23,
        24,
        40,
        whole.len() - 4000,
        whole.len() - 1,
        whole.len(),
    ] {
        let mut client = process.connect();
        client
            .stream
            .write_all(&whole[..length])
            .expect("send a part");
        drop(client);
        assert_eq!(process.connect().call(&Request::get("/")).status, 200);
    }
    // One that leaves while its response is under way.
    process.connect().send(&Request::get("/?bytes=10000000"));
    assert_eq!(process.connect().call(&Request::get("/")).status, 200);
    assert!(!process.log().contains("Error"), "{}", process.log());
}

fn an_exception_is_a_500_and_is_logged(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    let response = client.call(&Request::get("/oops?raise=1"));
    assert_eq!(response.status, 500);
    assert!(
        !response.text().contains("raising"),
        "no details for the client"
    );
    process.expect_log("echo: raising, as asked");
    process.expect_log(language.startup_file());
    assert_eq!(client.call(&Request::get("/")).status, 200);
}

fn an_exception_after_the_head_cuts_the_response(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    client.send(&Request::get("/?chunks=5&fail_after=2"));
    client.receive("GET").expect_err("the response is cut");
    process.expect_log("failing after 2 chunks");
    assert_eq!(process.connect().call(&Request::get("/")).status, 200);
}

fn a_crash_in_a_request_closes_the_connection(language: Language) {
    let Some(mut process) = echo(language) else {
        return;
    };
    let mut client = process.connect();
    client.send(&Request::get("/?crash=1"));
    client.receive("GET").expect_err("no response");
    assert_eq!(process.wait().code(), Some(7));
}

fn output_is_not_held_back(language: Language) {
    let Some(process) = echo(language) else {
        return;
    };
    process.connect().call(&Request::get("/?log=marzipan"));
    process.expect_log("marzipan\n");
    process.expect_log("err: marzipan\n");
}
