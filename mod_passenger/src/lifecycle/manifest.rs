//! `PassengerDumpConfigManifest`: what is configured for whom, and which line says so, as a JSON document for
//! people who look for the reason of something.
//!
//! Each value is a hierarchy, the most specific first: it holds, those after it would without it. An app is what a server's
//! document root stands for; sections are listed beside it, and not merged, since that is decided request by request.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use passenger_shm::messages as wire;
use serde_json::{json, Map, Value};

use crate::config::{Context, Directive, Kind, Status, DIRECTIVES};

/// Name of the directive.
const DIRECTIVE: &str = "PassengerDumpConfigManifest";

/// Writes the manifest if the configuration asks for one.
///
/// # Errors
/// A sentence, when the file cannot be written.
pub(super) fn write(config: &wire::Config) -> Result<(), String> {
    let named = config.global.iter().rev().find(|it| it.name == DIRECTIVE);
    let Some(path) = named.and_then(|it| it.args.first()) else {
        return Ok(());
    };
    let text = format!("{:#}\n", document(config));
    replace(Path::new(path), text.as_bytes())
        .map_err(|why| format!("{DIRECTIVE} {path} cannot be written: {why}"))
}

/// A file of its own first: whoever reads the old one reads all of it, and a link in its place is not followed.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    match fs::remove_file(&new) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text)?;
    fs::rename(&new, path)
}

fn document(config: &wire::Config) -> Value {
    let global: Vec<&wire::Directive> = config.global.iter().collect();
    let is_app = |row: &Directive| row.context() == Context::Application;
    let is_location = |row: &Directive| matches!(row.context(), Context::Location(_));
    json!({
        "global_configuration": options(&[&global], |row| row.context() == Context::Global, true),
        "default_application_configuration": options(&[], is_app, true),
        "default_location_configuration": options(&[], is_location, true),
        "application_configurations": applications(config),
    })
}

/// The sections that concern one server: outermost first.
#[derive(Default)]
struct Sections<'c> {
    own: Vec<&'c wire::Directive>,
    nested: Vec<&'c wire::Record>,
}

fn applications(config: &wire::Config) -> Value {
    let mut sections: BTreeMap<u32, Sections<'_>> = BTreeMap::new();
    for record in &config.records {
        let place = sections.entry(record.server).or_default();
        let inside = record.section.matches('<').count();
        if inside > usize::from(record.server != 0) {
            place.nested.push(record);
        } else {
            place.own.extend(&record.directives);
        }
    }
    let none = Sections::default();
    let main = sections.get(&0).unwrap_or(&none);
    let mut apps = Map::new();
    for (number, server) in (0u32..).zip(&config.servers) {
        let Some(public) =
            Some(server.document_root.trim_end_matches('/')).filter(|p| !p.is_empty())
        else {
            continue;
        };
        let own = match number {
            0 => &none,
            _ => sections.get(&number).unwrap_or(&none),
        };
        let layers: [&[&wire::Directive]; 2] = [&main.own, &own.own];
        let nested = main.nested.iter().filter(|record| concerns(record, public));
        let locations = nested.chain(&own.nested).map(|record| {
            json!({
                "web_server_virtual_host": { "server_names": [server.name] },
                "location_matcher": matcher(&record.section),
                "options": options(&[&record.directives.iter().collect::<Vec<_>>()], |_| true, false),
            })
        });
        let locations: Vec<Value> = locations.collect();
        let app = apps.entry(group_name(&layers, public)).or_insert_with(|| {
            json!({
                "server_names": [],
                "options": options(&layers, |row| row.context() == Context::Application, false),
                "default_location_configuration":
                    options(&layers, |row| matches!(row.context(), Context::Location(_)), false),
                "location_configurations": [],
            })
        });
        push(app, "server_names", [Value::from(server.name.as_str())]);
        push(app, "location_configurations", locations);
    }
    Value::Object(apps)
}

fn push(app: &mut Value, list: &str, values: impl IntoIterator<Item = Value>) {
    if let Some(Value::Array(list)) = app.get_mut(list) {
        list.extend(values);
    }
}

/// As the agent names a group.
fn group_name(layers: &[&[&wire::Directive]], public: &str) -> String {
    let said = |name: &str| {
        let mut all = layers.iter().rev().flat_map(|layer| layer.iter().rev());
        all.find(|it| it.name == name)
            .and_then(|it| it.args.first().cloned())
    };
    said("PassengerAppGroupName").unwrap_or_else(|| {
        let beside = Path::new(public).parent().map(Path::to_path_buf);
        let root = said("PassengerAppRoot").unwrap_or_else(|| {
            beside.map_or_else(String::new, |root| root.to_string_lossy().into_owned())
        });
        let environment = said("PassengerAppEnv").unwrap_or_else(|| "production".to_owned());
        format!("{root} ({environment})")
    })
}

/// Whether a section outside of all virtual hosts can apply to that document root. URLs apply to every host.
fn concerns(record: &wire::Record, public: &str) -> bool {
    let (kind, value) = innermost(&record.section);
    match kind {
        "Directory" => {
            let directory = value.trim_end_matches('/');
            let is_below = |path: &str, of: &str| {
                path.strip_prefix(of)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            is_below(public, directory) || is_below(directory, public)
        }
        _ => true,
    }
}

/// `<VirtualHost *:80> <Location /a>` → `Location`, `/a`.
fn innermost(section: &str) -> (&str, &str) {
    let last = section.rsplit('<').next().unwrap_or_default();
    let last = last.trim().trim_end_matches('>');
    let (kind, value) = last.split_once(' ').unwrap_or((last, ""));
    (kind, value.trim().trim_matches('"'))
}

fn matcher(section: &str) -> Value {
    let (kind, value) = innermost(section);
    let of_pattern = value.strip_prefix('~').map(|v| v.trim().trim_matches('"'));
    let is_regex = kind.ends_with("Match") || of_pattern.is_some();
    json!({
        "section": kind,
        "type": if is_regex { "regex" } else { "prefix" },
        "value": of_pattern.unwrap_or(value),
    })
}

/// Options by name. `layers` are sections, outermost first; defaults count if asked for, or where a section has a say.
fn options(
    layers: &[&[&wire::Directive]],
    wanted: impl Fn(&Directive) -> bool,
    with_defaults: bool,
) -> Value {
    let mut all = Map::new();
    let is_known = |row: &&Directive| row.status() != Status::Obsolete && wanted(row);
    for row in DIRECTIVES.iter().filter(is_known) {
        let mut hierarchy: Vec<Value> = layers
            .iter()
            .rev()
            .filter_map(|layer| entry(row, layer))
            .collect();
        if with_defaults || !hierarchy.is_empty() {
            hierarchy.extend(default(row));
        }
        if !hierarchy.is_empty() {
            all.insert(
                row.name().to_owned(),
                json!({ "value_hierarchy": hierarchy }),
            );
        }
    }
    Value::Object(all)
}

/// What one section says: the last line, or all of them where they add up.
fn entry(row: &Directive, layer: &[&wire::Directive]) -> Option<Value> {
    let said: Vec<&&wire::Directive> = layer.iter().filter(|it| it.name == row.name()).collect();
    let last = said.last()?;
    let is_set = matches!(row.kind(), Kind::Texts | Kind::BaseUri);
    let value = if is_set {
        said.iter().flat_map(|it| it.args.iter().cloned()).collect()
    } else {
        typed(row, last.args.first()?)
    };
    let source = json!({ "type": "web-server-config", "path": last.file, "line": last.line });
    Some(json!({ "value": value, "source": source }))
}

fn default(row: &Directive) -> Option<Value> {
    let text = row.default();
    let value = typed(row, text);
    let is_value = !matches!(
        (row.kind(), &value),
        (Kind::Flag | Kind::Int { .. }, Value::String(_))
    ) && (!text.contains(' ') || text.contains(';'));
    match (text, is_value) {
        ("none", _) => None,
        (_, true) => Some(json!({ "value": value, "source": { "type": "default" } })),
        (_, false) => {
            Some(json!({ "value": text, "source": { "type": "dynamic-default-description" } }))
        }
    }
}

fn typed(row: &Directive, word: &str) -> Value {
    match (row.kind(), word) {
        (Kind::Flag, "on") => true.into(),
        (Kind::Flag, "off") => false.into(),
        (Kind::Int { .. }, number) => number
            .parse::<i64>()
            .map_or_else(|_| number.into(), Value::from),
        (_, text) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directive(name: &str, arg: &str, line: u32) -> wire::Directive {
        wire::Directive {
            name: name.to_owned(),
            args: vec![arg.to_owned()],
            file: "httpd.conf".to_owned(),
            line,
        }
    }

    fn config() -> wire::Config {
        let server = |name: &str, root: &str| wire::Server {
            name: name.to_owned(),
            document_root: root.to_owned(),
            env: vec![("SECRET".to_owned(), "hush".to_owned())],
        };
        let record = |id, section: &str, server, directives| wire::Record {
            id,
            section: section.to_owned(),
            server,
            directives,
        };
        let host = "<VirtualHost *:80>";
        wire::Config {
            generation: 1,
            build: String::new(),
            apache: wire::Apache {
                uid: 33,
                gid: 33,
                software: String::new(),
                mpm: String::new(),
                server_limit: 1,
                max_threads: 1,
            },
            global: vec![directive("PassengerMaxPoolSize", "9", 3)],
            servers: vec![server("main", ""), server("shop", "/srv/shop/public")],
            records: vec![
                record(1, "", 0, vec![directive("PassengerAppEnv", "staging", 5)]),
                record(
                    2,
                    "<Directory \"/srv/shop\">",
                    0,
                    vec![directive("PassengerMinInstances", "2", 7)],
                ),
                record(
                    3,
                    "<Directory /srv/other>",
                    0,
                    vec![directive("PassengerMinInstances", "3", 8)],
                ),
                record(
                    4,
                    host,
                    1,
                    vec![
                        directive("PassengerAppEnv", "qa", 9),
                        directive("PassengerBaseURI", "/a", 10),
                        directive("PassengerBaseURI", "/b", 11),
                        directive("PassengerEnabled", "off", 12),
                    ],
                ),
                record(
                    5,
                    "<VirtualHost *:80> <LocationMatch ^/x>",
                    1,
                    vec![directive("PassengerEnabled", "on", 14)],
                ),
            ],
        }
    }

    #[test]
    fn values_say_where_they_come_from_the_most_specific_first() {
        let document = document(&config());
        let sizes = &document["global_configuration"]["PassengerMaxPoolSize"]["value_hierarchy"];
        assert_eq!(
            *sizes,
            json!([
                { "value": 9, "source": { "type": "web-server-config", "path": "httpd.conf", "line": 3 } },
                { "value": 6, "source": { "type": "default" } },
            ])
        );
        let app = &document["application_configurations"]["/srv/shop (qa)"];
        assert_eq!(app["server_names"], json!(["shop"]));
        let environments = &app["options"]["PassengerAppEnv"]["value_hierarchy"];
        let values: Vec<&Value> = (0..3).map(|n| &environments[n]["value"]).collect();
        assert_eq!(values, ["qa", "staging", "production"]);
        let uris = &app["options"]["PassengerBaseURI"]["value_hierarchy"];
        assert_eq!(uris[0]["value"], json!(["/a", "/b"]));
        let enabled = &app["default_location_configuration"]["PassengerEnabled"];
        assert_eq!(enabled["value_hierarchy"][0]["value"], false);
        assert_eq!(enabled["value_hierarchy"][1]["value"], true);
    }

    #[test]
    fn sections_stand_beside_the_apps_they_concern() {
        let document = document(&config());
        let app = &document["application_configurations"]["/srv/shop (qa)"];
        let sections = app["location_configurations"].as_array().expect("a list");
        let matchers: Vec<&Value> = sections.iter().map(|it| &it["location_matcher"]).collect();
        assert_eq!(
            matchers,
            [
                &json!({ "section": "Directory", "type": "prefix", "value": "/srv/shop" }),
                &json!({ "section": "LocationMatch", "type": "regex", "value": "^/x" }),
            ]
        );
        let text = document.to_string();
        assert!(!text.contains("hush"), "variables are not ours to show");
        let defaults = &document["default_application_configuration"];
        let startup = &defaults["PassengerStartupFile"]["value_hierarchy"][0]["source"]["type"];
        assert_eq!(*startup, "dynamic-default-description");
    }

    #[test]
    fn the_file_is_replaced_and_a_link_is_not_followed() {
        let root = std::env::temp_dir().join(format!("psgr-manifest-{}", std::process::id()));
        fs::create_dir_all(&root).expect("a directory");
        let (path, other) = (root.join("m.json"), root.join("other"));
        fs::write(&other, "untouched").expect("another file");
        std::os::unix::fs::symlink(&other, &path).expect("a link");
        let mut config = config();
        write(&config).expect("nothing to write");
        let text = path.to_str().expect("text");
        config.global.push(directive(DIRECTIVE, text, 1));
        write(&config).expect("written");
        write(&config).expect("written again");
        let text = fs::read_to_string(&path).expect("the manifest");
        assert!(serde_json::from_str::<Value>(&text).is_ok());
        let others = fs::read_to_string(&other).expect("another file");
        assert_eq!(others, "untouched");
        fs::remove_dir_all(&root).expect("cleanup");
        assert!(write(&config).expect_err("no directory").contains("m.json"));
    }
}
