//! The process word: one store of it publishes, drains or ends an app process for all workers. Lives in
//! `routes`; only the agent writes it.
//!
//! ```text
//!  63                    32 31          16 15        8 7      0
//! ┌────────────────────────┬──────────────┬───────────┬────────┐
//! │ generation             │ group index  │ state     │ flags  │
//! └────────────────────────┴──────────────┴───────────┴────────┘
//! flags: bit 0 = speaks HTTP, bit 1 = unlimited concurrency
//! ```
//!
//! Everything else about a process lies in plain atomics beside the word, written before the word says
//! `Live`. A reader takes the word, reads what it needs, and is right if the word is still the same.

use crate::params::{ProcessState, Protocol};
use crate::sync::{dekker, load_acquire, AtomicU64, Ordering};

/// One value of a process word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessWord(pub u64);

const HTTP: u64 = 1;
const UNLIMITED: u64 = 2;

impl ProcessWord {
    /// A word for a slot in use.
    #[must_use]
    pub fn new(generation: u32, group: u16, state: ProcessState) -> ProcessWord {
        ProcessWord(u64::from(generation) << 32 | u64::from(group) << 16).with_state(state)
    }

    /// A slot nobody uses, that remembers its generation.
    #[must_use]
    pub fn unused(generation: u32) -> ProcessWord {
        ProcessWord(u64::from(generation) << 32)
    }

    /// The same process in another state.
    #[must_use]
    pub fn with_state(self, state: ProcessState) -> ProcessWord {
        let state = match state {
            ProcessState::Starting => 1,
            ProcessState::Live => 2,
            ProcessState::Draining => 3,
            ProcessState::Dead => 4,
            ProcessState::Away => 5,
        };
        ProcessWord(self.0 & !0xff00 | state << 8)
    }

    /// The same process with what it speaks and whether it counts seats.
    #[must_use]
    pub fn with_flags(self, protocol: Protocol, unlimited: bool) -> ProcessWord {
        let http = if protocol == Protocol::Http { HTTP } else { 0 };
        let unlimited = if unlimited { UNLIMITED } else { 0 };
        ProcessWord(self.0 & !0xff | http | unlimited)
    }

    /// Generation of the slot.
    #[must_use]
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Index of its group.
    #[must_use]
    pub fn group(self) -> u32 {
        (self.0 >> 16 & 0xffff) as u32
    }

    /// State, or `None` if the slot is unused.
    #[must_use]
    pub fn state(self) -> Option<ProcessState> {
        match self.0 >> 8 & 0xff {
            1 => Some(ProcessState::Starting),
            2 => Some(ProcessState::Live),
            3 => Some(ProcessState::Draining),
            4 => Some(ProcessState::Dead),
            5 => Some(ProcessState::Away),
            _ => None,
        }
    }

    /// Whether it takes requests of that group.
    #[must_use]
    pub fn serves(self, group: u32) -> bool {
        self.state() == Some(ProcessState::Live) && self.group() == group
    }

    /// Whether it has a counter instead of seats.
    #[must_use]
    pub fn is_unlimited(self) -> bool {
        self.0 & UNLIMITED != 0
    }

    /// What it speaks.
    #[must_use]
    pub fn protocol(self) -> Protocol {
        if self.0 & HTTP == 0 {
            Protocol::Binary
        } else {
            Protocol::Http
        }
    }
}

/// Reads the word and with it everything written before it.
#[must_use]
pub fn look(word: &AtomicU64) -> ProcessWord {
    // PAIR(publish)
    ProcessWord(load_acquire(word))
}

/// The worker's half of "take vs retire": called after its seat is in the table, says whether the process
/// is still what it was when it was chosen.
#[must_use]
pub fn still(word: &AtomicU64, chosen: ProcessWord) -> bool {
    // PAIR(retire): either we see the new state here, or the agent's look at the seats sees ours.
    dekker();
    look(word) == chosen
}

/// The agent's half: stores the new state. Whoever takes a seat and does not see it is visible in the
/// seats that the agent reads next.
pub fn set(word: &AtomicU64, to: ProcessWord) {
    // Release, PAIR(publish): what was written beside the word comes with it.
    word.store(to.0, Ordering::Release);
    // PAIR(retire): see `still`.
    dekker();
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives() {
        for state in [
            ProcessState::Starting,
            ProcessState::Live,
            ProcessState::Draining,
            ProcessState::Dead,
            ProcessState::Away,
        ] {
            for (protocol, unlimited) in [(Protocol::Http, false), (Protocol::Binary, true)] {
                let word =
                    ProcessWord::new(u32::MAX, 0xfffe, state).with_flags(protocol, unlimited);
                assert_eq!(word.generation(), u32::MAX);
                assert_eq!(word.group(), 0xfffe);
                assert_eq!(word.state(), Some(state));
                assert_eq!(word.protocol(), protocol);
                assert_eq!(word.is_unlimited(), unlimited);
                assert_eq!(word.serves(0xfffe), state == ProcessState::Live);
                assert!(!word.serves(1));
            }
        }
        assert_eq!(ProcessWord(0).state(), None);
        assert_eq!(ProcessWord::unused(7).state(), None);
        assert_eq!(ProcessWord(0xff00).state(), None);
    }
}
