//! Fuzzing of what apps and httpd's workers say to the agent, as `mod_passenger/src/fuzz` does it for the module:
//! some hundred inputs, or for as long as `PASSENGER_FUZZ_SECONDS` says (`tests/run/fuzz`).

use std::process::Command;
use std::time::{Duration, Instant};

use helper_agent::admin;
use helper_agent::apps::passengerfile;
use helper_agent::spawn::dialogue::{self, Lines, MAX_LINE_BYTES};
use helper_agent::spawn::report::{self, Cause, Story};
use passenger_shm::messages::{self, Hello, Question};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

fn fuzz<S: Strategy>(strategy: &S, check: impl Fn(S::Value) -> TestCaseResult) {
    let seconds = std::env::var("PASSENGER_FUZZ_SECONDS").unwrap_or_default();
    let time = Duration::from_secs(seconds.parse().unwrap_or(0));
    let (start, mut inputs) = (Instant::now(), 0_u64);
    loop {
        let config = Config {
            failure_persistence: None,
            ..Config::with_cases(256)
        };
        if let Err(finding) = TestRunner::new(config).run(strategy, &check) {
            panic!("after {inputs} inputs: {finding}");
        }
        inputs += 256;
        if start.elapsed() >= time {
            break;
        }
    }
    if !time.is_zero() {
        println!("{inputs} inputs in {:?}, no finding", start.elapsed());
    }
}

/// What a loader says, more or less.
fn said() -> impl Strategy<Value = Vec<u8>> {
    let line = "(step|info|error|ready|busy|leave|[a-z?]{1,9})( [a-z]{1,9}| concurrency=-?[0-9]{1,11}| protocol=(http|binary|x)\
                | [0-9]{1,22}|\\\\[nrx]|\\PC){0,6}";
    let noise = prop::collection::vec(any::<u8>(), 0..60);
    let line = prop_oneof![6 => line.prop_map(String::into_bytes), 1 => noise];
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.join(&b'\n'))
}

#[test]
fn fuzz_control_lines() {
    fuzz(&(said(), 1..200_usize), |(bytes, cut)| {
        let collect = |pieces: &mut dyn Iterator<Item = &[u8]>| -> Vec<String> {
            let mut lines = Lines::default();
            pieces
                .flat_map(|piece| lines.push(piece).unwrap_or_default())
                .collect()
        };
        let whole = collect(&mut std::iter::once(bytes.as_slice()));
        let cut = collect(&mut bytes.chunks(cut));
        prop_assert_eq!(&whole, &cut);
        for line in &whole {
            prop_assert!(line.len() <= 3 * MAX_LINE_BYTES);
            if let Err(sentence) = dialogue::parse(line) {
                prop_assert!(
                    sentence.starts_with("said ") && !sentence.contains('\n'),
                    "{sentence}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn fuzz_failure_reports() {
    let text = "(\\PC|\\p{Cc}|[ -~]){0,80}";
    fuzz(&(text, text, 1..60_usize), |(reason, output, times)| {
        let mut story = Story::default();
        story.began(reason.chars().take(40).collect());
        for n in 0..40 {
            story.fact(format!("k{n}"), reason.repeat(1 + times / 10));
        }
        let cause = Cause::Misspoke(reason);
        let failure = report::failure(
            "id".into(),
            "app",
            &cause,
            &story,
            &output.repeat(times),
            true,
        );
        prop_assert!(messages::encode(&failure).is_ok(), "does not fit a message");
        Ok(())
    });
}

#[test]
fn fuzz_messages_of_workers() {
    let valid = prop_oneof![
        Just(
            r#"{"number":1,"question":{"Register":{"generation":1,"chain":[1,2],"document_root":"/srv","base_uri":""}}}"#
                .to_owned()
        ),
        Just(r#"{"number":2,"question":{"WhySpawnFailed":{"group":1,"generation":2}}}"#.to_owned()),
        Just(r#"{"Worker":{}}"#.to_owned()),
    ];
    let damage = prop::collection::vec((any::<usize>(), "[\\[\\]{}\",:0-9a-z\\\\-]{0,3}"), 0..5);
    fuzz(
        &(valid, damage, 0..2000_usize),
        |(mut text, damage, nesting)| {
            for (at, new) in damage {
                let at = at % (text.len() + 1);
                text.insert_str(at, &new);
            }
            for text in [text.clone(), "[".repeat(nesting) + &text, text.repeat(3)] {
                if let Err(sentence) = messages::decode::<Question>(text.as_bytes()) {
                    prop_assert!(sentence.starts_with("not a message"), "{sentence}");
                }
                let _ = messages::decode::<Hello>(text.as_bytes());
            }
            Ok(())
        },
    );
}

/// From whoever may connect to the `admin` socket: every local user.
#[test]
fn fuzz_admin_questions() {
    let valid = prop_oneof![
        "[ -~]{0,40}".prop_map(|name| format!(r#"{{"restart_app":{{"name":"{name}"}}}}"#)),
        any::<i64>().prop_map(|pid| format!(r#"{{"detach_process":{{"pid":{pid}}}}}"#)),
    ];
    let damage = prop::collection::vec((any::<usize>(), "[\\[\\]{}\",:0-9a-z\\\\u-]{0,3}"), 0..5);
    fuzz(
        &(valid, damage, 0..2000_usize),
        |(mut text, damage, nesting)| {
            for (at, new) in damage {
                text.insert_str(at % (text.len() + 1), &new);
            }
            for text in [text.clone(), "{\"a\":".repeat(nesting) + &text] {
                let Ok(request) = messages::decode::<admin::Request>(text.as_bytes()) else {
                    continue;
                };
                let again = messages::encode(&request).map_err(TestCaseError::fail)?;
                prop_assert_eq!(messages::decode::<admin::Request>(&again), Ok(request));
            }
            Ok(())
        },
    );
}

/// A file of an app's user that root reads.
#[test]
fn fuzz_passengerfiles() {
    let value =
        "(\"[ -~&&[^\"\\\\]]{0,30}\"|-?[0-9]{1,20}|null|true|\\[[0-9,]{0,9}\\]|\\{\\}|\"\\\\u0000\")";
    let key = "(app_start_command|app_supports_kuria_protocol|[a-z_]{1,9})";
    let pair = (key, value).prop_map(|(key, value)| format!("\"{key}\": {value}"));
    let valid = prop::collection::vec(pair, 0..5).prop_map(|pairs| {
        let lines = pairs.join(",\n");
        format!("{{{lines}}}").into_bytes()
    });
    let damage = prop::collection::vec((any::<usize>(), any::<u8>()), 0..4);
    fuzz(&(valid, damage), |(mut text, damage)| {
        for (at, byte) in damage {
            let at = at % text.len();
            text[at] = byte;
        }
        match passengerfile::parse(&text) {
            Ok(None) => {}
            Ok(Some(command)) => {
                prop_assert!(!command.trim().is_empty() && !command.contains('\0'));
            }
            // Root read it: what is in it may be somebody's secret.
            Err(sentence) => prop_assert!(
                sentence.len() < 120 && sentence.is_ascii() && !sentence.contains('"'),
                "{sentence}"
            ),
        }
        Ok(())
    });
}

/// What a client sends over a WebSocket to an ASGI app is read by Python: a fuzzer in that language, run from here.
#[test]
fn fuzz_python_web_socket_frames() {
    let here = env!("CARGO_MANIFEST_DIR");
    let seconds = std::env::var("PASSENGER_FUZZ_SECONDS").unwrap_or_else(|_| "0".to_owned());
    let output = Command::new("/usr/bin/python3")
        .arg("-B")
        .arg(format!("{here}/tests/fixtures/fuzz_websocket_frames.py"))
        .arg(format!("{here}/loaders"))
        .arg(seconds)
        .output()
        .expect("run /usr/bin/python3");
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("no finding"),
        "{why}"
    );
}
