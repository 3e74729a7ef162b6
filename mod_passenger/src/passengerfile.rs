//! Whether a directory without a startup file is an app by its `Passengerfile.json`. Only the agent reads the command.

use serde_json::{Map, Value};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longest file that is read, as in the original.
const MAX_BYTES: u64 = 512 * 1024;

/// Whether the file in that directory names a start command, or is there and cannot be understood: then the agent,
/// which may be allowed to read it, has the last word, and the sentence.
pub(crate) fn may_name_a_command(app_root: &Path) -> bool {
    match read(&app_root.join("Passengerfile.json")) {
        Ok(text) => names_a_command(&text),
        Err(e) => !matches!(
            e.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    }
}

pub(crate) fn names_a_command(text: &[u8]) -> bool {
    let Ok(document) = serde_json::from_slice::<Map<String, Value>>(text) else {
        return true;
    };
    match document.get("app_start_command") {
        None | Some(Value::Null) => false,
        Some(Value::String(command)) => !command.trim().is_empty(),
        Some(_) => true,
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO must not hold the thread.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_for_standalone_alone_makes_no_app() {
        for (text, is_app) in [
            (r#"{"app_start_command": "./server"}"#, true),
            (r#"{"port": 4000}"#, false),
            (r#"{"app_start_command": ""}"#, false),
            (r#"{"app_start_command": 1}"#, true),
            ("{", true),
        ] {
            assert_eq!(names_a_command(text.as_bytes()), is_app, "{text}");
        }
        let root = std::env::temp_dir().join(format!("psgr-file-{}", std::process::id()));
        std::fs::create_dir_all(root.join("Passengerfile.json")).unwrap();
        assert!(may_name_a_command(&root), "the agent says what is wrong");
        std::fs::remove_dir_all(&root).unwrap();
        assert!(!may_name_a_command(&root));
    }
}
