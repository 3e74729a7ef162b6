//! A Rack app that takes the connection and writes HTTP itself (full hijack).

use harness::{App, Language, Mpm, Setup, Site};

const APP: &str = r"
run(lambda do |env|
  io = env['rack.hijack'].call
  text =
    case env['PATH_INFO']
    when '/interim' then %W[HTTP/1.1\ 102\ Processing #{} HTTP/1.1\ 103\ Early\ Hints Link:\ </a.css>;rel=preload #{}
                            HTTP/1.1\ 200\ OK Content-Length:\ 5 #{} hello].join(%(\r\n))
    when '/half' then %(HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 20)
    else %(HTTP/1.1 201 Created\r\nX-Mine: yes\r\n\r\nuntil the end)
    end
  text.each_char { |c| io.write(c) }
  io.close
  [200, {}, []]
end)
";

#[test]
fn what_the_app_writes_is_the_response_interim_ones_included() {
    for mpm in [Mpm::Event, Mpm::Prefork] {
        let server = Setup::of(Site::new("app", App::inline(Language::Ruby, APP)))
            .mpm(mpm)
            .with("PassengerMaxPoolSize 1")
            .start();
        for _ in 0..3 {
            assert_eq!(server.get("app", "/interim").ok(), "hello", "{mpm:?}");
            let plain = server.get("app", "/");
            assert_eq!(
                (plain.status, plain.text().as_str()),
                (201, "until the end")
            );
            assert_eq!(plain.header("x-mine"), Some("yes"));
        }
        assert_eq!(server.get("app", "/half").status, 502, "{mpm:?}");
        // The seat is free again.
        assert_eq!(server.get("app", "/interim").ok(), "hello", "{mpm:?}");
    }
}
