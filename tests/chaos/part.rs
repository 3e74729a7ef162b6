//! What a part of the harness came to.

use serde_json::{json, Value};
use std::fmt;

/// Failures that are printed; the JSON has all of them.
const PRINTED: usize = 20;

/// A part's figures and failures.
#[derive(Debug)]
pub(crate) struct Part {
    name: String,
    text: String,
    figures: Value,
    failures: Vec<String>,
}

impl Part {
    pub(crate) fn new(name: &str, text: String, figures: Value, failures: Vec<String>) -> Part {
        Part {
            name: name.to_owned(),
            text,
            figures,
            failures,
        }
    }

    /// What failed is told in the text, and does not count.
    pub(crate) fn without_failures(mut self) -> Part {
        self.failures.clear();
        self
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failures.is_empty()
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "part": self.name, "figures": self.figures, "failures": self.failures })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)?;
        write!(f, "\n{}: {} failures", self.name, self.failures.len())?;
        for failure in self.failures.iter().take(PRINTED) {
            write!(f, "\n  {failure}")?;
        }
        Ok(())
    }
}
