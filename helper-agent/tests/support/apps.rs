//! Applications of single tests (fixtures, or a few files written on the spot) and what the tests of
//! several languages ask of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::client::{Body, Request, Response};
use super::process::AppProcess;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A directory of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// A directory of its own, which goes away with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// An application of these files: names, which may have directories in them, and texts.
    pub(crate) fn app(files: &[(&str, &str)]) -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("loader-app-{}-{number}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        std::fs::create_dir(&scratch.0).expect("make a directory");
        for (file, text) in files {
            scratch.write(file, text);
        }
        scratch
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        std::fs::write(path, text).expect("write a file");
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One request on a connection of its own.
pub(crate) fn get(process: &AppProcess, path: &str) -> Response {
    process.connect().call(&Request::get(path))
}

/// The response is cut: its connection ends before its body does.
pub(crate) fn expect_cut(process: &AppProcess, path: &str) {
    let mut client = process.connect();
    client.send(&Request::get(path));
    client.receive("GET").expect_err("the response is cut");
}

/// The last line of a process that could not start.
pub(crate) fn last_line(mut process: AppProcess) -> String {
    let mut last = String::new();
    while let Some(line) = process.next_line() {
        last = line;
    }
    assert_eq!(process.wait().code(), Some(1), "{}", process.log());
    last
}

/// Bodies of iterables and files, in Ruby and Python the same.
pub(crate) fn expect_all_kinds_of_bodies(process: &AppProcess) {
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

/// Four lines, the last without an end.
pub(crate) const LINES: &str = "one\ntwo three\nfour\nfive";

/// A body that is read as a stream: it comes in frames that cut its lines.
pub(crate) fn lines_in_pieces() -> Request {
    let pieces = ["on", "e\ntw", "o three\nfou", "r\nfive"];
    Request::post(
        "/input",
        Body::Pieces(pieces.map(|piece| piece.as_bytes().to_vec()).to_vec()),
    )
}
