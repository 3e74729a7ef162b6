//! The lines of a control socket (`docs/protocols.md`, section 4). The peer is an app process and counts
//! as hostile: lines are bounded, numbers checked, unknown words refused.

use std::fmt::Write as _;

/// Longest line, terminator included.
pub const MAX_LINE_BYTES: usize = 8 * 1024;

/// Which protocol an app process speaks on its request socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// Our framing (Ruby, Python).
    Binary,
    /// HTTP/1.1 (Node).
    Http,
}

/// What a process said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// That step has begun.
    Step(String),
    /// A fact for the failure report.
    Info(String, String),
    /// That step failed, for this reason.
    Error(String, String),
    /// It takes requests.
    Ready {
        /// Requests at once; 0 = unlimited.
        concurrency: u32,
        /// What it speaks.
        speaks: Speaks,
    },
    /// Answer to [`ask_busy`].
    Busy {
        /// The token of the question.
        token: u64,
        /// Numbers of the requests in execution.
        numbers: Vec<u64>,
    },
    /// A response asked for out-of-band work.
    WorkWanted,
    /// It has done the work of that token, see [`work`].
    WorkDone(u64),
    /// It wants no more requests.
    Leave,
    /// A preloader has loaded the app and waits to be asked to fork.
    Preloaded,
}

/// Reads one line without its terminator.
///
/// # Errors
/// When it is none of the contract's lines; a sentence that quotes it.
pub fn parse(line: &str) -> Result<Said, String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let said = match word {
        "step" if is_word(rest) => Some(Said::Step(rest.to_owned())),
        "info" => rest
            .split_once(' ')
            .filter(|(key, _)| is_word(key))
            .map(|(key, value)| Said::Info(key.to_owned(), unescape(value))),
        "error" => rest
            .split_once(' ')
            .filter(|(step, _)| is_word(step))
            .map(|(step, text)| Said::Error(step.to_owned(), unescape(text))),
        "ready" => ready(rest),
        "busy" => busy(rest),
        "work-wanted" if rest.is_empty() => Some(Said::WorkWanted),
        "work-done" => rest.parse().ok().map(Said::WorkDone),
        "leave" if rest.is_empty() => Some(Said::Leave),
        "preloaded" if rest.is_empty() => Some(Said::Preloaded),
        _ => None,
    };
    said.ok_or_else(|| {
        let start: String = line.chars().take(80).collect();
        format!("said {start:?} on its control socket, which is not part of the protocol")
    })
}

fn is_word(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    !text.is_empty() && text.len() <= 40 && text.chars().all(is_plain)
}

fn ready(rest: &str) -> Option<Said> {
    let (mut concurrency, mut speaks) = (None, None);
    for pair in rest.split_ascii_whitespace() {
        match pair.split_once('=')? {
            ("concurrency", number) => concurrency = Some(number.parse().ok()?),
            ("protocol", "binary") => speaks = Some(Speaks::Binary),
            ("protocol", "http") => speaks = Some(Speaks::Http),
            ("protocol", _) => return None,
            _ => {}
        }
    }
    Some(Said::Ready {
        concurrency: concurrency?,
        speaks: speaks?,
    })
}

fn busy(rest: &str) -> Option<Said> {
    let mut words = rest.split_ascii_whitespace();
    let token = words.next()?.parse().ok()?;
    let numbers: Result<Vec<u64>, _> = words.map(str::parse).collect();
    Some(Said::Busy {
        token,
        numbers: numbers.ok()?,
    })
}

/// "You are in the store, proceed."
#[must_use]
pub fn go() -> &'static str {
    "go\n"
}

/// To a preloader: "fork a process that takes over the descriptors that come with this".
#[must_use]
pub fn fork() -> &'static str {
    "fork\n"
}

/// "Finish what you were sent, then exit."
#[must_use]
pub fn stop() -> &'static str {
    "stop\n"
}

/// "Which requests are you executing?"
#[must_use]
pub fn ask_busy(token: u64) -> String {
    format!("busy? {token}\n")
}

/// "No requests come until you are back: do your out-of-band work."
#[must_use]
pub fn work(token: u64) -> String {
    format!("work {token}\n")
}

/// The shim's side: a step begins.
#[must_use]
pub fn step(name: &str) -> String {
    format!("step {name}\n")
}

/// The shim's side: a fact.
#[must_use]
pub fn info(key: &str, value: &str) -> String {
    bounded(format!("info {key} {}", escape(value)))
}

/// The shim's side: a step failed.
#[must_use]
pub fn error(step: &str, text: &str) -> String {
    bounded(format!("error {step} {}", escape(text)))
}

fn bounded(mut line: String) -> String {
    let mut end = line.len().min(MAX_LINE_BYTES - 1);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    let _ = writeln!(line);
    line
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('n') => out.push('\n'),
                Some('r') => out.push('\r'),
                Some(other) => out.push(other),
                None => {}
            },
            (other, false) => out.push(other),
        }
    }
    out
}

/// Puts the bytes of a stream together to lines.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    /// Takes what arrived and gives the complete lines.
    ///
    /// # Errors
    /// When a line gets longer than [`MAX_LINE_BYTES`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, String> {
        self.buffer.extend_from_slice(bytes);
        let mut lines = Vec::new();
        let mut start = 0;
        while let Some(length) = self.buffer[start..].iter().position(|byte| *byte == b'\n') {
            let line = &self.buffer[start..start + length];
            lines.push(String::from_utf8_lossy(line).into_owned());
            start += length + 1;
        }
        self.buffer.drain(..start);
        if self.buffer.len() >= MAX_LINE_BYTES {
            return Err("sent an endless line on its control socket".to_owned());
        }
        if self.buffer.is_empty() {
            // Most processes say nothing for hours.
            self.buffer = Vec::new();
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lines_of_the_contract() {
        assert_eq!(parse("step load"), Ok(Said::Step("load".into())));
        assert_eq!(
            parse(r"error load line 3:\nno \\such thing"),
            Ok(Said::Error(
                "load".into(),
                "line 3:\nno \\such thing".into()
            ))
        );
        let ready = Said::Ready {
            concurrency: 0,
            speaks: Speaks::Http,
        };
        assert_eq!(
            parse("ready concurrency=0 protocol=http later=ignored"),
            Ok(ready)
        );
        assert_eq!(
            parse("busy 7"),
            Ok(Said::Busy {
                token: 7,
                numbers: vec![]
            })
        );
        let numbers = vec![4_294_967_296, 3];
        assert_eq!(
            parse("busy 7 4294967296 3"),
            Ok(Said::Busy { token: 7, numbers })
        );
        assert_eq!(parse("leave"), Ok(Said::Leave));
        assert_eq!(parse("work-wanted"), Ok(Said::WorkWanted));
        assert_eq!(parse("work-done 12"), Ok(Said::WorkDone(12)));
        assert_eq!(parse("preloaded"), Ok(Said::Preloaded));
    }

    #[test]
    fn what_is_not_in_the_contract_is_refused_with_a_quote() {
        for line in [
            "",
            "ready",
            "ready concurrency=-1 protocol=binary",
            "ready concurrency=1",
            "step",
            "step a b",
            "busy",
            "busy x",
            "busy 1 x",
            "leave now",
            "work-wanted now",
            "work-done",
            "work-done x",
            "preloaded twice",
            "error",
            "info k",
            "ready concurrency=1 protocol=x",
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
        assert!(parse("quatsch\u{7}")
            .unwrap_err()
            .contains(r#""quatsch\u{7}""#));
    }

    #[test]
    fn pieces_become_lines_and_endless_ones_an_error() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"step lo"), Ok(vec![]));
        assert_eq!(
            lines.push(b"ad\nleave\nst"),
            Ok(vec!["step load".into(), "leave".into()])
        );
        assert!(lines.push(&[b'x'; MAX_LINE_BYTES]).is_err());
    }

    proptest! {
        #[test]
        fn texts_survive_the_line(text in any::<String>()) {
            prop_assume!(text.len() < 2_000);
            let line = error("load", &text);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(
                parse(line.trim_end_matches('\n')),
                Ok(Said::Error("load".into(), text))
            );
        }

        #[test]
        fn no_line_is_too_long_and_no_line_panics(text in any::<String>(), n in 1usize..30_000) {
            prop_assert!(info("k", &text.repeat(n.min(9_000))).len() <= MAX_LINE_BYTES);
            let _ = parse(&text);
        }
    }
}
