//! Fuzzing: one target per parser of bytes that come from an app or a client. Each is an ordinary test of some hundred
//! inputs, and runs for as long as wanted with `PASSENGER_FUZZ_SECONDS` (`tests/run/fuzz` runs all, one by one).
//!
//! Inputs are valid messages with random damage, which come further than random bytes; what is checked is what the
//! module's callers rely on, beside "no panic".

mod apps;
mod clients;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use std::time::{Duration, Instant};

/// Inputs between two looks at the clock.
const ROUND: u32 = 256;

/// Checks one round of inputs, and more until the wanted time is over.
fn fuzz<S: Strategy>(strategy: &S, check: impl Fn(S::Value) -> TestCaseResult) {
    let seconds = std::env::var("PASSENGER_FUZZ_SECONDS").unwrap_or_default();
    let time = Duration::from_secs(seconds.parse().unwrap_or(0));
    let (start, mut inputs) = (Instant::now(), 0_u64);
    loop {
        let config = Config {
            cases: ROUND,
            failure_persistence: None,
            ..Config::default()
        };
        // Seeded anew each time; a failure prints its input, made as small as possible.
        if let Err(finding) = TestRunner::new(config).run(strategy, &check) {
            panic!("after {inputs} inputs: {finding}");
        }
        inputs += u64::from(ROUND);
        if start.elapsed() >= time {
            break;
        }
    }
    if !time.is_zero() {
        println!("{inputs} inputs in {:?}, no finding", start.elapsed());
    }
}

/// A change to a message.
#[derive(Debug, Clone)]
enum Damage {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
    Cut(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    // Bytes that mean something to one of the parsers come more often than others.
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(&b"\0\r\n \t:;,=/%\"0123456789abcdefABCDEF\x7f\x80\xff"[..]),
    ];
    let bytes = prop::collection::vec(byte.clone(), 1..8);
    prop_oneof![
        4 => (any::<usize>(), byte).prop_map(|(at, byte)| Damage::Set(at, byte)),
        3 => (any::<usize>(), bytes).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        2 => (any::<usize>(), 1..40_usize).prop_map(|(at, n)| Damage::Remove(at, n)),
        1 => (any::<usize>(), 1..2000_usize).prop_map(|(at, n)| Damage::Repeat(at, n)),
        1 => any::<usize>().prop_map(Damage::Cut),
    ]
}

impl Damage {
    fn to(&self, bytes: &mut Vec<u8>) {
        let place = |at: usize| at % (bytes.len() + 1);
        match self {
            Damage::Set(at, byte) if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] = *byte;
            }
            Damage::Set(..) => {}
            Damage::Insert(at, more) => {
                let at = place(*at);
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Remove(at, n) => {
                let at = place(*at);
                let end = bytes.len().min(at + n);
                bytes.drain(at..end);
            }
            Damage::Repeat(at, n) => {
                let at = place(*at);
                let end = bytes.len().min(at + 16);
                let part = bytes[at..end].repeat(*n);
                bytes.splice(at..at, part);
            }
            Damage::Cut(at) => bytes.truncate(place(*at)),
        }
    }
}

/// Messages of that kind, whole, damaged, or nothing but noise.
fn damaged(valid: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damages = prop::collection::vec(damage(), 0..6);
    let broken = (valid, damages).prop_map(|(mut bytes, damages)| {
        damages.iter().for_each(|damage| damage.to(&mut bytes));
        bytes
    });
    prop_oneof![15 => broken, 1 => prop::collection::vec(any::<u8>(), 0..400)]
}

/// Where to cut a stream into pieces.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..200_usize, 1..8)
}

/// The pieces of a stream, cut after so many bytes, round and round.
fn pieces<'a>(bytes: &'a [u8], cuts: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    std::iter::from_fn(move || {
        let n = rest.len().min(*cuts.next()?);
        let (piece, later) = rest.split_at(n);
        rest = later;
        (!piece.is_empty()).then_some(piece)
    })
}
