//! Page caching: an app's page that lies in its public directory as `foo.html` answers `GET /foo`, without
//! the app.
//!
//! Only GET and HEAD; the query does not matter. A directory's page is its `index.html`, under the URL with a
//! slash; without the slash it is `directory.html` beside it.

use crate::ffi::request::{FileType, Request};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Has httpd serve the page of this URL, if there is one and the client may see it.
pub(crate) fn serve(r: &mut Request<'_>) -> bool {
    let is_directory = r.file_type() == FileType::Directory;
    let Some(page) = page_of(r, is_directory) else {
        return false;
    };
    if !is_file(&page.file) {
        return false;
    }
    r.serve_instead(&page.file, &page.asked)
}

/// Whether there is a page for this URL, before httpd looked at any file.
pub(crate) fn has_page(r: &Request<'_>) -> bool {
    let is_directory = Path::new(OsStr::from_bytes(r.filename())).is_dir();
    page_of(r, is_directory).is_some_and(|page| is_file(&page.file))
}

/// A page and the file name its URL stands for.
struct Page {
    file: Vec<u8>,
    asked: Vec<u8>,
}

fn page_of(r: &Request<'_>, is_directory: bool) -> Option<Page> {
    if !r.is_get_or_head() || !r.path_info().is_empty() || r.filename().is_empty() {
        return None;
    }
    page(r.filename(), is_directory, r.uri().ends_with(b"/"))
}

fn page(filename: &[u8], is_directory: bool, has_slash: bool) -> Option<Page> {
    let name = filename.strip_suffix(b"/").unwrap_or(filename);
    if has_slash {
        return is_directory.then(|| Page {
            file: [name, b"/index.html"].concat(),
            asked: [name, b"/"].concat(),
        });
    }
    Some(Page {
        file: [name, b".html"].concat(),
        asked: name.to_vec(),
    })
}

fn is_file(path: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(path)).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(filename: &str, is_directory: bool, has_slash: bool) -> Option<String> {
        let page = page(filename.as_bytes(), is_directory, has_slash)?;
        Some(String::from_utf8(page.file).unwrap())
    }

    #[test]
    fn a_page_lies_beside_its_name_or_in_its_directory() {
        assert_eq!(file("/p/foo", false, false).unwrap(), "/p/foo.html");
        assert_eq!(file("/p/foo", true, false).unwrap(), "/p/foo.html");
        assert_eq!(file("/p/foo/", true, false).unwrap(), "/p/foo.html");
        assert_eq!(file("/p/foo/", true, true).unwrap(), "/p/foo/index.html");
        assert_eq!(file("/p/foo", false, true), None);
    }
}
