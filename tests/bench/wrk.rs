//! Runs wrk once and reads its report.

use std::process::Command;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) median_us: f64,
}

/// Loads `path` of a site for some seconds.
pub(crate) fn run(
    port: u16,
    site: &str,
    path: &str,
    connections: u32,
    seconds: u32,
) -> Result<Sample, String> {
    let output = Command::new("wrk")
        .args([
            "--latency",
            "-t1",
            "-c",
            &connections.to_string(),
            "-d",
            &seconds.to_string(),
        ])
        .args(["-H", &format!("Host: {site}")])
        .arg(format!("http://127.0.0.1:{port}{path}"))
        .output()
        .map_err(|e| format!("cannot run wrk (Debian package wrk): {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    read(&text).ok_or_else(|| format!("wrk did not measure anything useful:\n{text}"))
}

/// The figures of a report; nothing when a request failed, for then the rate means nothing.
fn read(text: &str) -> Option<Sample> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    let rate = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:"))?;
    let median = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("50%"))?;
    Some(Sample {
        rate: rate.trim().parse().ok()?,
        median_us: microseconds(median.trim())?,
    })
}

fn microseconds(text: &str) -> Option<f64> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "  Latency Distribution\n     50%    1.50ms\n     75%    2.00ms\n\
                          Requests/sec:   6761.78\nTransfer/sec:      1.48MB\n";

    #[test]
    fn reads_rate_and_median() {
        let sample = read(REPORT).expect("a report");
        assert!((sample.rate - 6761.78).abs() < 1e-6);
        assert!((sample.median_us - 1500.0).abs() < 1e-6);
    }

    #[test]
    fn a_report_with_failures_is_no_measurement() {
        assert!(read(&format!("{REPORT}  Non-2xx or 3xx responses: 1\n")).is_none());
        assert!(read(&format!(
            "{REPORT}  Socket errors: connect 0, read 1, write 0, timeout 0\n"
        ))
        .is_none());
    }
}
