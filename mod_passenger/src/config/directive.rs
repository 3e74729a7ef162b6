//! What a directive is: one row of the table in `directives.rs`, and the words that describe it.

use std::ffi::CStr;

use super::dir::DirConfig;
use super::parse::Value;
use crate::ffi::pool::Pool;

/// Puts a value a request needs into the section's configuration.
pub(crate) type Setter = for<'p> fn(&mut DirConfig<'p>, Pool<'p>, Value<'p>);

/// What a directive takes, and the rules of its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `On` or `Off`.
    Flag,
    /// A whole number between two bounds, both included.
    Int {
        /// Least allowed.
        min: i64,
        /// Most allowed.
        max: i64,
    },
    /// One text.
    Text,
    /// One text that may be the name of a cookie or header field.
    Token,
    /// One text per line, any number of lines.
    Texts,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A base URI per line.
    BaseUri,
    /// A name and a value, any number of lines.
    Pair,
    /// Anything: the value is dropped.
    Ignored,
}

/// How many words httpd shall read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    /// `On` or `Off`, checked by httpd.
    Flag,
    /// One word.
    One,
    /// Two words.
    Two,
    /// The rest of the line, unparsed.
    Raw,
}

/// The class of `AllowOverride` that admits a directive in `.htaccess`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Override {
    /// Any class.
    Any,
    /// `Options`.
    Options,
}

/// Where a directive may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    /// Main server only; the value holds for all of httpd.
    Global,
    /// Server, virtual host, `<Directory>`, `<Location>`. Influences spawning: never `.htaccess`.
    Application,
    /// As `Application`, and `.htaccess`.
    Location(Override),
}

/// Does something act on it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Yes.
    Built,
    /// Accepted, and said so once at start.
    NotYet,
    /// Accepted, and said so once at start: what it would steer or switch off does not exist here, on purpose.
    Moot,
    /// Accepted with a warning, the value dropped; so does the original.
    Obsolete,
}

/// One row.
#[derive(Debug)]
pub(crate) struct Directive {
    name: &'static CStr,
    aliases: &'static [&'static CStr],
    kind: Kind,
    context: Context,
    default: &'static str,
    help: &'static CStr,
    status: Status,
    why: &'static str,
    is_enterprise: bool,
    setter: Option<Setter>,
}

impl Context {
    /// Where such a directive may stand: ends a sentence.
    pub(crate) fn place(self) -> &'static str {
        match self {
            Context::Global => "it holds for all of httpd and belongs outside of all sections",
            Context::Application => {
                "it belongs outside of all sections, or in <VirtualHost>, <Directory> or <Location>"
            }
            Context::Location(_) => {
                "it belongs outside of all sections, in <VirtualHost>, <Directory>, <Location>, <Files> or \
                 .htaccess, but not in <Limit>"
            }
        }
    }
}

impl Directive {
    /// Whether that value says no more than what holds anyway.
    pub(crate) fn is_default(&self, words: &[String]) -> bool {
        matches!(words, [word] if word.eq_ignore_ascii_case(self.default))
    }

    /// Canonical name.
    pub(crate) fn name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }

    /// All names httpd knows it by, the canonical one first.
    pub(crate) const fn c_name(&self, index: usize) -> Option<&'static CStr> {
        match index {
            0 => Some(self.name),
            _ if index <= self.aliases.len() => Some(self.aliases[index - 1]),
            _ => None,
        }
    }

    /// What it takes.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// How httpd shall cut its line into words.
    pub(crate) const fn arity(&self) -> Arity {
        match self.kind {
            Kind::Flag => Arity::Flag,
            Kind::Pair => Arity::Two,
            Kind::Ignored => Arity::Raw,
            _ => Arity::One,
        }
    }

    /// Where it may stand.
    pub(crate) const fn context(&self) -> Context {
        self.context
    }

    /// What holds without it, for the reader.
    pub(crate) fn default(&self) -> &'static str {
        self.default
    }

    /// One line for `httpd -L` and error messages.
    pub(crate) const fn help(&self) -> &'static CStr {
        self.help
    }

    /// Does something act on it?
    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// Why nothing acts on it, for the reader; empty where something does.
    #[allow(dead_code)] // read by the reference page's generator and the tests
    pub(crate) fn why(&self) -> &'static str {
        self.why
    }

    /// Sold separately by the original; simply here in ours.
    #[allow(dead_code)] // read by the reference page's generator and the tests
    pub(crate) fn is_enterprise(&self) -> bool {
        self.is_enterprise
    }

    /// Where a request finds the value; `None` if only the agent or the parent needs it.
    pub(crate) fn setter(&self) -> Option<Setter> {
        self.setter
    }

    /// A row that nothing acts on yet.
    pub(super) const fn new(
        name: &'static CStr,
        kind: Kind,
        context: Context,
        default: &'static str,
        help: &'static CStr,
    ) -> Self {
        Directive {
            name,
            aliases: &[],
            kind,
            context,
            default,
            help,
            status: Status::NotYet,
            why: "",
            is_enterprise: false,
            setter: None,
        }
    }

    /// Other names it is known by.
    pub(super) const fn alias(mut self, aliases: &'static [&'static CStr]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Something acts on it.
    pub(super) const fn built(mut self) -> Self {
        self.status = Status::Built;
        self.why = "";
        self
    }

    /// Nothing acts on it in this version.
    pub(super) const fn not_yet(mut self, why: &'static str) -> Self {
        self.status = Status::NotYet;
        self.why = why;
        self
    }

    /// Nothing will ever act on it.
    pub(super) const fn moot(mut self, why: &'static str) -> Self {
        self.status = Status::Moot;
        self.why = why;
        self
    }

    /// The original drops it, too.
    pub(super) const fn obsolete(mut self) -> Self {
        self.status = Status::Obsolete;
        self
    }

    /// See [`Directive::is_enterprise`].
    pub(super) const fn enterprise(mut self) -> Self {
        self.is_enterprise = true;
        self
    }

    /// Where its value goes for requests.
    pub(super) const fn sets(mut self, setter: Setter) -> Self {
        self.setter = Some(setter);
        self
    }
}
