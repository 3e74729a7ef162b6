//! `X-Sendfile`: the app names a file and httpd sends it, ranges and conditional requests included.
//!
//! The file must lie in the app's own directory or below a `PassengerXSendfilePath`, and no link on the way
//! may lead out: httpd's user can read more than the app's.

use super::head::set_head;
use super::output::OutputError;
use super::respond::lost;
use super::{Answer, Attempt, AttemptError, Response};
use crate::config;
use crate::error::RequestError;
use crate::ffi::brigade;
use crate::ffi::request::Request;
use crate::ffi::sendfile::{open_beneath, Conditions};
use crate::mapping::Mapping;
use crate::upstream::head::ResponseHead;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Takes the field out of the response; its value if the app named a file.
pub(super) fn take_path(head: &mut ResponseHead) -> Option<Vec<u8>> {
    let at = head
        .fields
        .iter()
        .position(|(name, _)| name.eq_ignore_ascii_case("x-sendfile"))?;
    let (_, path) = head.fields.remove(at);
    head.fields
        .retain(|(name, _)| !name.eq_ignore_ascii_case("x-sendfile"));
    (!path.is_empty()).then_some(path)
}

impl Attempt<'_, '_> {
    /// Sends the file at `path` in place of the response's body.
    pub(super) fn send_file(
        self,
        r: &mut Request<'_>,
        mapping: &Mapping,
        mut response: Response,
        path: &[u8],
        whole_body_sent: bool,
    ) -> Result<Answer, AttemptError> {
        let head = response.head.clone();
        response.head.fields.clear();
        self.discard_body(response, whole_body_sent)?;
        let (file, facts) = open(&roots(r, mapping), path).map_err(|error| {
            let path = String::from_utf8_lossy(path).into_owned();
            AttemptError::Fatal(RequestError::SendFile { path, error })
        })?;
        let modified = facts.mtime() * 1_000_000 + facts.mtime_nsec() / 1000;
        set_head(r, &head, Some(facts.len()));
        if r.headers_out().get(c"ETag").is_none() {
            let tag = format!("\"{:x}-{modified:x}\"", facts.len());
            r.headers_out().add(b"ETag", tag.as_bytes());
        }
        // Conditions are about a success; another status is the app's last word.
        let conditions = r.conditions_for(modified, facts.len());
        let mut output = brigade::Output {
            end: true,
            ..Default::default()
        };
        match conditions {
            Conditions::NotModified if head.status == 200 => r.set_status(304, None),
            Conditions::Failed(status) if head.status == 200 => {
                return Ok(Answer::Override(status))
            }
            _ => output.file = Some((OwnedFd::from(file), 0, facts.len())),
        }
        match brigade::write(r, output) {
            Ok(()) => Ok(Answer::PassedOn),
            Err(_) => Err(lost(r, OutputError::Client)),
        }
    }
}

/// The directories this app may name files in.
fn roots(r: &Request<'_>, mapping: &Mapping) -> Vec<PathBuf> {
    let own = mapping.app.root.clone();
    let more = config::of_request(r.as_ptr()).map_or(&[][..], |config| config.sendfile_paths());
    let base = own.clone().unwrap_or_default();
    // A relative one is below the app's directory.
    own.into_iter()
        .chain(more.iter().map(|path| base.join(path)))
        .collect()
}

/// Opens the file as named, or, if there is none of that name, as the name means unescaped.
fn open(roots: &[PathBuf], path: &[u8]) -> io::Result<(File, std::fs::Metadata)> {
    match open_as_named(roots, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.contains(&b'%') => {
            let meant = crate::paths::unescape(path).ok_or(e)?;
            open_as_named(roots, &meant)
        }
        result => result,
    }
}

fn open_as_named(roots: &[PathBuf], path: &[u8]) -> io::Result<(File, std::fs::Metadata)> {
    let path = Path::new(OsStr::from_bytes(path));
    let mut why = io::Error::new(
        io::ErrorKind::PermissionDenied,
        "it is outside the app's directory and every PassengerXSendfilePath",
    );
    for root in roots {
        // Apps name files by the directory they were started in or by what its links lead to.
        let real = std::fs::canonicalize(root).unwrap_or_default();
        let below = path.strip_prefix(root).or_else(|_| path.strip_prefix(real));
        let Ok(relative) = below else { continue };
        match open_beneath(root, relative) {
            Ok(file) => {
                let facts = file.metadata()?;
                if facts.is_file() {
                    return Ok((file, facts));
                }
                why = io::Error::other("it is not a regular file");
            }
            Err(e) => why = e,
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_found_by_its_name_and_only_in_the_roots() {
        let base = std::env::temp_dir().join(format!("passenger-sendfile-{}", std::process::id()));
        let (app, shared) = (base.join("app"), base.join("shared"));
        for directory in [&app, &shared] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(app.join("a b%20c"), "").unwrap();
        fs::write(app.join("d e"), "").unwrap();
        fs::write(shared.join("s"), "").unwrap();
        let opens =
            |roots: &[PathBuf], path: PathBuf| open(roots, path.as_os_str().as_bytes()).map(|_| ());
        let own = [app.clone()];
        opens(&own, app.join("a b%20c")).unwrap();
        opens(&own, app.join("d%20e")).unwrap();
        for path in [
            shared.join("s"),
            app.join("../shared/s"),
            app.join("%2e%2e/shared/s"),
            app.clone(),
        ] {
            opens(&own, path.clone()).expect_err(&format!("{path:?}"));
        }
        opens(&[app.clone(), shared.clone()], shared.join("s")).unwrap();
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn the_field_never_reaches_a_client() {
        let mut head = ResponseHead::from_status(b"200").unwrap();
        head.push(b"X-SendFile", b"/a").unwrap();
        head.push(b"x-sendfile", b"/b").unwrap();
        assert_eq!(take_path(&mut head).unwrap(), b"/a");
        assert!(head.fields.is_empty());
    }
}
