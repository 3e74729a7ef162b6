//! From the words after a directive to a value, or a sentence for the administrator.
//!
//! httpd puts file and line in front of the sentence. Nothing here does anything but validate.

use super::directive::{Directive, Kind};
use crate::upstream::head::is_token;

/// Longest text, as long as a path may be.
const MAX_TEXT_BYTES: usize = 4095;

/// A valid argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// `On` or `Off`.
    Flag(bool),
    /// A whole number within the directive's bounds.
    Int(i64),
    /// Any text, never empty.
    Text(&'a str),
    /// Two words.
    Pair(&'a str, &'a str),
}

impl<'a> Value<'a> {
    /// Of a flag; `false` for another kind, which the table's test excludes.
    pub(crate) fn flag(self) -> bool {
        matches!(self, Value::Flag(true))
    }

    /// Of a number that cannot be negative.
    pub(crate) fn number(self) -> u32 {
        match self {
            Value::Int(number) => u32::try_from(number.max(0)).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    /// Of a text.
    pub(crate) fn text(self) -> &'a str {
        match self {
            Value::Text(text) | Value::Pair(text, _) => text,
            _ => "",
        }
    }

    /// As arguments of a record: flags are `on` or `off`, numbers decimal.
    pub(crate) fn to_args(self) -> Vec<String> {
        match self {
            Value::Flag(true) => vec!["on".to_owned()],
            Value::Flag(false) => vec!["off".to_owned()],
            Value::Int(number) => vec![number.to_string()],
            Value::Text(text) => vec![text.to_owned()],
            Value::Pair(name, value) => vec![name.to_owned(), value.to_owned()],
        }
    }
}

/// Checks the words of a directive. `Ok(None)` means "as if it were not there" (an empty text, or
/// the base URI `/`).
///
/// # Errors
/// A sentence that names the directive, the word, and what would be right.
pub(crate) fn parse<'a>(
    directive: &Directive,
    words: &[&'a [u8]],
) -> Result<Option<Value<'a>>, String> {
    let name = directive.name();
    if directive.kind() == Kind::Ignored {
        return Ok(None);
    }
    let word = |index: usize| text(name, words.get(index).copied().unwrap_or_default());
    let first = word(0)?;
    match directive.kind() {
        Kind::Flag => flag(name, first).map(|value| Some(Value::Flag(value))),
        Kind::Int { min, max } => number(name, first, min, max).map(|n| Some(Value::Int(n))),
        Kind::Text | Kind::Texts => Ok((!first.is_empty()).then_some(Value::Text(first))),
        Kind::Token => token(name, first),
        Kind::OneOf(choices) => one_of(name, first, choices),
        Kind::BaseUri => base_uri(name, first),
        Kind::Pair if first.is_empty() => Err(format!("{name}: the first argument is empty")),
        Kind::Pair => Ok(Some(Value::Pair(first, word(1)?))),
        Kind::Ignored => Ok(None),
    }
}

fn text<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a str, String> {
    if bytes.len() > MAX_TEXT_BYTES {
        return Err(format!(
            "{name}: the argument has {} bytes, which is more than {MAX_TEXT_BYTES}",
            bytes.len()
        ));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| format!("{name}: the argument is not valid UTF-8 text"))?;
    // It would go on in logs, headers and environments.
    if text.chars().any(char::is_control) {
        return Err(format!(
            "{name}: there is a control character in the argument"
        ));
    }
    Ok(text)
}

fn flag(name: &str, word: &str) -> Result<bool, String> {
    if word.eq_ignore_ascii_case("on") {
        Ok(true)
    } else if word.eq_ignore_ascii_case("off") {
        Ok(false)
    } else {
        Err(format!("{name} must be On or Off, not \"{word}\""))
    }
}

fn number(name: &str, word: &str, min: i64, max: i64) -> Result<i64, String> {
    let number: i64 = word
        .parse()
        .map_err(|_| format!("{name} must be a whole number, not \"{word}\""))?;
    if number < min {
        return Err(format!("{name} must be at least {min}, not {number}"));
    }
    if number > max {
        return Err(format!("{name} must be at most {max}, not {number}"));
    }
    Ok(number)
}

fn token<'a>(name: &str, word: &'a str) -> Result<Option<Value<'a>>, String> {
    if word.bytes().all(is_token) {
        return Ok((!word.is_empty()).then_some(Value::Text(word)));
    }
    Err(format!(
        "{name} may have letters, digits and !#$%&'*+-.^_`|~ only, not \"{word}\""
    ))
}

fn one_of<'a>(
    name: &str,
    word: &'a str,
    choices: &'static [&'static str],
) -> Result<Option<Value<'a>>, String> {
    if word.is_empty() {
        return Ok(None);
    }
    let chosen = choices
        .iter()
        .find(|choice| choice.eq_ignore_ascii_case(word));
    if let Some(chosen) = chosen {
        return Ok(Some(Value::Text(chosen)));
    }
    Err(format!(
        "{name} must be one of {}, not \"{word}\"",
        choices.join(", ")
    ))
}

fn base_uri<'a>(name: &str, word: &'a str) -> Result<Option<Value<'a>>, String> {
    if word.is_empty() {
        return Err(format!("{name} may not be empty"));
    }
    if !word.starts_with('/') {
        return Err(format!(
            "{name} must begin with a slash, which \"{word}\" does not"
        ));
    }
    // The root needs no naming: an app in the document root serves it anyway.
    if word == "/" {
        return Ok(None);
    }
    if word.ends_with('/') {
        return Err(format!(
            "{name} may not end with a slash, as \"{word}\" does"
        ));
    }
    Ok(Some(Value::Text(word)))
}

#[cfg(test)]
mod tests {
    use super::super::directives::find;
    use super::*;
    use proptest::prelude::*;

    fn parse_one<'a>(name: &str, word: &'a str) -> Result<Option<Value<'a>>, String> {
        parse(find(name).expect("directive"), &[word.as_bytes()])
    }

    #[test]
    fn flags() {
        assert_eq!(
            parse_one("PassengerEnabled", "oFF"),
            Ok(Some(Value::Flag(false)))
        );
        assert!(parse_one("PassengerEnabled", "yes")
            .unwrap_err()
            .contains("On or Off"));
    }

    #[test]
    fn numbers_consume_the_whole_word_and_respect_the_bound() {
        assert_eq!(
            parse_one("PassengerMinInstances", "0"),
            Ok(Some(Value::Int(0)))
        );
        assert_eq!(
            parse_one("PassengerMaxPoolSize", "0").unwrap_err(),
            "PassengerMaxPoolSize must be at least 1, not 0"
        );
        for bad in ["", "5x", "0x10", "1.5", " 5", "99999999999999999999"] {
            assert!(
                parse_one("PassengerMaxPoolSize", bad).is_err(),
                "{bad:?} was accepted"
            );
        }
    }

    #[test]
    fn base_uris() {
        assert_eq!(
            parse_one("PassengerBaseURI", "/a/b"),
            Ok(Some(Value::Text("/a/b")))
        );
        assert_eq!(parse_one("PassengerBaseURI", "/"), Ok(None));
        for bad in ["", "a", "/a/", "//"] {
            assert!(
                parse_one("PassengerBaseURI", bad).is_err(),
                "{bad:?} was accepted"
            );
        }
    }

    #[test]
    fn empty_text_is_as_if_unset() {
        assert_eq!(parse_one("PassengerAppRoot", ""), Ok(None));
        assert_eq!(parse_one("PassengerAppType", ""), Ok(None));
    }

    #[test]
    fn choices_are_named() {
        let sentence = parse_one("PassengerSpawnMethod", "clever").unwrap_err();
        assert!(
            sentence.contains("smart-lv2") && sentence.contains("\"clever\""),
            "{sentence}"
        );
        assert_eq!(
            parse_one("PassengerRollingRestarts", "On"),
            Ok(Some(Value::Text("on"))),
            "as httpd's own On and Off"
        );
    }

    #[test]
    fn pairs() {
        let ctl = find("PassengerCtl").expect("directive");
        assert_eq!(parse(ctl, &[b"a", b""]), Ok(Some(Value::Pair("a", ""))));
        assert!(parse(ctl, &[b"", b"b"]).is_err());
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        let root = find("PassengerAppRoot").expect("directive");
        assert!(parse(root, &[b"/srv/\xff"]).unwrap_err().contains("UTF-8"));
    }

    #[test]
    fn text_has_a_length_and_no_control_characters() {
        let longest = "/".repeat(MAX_TEXT_BYTES);
        assert_eq!(
            parse_one("PassengerAppRoot", &longest),
            Ok(Some(Value::Text(&longest)))
        );
        let sentence = parse_one("PassengerAppRoot", &format!("{longest}x")).unwrap_err();
        assert!(sentence.contains("4096 bytes"), "{sentence}");
        for bad in ["a\rSet-Cookie: x=y", "\u{1b}[31m", "a\u{85}b"] {
            let sentence = parse_one("PassengerStickySessionsCookieAttributes", bad).unwrap_err();
            assert!(sentence.contains("control character"), "{sentence}");
        }
    }

    proptest! {
        /// Any bytes for any directive: an answer, and what was accepted is accepted again.
        #[test]
        fn every_word_gets_an_answer(index in 0usize..super::super::DIRECTIVES.len(),
                                     word in proptest::collection::vec(any::<u8>(), 0..40)) {
            let directive = &super::super::DIRECTIVES[index];
            match parse(directive, &[&word, b"second"]) {
                Ok(Some(value)) => {
                    let args = value.to_args();
                    let again: Vec<&[u8]> = args.iter().map(String::as_bytes).collect();
                    prop_assert_eq!(parse(directive, &again), Ok(Some(value)));
                }
                Ok(None) => {}
                Err(sentence) => prop_assert!(sentence.starts_with(directive.name())),
            }
        }

        #[test]
        fn numbers_round_trip(number in 0i64..=i64::from(u32::MAX)) {
            let word = number.to_string();
            prop_assert_eq!(
                parse_one("PassengerMaxRequests", &word),
                Ok(Some(Value::Int(number)))
            );
        }
    }
}
