//! Tests over the table itself.

use std::collections::BTreeSet;

use super::super::dir::DirConfig;
use super::super::directive::{Arity, Status};
use super::super::parse::{parse, Value};
use super::*;
use crate::ffi::pool::Pool;

fn all_names() -> Vec<String> {
    DIRECTIVES
        .iter()
        .flat_map(|row| (0..).map_while(|index| row.c_name(index)))
        .map(|name| name.to_str().expect("ASCII").to_owned())
        .collect()
}

#[test]
fn names_are_unique_whatever_their_case() {
    let names = all_names();
    let unique: BTreeSet<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
    assert_eq!(unique.len(), names.len());
}

#[test]
fn names_are_plain_words() {
    for name in all_names() {
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{name}");
    }
}

#[test]
fn every_row_explains_itself_in_one_line() {
    for row in DIRECTIVES {
        let help = row.help().to_str().expect("ASCII");
        assert!(
            !help.is_empty() && help.len() <= 78,
            "{}: {help}",
            row.name()
        );
        assert!(!help.ends_with('.'), "{}: {help}", row.name());
        assert!(!row.default().is_empty(), "{}", row.name());
    }
}

#[test]
fn numeric_and_flag_defaults_are_valid_values() {
    for row in DIRECTIVES {
        if matches!(row.kind(), Kind::Int { .. }) {
            let parsed = parse(row, &[row.default().as_bytes()]);
            assert!(matches!(parsed, Ok(Some(Value::Int(_)))), "{}", row.name());
        }
        if row.kind() == Kind::Flag {
            let first = row.default().split_whitespace().next().expect("a word");
            assert!(
                matches!(parse(row, &[first.as_bytes()]), Ok(Some(_))),
                "{}",
                row.name()
            );
        }
    }
}

#[test]
fn obsolete_rows_take_anything() {
    for row in DIRECTIVES
        .iter()
        .filter(|row| row.status() == Status::Obsolete)
    {
        assert_eq!(parse(row, &[b"any \xff thing"]), Ok(None), "{}", row.name());
        assert_eq!(row.arity(), Arity::Raw, "{}", row.name());
    }
}

#[test]
fn global_values_are_not_kept_per_directory() {
    for row in DIRECTIVES
        .iter()
        .filter(|row| row.context() == Context::Global)
    {
        assert!(row.setter().is_none(), "{}", row.name());
    }
}

/// Each setter must put its value where no other row's setter puts one.
#[test]
fn setters_do_not_share_a_field() {
    let pool = Pool::for_test();
    let mut results: Vec<(String, DirConfig<'static>)> = Vec::new();
    for row in DIRECTIVES {
        let Some(setter) = row.setter() else { continue };
        let value = match row.kind() {
            Kind::Flag => Value::Flag(true),
            Kind::Int { .. } => Value::Int(7),
            _ => Value::Text("seven"),
        };
        let mut config = DirConfig::default();
        config.set(pool, setter, value);
        assert_ne!(config, DirConfig::default(), "{} sets nothing", row.name());
        for (other, result) in &results {
            assert_ne!(config, *result, "{} and {other} share a field", row.name());
        }
        results.push((row.name().to_owned(), config));
    }
}

#[test]
fn enterprise_rows_are_those_of_section_1_5() {
    assert_eq!(
        DIRECTIVES.iter().filter(|row| row.is_enterprise()).count(),
        13
    );
    assert!(find("passengerrollingrestarts").is_some_and(Directive::is_enterprise));
}

/// The reference page, as the table says it.
fn page() -> String {
    let mut page = String::from(
        "# Directives\n\n\
         Made from the table in `mod_passenger/src/config/directives.rs` by\n\
         `UPDATE_DOCS=1 cargo test -p mod_passenger the_page`; change that table, not this page.\n\n\
         Contexts: *global* (main server, holds for all of httpd), *app* (server, virtual host,\n\
         `<Directory>`, `<Location>`), *location* (as app, `<Files>` and `.htaccess`). Elsewhere they are errors.\n\
         What has no effect, or not yet, is accepted and named once in the log at start (PSGR0104), and so are old names\n\
         (PSGR0103). Texts have at most 4095 bytes and no control characters. Relative paths are below `ServerRoot` in\n\
         directives of global context, and below the app root in those of apps. Options of `PassengerCtl` that a\n\
         directive sets, too, are taken for it; `hook_…` names programs ([guide](guide.md#hooks)); others are named with the reason why they have\n\
         no effect.\n\n\
         | directive | context | takes | default | what it is | |\n|---|---|---|---|---|---|\n",
    );
    for row in DIRECTIVES
        .iter()
        .filter(|row| row.status() != Status::Obsolete)
    {
        let context = match row.context() {
            Context::Global => "global",
            Context::Application => "app",
            Context::Location(Override::Any) => "location",
            Context::Location(Override::Options) => "location (AllowOverride Options)",
        };
        let takes = match row.kind() {
            Kind::Flag => "On, Off".to_owned(),
            Kind::Int { min, max } if max == i64::from(u32::MAX) => format!("number ≥ {min}"),
            Kind::Int { min, max } => format!("number {min} to {max}"),
            Kind::Text => "text".to_owned(),
            Kind::Token => "name of a cookie".to_owned(),
            Kind::Texts | Kind::BaseUri => "text, repeatable".to_owned(),
            Kind::OneOf(choices) => choices.join(", "),
            Kind::Pair => "name and value, repeatable".to_owned(),
            Kind::Ignored => "anything".to_owned(),
        };
        let status = match row.status() {
            Status::NotYet => format!("not yet: {}", row.why()),
            Status::Moot => format!("no effect, on purpose: {}", row.why()),
            Status::Built | Status::Obsolete => String::new(),
        };
        let names: Vec<String> = (0..)
            .map_while(|index| row.c_name(index))
            .map(|name| format!("`{}`", name.to_str().expect("ASCII")))
            .collect();
        let (name, aliases) = names.split_first().expect("a name");
        let also = match aliases {
            [] => String::new(),
            aliases => format!(" (also {})", aliases.join(", ")),
        };
        let help = row.help().to_str().expect("ASCII").replace('<', "&lt;");
        let default = row.default().replace('<', "&lt;");
        page +=
            &format!("| {name}{also} | {context} | {takes} | {default} | {help} | {status} |\n");
    }
    let obsolete: Vec<String> = DIRECTIVES
        .iter()
        .filter(|row| row.status() == Status::Obsolete)
        .map(|row| format!("`{}`", row.name()))
        .collect();
    page += &format!(
        "\nObsolete, accepted with a warning: {}.\n",
        obsolete.join(", ")
    );
    page
}

#[test]
fn the_page_of_the_reference_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/directives.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page()).expect("docs/directives.md");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/directives.md is out of date: run with UPDATE_DOCS=1"
    );
}
