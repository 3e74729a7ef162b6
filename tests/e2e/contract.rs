//! The table of README.md, which says what is tested where, names tests that exist.

use harness::stage::repository;
use std::fs;

/// The name in every `` `module::name` `` of a text.
fn named(text: &str) -> Vec<&str> {
    let is_path = |word: &&str| {
        word.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b))
    };
    let paths = text.split('`').filter(is_path);
    let names = paths.filter_map(|path| path.split_once("::"));
    names.map(|(_, name)| name).collect()
}

#[test]
fn the_table_names_tests_that_exist() {
    let here = repository().join("tests/e2e");
    let table = fs::read_to_string(here.join("README.md")).expect("read the table");
    let files = fs::read_dir(&here).expect("read this directory");
    // In whichever module it is by now: moving a test is no lie about what is tested.
    let sources: String = files
        .filter_map(|file| fs::read_to_string(file.ok()?.path()).ok())
        .collect();
    let names = named(&table);
    assert!(names.len() > 100, "only {} tests are named", names.len());
    for name in names {
        assert!(
            sources.contains(&format!("fn {name}(")),
            "README.md names the test {name}, which is not there"
        );
    }
}
