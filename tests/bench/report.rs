//! The medians of a run as a table for people and as JSON for comparison.

use crate::wrk::Sample;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::fmt;

/// This module.
pub(crate) const OURS: &str = "mod_passenger";
/// What it is compared with.
pub(crate) const THEIRS: &str = "Phusion Passenger";
/// What ASGI is compared with.
pub(crate) const UVICORN: &str = "uvicorn, mod_proxy";
/// The ceiling of both.
pub(crate) const HTTPD: &str = "httpd";

/// What was measured: contestant, site, connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    site: String,
    connections: u32,
    contestant: String,
}

impl Cell {
    /// A place in the table.
    pub(crate) fn new(contestant: &str, site: &str, connections: u32) -> Cell {
        Cell {
            site: site.to_owned(),
            connections,
            contestant: contestant.to_owned(),
        }
    }
}

/// All samples of a run.
#[derive(Debug)]
pub(crate) struct Report {
    /// What the others are compared with.
    bases: Vec<String>,
    samples: BTreeMap<Cell, Vec<Sample>>,
}

impl Report {
    /// An empty one; ratios are to whichever of `bases` was measured with the same app.
    pub(crate) fn against(bases: &[&str]) -> Report {
        Report {
            bases: bases.iter().map(|&base| base.to_owned()).collect(),
            samples: BTreeMap::new(),
        }
    }

    /// Adds a sample.
    pub(crate) fn add(&mut self, cell: Cell, sample: Sample) {
        self.samples.entry(cell).or_default().push(sample);
    }

    /// Medians, ratios and every sample, as JSON.
    pub(crate) fn to_json(&self) -> Vec<Value> {
        self.samples
            .iter()
            .map(|(cell, samples)| {
                let all: Vec<Value> =
                    samples.iter().map(|s| json!({"rps": s.rate, "p50_us": s.median_us})).collect();
                let mut value = json!({
                    "contestant": cell.contestant, "site": cell.site, "connections": cell.connections,
                    "rps": self.rate(cell), "p50_us": self.latency(cell), "samples": all,
                });
                if let Some((rate, latency)) = self.ratios(cell) {
                    value["rps_ratio"] = json!(rate);
                    value["p50_ratio"] = json!(latency);
                }
                value
            })
            .collect()
    }

    fn rate(&self, cell: &Cell) -> f64 {
        median(self.of(cell).map(|sample| sample.rate))
    }

    fn latency(&self, cell: &Cell) -> f64 {
        median(self.of(cell).map(|sample| sample.median_us))
    }

    fn of(&self, cell: &Cell) -> impl Iterator<Item = &Sample> {
        self.samples.get(cell).into_iter().flatten()
    }

    /// Its figures divided by those of its base.
    fn ratios(&self, cell: &Cell) -> Option<(f64, f64)> {
        if self.bases.contains(&cell.contestant) {
            return None;
        }
        let with = |base: &String| Cell {
            contestant: base.clone(),
            ..cell.clone()
        };
        let mut bases = self.bases.iter().map(with);
        let base = bases.find(|cell| self.samples.contains_key(cell))?;
        Some((
            self.rate(cell) / self.rate(&base),
            self.latency(cell) / self.latency(&base),
        ))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<8} {:>5}  {:<18} {:>10} {:>10}  {:>9} {:>9}",
            "app", "conns", "server", "req/s", "p50 µs", "req/s ×", "p50 ×"
        )?;
        for cell in self.samples.keys() {
            write!(
                f,
                "{:<8} {:>5}  {:<18} {:>10.0} {:>10.0}",
                cell.site,
                cell.connections,
                cell.contestant,
                self.rate(cell),
                self.latency(cell)
            )?;
            match self.ratios(cell) {
                Some((rate, latency)) => writeln!(f, "  {rate:>9.2} {latency:>9.2}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_care_for_order_or_outliers() {
        assert!((median([9.0, 1.0, 2.0].into_iter()) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 1000.0, 2.0].into_iter()) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn only_our_cells_have_ratios() {
        let mut report = Report::against(&[THEIRS, UVICORN]);
        report.add(
            Cell::new(OURS, "ruby", 25),
            Sample {
                rate: 300.0,
                median_us: 50.0,
            },
        );
        report.add(
            Cell::new(THEIRS, "ruby", 25),
            Sample {
                rate: 100.0,
                median_us: 100.0,
            },
        );
        assert_eq!(
            report.ratios(&Cell::new(OURS, "ruby", 25)),
            Some((3.0, 0.5))
        );
        assert_eq!(report.ratios(&Cell::new(THEIRS, "ruby", 25)), None);
    }
}
