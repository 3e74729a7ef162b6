//! The apps of the harness and what they answer (README.md).

use harness::{App, Language, Site};

/// Length of `static.bin`, a file that httpd sends itself.
const STATIC_LENGTH: usize = 100_000;

/// The site of a language.
pub(crate) fn site(language: Language) -> Site {
    let source = match language {
        Language::Ruby => include_str!("app.rb"),
        Language::Python => include_str!("app.py"),
        Language::Node => include_str!("app.js"),
    };
    let app = App::inline(language, source)
        .file("public/static.bin", &text("static", STATIC_LENGTH))
        .file("tmp/keep", "")
        .file("posts.log", "");
    Site::new(language.name(), app)
}

/// What `/bytes?NAME&LENGTH` answers.
pub(crate) fn text(name: &str, length: usize) -> String {
    let line = format!("{name}\n");
    let mut text = line.repeat(length / line.len() + 1);
    text.truncate(length);
    text
}

/// What `/static.bin` is.
pub(crate) fn static_file() -> String {
    text("static", STATIC_LENGTH)
}
