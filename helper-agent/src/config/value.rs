//! Values of directives. The module has checked them when httpd read its files; they are checked again
//! because what follows from them is done as root.

use passenger_shm::messages::Directive;

/// The only argument.
pub(super) fn text(directive: &Directive) -> Result<&str, String> {
    match &directive.args[..] {
        [one] => Ok(one),
        args => Err(complaint(
            directive,
            &format!("takes one argument, not {}", args.len()),
        )),
    }
}

/// As [`text`]; an empty one counts as absent.
pub(super) fn optional_text(directive: &Directive) -> Result<Option<String>, String> {
    let text = text(directive)?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// `on` or `off`.
pub(super) fn flag(directive: &Directive) -> Result<bool, String> {
    let text = text(directive)?;
    if text.eq_ignore_ascii_case("on") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("off") {
        Ok(false)
    } else {
        Err(complaint(
            directive,
            &format!("must be On or Off, not \"{text}\""),
        ))
    }
}

/// A whole number of at least `min`.
pub(super) fn number(directive: &Directive, min: i64) -> Result<i64, String> {
    let text = text(directive)?;
    let number: i64 = text.parse().map_err(|_| {
        complaint(
            directive,
            &format!("must be a whole number, not \"{text}\""),
        )
    })?;
    if number < min {
        return Err(complaint(
            directive,
            &format!("must be at least {min}, not {number}"),
        ));
    }
    Ok(number)
}

/// A whole number of at least `min` that fits 32 bits; larger ones are as good as the largest.
pub(super) fn count(directive: &Directive, min: u32) -> Result<u32, String> {
    Ok(u32::try_from(number(directive, i64::from(min))?).unwrap_or(u32::MAX))
}

/// What is wrong with a directive, and where it stands.
pub(super) fn complaint(directive: &Directive, what: &str) -> String {
    format!(
        "{} {what} ({} line {})",
        directive.name, directive.file, directive.line
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directive(args: &[&str]) -> Directive {
        Directive {
            name: "PassengerMaxPoolSize".into(),
            args: args.iter().map(ToString::to_string).collect(),
            file: "/etc/apache2/x.conf".into(),
            line: 7,
        }
    }

    #[test]
    fn errors_name_the_directive_and_its_place() {
        let wrong = number(&directive(&["many"]), 1).unwrap_err();
        assert_eq!(
            wrong,
            "PassengerMaxPoolSize must be a whole number, not \"many\" (/etc/apache2/x.conf line 7)"
        );
        assert!(count(&directive(&["0"]), 1)
            .unwrap_err()
            .contains("at least 1"));
        assert!(flag(&directive(&["maybe"])).is_err());
        assert!(text(&directive(&[])).is_err());
        assert!(text(&directive(&["a", "b"])).is_err());
    }

    #[test]
    fn values_are_read() {
        assert_eq!(flag(&directive(&["On"])), Ok(true));
        assert_eq!(flag(&directive(&["off"])), Ok(false));
        assert_eq!(number(&directive(&["-1"]), -1), Ok(-1));
        assert_eq!(count(&directive(&["99999999999"]), 0), Ok(u32::MAX));
        assert_eq!(optional_text(&directive(&[""])), Ok(None));
    }
}
