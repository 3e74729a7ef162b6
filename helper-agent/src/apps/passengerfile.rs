//! `Passengerfile.json` in an app's directory: the start command of an app that no directive and no startup file
//! describes. Its other keys are for Passenger Standalone and mean nothing to httpd.
//!
//! The file is its owner's word: the app runs as he does (`config/trust.rs`, `spawn/ownership.rs`), as with any
//! other startup file. It is read with the agent's rights, so nothing of what is in it goes into a message, and a link
//! must lead to a file of the link's own owner.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde_json::{Map, Value};

/// Its name.
pub const NAME: &str = "Passengerfile.json";

/// Longest file that is read, as in the original.
const MAX_BYTES: u64 = 512 * 1024;

/// Longest command; the kernel takes no argument of 128 KiB.
const MAX_COMMAND_BYTES: usize = 64 * 1024;

/// The start command that the file in that directory names; `None`: there is no file, or it names none. May block on
/// a file system that does not answer.
///
/// # Errors
/// A sentence, when there is a file that cannot be read or understood.
pub fn command(app_root: &Path) -> Result<Option<String>, String> {
    let path = app_root.join(NAME);
    let failed = |why: String| format!("{} {why}", path.display());
    let file = match open(&path) {
        Ok(file) => file,
        Err(e) if super::is_absence(&e) => return Ok(None),
        Err(e) => return Err(failed(format!("cannot be read: {e}"))),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|e| failed(format!("cannot be read: {e}")))?;
    parse(&text).map_err(failed)
}

/// As [`command`], of what is in the file.
///
/// # Errors
/// The end of a sentence that begins with the file's name.
pub fn parse(text: &[u8]) -> Result<Option<String>, String> {
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    // Not the error's own text, which quotes what it found.
    let document: Map<String, Value> = serde_json::from_slice(text).map_err(|e| {
        let (line, column) = (e.line(), e.column());
        if e.is_data() {
            "is not a JSON object".to_owned()
        } else {
            format!("is not JSON: the mistake is in line {line}, column {column}")
        }
    })?;
    let command = match document.get("app_start_command") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(command)) if command.trim().is_empty() => return Ok(None),
        Some(Value::String(command)) => command,
        Some(_) => return Err("has an app_start_command that is not a text".to_owned()),
    };
    if command.contains('\0') || command.len() > MAX_COMMAND_BYTES {
        return Err(format!(
            "has an app_start_command with a NUL in it, or of more than {MAX_COMMAND_BYTES} bytes"
        ));
    }
    if document.get("app_supports_kuria_protocol") == Some(&Value::Bool(true)) {
        return Err(
            "has app_supports_kuria_protocol, which is not spoken here: the command must serve HTTP at $PORT"
                .to_owned(),
        );
    }
    Ok(Some(command.clone()))
}

/// Opens it when it is known to be a regular file: opening a FIFO waits, and opening a device may do something. A link must
/// not lead to what its owner may not read.
fn open(path: &Path) -> io::Result<File> {
    let link = fs::symlink_metadata(path)?;
    let found = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    let facts = found.metadata()?;
    if !facts.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if facts.uid() != link.uid() {
        return Err(io::Error::other("it is a link to another user's file"));
    }
    // The very file that was looked at, whatever its name means by now (proc(5)).
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    #[test]
    fn the_command_is_taken_and_everything_else_is_standalones() {
        let command = |text: &str| parse(text.as_bytes());
        assert_eq!(
            command(
                r#"{"app_start_command": "./server $PORT", "port": 4000, "envvars": {"A": "b"}}"#
            ),
            Ok(Some("./server $PORT".to_owned()))
        );
        for none in [
            "{}",
            r#"{"port": 4000}"#,
            r#"{"app_start_command": null}"#,
            r#"{"app_start_command": " "}"#,
        ] {
            assert_eq!(command(none), Ok(None), "{none}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_a_sentence_that_quotes_nothing() {
        for (text, words) in [
            ("{\n  \"secret\" \"x\"}", "line 2, column"),
            ("", "is not JSON"),
            ("root:secret:0", "is not JSON"),
            ("\"secret\"", "not a JSON object"),
            ("[\"secret\"]", "not a JSON object"),
            (r#"{"app_start_command": ["secret"]}"#, "not a text"),
            (r#"{"app_start_command": "secret\u0000"}"#, "NUL"),
            (
                r#"{"app_start_command": "secret", "app_supports_kuria_protocol": true}"#,
                "must serve HTTP",
            ),
        ] {
            let sentence = parse(text.as_bytes()).unwrap_err();
            assert!(sentence.contains(words), "{sentence}");
            assert!(!sentence.contains("secret"), "{sentence}");
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        assert!(parse(&vec![b' '; 600_000]).unwrap_err().contains("longer"));
    }

    #[test]
    fn only_a_regular_file_of_its_owner_is_read() {
        let root = std::env::temp_dir().join(format!("passengerfile-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let path = root.join(NAME);
        assert_eq!(command(&root), Ok(None));
        assert_eq!(command(&root.join("missing")), Ok(None));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(command(&root).unwrap_err().contains("not a regular file"));
        fs::remove_file(&path).unwrap();
        fs::write(root.join("other.json"), r#"{"app_start_command": "x"}"#).unwrap();
        symlink("other.json", &path).unwrap();
        assert_eq!(command(&root), Ok(Some("x".to_owned())));
        if nix::unistd::geteuid().is_root() {
            chown(root.join("other.json"), Some(1234), None).unwrap();
            let sentence = command(&root).unwrap_err();
            assert!(sentence.contains("another user's file"), "{sentence}");
        }
        fs::remove_dir_all(root).unwrap();
    }
}
