//! The child's side of a start: this program again, one thread, between the fork and the loader. Waits
//! until the agent has put its descriptors in the store, then becomes the app's user, enters its
//! directory, and executes the interpreter, saying each step on the control socket first.
//!
//! What `sys::spawn` has done before: own session and process group, signals default and unblocked, limit
//! of open files and OOM score restored, descriptors 0 to 5 and no other.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{umask, Mode};
use nix::unistd::{access, getgid, getuid, setgroups, setresgid, setresuid, AccessFlags, Gid, Uid};

use super::dialogue;
use super::identity::Identity;
use super::login_shell;
use super::order::{SpawnOrder, CONTROL_FD, LISTENER_FD};
use crate::sys::descriptor;

/// First descriptor number that the loader does not get.
const ABOVE_CONTRACT: u32 = 5;

/// A step that failed, and why.
type Failure = (&'static str, String);

/// Carries out the order behind that descriptor number. Returns only when it cannot: with the status to
/// exit with.
#[must_use]
pub fn run(order_fd: &str) -> u8 {
    let Ok(control) = descriptor::take_inherited(CONTROL_FD) else {
        return complain("descriptor 3 is not the control socket: only the agent starts this");
    };
    let mut control = UnixStream::from(control);
    match wait_for_go(&mut control) {
        Ok(true) => {}
        // The agent died before it could put us in the store; nobody will miss us.
        Ok(false) => return 0,
        Err(e) => return complain(&format!("cannot read the control socket: {e}")),
    }
    let Err((step, text)) = carry_out(&mut control, order_fd);
    say(&mut control, &dialogue::error(step, &text));
    complain(&text)
}

fn complain(text: &str) -> u8 {
    eprintln!("passenger: {text}");
    1
}

/// Byte by byte: what follows the line belongs to the loader.
fn wait_for_go(control: &mut UnixStream) -> io::Result<bool> {
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(dialogue::go().as_bytes()) {
        if control.read(&mut byte)? == 0 || said.len() > dialogue::MAX_LINE_BYTES {
            return Ok(false);
        }
        said.push(byte[0]);
    }
    Ok(true)
}

fn say(control: &mut UnixStream, line: &str) {
    // If the agent is gone its successor ends us.
    let _ = control.write_all(line.as_bytes());
}

fn carry_out(
    control: &mut UnixStream,
    order_fd: &str,
) -> Result<std::convert::Infallible, Failure> {
    say(control, &dialogue::step("prepare"));
    let order =
        prepare(order_fd).map_err(|e| ("prepare", format!("cannot read the order: {e}")))?;
    say(control, &dialogue::step("user"));
    if let Some(identity) = &order.identity {
        become_user(identity).map_err(|e| {
            (
                "user",
                format!(
                    "cannot become user {} ({}): {e}",
                    identity.user, identity.uid
                ),
            )
        })?;
    }
    if order.preloads {
        // After the change of user, which would undo it. Forked workers do not inherit it.
        set_pdeathsig(Signal::SIGKILL)
            .map_err(|e| ("user", format!("cannot tie it to the agent's life: {e}")))?;
    }
    tell_who(control, &order);
    say(control, &dialogue::step("directory"));
    enter(&order).map_err(|text| ("directory", text))?;
    say(control, &dialogue::info("command", &order.command()));
    say(control, &dialogue::step("exec"));
    if !order.has_loader {
        // A command knows neither; that the control socket ends says that it runs.
        return Err(("exec", execute(&order, &[])));
    }
    if order.preloads {
        return Err(("exec", execute(&order, &[control.as_fd()])));
    }
    let listener = descriptor::take_inherited(LISTENER_FD).map_err(|e| {
        (
            "exec",
            format!("the listening socket is not descriptor {LISTENER_FD}: {e}"),
        )
    })?;
    Err((
        "exec",
        execute(&order, &[control.as_fd(), listener.as_fd()]),
    ))
}

fn prepare(order_fd: &str) -> io::Result<SpawnOrder> {
    let number = order_fd.parse().map_err(io::Error::other)?;
    let order = SpawnOrder::from_memfd(&descriptor::take_inherited(number)?)?;
    descriptor::cloexec_from(ABOVE_CONTRACT)?;
    umask(Mode::from_bits_truncate(0o022));
    Ok(order)
}

/// Groups first: who has given up root cannot change them any more.
fn become_user(identity: &Identity) -> io::Result<()> {
    if identity.uid == 0 || identity.gid == 0 {
        return Err(io::Error::other("apps are never run as root"));
    }
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let groups: Vec<Gid> = identity
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    if getuid() != uid || getgid() != gid || setresuid(Uid::from_raw(0), uid, uid).is_ok() {
        return Err(io::Error::other("the kernel did not give up root's rights"));
    }
    Ok(())
}

fn tell_who(control: &mut UnixStream, order: &SpawnOrder) {
    let user = order
        .identity
        .as_ref()
        .map(|i| format!("{} ({})", i.user, i.uid));
    let group = order
        .identity
        .as_ref()
        .map(|i| format!("{} ({})", i.group, i.gid));
    let home = order
        .environment
        .iter()
        .find(|(name, _)| name == "HOME")
        .map(|(_, v)| v.clone());
    let names: Vec<&str> = order
        .environment
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for (key, value) in [
        ("user", user.unwrap_or_else(|| getuid().to_string())),
        ("group", group.unwrap_or_else(|| getgid().to_string())),
        ("home", home.unwrap_or_default()),
        (
            "shell",
            order.login_shell.as_ref().map_or_else(
                || "not asked".to_owned(),
                |shell| shell.display().to_string(),
            ),
        ),
        ("variables", names.join(" ")),
    ] {
        say(control, &dialogue::info(key, &value));
    }
}

/// Looks for the first thing on the way that the user may not do, since "permission denied" alone names
/// only the end of the path.
fn enter(order: &SpawnOrder) -> Result<(), String> {
    let root = &order.app_root;
    let mut way: Vec<&Path> = root.ancestors().collect();
    way.reverse();
    for directory in way {
        if let Err(e) = access(directory, AccessFlags::X_OK) {
            let what = if directory == root {
                "the app root"
            } else {
                "the directory"
            };
            return Err(format!(
                "{} cannot enter {what} {}{}: {}",
                who(order),
                directory.display(),
                ownership(directory),
                e.desc()
            ));
        }
    }
    std::env::set_current_dir(root)
        .map_err(|e| format!("{} cannot change to {}: {e}", who(order), root.display()))?;
    let Some(startup_file) = &order.startup_file else {
        return Ok(());
    };
    fs::File::open(startup_file).map(drop).map_err(|e| {
        format!(
            "{} cannot read the startup file {}{}: {e}",
            who(order),
            startup_file.display(),
            ownership(startup_file)
        )
    })
}

fn who(order: &SpawnOrder) -> String {
    match &order.identity {
        Some(identity) => format!("user {}", identity.user),
        None => format!("uid {}", getuid()),
    }
}

fn ownership(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(meta) => format!(
            " (owner {}, group {}, mode {:04o})",
            meta.uid(),
            meta.gid(),
            meta.permissions().mode() & 0o7777
        ),
        Err(_) => String::new(),
    }
}

/// Returns only when it failed, with the reason.
fn execute(order: &SpawnOrder, handed_over: &[BorrowedFd<'_>]) -> String {
    for fd in handed_over {
        if let Err(e) = descriptor::set_cloexec(*fd, false) {
            return format!("cannot hand over descriptor {fd:?}: {e}");
        }
    }
    if let Some(shell) = &order.login_shell {
        let wrapped = login_shell::wrap(order, shell);
        let variables = wrapped
            .environment
            .iter()
            .map(|(name, value)| (name, value));
        let error = Command::new(&wrapped.program)
            .args(&wrapped.arguments)
            .env_clear()
            .envs(variables)
            .exec();
        return format!(
            "the login shell {} of {} cannot be executed: {error}; see PassengerLoadShellEnvvars",
            shell.display(),
            who(order)
        );
    }
    let variables = order.environment.iter().map(|(name, value)| (name, value));
    let error = Command::new(&order.program)
        .args(&order.arguments)
        .env_clear()
        .envs(variables)
        .exec();
    let program = order.program.display();
    match error.kind() {
        io::ErrorKind::NotFound if !order.has_loader => format!(
            "the program {program} is neither in the directories of PATH (see SetEnv) nor at its usual place"
        ),
        io::ErrorKind::NotFound if !order.program.is_absolute() => {
            format!(
                "the interpreter {program:?} is not in the agent's PATH; set {} to its full path",
                order.directive
            )
        }
        io::ErrorKind::NotFound => format!(
            "the interpreter {program} does not exist ({})",
            order.directive
        ),
        io::ErrorKind::PermissionDenied => format!(
            "{} may not execute the interpreter {program}{}",
            who(order),
            ownership(&PathBuf::from(&order.program))
        ),
        _ => format!("the interpreter {program} cannot be executed: {error}"),
    }
}
