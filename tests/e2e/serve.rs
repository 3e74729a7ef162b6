//! Requests that go well: every language under every MPM.

use harness::{Language, Mpm, Request, Server, Setup, Site};

/// A server with the probe of each language.
fn three_languages(mpm: Mpm) -> Server {
    let setup = Setup::default().mpm(mpm);
    Language::ALL
        .iter()
        .fold(setup, |setup, language| setup.site(Site::probe(*language)))
        .start()
}

fn greets(mpm: Mpm) {
    let server = three_languages(mpm);
    for language in Language::ALL {
        let name = language.name();
        assert_eq!(server.get(name, "/").ok(), format!("hello from {name}\n"));
    }
}

#[test]
fn three_languages_answer_under_event() {
    greets(Mpm::Event);
}

#[test]
fn three_languages_answer_under_worker() {
    greets(Mpm::Worker);
}

#[test]
fn three_languages_answer_under_prefork() {
    greets(Mpm::Prefork);
}

#[test]
pub(crate) fn a_static_file_is_served_without_an_app_process() {
    let server = three_languages(Mpm::Event);
    for language in Language::ALL {
        let name = language.name();
        assert_eq!(
            server.get(name, "/static.txt").ok(),
            format!("static file of {name}\n")
        );
        assert_eq!(
            server.app_pids(name),
            [0; 0],
            "a static file started an app process of {name}"
        );
    }
}

#[test]
pub(crate) fn a_disabled_location_is_left_to_httpd() {
    let site = Site::probe(Language::Python)
        .with("<Location /off>\n    PassengerEnabled off\n    </Location>");
    let server = Setup::of(site).start();
    assert_eq!(server.get("python", "/off/echo").status, 404);
    assert_eq!(server.app_pids("python"), [0; 0]);
    assert_eq!(server.get("python", "/echo").status, 200);
}

#[test]
fn a_site_without_an_app_is_left_to_httpd() {
    let server = three_languages(Mpm::Event);
    std::fs::remove_file(server.app_root("python").join("passenger_wsgi.py"))
        .expect("remove the startup file");
    assert_eq!(server.get("python", "/static.txt").status, 200);
    assert_eq!(server.get("python", "/pid").status, 404);
}

#[test]
pub(crate) fn a_posted_body_comes_back_unchanged() {
    let server = three_languages(Mpm::Event);
    for language in Language::ALL {
        for size in [0, 1, 1024, 1 << 20, 20 << 20] {
            let body = pattern(size);
            let response = server.post(language.name(), "/echo", &body);
            assert_eq!(response.status, 200, "{} {size}", language.name());
            assert!(
                response.body == body,
                "{}: {size} bytes came back as {}",
                language.name(),
                response.body.len()
            );
        }
    }
}

#[test]
pub(crate) fn a_chunked_upload_comes_back_unchanged() {
    let server = three_languages(Mpm::Event);
    for language in Language::ALL {
        let mut client = server.client(language.name());
        client
            .send(&Request::new("POST", "/echo").header("Transfer-Encoding", "chunked"))
            .expect("send the head");
        let piece = pattern(70_000);
        for _ in 0..5 {
            client
                .send_bytes(format!("{:x}\r\n", piece.len()).as_bytes())
                .expect("send a chunk's length");
            client.send_bytes(&piece).expect("send a chunk");
            client.send_bytes(b"\r\n").expect("send a chunk's end");
        }
        client
            .send_bytes(b"0\r\n\r\n")
            .expect("send the last chunk");
        let response = client.response().expect("a response");
        assert_eq!(response.status, 200);
        assert!(
            response.body == piece.repeat(5),
            "{}: {} bytes",
            language.name(),
            response.body.len()
        );
    }
}

#[test]
fn the_first_piece_of_a_stream_arrives_before_the_app_makes_the_second() {
    for mpm in Mpm::ALL {
        let server = three_languages(mpm);
        for language in Language::ALL {
            let mut client = server.client(language.name());
            client
                .send(&Request::get("/stream"))
                .expect("send the request");
            let (status, _) = client.response_head().expect("the head, at once");
            assert_eq!(status, 200);
            // The app does not go on before the file is there, and we do not make it before this arrived.
            assert_eq!(client.body_piece().expect("the first piece"), b"one\n");
            server.touch(language.name(), "gate");
            assert_eq!(client.body_piece().expect("the second piece"), b"two\n");
            assert_eq!(client.body_piece().expect("the end"), b"");
        }
    }
}

#[test]
pub(crate) fn many_requests_on_one_connection_do_not_get_mixed_up() {
    let server = three_languages(Mpm::Event);
    for language in Language::ALL {
        let mut client = server.client(language.name());
        for round in 0..50_usize {
            let body = format!("{round} of {}", language.name()).into_bytes();
            let posted = client
                .exchange(&Request::post("/echo", &body))
                .expect("an answer to POST");
            assert_eq!(posted.body, body);
            let head = client
                .exchange(&Request::new("HEAD", "/"))
                .expect("an answer to HEAD");
            assert_eq!((head.status, head.body.len()), (200, 0));
            assert_eq!(
                client
                    .exchange(&Request::get("/nowhere"))
                    .expect("an answer")
                    .status,
                404
            );
        }
    }
}

#[test]
pub(crate) fn the_app_sees_the_url_as_the_client_sent_it() {
    let server = three_languages(Mpm::Event);
    let target = "/request?a=1&b=%20x";
    assert_eq!(
        server.get("ruby", target).ok(),
        "GET||/request|a=1&b=%20x\n"
    );
    assert_eq!(
        server.get("python", target).ok(),
        "GET||/request|a=1&b=%20x\n"
    );
    assert_eq!(server.get("node", target).status, 200);
}

#[test]
pub(crate) fn a_client_that_goes_away_in_the_middle_does_not_disturb_the_next() {
    let server = three_languages(Mpm::Event);
    for language in Language::ALL {
        let name = language.name();
        let mut client = server.client(name);
        client
            .send(&Request::get("/hold?gone"))
            .expect("send the request");
        server.await_file(name, "gone.begun");
        client.abort();
        server.touch(name, "gone.go");
        assert_eq!(server.get(name, "/").ok(), format!("hello from {name}\n"));
    }
}

/// Bytes whose order matters: a lost, repeated or swapped piece shows.
fn pattern(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| u8::try_from((i * 31 + i / 251) % 256).expect("below 256"))
        .collect()
}
