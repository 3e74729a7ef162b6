//! Vocabulary of the end-to-end tests.
