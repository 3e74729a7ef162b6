//! The checks of `passenger-config validate`: installation, httpd and its configuration, interpreters,
//! running instances.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::registry;
use super::validate::{Finding, Level};
use crate::apps::{DEFAULT_PATH, TYPES};
use crate::sys::process::effective_uid;

/// The directory that Debian's httpd needs variables from.
const DEBIAN_VARIABLES: &str = "/etc/apache2/envvars";

/// Which httpd, with which configuration.
#[derive(Debug)]
pub(super) struct Httpd {
    pub(super) program: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
}

/// All files there, whole, and nobody's but root's.
pub(super) fn installed_tree(prefix: &Path) -> Finding {
    let check = "whether the installation is complete";
    let mut wanted = vec![
        ("libexec/passenger-watchdog".to_owned(), true),
        ("libexec/passenger-helper-agent".to_owned(), true),
        ("modules/mod_passenger.so".to_owned(), false),
        ("share/passenger/loaders".to_owned(), false),
    ];
    let loaders = TYPES
        .iter()
        .filter_map(|kind| kind.loader)
        .map(|loader| format!("share/passenger/loaders/{loader}"));
    wanted.extend(loaders.map(|loader| (loader, false)));
    let mut problems = Vec::new();
    for (file, must_execute) in wanted {
        let path = prefix.join(file);
        problems.extend(problem_with(&path, must_execute));
    }
    if problems.is_empty() {
        return Finding::new(check, Level::Ok, format!("in {}", prefix.display()));
    }
    problems.push("Install it again (make install), as root.".to_owned());
    Finding::new(check, Level::Error, problems.join("\n"))
}

fn problem_with(path: &Path, must_execute: bool) -> Option<String> {
    let shown = path.display();
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) => return Some(format!("{shown} cannot be looked at: {e}")),
    };
    let mode = meta.permissions().mode();
    if must_execute && mode & 0o111 == 0 {
        return Some(format!("{shown} is not executable"));
    }
    // Root runs these files.
    if effective_uid() == 0 && (meta.uid() != 0 || mode & 0o022 != 0) {
        return Some(format!(
            "{shown} can be changed by others than root (owner {}, mode {:04o})",
            meta.uid(),
            mode & 0o7777
        ));
    }
    None
}

/// Tools of another installation in `PATH` would look at this one's instances.
pub(super) fn other_installations(prefix: &Path) -> Finding {
    let check = "whether there are no other Passenger installations in PATH";
    let own = prefix.join("bin/passenger").canonicalize().ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut others: Vec<String> = std::env::split_paths(&path)
        .flat_map(|directory| {
            ["passenger-status", "passenger-config"].map(|tool| directory.join(tool))
        })
        .filter(|tool| tool.is_file() && tool.canonicalize().ok() != own)
        .map(|tool| tool.display().to_string())
        .collect();
    others.dedup();
    if others.is_empty() {
        return Finding::new(check, Level::Ok, "");
    }
    let text = format!(
        "Found {}.\nTheir tools do not understand this one's instances: remove them, or call the tools by \
         their full path.",
        others.join(", ")
    );
    Finding::new(check, Level::Warning, text)
}

/// httpd: there, configured, with this module.
pub(super) fn httpd(httpd: &Httpd, prefix: &Path) -> Vec<Finding> {
    let found = find_httpd(httpd);
    let there = Finding::of(
        "whether Apache httpd is installed",
        found
            .as_ref()
            .map(|p| p.display().to_string())
            .map_err(Clone::clone),
    );
    let Ok(program) = found else {
        return vec![there];
    };
    let run = |arguments: &[&str]| run_httpd(&program, httpd.config.as_deref(), arguments);
    let syntax = run(&["-t"]).map(|_| String::new()).map_err(|text| {
        format!(
            "{program} -t says:\n{}",
            text.trim(),
            program = program.display()
        )
    });
    let loaded = which_module(&run, prefix);
    if effective_uid() != 0 && httpd.config.is_none() && syntax.is_err() {
        let text = "httpd's own configuration can only be checked by root (keys, logs): not done.";
        let check = "whether httpd accepts its configuration";
        return vec![there, Finding::new(check, Level::Note, text)];
    }
    vec![
        there,
        Finding::of("whether httpd accepts its configuration", syntax),
        Finding::of(
            "whether the Passenger module is correctly configured in Apache",
            loaded,
        ),
    ]
}

pub(super) fn find_httpd(httpd: &Httpd) -> Result<PathBuf, String> {
    if let Some(program) = &httpd.program {
        return if program.is_file() {
            Ok(program.clone())
        } else {
            Err(format!("{} is not a file", program.display()))
        };
    }
    look_up(&["apache2", "httpd"]).ok_or_else(|| {
        "Neither apache2 nor httpd was found.\nInstall it (Debian: apt install apache2), or say where it is \
         with --httpd."
            .to_owned()
    })
}

/// The `PATH` that httpd most likely has: root's is that of the system, whatever root's shell says.
pub(super) fn path_of_httpd() -> OsString {
    match std::env::var_os("PATH") {
        Some(path) if effective_uid() != 0 => path,
        _ => DEFAULT_PATH.into(),
    }
}

/// The first of these programs in httpd's `PATH` or the usual directories.
fn look_up(names: &[&str]) -> Option<PathBuf> {
    let path = path_of_httpd();
    let directories: Vec<PathBuf> = std::env::split_paths(&path)
        .chain(std::env::split_paths(DEFAULT_PATH))
        .collect();
    let places = names
        .iter()
        .flat_map(|name| directories.iter().map(move |d| d.join(name)));
    places.filter(|place| place.is_absolute()).find(|place| {
        fs::metadata(place).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// Runs httpd to its end; the error is what it printed.
fn run_httpd(program: &Path, config: Option<&Path>, arguments: &[&str]) -> Result<String, String> {
    let is_debians = program.ends_with("apache2") && Path::new(DEBIAN_VARIABLES).is_file();
    let mut command = if is_debians {
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", &format!(". {DEBIAN_VARIABLES} && exec \"$0\" \"$@\"")])
            .arg(program);
        shell
    } else {
        Command::new(program)
    };
    if let Some(config) = config {
        command.arg("-f").arg(config);
    }
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("cannot run {}: {e}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(text.into_owned())
    } else {
        Err(text.into_owned())
    }
}

/// Whether `LoadModule` names this installation's module, once.
fn which_module(
    run: &dyn Fn(&[&str]) -> Result<String, String>,
    prefix: &Path,
) -> Result<String, String> {
    let module = prefix.join("modules/mod_passenger.so");
    let line = format!("LoadModule passenger_module {}", module.display());
    let modules = run(&["-M"]).map_err(|text| {
        let first = text.lines().next().unwrap_or("nothing").to_owned();
        format!("httpd does not list its modules: {first}")
    })?;
    if !modules.contains("passenger_module") {
        return Err(format!(
            "It is not loaded. Add this line to httpd's configuration:\n  {line}"
        ));
    }
    // Since httpd 2.4.24; without it there is nothing more to compare.
    let Ok(files) = run(&["-t", "-D", "DUMP_INCLUDES"]) else {
        return Ok(String::new());
    };
    let root = run(&["-V"])
        .ok()
        .and_then(|text| quoted(&text, "HTTPD_ROOT="));
    let root = PathBuf::from(root.unwrap_or_default());
    let named: Vec<PathBuf> = configuration_files(&files)
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| modules_in(&text))
        .map(|path| root.join(path))
        .collect();
    let own = module.canonicalize().unwrap_or(module);
    let is_own = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path == own);
    match named.iter().find(|path| !is_own(path)) {
        Some(other) => Err(format!(
            "LoadModule names another module, {}.\nReplace that line by:\n  {line}",
            other.display()
        )),
        None => Ok(own.display().to_string()),
    }
}

/// Lines like `(3) /etc/apache2/conf.d/x.conf` and `(*) /etc/apache2/apache2.conf`.
fn configuration_files(dump: &str) -> Vec<PathBuf> {
    let paths = dump.lines().filter_map(|line| {
        let line = line.trim();
        let rest = line.strip_prefix('(')?;
        Some(PathBuf::from(rest.split_once(')')?.1.trim()))
    });
    paths.collect()
}

fn modules_in(configuration: &str) -> Vec<PathBuf> {
    let lines = configuration.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let is_it =
            words.next()?.eq_ignore_ascii_case("LoadModule") && words.next()? == "passenger_module";
        let path = words.next()?.trim_matches('"');
        is_it.then(|| PathBuf::from(path))
    });
    lines.collect()
}

/// `-D HTTPD_ROOT="/etc/apache2"` → `/etc/apache2`.
fn quoted(text: &str, key: &str) -> Option<String> {
    let (_, rest) = text.split_once(key)?;
    let (_, rest) = rest.split_once('"')?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

/// Which languages can be served. One is enough.
pub(super) fn interpreters() -> Vec<Finding> {
    let languages: [(&str, &[&str], &str); 3] = [
        ("Ruby", &["ruby"], "PassengerRuby"),
        ("Python", &["python3", "python"], "PassengerPython"),
        ("Node.js", &["node", "nodejs"], "PassengerNodejs"),
    ];
    let mut has_any = false;
    let mut findings: Vec<Finding> = languages
        .iter()
        .map(|(language, programs, directive)| {
            let check = format!("whether {language} apps can be run");
            match look_up(programs).map(|program| (version(&program), program)) {
                Some((Ok(version), program)) => {
                    has_any = true;
                    let text = format!("{version} ({})", program.display());
                    Finding::new(&check, Level::Ok, text)
                }
                Some((Err(problem), program)) => {
                    let text = format!("{} --version fails: {problem}", program.display());
                    Finding::new(&check, Level::Warning, text)
                }
                None => {
                    let text = format!(
                        "{} was not found; such apps need {directive} with its full path.",
                        programs[0]
                    );
                    Finding::new(&check, Level::Note, text)
                }
            }
        })
        .collect();
    if !has_any {
        let text = "There is no interpreter at all: no app can be run.";
        let check = "whether any app can be run";
        findings.push(Finding::new(check, Level::Error, text));
    }
    findings
}

fn version(program: &Path) -> Result<String, String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or_default().trim().to_owned();
    if output.status.success() {
        Ok(first)
    } else {
        Err(output.status.to_string())
    }
}

/// What runs now: its agent, and whether it is this version.
pub(super) fn instances() -> Finding {
    let check = "whether a running instance is well";
    let found = registry::all();
    if found.is_empty() {
        return Finding::new(check, Level::Note, "No instance is running.");
    }
    let mut details = Vec::new();
    let mut level = Level::Ok;
    for instance in &found {
        let version = instance
            .properties
            .as_ref()
            .map_or("?", |p| p.version.as_str());
        let name = &instance.name;
        details.push(format!(
            "{name}: {} (version {version})",
            instance.software()
        ));
        if version != env!("CARGO_PKG_VERSION") {
            level = level_of(level, Level::Warning);
            details.push(format!(
                "{name} runs another version than this tool's {}: restart httpd to update it.",
                env!("CARGO_PKG_VERSION")
            ));
        }
        match super::client::status(instance) {
            Ok(report) if report.agent.is_ready => {}
            Ok(_) => {
                level = level_of(level, Level::Warning);
                details.push(format!(
                    "{name}: its helper agent is not ready; see httpd's error log."
                ));
            }
            Err(failure) => {
                level = Level::Error;
                details.push(format!("{name}: {}", failure.message));
            }
        }
    }
    Finding::new(check, level, details.join("\n"))
}

fn level_of(one: Level, other: Level) -> Level {
    if one == Level::Error {
        one
    } else {
        other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_lines_are_found_whatever_their_dress() {
        let text = "# LoadModule passenger_module /no\n loadmodule passenger_module \"/a/m.so\"\n\
                    LoadModule other_module /x.so\nLoadModule passenger_module modules/m.so\n";
        let expected = ["/a/m.so", "modules/m.so"].map(PathBuf::from);
        assert_eq!(modules_in(text), expected);
        let dump = "Included configuration files:\n  (*) /etc/a.conf\n    (146) /etc/b c.load\n";
        assert_eq!(
            configuration_files(dump),
            ["/etc/a.conf", "/etc/b c.load"].map(PathBuf::from)
        );
        assert_eq!(
            quoted(" -D HTTPD_ROOT=\"/etc/x\"\n", "HTTPD_ROOT="),
            Some("/etc/x".into())
        );
    }

    #[test]
    fn a_module_of_another_installation_is_an_error_that_says_what_to_write() {
        let config = std::env::temp_dir().join(format!("passenger-checks-{}", std::process::id()));
        fs::write(
            &config,
            "LoadModule passenger_module /elsewhere/mod_passenger.so\n",
        )
        .unwrap();
        let run = |arguments: &[&str]| match arguments[0] {
            "-M" => Ok("passenger_module (shared)\n".to_owned()),
            "-V" => Ok(String::new()),
            _ => Ok(format!("(*) {}\n", config.display())),
        };
        let wrong = which_module(&run, Path::new("/opt/passenger")).unwrap_err();
        let _ = fs::remove_file(&config);
        assert!(wrong.contains("/elsewhere/"), "{wrong}");
        assert!(
            wrong.contains("LoadModule passenger_module /opt/passenger/modules"),
            "{wrong}"
        );
        let absent = which_module(&|_| Ok(String::new()), Path::new("/opt/passenger"));
        assert!(absent.unwrap_err().contains("not loaded"));
    }

    #[test]
    fn an_incomplete_installation_is_named_file_by_file() {
        let finding = installed_tree(Path::new("/no/such/prefix"));
        assert_eq!(finding.level, Level::Error);
        assert!(finding
            .details
            .contains("/no/such/prefix/libexec/passenger-watchdog"));
        assert!(finding.details.contains("rack-loader.rb"));
    }
}
