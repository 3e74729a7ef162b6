//! The text of metrics: families, samples, labels. Gauges and counters only, no units and no times: so it is OpenMetrics and
//! what Prometheus' own, older format allows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::status_text::tame;

/// What comes last.
pub(super) const END: &str = "# EOF\n";

/// What kind of figure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, or begins anew. Its samples' names end with `_total`.
    Counter,
}

/// One metric: its name and its samples.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: Vec<(Labels, f64)>,
}

/// Names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

impl Family {
    /// Samples of the same labels become one: there must not be two.
    pub(super) fn new(
        name: &'static str,
        kind: Kind,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Self {
        let mut sums: BTreeMap<Labels, f64> = BTreeMap::new();
        for (labels, value) in samples {
            *sums.entry(labels).or_default() += value;
        }
        Self {
            name,
            kind,
            help,
            samples: sums.into_iter().collect(),
        }
    }

    /// Adds it to a text; nothing, where it has no samples.
    pub(super) fn write(&self, text: &mut String) {
        if self.samples.is_empty() {
            return;
        }
        // Writing to a String cannot fail.
        let name = self.name;
        let (kind, suffix) = match self.kind {
            Kind::Gauge => ("gauge", ""),
            Kind::Counter => ("counter", "_total"),
        };
        let _ = writeln!(text, "# TYPE {name} {kind}\n# HELP {name} {}", self.help);
        for (labels, value) in &self.samples {
            let labels: Vec<String> = labels
                .iter()
                .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
                .collect();
            let labels = match labels.join(",") {
                none if none.is_empty() => none,
                some => format!("{{{some}}}"),
            };
            let _ = writeln!(text, "{name}{suffix}{labels} {value}");
        }
    }
}

/// An app chooses its name, but not what else is in the text.
fn escaped(value: &str) -> String {
    tame(value).replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: Kind, samples: &[(&str, f64)]) -> String {
        let samples = samples
            .iter()
            .map(|(app, value)| (vec![("app", (*app).to_owned())], *value));
        let mut text = String::new();
        Family::new("figure", kind, "Help.", samples).write(&mut text);
        text
    }

    #[test]
    fn a_counter_has_another_name_in_its_samples() {
        let expected = "# TYPE figure counter\n# HELP figure Help.\nfigure_total{app=\"a\"} 2.5\n";
        assert_eq!(text(Kind::Counter, &[("a", 2.5)]), expected);
        assert_eq!(text(Kind::Gauge, &[]), "");
    }

    #[test]
    fn no_two_samples_have_the_same_labels_and_none_says_more_than_one_line() {
        let text = text(Kind::Gauge, &[("a", 1.0), ("b\"\n\\", 5.0), ("a", 2.0)]);
        let lines = ["figure{app=\"a\"} 3", "figure{app=\"b\\\"\u{fffd}\\\\\"} 5"];
        assert_eq!(text.lines().skip(2).collect::<Vec<_>>(), lines);
    }
}
