//! Where a process that crashed left its memory, in a sentence for the log. The kernel decides
//! (`/proc/sys/kernel/core_pattern`, core(5)): a program, a place for all of the machine, or the directory in which
//! the process was, which is its app's root unless it went elsewhere.

use std::fs;
use std::path::Path;

/// What the log says about the core file of a process that had been started in `directory`.
pub(super) fn sentence(pid: i32, directory: &Path) -> String {
    let read = |name: &str| {
        let text = fs::read_to_string(Path::new("/proc/sys/kernel").join(name));
        text.map(|text| text.trim_end_matches('\n').to_owned())
    };
    match read("core_pattern") {
        Ok(pattern) => place(
            &pattern,
            read("core_uses_pid").is_ok_and(|n| n.trim() != "0"),
            pid,
            directory,
        ),
        Err(e) => format!("where its core file is the kernel does not say: {e}"),
    }
}

fn place(pattern: &str, uses_pid: bool, pid: i32, directory: &Path) -> String {
    if let Some(program) = pattern.strip_prefix('|') {
        let program = program.split_ascii_whitespace().next().unwrap_or_default();
        return format!("the system handed its core to {program}");
    }
    let name = expanded(pattern, uses_pid, pid);
    if name.starts_with('/') {
        return format!("its core file is {name}");
    }
    let path = directory.join(name);
    format!(
        "its core file is {}, unless it had changed its directory",
        path.display()
    )
}

/// The pattern with what is known of this process; the rest stays as it is, for the reader to know.
fn expanded(pattern: &str, uses_pid: bool, pid: i32) -> String {
    let pattern = if pattern.is_empty() { "core" } else { pattern };
    let mut name = String::new();
    let mut characters = pattern.chars();
    let mut has_pid = false;
    while let Some(c) = characters.next() {
        match (c, c == '%') {
            (c, false) => name.push(c),
            (_, true) => match characters.next() {
                Some('p' | 'P') => {
                    name += &pid.to_string();
                    has_pid = true;
                }
                Some('%') => name.push('%'),
                Some(other) => name.extend(['%', other]),
                None => {}
            },
        }
    }
    if uses_pid && !has_pid {
        name += &format!(".{pid}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_patterns() {
        let root = Path::new("/srv/app");
        let place = |pattern, uses_pid| place(pattern, uses_pid, 7, root);
        let here =
            |name| format!("its core file is /srv/app/{name}, unless it had changed its directory");
        assert_eq!(place("core", false), here("core"));
        assert_eq!(place("core", true), here("core.7"));
        assert_eq!(place("core.%p", true), here("core.7"));
        assert_eq!(place("", true), here("core.7"));
        assert_eq!(place("%e-100%%-%p", false), here("%e-100%-7"));
        assert_eq!(
            place("/var/crash/%p", false),
            "its core file is /var/crash/7"
        );
        assert_eq!(
            place("|/usr/share/apport/apport -p%p", false),
            "the system handed its core to /usr/share/apport/apport"
        );
    }
}
