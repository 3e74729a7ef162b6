//! Runs `ab`, which makes a connection for each request, and reads its report.

use crate::latency::Summary;
use std::process::{Command, Stdio};

/// Simultaneous connections.
const CONNECTIONS: u32 = 100;

/// What `ab` says.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) complete: u64,
    /// Connections that broke, answers of another length, statuses that are not 2xx.
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
    pub(crate) summary: Summary,
}

/// Sends that many requests. Blocks until they are answered.
///
/// # Errors
/// When `ab` cannot be run or says what it has never said.
pub(crate) fn run(port: u16, site: &str, target: &str, requests: u64) -> Result<Report, String> {
    let output = Command::new("ab")
        .args(["-q", "-r", "-s", "60", "-c", &CONNECTIONS.to_string()])
        .args(["-n", &requests.to_string(), "-H", &format!("Host: {site}")])
        .arg(format!("http://127.0.0.1:{port}{target}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run ab (Debian package apache2-utils): {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    read(&text).ok_or_else(|| {
        let complaint = String::from_utf8_lossy(&output.stderr);
        format!("ab says what is no report: {text}{complaint}")
    })
}

fn read(text: &str) -> Option<Report> {
    let number = |label: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.trim().starts_with(label))?;
        let rest = line.trim().strip_prefix(label)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let count = |label: &str| number(label).map_or(0, whole);
    Some(Report {
        complete: whole(number("Complete requests:")?),
        failed: count("Failed requests:") + count("Non-2xx responses:"),
        seconds: number("Time taken for tests:")?,
        summary: Summary {
            p50_ms: number("50%")?,
            p99_ms: number("99%")?,
            max_ms: number("100%")?,
        },
    })
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count that ab printed
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "Time taken for tests:   1.500 seconds\nComplete requests:      1000\n\
                    Failed requests:        2\n   (Connect: 0, Receive: 0, Length: 2, Exceptions: 0)\n\
                    Non-2xx responses:      1\n\nPercentage of the requests served within a certain time (ms)\n\
                    \x20 50%     12\n  99%     40\n 100%     55 (longest request)\n";
        let report = read(text).expect("a report");
        assert_eq!((report.complete, report.failed), (1000, 3));
        assert_eq!((report.summary.p99_ms, report.summary.max_ms), (40.0, 55.0));
        assert!(read("apr_socket_connect(): Connection refused").is_none());
    }
}
