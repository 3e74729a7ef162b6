//! `PassengerLoadShellEnvvars`: the user's login shell reads its profile and then becomes the interpreter, so
//! that what the user set up there (`PATH` of a version manager, `LANG`) holds for the app, too.
//!
//! What a profile changes of the contract or of the administrator's variables is changed back, and so are
//! directory and umask. Values travel in variables of their own, never in the command line, which everybody
//! can read.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::order::SpawnOrder;

/// Shells that know `-lc` and read a profile of variables.
const SHELLS: [&str; 5] = ["bash", "zsh", "ksh", "sh", "dash"];
/// Begins the names of variables that keep a value over the profile.
const KEPT: &str = "PASSENGER_KEPT_";

/// Whether that shell can be asked for its variables.
#[must_use]
pub fn is_usable(shell: &Path) -> bool {
    let name = shell.file_name().and_then(OsStr::to_str);
    shell.is_absolute() && name.is_some_and(|name| SHELLS.contains(&name))
}

/// A command to execute.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// The shell.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<PathBuf>,
    /// Its environment.
    pub environment: Vec<(String, String)>,
}

/// The order's command, through the order's shell.
#[must_use]
pub fn wrap(order: &SpawnOrder, shell: &Path) -> Wrapped {
    let mut script = String::new();
    let mut environment = Vec::new();
    for (number, (name, value)) in order.environment.iter().enumerate() {
        environment.push((name.clone(), value.clone()));
        if order.kept.contains(name) && is_identifier(name) {
            environment.push((format!("{KEPT}{number}"), value.clone()));
            let _ = write!(
                script,
                "export {name}=\"${KEPT}{number}\"; unset {KEPT}{number}; "
            );
        }
    }
    script.push_str("cd -- \"$1\" && shift && umask 022 && exec \"$@\"");
    let mut arguments = vec!["-lc".into(), script.into(), "passenger".into()];
    arguments.push(order.app_root.clone());
    arguments.push(order.program.clone());
    arguments.extend(order.arguments.iter().cloned());
    Wrapped {
        program: shell.to_path_buf(),
        arguments,
        environment,
    }
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn order(home: &Path) -> SpawnOrder {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        SpawnOrder {
            identity: None,
            app_root: home.to_path_buf(),
            startup_file: Some(home.join("config.ru")),
            has_loader: true,
            program: "/usr/bin/env".into(),
            directive: "PassengerRuby".into(),
            arguments: vec![],
            environment: vec![
                pair("HOME", home.to_str().unwrap()),
                pair("PATH", "/usr/bin:/bin"),
                pair("SECRET", "it's \"$HOME\" `id` \\ é"),
                pair("NOT-A-NAME", "x"),
            ],
            preloads: false,
            login_shell: None,
            kept: vec!["HOME".into(), "SECRET".into(), "NOT-A-NAME".into()],
        }
    }

    #[test]
    fn a_profile_adds_variables_and_cannot_change_what_must_stay() {
        let home = std::env::temp_dir().join(format!("psgr-shell-{}", std::process::id()));
        std::fs::create_dir_all(&home).unwrap();
        let profile = "export FROM_PROFILE=yes PATH=/opt/mine:$PATH HOME=/elsewhere SECRET=lost\ncd /\numask 077\n";
        for file in [".profile", ".bash_profile", ".zprofile"] {
            std::fs::write(home.join(file), profile).unwrap();
        }
        let mut tried = 0;
        for shell in ["/bin/bash", "/bin/sh", "/bin/dash", "/bin/zsh", "/bin/ksh"] {
            let shell = Path::new(shell);
            if !shell.exists() {
                continue;
            }
            assert!(is_usable(shell));
            let mut order = order(&home);
            order.program = "/bin/sh".into();
            order.arguments = vec!["-c".into(), "env; echo CWD=$(pwd) UMASK=$(umask)".into()];
            let wrapped = wrap(&order, shell);
            assert!(
                !wrapped
                    .arguments
                    .iter()
                    .any(|a| a.to_str().unwrap().contains("it's")),
                "a value is in the command line"
            );
            let output = Command::new(&wrapped.program)
                .args(&wrapped.arguments)
                .env_clear()
                .envs(wrapped.environment.iter().map(|(n, v)| (n, v)))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let has = |line: &str| text.lines().any(|l| l == line);
            assert!(has("FROM_PROFILE=yes"), "{shell:?}: {text}");
            assert!(text.contains("PATH=/opt/mine:"), "{shell:?}: {text}");
            assert!(
                has(&format!("HOME={}", home.display())),
                "{shell:?}: {text}"
            );
            assert!(has("SECRET=it's \"$HOME\" `id` \\ é"), "{shell:?}: {text}");
            assert!(
                has(&format!("CWD={} UMASK=0022", home.display())),
                "{shell:?}: {text}"
            );
            assert!(!text.contains(KEPT), "{shell:?}: {text}");
            tried += 1;
        }
        std::fs::remove_dir_all(&home).unwrap();
        assert!(tried > 0, "this system has no shell");
    }

    #[test]
    fn shells_that_are_none_are_not_asked() {
        for no in [
            "/usr/sbin/nologin",
            "/bin/false",
            "/bin/sync",
            "bash",
            "/usr/bin/fish",
            "",
        ] {
            assert!(!is_usable(Path::new(no)), "{no}");
        }
    }
}
