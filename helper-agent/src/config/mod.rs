//! What httpd's administrator configured, as far as spawning is concerned. Everything here was read by
//! httpd's parent as root and came over its private channel; a worker contributes only numbers and paths
//! that are looked up in it (`trust.rs`).
//!
//! * `value.rs` – values of single directives;
//! * `global.rs`, `options.rs` – directives of global context, and of one application;
//! * `trust.rs` – which application a worker's words may mean;
//! * `foresight.rs` – which applications are to run from the start;
//! * `definition.rs` – what a group is remembered by, across configurations and agents.

mod definition;
mod foresight;
mod global;
mod options;
mod trust;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use passenger_shm::messages::{self, Apache, Config, Directive, Record, Registration, Server};

pub use definition::{Definition, Identity};
pub use global::Global;
pub use options::AppOptions;
pub use trust::{Application, OwnerRule};

/// Longest chain of records a worker may name; httpd's own nesting is far below.
const MAX_CHAIN: usize = 256;

/// One configuration generation, checked.
#[derive(Debug)]
pub struct Configuration {
    /// httpd's configuration generation.
    pub generation: u64,
    /// Facts about httpd.
    pub apache: Apache,
    /// Directives of global context.
    pub global: Global,
    /// The same as they were written, for who is told of them.
    global_directives: Vec<Directive>,
    servers: Vec<Server>,
    records: BTreeMap<u32, Record>,
}

impl Configuration {
    /// Reads the JSON document of a configuration memfd.
    ///
    /// # Errors
    /// When it is no such document or a directive has an impossible value; for the administrator.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let config: Config = messages::decode(json)?;
        Self::check(config)
    }

    fn check(config: Config) -> Result<Self, String> {
        let global = Global::from_directives(&config.global)?;
        let mut records = BTreeMap::new();
        for record in config.records {
            AppOptions::merge([&record])?;
            let id = record.id;
            if id == 0 || records.insert(id, record).is_some() {
                return Err(format!(
                    "[BUG] configuration record number {id} is not unique"
                ));
            }
        }
        Ok(Self {
            generation: config.generation,
            apache: config.apache,
            global,
            global_directives: config.global,
            servers: config.servers,
            records,
        })
    }

    /// The options of a chain of records. Number 0 marks `.htaccess`, which cannot say anything about
    /// spawning.
    ///
    /// # Errors
    /// When the chain names a record that the administrator did not write.
    pub fn options(&self, chain: &[u32]) -> Result<AppOptions, String> {
        AppOptions::merge(self.records_of(chain)?)
    }

    /// What of this configuration concerns one app: its records, its servers, and what is global. Places of other
    /// servers stay, because records name servers by number, and are empty.
    ///
    /// # Errors
    /// As [`Configuration::options`].
    pub fn excerpt(&self, registration: &Registration) -> Result<Config, String> {
        let records = self.records_of(&registration.chain)?;
        let root = registration.document_root.trim_end_matches('/');
        let servers = self.servers.iter().enumerate().map(|(number, server)| {
            let is_told = number == 0 || server.document_root.trim_end_matches('/') == root;
            let none = Server {
                name: String::new(),
                document_root: String::new(),
                env: vec![],
            };
            if is_told {
                server.clone()
            } else {
                none
            }
        });
        Ok(Config {
            generation: self.generation,
            build: String::new(),
            apache: self.apache.clone(),
            global: self.global_directives.clone(),
            servers: servers.collect(),
            records: records.into_iter().cloned().collect(),
        })
    }

    fn records_of(&self, chain: &[u32]) -> Result<Vec<&Record>, String> {
        if chain.len() > MAX_CHAIN {
            return Err(format!(
                "a chain of {} configuration records is too long",
                chain.len()
            ));
        }
        let known = |id: &u32| {
            let record = self.records.get(id);
            record.ok_or_else(|| {
                format!(
                    "configuration {} has no record number {id}",
                    self.generation
                )
            })
        };
        let records: Vec<&Record> = chain
            .iter()
            .filter(|id| **id != 0)
            .map(known)
            .collect::<Result<_, _>>()?;
        // No request is in two virtual hosts: who says so wants one's user for the files of another.
        let mut hosts = records.iter().map(|r| r.server).filter(|host| *host != 0);
        if let Some(host) = hosts.next() {
            if let Some(other) = hosts.find(|other| *other != host) {
                return Err(format!(
                    "a chain names records of two virtual hosts, number {host} and {other}"
                ));
            }
        }
        Ok(records)
    }

    /// Whether the administrator wrote this `DocumentRoot`, for the virtual host that the chain is of if it
    /// names a record of one.
    ///
    /// # Errors
    /// As [`Configuration::options`].
    pub fn knows_document_root(&self, document_root: &str, chain: &[u32]) -> Result<bool, String> {
        let records = self.records_of(chain)?;
        let host = records.iter().map(|r| r.server).find(|host| *host != 0);
        let wanted = document_root.trim_end_matches('/');
        let mut servers = (0u32..).zip(&self.servers);
        Ok(!wanted.is_empty()
            && servers.any(|(number, server)| {
                host.is_none_or(|host| host == number)
                    && server.document_root.trim_end_matches('/') == wanted
            }))
    }

    /// Whether any server has that document root.
    #[must_use]
    pub fn has_document_root(&self, document_root: &str) -> bool {
        let wanted = document_root.trim_end_matches('/');
        let mut roots = self.servers.iter().map(|server| &server.document_root);
        roots.any(|root| root.trim_end_matches('/') == wanted)
    }

    /// Variables that `SetEnv` gives to the processes of an app: those of the main server, then those on
    /// which all servers with its document root agree.
    #[must_use]
    pub fn environment(&self, document_root: &str) -> BTreeMap<String, String> {
        let wanted = document_root.trim_end_matches('/');
        let mut variables: BTreeMap<String, String> = self
            .servers
            .first()
            .map(|main| main.env.iter().cloned().collect())
            .unwrap_or_default();
        let theirs: Vec<BTreeMap<&String, &String>> = self
            .servers
            .iter()
            .filter(|s| s.document_root.trim_end_matches('/') == wanted)
            .map(|s| s.env.iter().map(|(name, value)| (name, value)).collect())
            .collect();
        let names: BTreeSet<&String> = theirs.iter().flat_map(|env| env.keys().copied()).collect();
        for name in names {
            let mut values = theirs.iter().map(|env| env.get(name));
            let first = values.next().flatten();
            if let (Some(value), true) =
                (first, values.all(|other| other == first.as_ref().copied()))
            {
                variables.insert(name.clone(), (*value).to_string());
            }
        }
        variables
    }

    /// What a group that a worker registered is remembered by.
    ///
    /// # Errors
    /// As [`Configuration::options`].
    pub fn define(
        &self,
        registration: &Registration,
        identity: Identity,
    ) -> Result<Definition, String> {
        let records = self.records_of(&registration.chain)?;
        Ok(Definition::new(registration, identity, &records))
    }

    /// The registration that means the same app in this configuration, if there is one.
    #[must_use]
    pub fn translate(&self, definition: &Definition) -> Option<Registration> {
        let root = &definition.registration.document_root;
        let is_known = self.has_document_root(root);
        let root = root.trim_end_matches('/');
        definition.in_configuration(self.generation, &self.records, |record| {
            let server = self.servers.get(record.server as usize);
            let is_its_host =
                || server.is_some_and(|s| s.document_root.trim_end_matches('/') == root);
            record.server == 0 || !is_known || is_its_host()
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use passenger_shm::messages::Directive;

    use super::*;

    /// A section called `host 2` stands in server number 2, every other one outside virtual hosts.
    fn host_of(section: &str) -> u32 {
        let number = section.strip_prefix("host ");
        number.map_or(0, |number| number.parse().unwrap())
    }

    /// Number of a server, a section in it, directives of that.
    pub(crate) type Written<'a> = (u32, &'a str, &'a [(&'a str, &'a str)]);

    /// The same with these records: number of the server, section, directives.
    pub(crate) fn records_in(
        mut configuration: Configuration,
        records: &[Written<'_>],
    ) -> Configuration {
        configuration.records.clear();
        for ((server, section, directives), id) in records.iter().zip(1..) {
            let directives = directives.iter().map(|(name, arg)| Directive {
                name: (*name).into(),
                args: vec![(*arg).into()],
                file: "f".into(),
                line: 1,
            });
            let record = Record {
                id,
                section: (*section).into(),
                server: *server,
                directives: directives.collect(),
            };
            configuration.records.insert(id, record);
        }
        configuration
    }

    /// A configuration of one server per document root, with records of (directive, value) lists.
    pub(crate) fn configuration(
        generation: u64,
        document_roots: &[&str],
        records: &[(&str, &[(&str, &str)])],
    ) -> Configuration {
        let servers = document_roots.iter().map(|root| Server {
            name: String::new(),
            document_root: (*root).into(),
            env: vec![],
        });
        let records = records
            .iter()
            .zip(1..)
            .map(|((section, directives), id)| Record {
                id,
                section: (*section).into(),
                server: host_of(section),
                directives: directives
                    .iter()
                    .zip(1..)
                    .map(|((name, arg), line)| Directive {
                        name: (*name).into(),
                        args: vec![(*arg).into()],
                        file: format!("{section}.conf"),
                        line,
                    })
                    .collect(),
            });
        Configuration::check(Config {
            generation,
            build: String::new(),
            apache: Apache {
                uid: 33,
                gid: 33,
                software: "Apache".into(),
                mpm: "event".into(),
                server_limit: 16,
                max_threads: 400,
            },
            global: vec![],
            servers: servers.collect(),
            records: records.collect(),
        })
        .unwrap()
    }

    #[test]
    fn a_chain_may_only_name_what_the_administrator_wrote() {
        let config = configuration(
            1,
            &["/srv/a/public"],
            &[
                ("", &[("PassengerAppEnv", "x")]),
                ("b", &[("PassengerAppEnv", "y")]),
            ],
        );
        assert_eq!(config.options(&[1, 2]).unwrap().app_env(), "y");
        assert_eq!(config.options(&[2, 1]).unwrap().app_env(), "x");
        assert_eq!(config.options(&[0, 1, 0]).unwrap().app_env(), "x");
        assert!(config
            .options(&[3])
            .unwrap_err()
            .contains("no record number 3"));
        assert!(config.options(&[1; MAX_CHAIN + 1]).is_err());
        assert_eq!(config.knows_document_root("/srv/a/public/", &[]), Ok(true));
        assert_eq!(config.knows_document_root("/srv/a", &[]), Ok(false));
        assert_eq!(config.knows_document_root("", &[]), Ok(false));
    }

    #[test]
    fn a_chain_cannot_combine_one_hosts_user_with_the_files_of_another() {
        let config = configuration(
            1,
            &["/srv/main", "/home/alice/public", "/home/bob/public"],
            &[
                ("", &[("PassengerAppEnv", "x")]),
                ("host 1", &[("PassengerUser", "alice")]),
                ("host 2", &[("PassengerAppRoot", "/home/bob")]),
            ],
        );
        let refused = config.options(&[1, 2, 3]).unwrap_err();
        assert!(refused.contains("two virtual hosts"), "{refused}");
        let known = |root: &str, chain: &[u32]| config.knows_document_root(root, chain);
        assert_eq!(known("/home/alice/public", &[1, 2]), Ok(true));
        assert_eq!(known("/home/bob/public", &[1, 2]), Ok(false));
        assert_eq!(known("/home/bob/public", &[3, 1]), Ok(true));
        assert_eq!(known("/home/bob/public", &[1]), Ok(true));
    }

    #[test]
    fn an_excerpt_says_of_an_app_what_the_whole_says_and_nothing_of_others() {
        let config = configuration(
            1,
            &["/srv/main", "/home/alice/public", "/home/bob/public"],
            &[
                ("", &[("PassengerAppEnv", "staging")]),
                ("host 1", &[("PassengerUser", "alice")]),
                ("host 2", &[("PassengerAppRoot", "/home/bob")]),
            ],
        );
        let registration = Registration {
            generation: 1,
            chain: vec![1, 0, 3],
            document_root: "/home/bob/public".into(),
            base_uri: String::new(),
        };
        let excerpt = config.excerpt(&registration).unwrap();
        let text = String::from_utf8(messages::encode_config(&excerpt).unwrap()).unwrap();
        assert!(!text.contains("alice"), "{text}");
        let part = Configuration::parse(text.as_bytes()).unwrap();
        let chain = &registration.chain;
        assert_eq!(part.options(chain), config.options(chain));
        let known = part.knows_document_root("/home/bob/public", chain);
        assert_eq!(known, Ok(true));
        assert_eq!(part.knows_document_root("", chain), Ok(false));
    }

    #[test]
    fn environment_is_what_all_servers_of_a_document_root_agree_on() {
        let mut config = configuration(1, &["/main", "/a", "/a"], &[]);
        let env = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<Vec<_>>()
        };
        config.servers[0].env = env(&[("M", "1"), ("X", "main")]);
        config.servers[1].env = env(&[("X", "a"), ("Y", "1")]);
        config.servers[2].env = env(&[("X", "a"), ("Y", "2"), ("Z", "z")]);
        let expected = env(&[("M", "1"), ("X", "a")]).into_iter().collect();
        assert_eq!(config.environment("/a"), expected);
    }

    #[test]
    fn a_broken_document_or_value_is_refused_in_a_sentence() {
        assert!(Configuration::parse(b"{")
            .unwrap_err()
            .contains("not a message"));
    }
}
