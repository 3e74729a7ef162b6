//! What a visitor sees when no app answered. Details only where the administrator (or a development
//! environment) asked for them; otherwise an id that the log repeats.

use crate::config;
use crate::error::RequestError;
use crate::ffi::brigade;
use crate::ffi::log::for_request;
use crate::ffi::request::{c_string, Request};
use crate::ffi::sendfile::{open_beneath, open_plain};
use crate::handler::Outcome;
use crate::mapping::Mapping;
use crate::spawn_page;
use nix::errno::Errno;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Longest `PassengerCustomErrorPage`.
const CUSTOM_BYTES: u64 = 1 << 20;

/// Links that a path may lead through, as in the kernel.
const MOST_LINKS: usize = 40;

/// Seconds a client is asked to wait after a 503.
const RETRY_AFTER: &std::ffi::CStr = c"2";

/// Answers the request: with the administrator's or our own page for an app that does not start, else by httpd's page for the
/// status (and so by the administrator's `ErrorDocument`).
pub(crate) fn answer(r: &mut Request<'_>, error: &RequestError) -> Outcome {
    match error {
        RequestError::ClientGone => {
            if !r.has_begun_response() {
                // For the access log.
                r.set_status(error.status(), None);
            }
            r.set_aborted();
            Outcome::Answered
        }
        RequestError::Spawn(failure) => {
            let page = custom_page(r).unwrap_or_else(|| {
                let page = match failure.friendly {
                    true => spawn_page::detailed(failure),
                    false => spawn_page::plain(&failure.id),
                };
                page.into_bytes()
            });
            send(r, error.status(), &page)
        }
        _ => {
            if error.may_retry_later() {
                r.error_headers_out().set(c"Retry-After", RETRY_AFTER);
            }
            Outcome::Status(error.status())
        }
    }
}

fn send(r: &mut Request<'_>, status: u16, page: &[u8]) -> Outcome {
    r.set_status(status, None);
    r.set_content_type(c"text/html; charset=utf-8");
    r.headers_out().set(c"Cache-Control", c"no-store");
    r.headers_out().set(
        c"Content-Length",
        &c_string(page.len().to_string().as_bytes()),
    );
    let data = if r.is_head() { &[][..] } else { page };
    let _ = brigade::write(
        r,
        brigade::Output {
            data,
            end: true,
            ..Default::default()
        },
    );
    Outcome::Answered
}

/// `PassengerCustomErrorPage`; `None` where there is none, or it cannot be read, which the log says.
fn custom_page(r: &Request<'_>) -> Option<Vec<u8>> {
    let page = Path::new(config::of_request(r.as_ptr())?.custom_error_page()?);
    let root = r
        .attached()
        .and_then(|mapping: &Mapping| mapping.app.root.as_deref());
    match read_page(root, page) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let page = page.display();
            let text = format_args!(
                "PSGR0221 the PassengerCustomErrorPage {page} cannot be shown: {error}; the ordinary page is"
            );
            for_request(r.as_ptr(), log::Level::Error, text);
            None
        }
    }
}

/// A page in the app's directory is read as if by the app: no link may lead out of there, for httpd's user can read
/// more. One elsewhere is the administrator's own, unless somebody else has put a link on the way ([`open_elsewhere`]).
fn read_page(root: Option<&Path>, page: &Path) -> io::Result<Vec<u8>> {
    let beneath = match root {
        Some(root) if page.is_relative() => Some((root, page)),
        Some(root) => page.strip_prefix(root).ok().map(|page| (root, page)),
        None => None,
    };
    let file = match beneath {
        Some((root, page)) => open_beneath(root, page)?,
        None if page.is_relative() => {
            return Err(io::Error::other("the app has no directory it could be in"));
        }
        None => open_elsewhere(page)?,
    };
    let facts = file.metadata()?;
    if !facts.is_file() || facts.len() > CUSTOM_BYTES {
        return Err(io::Error::other(
            "it is not a regular file of at most 1 MiB",
        ));
    }
    let mut bytes = Vec::new();
    file.take(CUSTOM_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a page that is, as it is written, not in the app's directory. It may be there all the same, by another name of
/// that directory: so a link that is neither root's nor ours may only lead to what belongs to its own owner.
fn open_elsewhere(page: &Path) -> io::Result<File> {
    let (path, owners) = resolve(page)?;
    let file = open_plain(&path)?;
    let owner = file.metadata()?.uid();
    let own = nix::unistd::geteuid().as_raw();
    match owners
        .into_iter()
        .find(|uid| ![0, own, owner].contains(uid))
    {
        None => Ok(file),
        Some(uid) => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("a link of uid {uid} leads there, and the page is not that user's"),
        )),
    }
}

/// The path without links, and who made the links that were on it.
fn resolve(path: &Path) -> io::Result<(PathBuf, Vec<u32>)> {
    let mut resolved = PathBuf::new();
    let mut owners = Vec::new();
    let mut left: Vec<OsString> = parts(path);
    while let Some(part) = left.pop() {
        match part.as_bytes() {
            b"/" => resolved = PathBuf::from("/"),
            b".." => {
                resolved.pop();
            }
            _ => {
                let next = resolved.join(&part);
                let facts = fs::symlink_metadata(&next)?;
                if !facts.is_symlink() {
                    resolved = next;
                } else if owners.len() < MOST_LINKS {
                    owners.push(facts.uid());
                    left.extend(parts(&fs::read_link(&next)?));
                } else {
                    return Err(Errno::ELOOP.into());
                }
            }
        }
    }
    Ok((resolved, owners))
}

/// The components of a path, last first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter(|c| *c != Component::CurDir);
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_page_is_read_from_the_app_or_from_where_the_administrator_says() {
        let base = std::env::temp_dir().join(format!("passenger-page-{}", std::process::id()));
        let app = base.join("app");
        fs::create_dir_all(&app).unwrap();
        fs::write(app.join("sorry.html"), "own").unwrap();
        fs::write(base.join("secret"), "other").unwrap();
        symlink(base.join("secret"), app.join("planted.html")).unwrap();
        symlink("sorry.html", app.join("linked.html")).unwrap();
        let read = |page: &str| read_page(Some(&app), &app.join(page)).ok();
        for page in ["sorry.html", "linked.html"] {
            assert_eq!(read(page).as_deref(), Some(&b"own"[..]), "{page}");
            assert!(read_page(Some(&app), Path::new(page)).is_ok(), "{page}");
        }
        for page in ["planted.html", "missing.html", "../secret", "."] {
            assert!(read(page).is_none(), "{page}");
            assert!(read_page(Some(&app), Path::new(page)).is_err(), "{page}");
        }
        assert_eq!(
            read_page(Some(&app), &base.join("secret")).unwrap(),
            b"other"
        );
        assert!(read_page(None, Path::new("sorry.html")).is_err());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn by_another_name_of_the_apps_directory_its_links_lead_nowhere_either() {
        const USER: u32 = 65_534;
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let base = std::env::temp_dir().join(format!("passenger-alias-{}", std::process::id()));
        let app = base.join("app");
        fs::create_dir_all(app.join("pages")).unwrap();
        fs::write(base.join("secret"), "other").unwrap();
        fs::write(app.join("pages/own.html"), "own").unwrap();
        std::os::unix::fs::chown(app.join("pages/own.html"), Some(USER), None).unwrap();
        let link = |to: &str, name: &str| {
            symlink(to, app.join(name)).unwrap();
            std::os::unix::fs::lchown(app.join(name), Some(USER), None).unwrap();
        };
        link("../secret", "planted.html");
        link("..", "up");
        link("pages/./own.html", "linked.html");
        link("loop", "loop");
        // Root's own link is believed.
        symlink("app", base.join("alias")).unwrap();
        symlink(base.join("secret"), base.join("roots.html")).unwrap();
        let read = |page: &str| read_page(Some(&app), &base.join(page));
        assert_eq!(read("alias/linked.html").unwrap(), b"own");
        assert_eq!(read("alias/pages/../linked.html").unwrap(), b"own");
        assert_eq!(read("roots.html").unwrap(), b"other");
        for page in ["alias/planted.html", "alias/up/secret", "alias/loop"] {
            assert!(read(page).is_err(), "{page}");
        }
        fs::remove_dir_all(base).unwrap();
    }
}
