//! Apps that are commands of their own: what is executed for `PassengerAppStartCommand`, for the command in a
//! `Passengerfile.json` and for Meteor's directories. Such a command knows nothing of us: it finds its port in `$PORT` and serves HTTP there.

use std::path::{Path, PathBuf};

use crate::apps::{self, passengerfile, AppType};
use crate::config::Application;

/// The shell that start commands are written for.
const SHELL: &str = "/bin/sh";

/// A program and its arguments.
pub type Command = (PathBuf, Vec<PathBuf>);

/// What runs an application that has no loader. `path` and `home` are those of its environment.
///
/// # Errors
/// A sentence when there is nothing that could.
pub fn of(app: &Application, port: u16, path: &str, home: &Path) -> Result<Command, String> {
    if std::ptr::eq(app.kind, AppType::meteor()) {
        return Ok(meteor(app, port, path, home));
    }
    // Read anew at each start, so that a deployment may change it.
    let line = match &app.options.start_command {
        Some(command) => shell_line(command),
        None => match passengerfile::command(&app.app_root)? {
            Some(command) => shell_line(&command),
            None => return Err(format!("{} names no command any more", passengerfile::NAME)),
        },
    };
    Ok((SHELL.into(), vec!["-c".into(), line.into()]))
}

/// What the shell is given. A program with arguments takes the shell's place, so that signals reach it. Of anything
/// more the shell stays the parent: then SIGTERM goes to its whole process group (`Body::ask_to_stop`), and it must
/// not die of it before the program has finished. A trap does that, and unlike an ignored signal is not inherited.
fn shell_line(command: &str) -> String {
    if is_program_with_arguments(command) {
        format!("exec {command}")
    } else {
        format!("trap : TERM; {command}")
    }
}

/// In doubt not: the other form is always right.
fn is_program_with_arguments(command: &str) -> bool {
    const OF_THE_SHELL: [&str; 26] = [
        "!", ".", ":", "alias", "break", "case", "cd", "command", "eval", "exec", "exit", "export",
        "for", "if", "read", "set", "shift", "source", "time", "trap", "ulimit", "umask", "unset",
        "until", "wait", "while",
    ];
    let first = command.split_ascii_whitespace().next().unwrap_or("");
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-./+".contains(c);
    !first.is_empty()
        && first.chars().all(is_name)
        && !OF_THE_SHELL.contains(&first)
        && !command.contains(|c| ";&|\n`(){}".contains(c))
}

/// Whether the shell is still there and waits for the program, which then has to be signalled, too.
#[must_use]
pub fn is_shell(pid: i32) -> bool {
    let running = std::fs::read_link(format!("/proc/{pid}/exe"));
    let shell = std::fs::canonicalize(SHELL);
    matches!((running, shell), (Ok(running), Ok(shell)) if running == shell)
}

/// `meteor run` listens itself and passes requests on to the app that it builds.
fn meteor(app: &Application, port: u16, path: &str, home: &Path) -> Command {
    let own = home.join(".meteor/meteor");
    let program = apps::look_up("meteor", path.as_ref())
        .or_else(|| apps::is_program(&own).then_some(own))
        .unwrap_or_else(|| "meteor".into());
    let mut arguments: Vec<PathBuf> = ["run", "--port"].map(PathBuf::from).to_vec();
    arguments.push(format!("127.0.0.1:{port}").into());
    if app.options.app_env() == "production" {
        arguments.push("--production".into());
    }
    if let Some(settings) = &app.options.meteor_settings {
        arguments.push("--settings".into());
        arguments.push(app.app_root.join(settings));
    }
    (program, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_takes_the_shells_place_and_anything_more_does_not() {
        for plain in [
            "./server $PORT",
            "bundle exec puma -b \"tcp://127.0.0.1:$PORT\" >> log/puma.log 2>/dev/null",
            "/opt/app/bin/serve --name='a b'",
        ] {
            assert_eq!(shell_line(plain), format!("exec {plain}"));
        }
        for more in [
            "cd web && ./server",
            "NAME=value ./server",
            "./migrate; ./server",
            "exec ./server",
            "export A=1",
            "(./server)",
            "./server --size $(nproc)",
            "\"$HOME/server\" x",
            "",
        ] {
            assert_eq!(shell_line(more), format!("trap : TERM; {more}"));
        }
    }

    #[test]
    fn a_shell_that_waits_is_told_from_the_program_in_its_place() {
        let run = |line: &str| {
            let mut child = std::process::Command::new(SHELL)
                .args(["-c", &shell_line(line)])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            // Its answer says that the program runs.
            let mut answer = [0; 2];
            std::io::Write::write_all(&mut child.stdin.as_ref().unwrap(), b"x\n").unwrap();
            std::io::Read::read_exact(&mut child.stdout.as_mut().unwrap(), &mut answer).unwrap();
            let is_shell = is_shell(i32::try_from(child.id()).unwrap());
            child.kill().unwrap();
            child.wait().unwrap();
            is_shell
        };
        assert!(!run("cat -u"));
        assert!(!run("A=1 exec cat -u"));
        assert!(run("true; cat -u; true"));
    }
}
