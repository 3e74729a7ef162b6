//! Codes of our log lines: `PSGR` and four digits, never reused, each explained in the guide.
//! A code stands first in its line, so that operators and tests can look for it.
//!
//! 01xx: httpd's parent and the workers' attachment (here); 02xx: requests (`error.rs`).

/// A panic was caught at the border to httpd.
pub(crate) const PANIC: &str = "PSGR0101";
/// The configuration cannot work; httpd does not start.
pub(crate) const CONFIG: &str = "PSGR0102";
/// Something in the configuration deserves attention.
pub(crate) const CONFIG_WARNING: &str = "PSGR0103";
/// Directives that nothing acts on yet.
pub(crate) const NOT_YET: &str = "PSGR0104";
/// The instance could not be started.
pub(crate) const START: &str = "PSGR0105";
/// An instance was started or has taken a configuration.
pub(crate) const STARTED: &str = "PSGR0106";
/// A new configuration could not be handed over; the one before stays.
pub(crate) const CONFIGURE: &str = "PSGR0107";
/// The agent refused a configuration; the one before stays.
pub(crate) const REFUSED: &str = "PSGR0108";
/// The watchdog we started ended.
pub(crate) const WATCHDOG_DIED: &str = "PSGR0109";
/// The whole instance is gone while httpd runs.
pub(crate) const INSTANCE_GONE: &str = "PSGR0110";
/// The instance did not end in time when httpd stopped.
pub(crate) const STOP: &str = "PSGR0111";
/// A worker could not attach to the instance.
pub(crate) const ATTACH: &str = "PSGR0112";
/// A worker saw its parent die and leaves.
pub(crate) const ORPHANED: &str = "PSGR0113";
/// Another watchdog goes on with what a dead watchdog and agent had.
pub(crate) const REBUILT: &str = "PSGR0114";
/// The watchdog was suspended, and nobody else could notice.
pub(crate) const SUSPENDED: &str = "PSGR0118";
/// Instances that were replaced by an upgrade do not end as they should.
pub(crate) const DRAINING: &str = "PSGR0117";
/// After an upgrade the new build does not start; the old one goes on.
pub(crate) const BROKEN_BUILD: &str = "PSGR0116";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    /// Every `PSGR` with four digits in a text.
    fn codes_in(text: &str, codes: &mut BTreeSet<String>) {
        for (start, prefix) in text.match_indices("PSGR") {
            let digits = &text[start + prefix.len()..];
            if let Some(digits) = digits
                .get(..4)
                .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
            {
                codes.insert(digits.to_owned());
            }
        }
    }

    fn codes_below(directory: &Path, codes: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).expect("directory") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                codes_below(&path, codes);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                codes_in(&fs::read_to_string(&path).expect("source"), codes);
            }
        }
    }

    #[test]
    fn every_code_has_its_entry_and_every_entry_its_code() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut used, mut documented) = (BTreeSet::new(), BTreeSet::new());
        codes_below(&own.join("src"), &mut used);
        let page = fs::read_to_string(own.join("../docs/error-codes.md")).expect("the page");
        for line in page.lines().filter(|line| line.starts_with("| PSGR")) {
            codes_in(&line[..12], &mut documented);
        }
        assert_eq!(used, documented);
    }
}
