//! Configurations before the one in use. httpd's workers of those generations are still answering their last
//! requests, and one may meet an app for the first time then; so documents are kept for as long as that is
//! likely, by the watchdog, too, for the agent's successor. Memory files: they cost nobody private memory.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Documents that are kept: as many gracefuls may a request outlast.
const KEPT: usize = 8;

/// The documents by generation.
#[derive(Debug, Default)]
pub struct Past(BTreeMap<u64, OwnedFd>);

impl Past {
    /// Adds the document of a generation that was replaced, and lets the oldest go if there are many.
    pub fn add(&mut self, generation: u64, document: OwnedFd) {
        self.0.insert(generation, document);
        while self.0.len() > KEPT {
            self.0.pop_first();
        }
    }

    /// The document of that generation.
    #[must_use]
    pub fn document(&self, generation: u64) -> Option<&OwnedFd> {
        self.0.get(&generation)
    }

    /// The oldest generation there is.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.0.keys().next().copied()
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.0
            .iter()
            .map(|(generation, document)| (*generation, document.as_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_there_are_many_and_nobody_is_there_twice() {
        let mut past = Past::default();
        let document = || crate::sys::memfd::with_contents(c"test", b"{}").unwrap();
        for generation in (1..=12).rev().chain([12]) {
            past.add(generation, document());
        }
        assert_eq!(past.iter().count(), KEPT);
        assert_eq!(past.oldest(), Some(5));
        assert!(past.document(12).is_some() && past.document(4).is_none());
    }
}
