//! Where a process may find itself: in any locale, in directories with odd and very long names, without a place for
//! temporary files, under an interpreter for which every warning is an error.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::apps::{get, last_line, Scratch};
use support::client::{Body, Request};
use support::process::{AppProcess, Launch};
use support::{suite, Language};

suite! {
    all:
        any_locale_will_do
        a_failure_is_told_in_any_locale
        names_may_have_anything_in_them
        names_may_be_very_long
        the_loaders_directory_may_have_any_name
        temporary_files_need_no_place;
    binary: ;
}

/// Names that mean something to shells, URLs, format strings and terminals.
const ODD: &str = "mein Ärger \u{2603} 'a' \"b\" $HOME #{x} %41%s {0} a;b&c?d#e";

/// Copies an application to a directory of that name.
fn copied(language: Language, kind: &str, scratch: &Scratch, name: &Path) -> PathBuf {
    let place = scratch.path().join(name);
    copy(&language.app(kind), &place);
    place
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("read a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy a file");
        }
    }
}

fn serves(process: &AppProcess) {
    let json = process
        .connect()
        .call(&Request::post(
            "/a%20b?c=%C3%A9",
            Body::Sized(b"hello".to_vec()),
        ))
        .json();
    assert_eq!(json["query"], "c=%C3%A9");
    assert_eq!(json["body"]["length"], 5);
    assert_eq!(get(process, "/?raise=1").status, 500);
    process.expect_log("raising, as asked");
}

const LOCALES: [(&str, &str); 6] = [
    ("LANG", ""),
    ("LANG", "POSIX"),
    ("LANG", "C.UTF-8"),
    ("LC_ALL", "C"),
    ("LC_ALL", "C.UTF-8"),
    ("LC_ALL", "xx_XX.ISO-8859-15"),
];

/// An application with more than ASCII in its source; its answer and its output as it wrote them.
fn umlauts(language: Language, is_broken: bool) -> String {
    let text = match language {
        Language::Ruby => {
            "# für Umlaute\nputs 'größer'\nBROKEN\nrun ->(_) { [200, {}, ['früh']] }\n"
        }
        Language::Python => {
            "# für Umlaute\nprint('größer')\nBROKEN\ndef application(environ, start_response):\n    \
             start_response('200 OK', [])\n    return ['früh'.encode()]\n"
        }
        Language::Asgi => {
            "# für Umlaute\nprint('größer')\nBROKEN\nasync def application(scope, receive, send):\n    \
             assert scope['type'] == 'http'\n    \
             await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n    \
             await send({'type': 'http.response.body', 'body': 'früh'.encode()})\n"
        }
        Language::Node => {
            "// für Umlaute\nconsole.log('größer');\nBROKEN\n\
             require('http').createServer((q, s) => s.end('früh')).listen();\n"
        }
    };
    let breaks = match language {
        Language::Ruby => "raise 'zu groß'",
        Language::Python | Language::Asgi => "raise RuntimeError('zu groß')",
        Language::Node => "throw new Error('zu groß');",
    };
    text.replace("BROKEN", if is_broken { breaks } else { "" })
}

fn any_locale_will_do(language: Language) {
    let app = Scratch::app(&[(language.startup_file(), &umlauts(language, false))]);
    for (name, value) in LOCALES {
        let launch = Launch::new(language, app.path()).variable(name, value);
        let Some(process) = launch.start_ready() else {
            return;
        };
        assert_eq!(get(&process, "/").text(), "früh", "{name}={value}");
        process.expect_log("größer");
    }
}

/// Even where the name of the application is not ASCII either.
fn a_failure_is_told_in_any_locale(language: Language) {
    let startup_file = format!("Größe/{}", language.startup_file());
    let app = Scratch::app(&[(&startup_file, &umlauts(language, true))]);
    for (name, value) in LOCALES {
        let launch = Launch::new(language, &app.path().join("Größe")).variable(name, value);
        let Some(process) = launch.start() else {
            return;
        };
        let line = last_line(process);
        assert!(line.starts_with("error load "), "{name}={value}: {line}");
        assert!(line.contains("zu groß"), "{name}={value}: {line}");
    }
}

fn names_may_have_anything_in_them(language: Language) {
    let scratch = Scratch::app(&[]);
    let place = copied(language, "echo", &scratch, Path::new(ODD));
    let Some(process) = Launch::new(language, &place).start_ready() else {
        return;
    };
    serves(&process);
    let place = copied(
        language,
        "broken-raises",
        &scratch,
        &Path::new("b").join(ODD),
    );
    let process = Launch::new(language, &place)
        .start()
        .expect("it started before");
    let line = last_line(process);
    assert!(line.starts_with("error load "), "{line}");
    assert!(line.contains("no such setting"), "{line}");
}

/// Nearly as long as the kernel allows, and much longer than the name of a socket may be.
fn names_may_be_very_long(language: Language) {
    let scratch = Scratch::app(&[]);
    let long: PathBuf = (0..18).map(|_| "ü".repeat(100)).collect();
    let place = copied(language, "echo", &scratch, &long);
    assert!(place.as_os_str().len() > 3600);
    let Some(process) = Launch::new(language, &place).start_ready() else {
        return;
    };
    serves(&process);
    let place = copied(language, "broken-raises", &scratch, &long.join("b"));
    let process = Launch::new(language, &place)
        .start()
        .expect("it started before");
    let line = last_line(process);
    assert!(line.starts_with("error load "), "{line}");
    assert!(line.len() < 4000, "{} bytes", line.len());
}

fn the_loaders_directory_may_have_any_name(language: Language) {
    let scratch = Scratch::app(&[]);
    let loaders = scratch.path().join(ODD);
    copy(
        language.loader().parent().expect("it is in a directory"),
        &loaders,
    );
    let launch = Launch::new(language, &language.app("echo")).loaders_in(&loaders);
    let Some(process) = launch.start_ready() else {
        return;
    };
    serves(&process);
}

/// Bodies above what is kept in memory included.
fn temporary_files_need_no_place(language: Language) {
    for place in ["", "/nonexistent", "relative"] {
        let launch = Launch::new(language, &language.app("echo")).variable("TMPDIR", place);
        let Some(process) = launch.start_ready() else {
            return;
        };
        let body = Body::Pieces(vec![vec![b'x'; 1 << 20]; 3]);
        let json = process.connect().call(&Request::post("/", body)).json();
        assert_eq!(json["body"]["length"], 3 << 20, "TMPDIR={place}");
    }
}

/// Nothing that a later Python takes away is used, and nothing is left open.
#[test]
fn python_has_nothing_to_warn_of() {
    for (language, threads) in [
        (Language::Python, "1"),
        (Language::Python, "3"),
        (Language::Asgi, "1"),
    ] {
        let launch = Launch::new(language, &language.app("echo"))
            .variable("PYTHONWARNINGS", "error")
            .variable("PYTHONDEVMODE", "1")
            .variable("PASSENGER_THREADS", threads);
        let Some(mut process) = launch.start_ready() else {
            return;
        };
        let mut client = process.connect();
        for target in ["/", "/?bytes=100000", "/?chunks=3", "/%C3%A9"] {
            let response = client.call(&Request::get(target));
            assert_eq!(response.status, 200, "{target}: {}", process.log());
        }
        let body = Body::Pieces(vec![vec![b'x'; 70_000]; 20]);
        assert_eq!(client.call(&Request::post("/", body)).status, 200);
        process.ask_busy("1");
        process.tell("stop");
        assert_eq!(process.wait().code(), Some(0));
        assert!(!process.log().contains("Warning"), "{}", process.log());
    }
}

/// The same for Ruby: what it calls deprecated or verbose.
#[test]
fn ruby_has_nothing_to_warn_of() {
    let launch = Launch::new(Language::Ruby, &Language::Ruby.app("echo"));
    let Some(mut process) = launch.variable("RUBYOPT", "-w").start_ready() else {
        return;
    };
    let body = Body::Pieces(vec![vec![b'x'; 70_000]; 20]);
    assert_eq!(
        process.connect().call(&Request::post("/", body)).status,
        200
    );
    process.tell("stop");
    assert_eq!(process.wait().code(), Some(0));
    let loaders = Language::Ruby.loader();
    let loaders = loaders.parent().expect("it is in a directory").display();
    let ours = format!("{loaders}/");
    let log = process.log();
    let warnings = log
        .lines()
        .filter(|line| line.contains(&ours) && line.contains("warning:"));
    assert_eq!(warnings.collect::<Vec<_>>(), Vec::<&str>::new());
}
