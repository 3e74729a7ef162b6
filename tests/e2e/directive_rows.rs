//! The rows of `docs/directives.md`: which words each directive takes, and which not.

use harness::stage::{prefix, repository};
use std::fs;
use std::path::Path;

/// A row of the reference page.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) context: String,
    pub(crate) takes: String,
    pub(crate) default: String,
    /// Whether something acts on it.
    pub(crate) has_effect: bool,
}

impl Row {
    fn of(line: &str) -> Option<Row> {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, names, context, takes, default, _, status, _] = cells[..] else {
            return None;
        };
        let mut names = names.split('`').skip(1).step_by(2).map(str::to_owned);
        Some(Row {
            name: names.next()?,
            aliases: names.collect(),
            context: context.to_owned(),
            takes: takes.to_owned(),
            default: default.to_owned(),
            has_effect: status.is_empty(),
        })
    }

    /// Whether it may stand outside of all sections only.
    pub(crate) fn is_global(&self) -> bool {
        self.context == "global"
    }

    /// Whether `.htaccess` may have it.
    pub(crate) fn is_for_htaccess(&self) -> bool {
        self.context.starts_with("location")
    }

    /// The bounds of a number.
    pub(crate) fn bounds(&self) -> Option<(i64, i64)> {
        let numbers = self.takes.strip_prefix("number ")?;
        if let Some(least) = numbers.strip_prefix("≥ ") {
            return Some((least.parse().ok()?, i64::from(u32::MAX)));
        }
        let (least, most) = numbers.split_once(" to ")?;
        Some((least.parse().ok()?, most.parse().ok()?))
    }

    /// Words that it takes, as they are written.
    pub(crate) fn right(&self, root: &Path) -> Vec<String> {
        let here = root.display();
        if let Some((least, most)) = self.bounds() {
            return vec![least.to_string(), most.to_string()];
        }
        let one = |text: &str| vec![text.to_owned()];
        match (self.takes.as_str(), self.name.as_str()) {
            ("On, Off", _) => vec!["On".to_owned(), "off".to_owned()],
            ("name of a cookie", _) => one("route"),
            ("name and value, repeatable", _) => one("pool_idle_time 5"),
            (_, "PassengerRoot") => vec![format!("\"{}\"", prefix().display())],
            (_, "PassengerDefaultUser" | "PassengerUser") => one("daemon"),
            (_, "PassengerDefaultGroup" | "PassengerGroup") => one("daemon"),
            (_, "PassengerDataBufferDir" | "PassengerInstanceRegistryDir") => {
                vec![format!("\"{here}\"")]
            }
            (_, "PassengerLogFile") => vec![format!("\"{here}/log\"")],
            (_, "PassengerBaseURI") => vec!["/a".to_owned(), "/a/b".to_owned(), "/".to_owned()],
            (_, "PassengerPreStart") => one("http://127.0.0.1:1/"),
            ("text" | "text, repeatable", _) => one("x"),
            (choices, _) => choices.split(", ").map(str::to_owned).collect(),
        }
    }

    /// Words that it does not take, and a part of the sentence that says what would be right.
    pub(crate) fn wrong(&self) -> Vec<(String, String)> {
        let name = &self.name;
        let long = format!("{name}: the argument has 4096 bytes, which is more than 4095");
        // httpd's own sentence, which goes on with ours.
        let empty = ("\"\"".to_owned(), format!("{name} takes one argument, "));
        if let Some((least, most)) = self.bounds() {
            let number = |word: &str| format!("{name} must be a whole number, not \"{word}\"");
            let (below, above) = (least - 1, most + 1);
            return vec![
                (
                    below.to_string(),
                    format!("{name} must be at least {least}, not {below}"),
                ),
                (
                    above.to_string(),
                    format!("{name} must be at most {most}, not {above}"),
                ),
                ("many".to_owned(), number("many")),
                ("1.5".to_owned(), number("1.5")),
                ("9".repeat(30), number(&"9".repeat(30))),
                ("9".repeat(4096), long),
                empty,
            ];
        }
        let too_long = ("/".repeat(4096), long);
        match self.takes.as_str() {
            "On, Off" => vec![("maybe".to_owned(), format!("{name} must be On or Off"))],
            "name of a cookie" => vec![
                (
                    "a;b".to_owned(),
                    format!("{name} may have letters, digits and "),
                ),
                too_long,
                empty,
            ],
            "name and value, repeatable" => vec![
                (
                    "max_pool_size 0".to_owned(),
                    format!("{name} max_pool_size: PassengerMaxPoolSize must be at least 1, not 0"),
                ),
                ("only-one".to_owned(), format!("{name} takes two arguments")),
            ],
            _ if name == "PassengerBaseURI" => vec![
                (
                    "sub".to_owned(),
                    format!("{name} must begin with a slash, which \"sub\" does not"),
                ),
                (
                    "/sub/".to_owned(),
                    format!("{name} may not end with a slash, as \"/sub/\" does"),
                ),
                empty,
            ],
            "text" | "text, repeatable" => vec![
                (
                    "\"a\u{1b}b\"".to_owned(),
                    format!("{name}: there is a control character in the argument"),
                ),
                too_long,
                empty,
            ],
            choices => vec![(
                "nonsense".to_owned(),
                format!("{name} must be one of {choices}, not \"nonsense\""),
            )],
        }
    }
}

fn page() -> String {
    fs::read_to_string(repository().join("docs/directives.md")).expect("docs/directives.md")
}

/// All of them.
pub(crate) fn rows() -> Vec<Row> {
    let rows: Vec<Row> = page()
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(Row::of)
        .collect();
    assert!(rows.len() > 80, "only {} rows were understood", rows.len());
    rows
}

/// Names that are accepted and dropped.
pub(crate) fn obsolete() -> Vec<String> {
    let page = page();
    let line = page.lines().find(|line| line.starts_with("Obsolete"));
    let names = line.expect("the obsolete ones").split('`');
    names.skip(1).step_by(2).map(str::to_owned).collect()
}
