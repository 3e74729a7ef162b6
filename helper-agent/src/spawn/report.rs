//! Why an app does not start, in words: which step failed, what the app printed, what to try. Pure; the
//! facts were collected during the dialogue.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use passenger_shm::messages::{SpawnFailure, StepTaken};

use crate::sys::process::ExitStatus;

/// Most of an app's output that a report keeps, in bytes; its end is kept.
const TAIL_BYTES: usize = 16 * 1024;
/// Most bytes of a report as JSON; a message has 64 KiB.
const REPORT_BYTES: usize = 60 * 1024;
/// Most facts of one report.
const MAX_FACTS: usize = 32;
/// Most steps of one report; a process may say any number of words.
const MAX_STEPS: usize = 16;

/// The end of what a process printed.
#[derive(Debug, Default)]
pub struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    /// Appends a line, dropping old ones over the limit.
    pub fn push(&mut self, line: &str) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > TAIL_BYTES && self.lines.len() > 1 {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len() + 1);
        }
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// What a starting process told about itself.
#[derive(Debug, Default)]
pub struct Story {
    step: Option<String>,
    steps: Vec<(String, Instant)>,
    facts: Vec<(String, String)>,
    environment: Vec<(String, Option<String>)>,
    doing: Option<String>,
}

impl Story {
    /// A step began.
    pub fn began(&mut self, step: String) {
        if self.steps.len() < MAX_STEPS {
            self.steps.push((step.clone(), Instant::now()));
        }
        self.step = Some(step);
    }

    /// What its process was doing when its time was up: completes "its process …".
    pub fn was_doing(&mut self, doing: String) {
        self.doing = Some(doing);
    }

    /// What it was started with.
    pub fn environment(&mut self, shown: Vec<(String, Option<String>)>) {
        self.environment = shown;
    }

    /// The steps, each up to the next one's beginning.
    fn steps(&self, end: Instant) -> Vec<StepTaken> {
        let ends = self.steps.iter().skip(1).map(|(_, at)| *at).chain([end]);
        let taken = |((name, began), ended): (&(String, Instant), Instant)| StepTaken {
            name: name.clone(),
            milliseconds: u64::try_from(ended.saturating_duration_since(*began).as_millis())
                .unwrap_or(u64::MAX),
        };
        self.steps.iter().zip(ends).map(taken).collect()
    }

    /// A fact; the newest value of a key counts.
    pub fn fact(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        if let Some(known) = self.facts.iter_mut().find(|(k, _)| *k == key) {
            known.1 = value;
        } else if self.facts.len() < MAX_FACTS {
            self.facts.push((key, value));
        }
    }
}

/// What ended a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The agent could not even begin: a sentence.
    NotBegun(String),
    /// Shim or loader said which step failed, and why.
    Said {
        /// The step.
        step: String,
        /// The reason.
        text: String,
    },
    /// The process ended without a word.
    Ended(Option<ExitStatus>),
    /// It did not become ready in time.
    TimedOut(Duration),
    /// It broke the protocol of the control socket; the text completes "the process …".
    Misspoke(String),
}

/// Writes the report.
#[must_use]
pub fn failure(
    id: String,
    app: &str,
    cause: &Cause,
    story: &Story,
    output: &str,
    friendly: bool,
) -> SpawnFailure {
    let current = story.step.clone().unwrap_or_else(|| "prepare".to_owned());
    let (step, reason) = match cause {
        Cause::NotBegun(text) => ("prepare".to_owned(), text.clone()),
        Cause::Said { step, text } => (step.clone(), text.clone()),
        Cause::Ended(Some(status)) => (
            current,
            format!("its process {status} before it was ready for requests"),
        ),
        Cause::Ended(None) => (current, "its process ended before it was ready".to_owned()),
        Cause::TimedOut(limit) => (
            current,
            match &story.doing {
                Some(doing) => format!(
                    "it was not ready for requests within {} seconds; its process {doing}",
                    limit.as_secs()
                ),
                None => format!(
                    "it was not ready for requests within {} seconds",
                    limit.as_secs()
                ),
            },
        ),
        Cause::Misspoke(text) => (current, format!("its process {text}")),
    };
    let reason = reason.trim_end_matches('.');
    fit(SpawnFailure {
        id,
        summary: format!(
            "The app {app} could not be started; {}: {reason}",
            describe(&step)
        ),
        advice: advice(&step, cause, reason, output),
        step,
        output: output.to_owned(),
        friendly,
        facts: story.facts.clone(),
        steps: story.steps(Instant::now()),
        environment: story.environment.clone(),
    })
}

/// The report for the app's own log; what the app printed is there already.
#[must_use]
pub fn in_full(failure: &SpawnFailure) -> String {
    let SpawnFailure {
        id,
        summary,
        advice,
        ..
    } = failure;
    let mut text = format!("{summary} (error {id}). {advice}");
    for (key, value) in &failure.facts {
        text.push_str(&format!("\n  {key}: {value}"));
    }
    for step in &failure.steps {
        text.push_str(&format!("\n  step {}: {} ms", step.name, step.milliseconds));
    }
    text
}

/// Makes a report small enough for a message, whatever an app printed: binary output grows as JSON.
fn fit(mut failure: SpawnFailure) -> SpawnFailure {
    while serde_json::to_vec(&failure).map_or(0, |bytes| bytes.len()) > REPORT_BYTES {
        if failure.output.is_empty() {
            failure.facts.clear();
            failure.environment.clear();
            failure.summary = failure.summary.chars().take(1_000).collect();
            return failure;
        }
        let mut half = failure.output.len().div_ceil(2);
        while !failure.output.is_char_boundary(half) {
            half += 1;
        }
        failure.output.drain(..half);
    }
    failure
}

fn describe(step: &str) -> String {
    let meaning = match step {
        "prepare" => "preparing its start",
        "user" => "becoming its user",
        "directory" => "entering its directory",
        "exec" => "running its interpreter",
        "load" => "loading its code",
        "fork" => "leaving its preloader",
        "listen" => "opening its request socket",
        "answer" => "waiting for it to answer at its port",
        _ => return format!("step {step}"),
    };
    format!("{meaning} (step {step})")
}

/// Sentences for the usual mistakes; the first that fits.
fn advice(step: &str, cause: &Cause, reason: &str, output: &str) -> String {
    let text = format!("{reason}\n{output}");
    let has = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    let advice = match (step, cause) {
        ("prepare", _) => "Check the directives that the message names; the log may have more.",
        ("user", _) => {
            "Check PassengerUser, PassengerGroup and the owner of the startup file; the agent must run \
             as root to switch users."
        }
        ("directory", _) => {
            "Give the app's user the right to enter every directory on the way to the app (chmod o+x, or \
             a group), or let it run as another user with PassengerUser."
        }
        ("exec", _) => {
            "Install the interpreter, or name it by its full path with PassengerRuby, PassengerPython or \
             PassengerNodejs."
        }
        ("answer", Cause::TimedOut(_)) => {
            "The command must serve HTTP at 127.0.0.1 and the port in the variable PORT: look whether it does, or \
             raise PassengerStartTimeout."
        }
        (_, Cause::TimedOut(_)) if has(&["connecting to"]) => {
            "Check that the service it connects to runs and can be reached from this machine (address, firewall), and \
             give the connection a timeout of its own."
        }
        (_, Cause::TimedOut(_)) => {
            "Find out what the app waits for while it loads (a database, a lock, a network service), or \
             raise PassengerStartTimeout."
        }
        (_, Cause::Ended(Some(ExitStatus::Killed { signal: libc::SIGKILL, .. }))) => {
            "Somebody killed it, often the kernel for lack of memory: look into the kernel's log."
        }
        (_, Cause::Ended(Some(ExitStatus::Killed { .. }))) => {
            "The interpreter or a native extension crashed: reinstall or rebuild the app's extensions for \
             this interpreter."
        }
        _ if has(&["SyntaxError", "syntax error", "IndentationError"]) => {
            "Fix the syntax error that the output shows, or use the version of the interpreter the code \
             was written for."
        }
        _ if has(&["ModuleNotFoundError", "ImportError", "LoadError", "Cannot find module", "GemNotFound"]) => {
            "Install the app's dependencies for the interpreter and the user shown below (bundle install, \
             pip install, npm install)."
        }
        _ if has(&["Permission denied", "PermissionError", "EACCES", "Errno::EACCES"]) => {
            "Give the app's user the rights on the file that the output names."
        }
        _ if has(&["ECONNREFUSED", "Connection refused", "could not connect"]) => {
            "Start the service that the app connects to while it loads, or correct its address."
        }
        ("answer", Cause::Ended(_)) => {
            "Read what it printed. The command must not end by itself, nor put its server into the background."
        }
        (_, Cause::Ended(_)) => {
            "Read what it printed. An app that is to be served must not end by itself: look for exit calls \
             and for code that is only meant for the command line."
        }
        _ => "Read what the app printed; run its startup file by hand as the user shown below.",
    };
    advice.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(cause: &Cause, step: Option<&str>, output: &str) -> SpawnFailure {
        let mut story = Story::default();
        if let Some(step) = step {
            story.began(step.to_owned());
        }
        story.fact("user", "alice");
        failure("abcd".into(), "/srv/app", cause, &story, output, true)
    }

    #[test]
    fn the_summary_names_app_step_and_reason() {
        let said = Cause::Said {
            step: "load".into(),
            text: "boom (RuntimeError).".into(),
        };
        let failure = report(&said, Some("load"), "trace\n");
        assert_eq!(
            failure.summary,
            "The app /srv/app could not be started; loading its code (step load): boom (RuntimeError)"
        );
        assert_eq!(failure.step, "load");
        assert_eq!(failure.facts, [("user".to_owned(), "alice".to_owned())]);
        let ended = Cause::Ended(Some(ExitStatus::Exited { code: 3 }));
        let failure = report(&ended, Some("exec"), "");
        assert!(
            failure.summary.contains("exited with status 3"),
            "{}",
            failure.summary
        );
        let failure = report(&Cause::TimedOut(Duration::from_secs(90)), None, "");
        assert!(failure.summary.contains("within 90 seconds") && failure.step == "prepare");
    }

    #[test]
    fn steps_are_told_in_order_and_without_end_only_the_first() {
        let mut story = Story::default();
        for name in ["prepare", "exec", "load"] {
            story.began(name.into());
        }
        let names = |story: &Story| -> Vec<String> {
            let steps = story.steps(Instant::now());
            steps.into_iter().map(|step| step.name).collect()
        };
        assert_eq!(names(&story), ["prepare", "exec", "load"]);
        (0..1_000).for_each(|n| story.began(format!("s{n}")));
        assert_eq!(names(&story).len(), MAX_STEPS);
    }

    #[test]
    fn usual_mistakes_get_their_own_advice() {
        let ended = Cause::Ended(Some(ExitStatus::Exited { code: 1 }));
        let cases = [
            (
                "  File \"x.py\"\nSyntaxError: invalid syntax",
                "syntax error",
            ),
            (
                "ModuleNotFoundError: No module named 'flask'",
                "dependencies",
            ),
            ("Error: Cannot find module 'express'", "dependencies"),
            ("bye", "must not end by itself"),
        ];
        for (output, expected) in cases {
            let advice = report(&ended, Some("load"), output).advice;
            assert!(advice.contains(expected), "{output}: {advice}");
        }
        let exec = Cause::Said {
            step: "exec".into(),
            text: "no such file".into(),
        };
        assert!(report(&exec, Some("exec"), "").advice.contains("full path"));
        let slow = report(&Cause::TimedOut(Duration::from_secs(1)), Some("load"), "");
        assert!(slow.advice.contains("PassengerStartTimeout"));
    }

    #[test]
    fn an_app_that_prints_without_end_keeps_its_last_words() {
        let mut tail = Tail::default();
        for n in 0..10_000 {
            tail.push(&format!("line {n}"));
        }
        let text = tail.text();
        assert!(text.len() <= TAIL_BYTES && text.ends_with("line 9999\n"));
    }

    #[test]
    fn a_report_fits_a_message_whatever_the_app_printed() {
        let mut story = Story::default();
        let noise: String = "\u{1}é".repeat(5_000);
        (0..40).for_each(|n| story.fact(format!("k{n}"), noise.clone()));
        let said = Cause::Misspoke(noise.clone());
        for story in [&story, &Story::default()] {
            let failure = failure("id".into(), "app", &said, story, &noise.repeat(2), true);
            let bytes = passenger_shm::messages::encode(&failure).expect("fits");
            assert!(bytes.len() <= REPORT_BYTES && failure.id == "id");
        }
    }

    #[test]
    fn facts_are_bounded_and_updated() {
        let mut story = Story::default();
        for n in 0..1_000 {
            story.fact(format!("k{n}"), "v");
        }
        story.fact("k0", "new");
        assert_eq!(story.facts.len(), MAX_FACTS);
        assert_eq!(story.facts[0].1, "new");
    }
}
