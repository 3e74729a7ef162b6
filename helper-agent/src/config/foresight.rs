//! Which registrations the administrator's words lead to before any request: for apps that are to run from the
//! start.
//!
//! It is a guess. httpd's walk knows patterns, links and conditions; here only plain `<Directory>` and
//! `<Location>` sections count. What a worker registers later for the same app takes the guess's place.

use std::collections::BTreeSet;
use std::path::Path;

use passenger_shm::messages::{Record, Registration, Server};

use super::Configuration;

/// Where a section applies.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    /// To the whole server.
    Server,
    /// Below a directory.
    Directory(&'a str),
    /// Below a URL path.
    Location(&'a str),
    /// Only httpd can tell.
    Unclear,
}

impl<'a> Place<'a> {
    fn of(section: &'a str) -> Self {
        let inner = match section.strip_prefix("<VirtualHost ") {
            Some(rest) => rest.split_once('>').map_or("", |(_, rest)| rest).trim(),
            None => section,
        };
        let argument = |name: &str| {
            let rest = inner.strip_prefix(name)?.strip_suffix('>')?;
            let path = rest.trim().trim_matches('"');
            let is_plain = path.starts_with('/') && !path.contains(['*', '?', '[', '<', '>']);
            is_plain.then_some(path)
        };
        match (argument("<Directory "), argument("<Location ")) {
            (Some(path), _) => Place::Directory(path),
            (_, Some(path)) => Place::Location(path),
            _ if inner.is_empty() => Place::Server,
            _ => Place::Unclear,
        }
    }
}

impl Configuration {
    /// Registrations of apps that are to run from the start: whose sections say `PassengerMinInstances`.
    #[must_use]
    pub fn foreseen(&self) -> Vec<Registration> {
        let mut found = Vec::new();
        for (number, server) in (0u32..).zip(&self.servers) {
            let root = server.document_root.trim_end_matches('/');
            if root.is_empty() {
                continue;
            }
            let mut uris = self.base_uris_near(number);
            uris.insert(String::new());
            for base_uri in uris {
                let chain = self.chain_at(number, server, &base_uri);
                let Ok(options) = self.options(&chain) else {
                    continue;
                };
                let is_there = base_uri.is_empty() || options.base_uris.contains(&base_uri);
                if is_there && options.starts_in_advance() {
                    found.push(Registration {
                        generation: self.generation,
                        chain,
                        document_root: root.to_owned(),
                        base_uri,
                    });
                }
            }
        }
        found
    }

    fn near(&self, server: u32) -> impl Iterator<Item = &Record> {
        let is_near = move |record: &&Record| record.server == 0 || record.server == server;
        self.records.values().filter(is_near)
    }

    fn base_uris_near(&self, server: u32) -> BTreeSet<String> {
        let directives = self.near(server).flat_map(|record| &record.directives);
        directives
            .filter(|directive| directive.name == "PassengerBaseURI")
            .flat_map(|directive| directive.args.iter().filter(|uri| *uri != "/").cloned())
            .collect()
    }

    /// The chain of a request below a base URI: servers, directories from the outermost, locations in order.
    fn chain_at(&self, number: u32, server: &Server, base_uri: &str) -> Vec<u32> {
        let directory = format!("{}{base_uri}", server.document_root.trim_end_matches('/'));
        let uri = if base_uri.is_empty() { "/" } else { base_uri };
        let mut chain: Vec<((u8, usize, u32), u32)> =
            self.near(number)
                .filter_map(|record| {
                    let rank =
                        match Place::of(&record.section) {
                            Place::Server => (0, 0, record.server),
                            Place::Directory(path) => {
                                let depth = Path::new(path).components().count();
                                Path::new(&directory).starts_with(path).then_some((
                                    1,
                                    depth,
                                    record.server,
                                ))?
                            }
                            Place::Location(path) => Path::new(uri)
                                .starts_with(path)
                                .then_some((2, 0, record.server))?,
                            Place::Unclear => return None,
                        };
                    Some((rank, record.id))
                })
                .collect();
        chain.sort_unstable();
        chain.into_iter().map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{configuration, records_in, Written};
    use super::*;

    #[test]
    fn places_are_read_from_sections_as_written() {
        let place = Place::of;
        assert_eq!(place(""), Place::Server);
        assert_eq!(place("<VirtualHost *:80>"), Place::Server);
        assert_eq!(
            place("<VirtualHost *:80> <Directory \"/srv/a b\">"),
            Place::Directory("/srv/a b")
        );
        assert_eq!(place("<Location /x>"), Place::Location("/x"));
        for unclear in [
            "<DirectoryMatch ^/srv>",
            "<Directory ~ ^/srv>",
            "<Directory /srv/*>",
            "<VirtualHost *> <Location /a> <If true>",
            "<Files x>",
        ] {
            assert_eq!(place(unclear), Place::Unclear, "{unclear}");
        }
    }

    #[test]
    fn only_apps_with_a_minimum_of_their_own_are_foreseen() {
        let roots = ["/var/www/html", "/srv/shop/public", "/srv/blog/public"];
        let min = ("PassengerMinInstances", "2");
        let records: &[Written<'_>] = &[
            (0, "", &[("PassengerAppEnv", "staging")]),
            (1, "<VirtualHost *:80>", &[min]),
            (2, "<VirtualHost *:80>", &[("PassengerUser", "alice")]),
            (
                0,
                "<Directory /srv/blog>",
                &[("PassengerMinInstances", "0")],
            ),
            (
                1,
                "<VirtualHost *:80> <Directory /srv/shop/public>",
                &[("PassengerMaxRequests", "9")],
            ),
            (
                1,
                "<VirtualHost *:80> <Location /other>",
                &[("PassengerMaxRequests", "1")],
            ),
        ];
        let config = records_in(configuration(3, &roots, &[]), records);
        let found = config.foreseen();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].document_root, "/srv/shop/public");
        assert_eq!(
            (found[0].generation, &found[0].chain[..]),
            (3, &[1, 2, 5][..])
        );
    }

    #[test]
    fn apps_below_a_base_uri_are_foreseen_with_their_location() {
        let records: &[Written<'_>] = &[(
            0,
            "<Location /blog>",
            &[
                ("PassengerBaseURI", "/blog"),
                ("PassengerAppRoot", "/srv/blog"),
                ("PassengerMinInstances", "1"),
            ],
        )];
        let config = records_in(configuration(1, &["/srv/www"], &[]), records);
        let found = config.foreseen();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (&found[0].base_uri[..], &found[0].chain[..]),
            ("/blog", &[1][..])
        );
    }
}
