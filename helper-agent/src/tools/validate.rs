//! `passenger-config validate`: looks whether everything is in order, says so in words that help, and tells
//! scripts by the exit status. Changes nothing; a trial start of an app is ended again.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::arguments::ValidateArguments;
use super::{checks, is_terminal, say, trial, Failure, Outcome};
use crate::sys::process;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// In order.
    Ok,
    /// Worth knowing, and no problem by itself.
    Note,
    /// It works, and may surprise.
    Warning,
    /// It does not work.
    Error,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    /// Completes "Checking …".
    pub(super) check: String,
    /// How it went.
    pub(super) level: Level,
    /// What was seen, and what to do about it. Empty: nothing to say.
    pub(super) details: String,
}

impl Finding {
    pub(super) fn new(check: &str, level: Level, details: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            level,
            details: details.into(),
        }
    }

    /// In order, or an error with that text.
    pub(super) fn of(check: &str, result: Result<String, String>) -> Self {
        match result {
            Ok(details) => Self::new(check, Level::Ok, details),
            Err(details) => Self::new(check, Level::Error, details),
        }
    }
}

/// Runs all checks.
pub(super) fn validate(arguments: &ValidateArguments) -> Outcome {
    let prefix = match &arguments.root {
        Some(prefix) => prefix.clone(),
        None => own_prefix()?,
    };
    let httpd = checks::Httpd {
        program: arguments.httpd.clone(),
        config: arguments.config.clone(),
    };
    let mut findings = vec![
        checks::installed_tree(&prefix),
        checks::other_installations(&prefix),
    ];
    findings.extend(checks::httpd(&httpd, &prefix));
    findings.extend(checks::interpreters());
    findings.push(checks::instances());
    if let Some(app) = &arguments.app {
        findings.push(trial::start(app, &prefix));
    }
    let text = if arguments.json {
        format!("{:#}\n", as_json(&findings))
    } else {
        as_text(&findings, arguments.quiet, is_terminal())
    };
    say(&text)?;
    Ok(status(&findings))
}

/// `<prefix>/bin/passenger`, links resolved.
pub(super) fn own_prefix() -> Result<PathBuf, Failure> {
    let image = process::own_image_path()
        .map_err(|e| Failure::unable(format!("cannot find this program: {e}")))?;
    let prefix = image.parent().and_then(|bin| bin.parent());
    prefix
        .map(PathBuf::from)
        .ok_or_else(|| Failure::unable("this program is not in an installation; say --root"))
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|f| f.level == level).count()
}

/// 0, 1 with an error, 2 with warnings only: as the original.
fn status(findings: &[Finding]) -> u8 {
    if count(findings, Level::Error) > 0 {
        1
    } else if count(findings, Level::Warning) > 0 {
        2
    } else {
        0
    }
}

fn as_json(findings: &[Finding]) -> serde_json::Value {
    serde_json::json!({
        "checks": findings,
        "errors": count(findings, Level::Error),
        "warnings": count(findings, Level::Warning),
    })
}

fn as_text(findings: &[Finding], quiet: bool, colors: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let is_problem = matches!(finding.level, Level::Warning | Level::Error);
        if quiet && !is_problem {
            continue;
        }
        let (sign, color) = match finding.level {
            Level::Ok => ("✓", "32"),
            Level::Note => ("-", "0"),
            Level::Warning => ("(!)", "33"),
            Level::Error => ("✗", "31"),
        };
        // Writing to a String cannot fail.
        let _ = if colors {
            writeln!(
                text,
                " * Checking {}... \x1b[{color}m{sign}\x1b[0m",
                finding.check
            )
        } else {
            writeln!(text, " * Checking {}... {sign}", finding.check)
        };
        for line in finding.details.lines() {
            let _ = writeln!(text, "     {line}");
        }
    }
    let (errors, warnings) = (
        count(findings, Level::Error),
        count(findings, Level::Warning),
    );
    if errors + warnings > 0 {
        let _ = writeln!(text, "\nDetected {errors} error(s), {warnings} warning(s).");
    } else if !quiet {
        text += "\nEverything looks good. :-)\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(level: Level) -> Finding {
        Finding::new("the moon", level, "It is full.")
    }

    #[test]
    fn the_exit_status_tells_errors_from_warnings() {
        assert_eq!(status(&[finding(Level::Ok), finding(Level::Note)]), 0);
        assert_eq!(status(&[finding(Level::Ok), finding(Level::Warning)]), 2);
        assert_eq!(status(&[finding(Level::Error), finding(Level::Warning)]), 1);
    }

    #[test]
    fn text_in_the_familiar_shape_and_quiet_about_what_is_fine() {
        let findings = [finding(Level::Ok), finding(Level::Error)];
        let expected =
            " * Checking the moon... ✓\n     It is full.\n * Checking the moon... ✗\n     \
                        It is full.\n\nDetected 1 error(s), 0 warning(s).\n";
        assert_eq!(as_text(&findings, false, false), expected);
        assert!(as_text(&findings[..1], false, false).ends_with("Everything looks good. :-)\n"));
        assert_eq!(as_text(&findings[..1], true, false), "");
    }
}
