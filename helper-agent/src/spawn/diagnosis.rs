//! What a process that does not get ready is doing: state, system call, kernel function, connections that are
//! being made, children. All from `/proc`, for the report of a start that took too long; whatever the kernel
//! does not tell is left out. May wait for the kernel, so it is asked where that hurts nobody.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::sys::tree;

/// Most children that are named.
const MAX_CHILDREN: usize = 5;
/// Most connections that are named.
const MAX_CONNECTIONS: usize = 5;
/// Kernel functions of a stack that are named.
const STACK_DEPTH: usize = 4;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnosis {
    /// Completes "its process …".
    pub sentence: String,
    /// Details, for the facts of the report.
    pub facts: Vec<(&'static str, String)>,
}

/// Looks at a process and at what it has started.
#[must_use]
pub fn of(pid: i32) -> Diagnosis {
    let mut facts = Vec::new();
    let activity = activity(pid);
    let waits = connections(pid);
    let children = children(pid);
    facts.push(("was doing", activity.clone()));
    for (key, file) in [("kernel function", "wchan"), ("kernel stack", "stack")] {
        let text = read(pid, file).unwrap_or_default();
        let functions = functions(&text);
        if !functions.is_empty() {
            facts.push((key, functions));
        }
    }
    if !waits.is_empty() {
        facts.push(("connections", waits.join(", ")));
    }
    if !children.is_empty() {
        facts.push(("children", children.join(", ")));
    }
    let mut sentence = format!("was {activity}");
    let connecting = waits.iter().find(|wait| wait.starts_with("connecting"));
    if let Some(connecting) = connecting {
        sentence = format!("{sentence}, {connecting}");
    } else if let Some(child) = children.first() {
        sentence = format!("{sentence}, and had started {child}");
    }
    Diagnosis { sentence, facts }
}

fn read(pid: i32, file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

/// State and system call, in words.
fn activity(pid: i32) -> String {
    let state = tree::Entry::of(pid).map(|entry| entry.state);
    let target = |fd: u64| {
        let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
        Some(describe_file(pid, &link.to_string_lossy()))
    };
    let call = read(pid, "syscall").and_then(|text| system_call(&text, &target));
    match (state, call) {
        (None, _) => "gone".to_owned(),
        (Some('R'), _) => "computing".to_owned(),
        (Some('T' | 't'), _) => "stopped by a signal or a debugger".to_owned(),
        (Some('Z' | 'X'), _) => "ending".to_owned(),
        (Some('D'), Some(call)) => format!("waiting for a disk or file server in {call}"),
        (Some('D'), None) => "waiting for a disk or file server".to_owned(),
        (Some(_), Some(call)) => format!("waiting in {call}"),
        (Some(_), None) => "waiting".to_owned(),
    }
}

/// What `/proc/PID/syscall` says: number and arguments in hexadecimal, or `running`. The descriptor is named
/// where the first argument is one.
fn system_call(text: &str, target: &dyn Fn(u64) -> Option<String>) -> Option<String> {
    let mut words = text.split_ascii_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    let first = words.next().and_then(|word| word.strip_prefix("0x"));
    let first = first.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let Some((_, name, is_of_file)) = CALLS.iter().find(|(known, ..)| *known == number) else {
        return Some(format!("system call {number}"));
    };
    let file = first.filter(|_| *is_of_file).and_then(target);
    Some(match file {
        Some(file) => format!("{name} on {file}"),
        None => (*name).to_owned(),
    })
}

/// System calls that processes wait in, and whether their first argument is a descriptor.
const CALLS: [(i64, &str, bool); 22] = [
    (libc::SYS_read, "read", true),
    (libc::SYS_write, "write", true),
    (libc::SYS_readv, "readv", true),
    (libc::SYS_writev, "writev", true),
    (libc::SYS_connect, "connect", true),
    (libc::SYS_accept4, "accept", true),
    (libc::SYS_recvfrom, "recv", true),
    (libc::SYS_recvmsg, "recvmsg", true),
    (libc::SYS_sendto, "send", true),
    (libc::SYS_sendmsg, "sendmsg", true),
    (libc::SYS_flock, "flock", true),
    (libc::SYS_fcntl, "fcntl (a file lock)", true),
    (libc::SYS_fsync, "fsync", true),
    (libc::SYS_ppoll, "poll", false),
    (libc::SYS_pselect6, "select", false),
    (libc::SYS_epoll_pwait, "epoll_wait", false),
    (libc::SYS_futex, "futex (another thread, or a lock)", false),
    (libc::SYS_nanosleep, "sleep", false),
    (libc::SYS_clock_nanosleep, "sleep", false),
    (libc::SYS_wait4, "wait (for a child)", false),
    (libc::SYS_waitid, "wait (for a child)", false),
    (libc::SYS_openat, "open", false),
];

fn describe_file(pid: i32, link: &str) -> String {
    let Some(inode) = inode_of(link) else {
        return link.to_owned();
    };
    let known = tables(pid).into_iter().find(|entry| entry.inode == inode);
    known.map_or_else(
        || "a socket".to_owned(),
        |entry| format!("the connection to {}", entry.peer),
    )
}

/// `socket:[4711]` → 4711.
fn inode_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// TCP connections of a process, those that are only being made first.
fn connections(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let links = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    let inodes: Vec<u64> = links
        .filter_map(|link| inode_of(&link.to_string_lossy()))
        .collect();
    let mut own: Vec<Connection> = tables(pid);
    own.retain(|entry| inodes.contains(&entry.inode));
    own.sort_by_key(|entry| !entry.is_being_made);
    own.truncate(MAX_CONNECTIONS);
    let words = |entry: &Connection| {
        let what = if entry.is_being_made {
            "connecting to"
        } else {
            "connected to"
        };
        format!("{what} {}", entry.peer)
    };
    own.iter().map(words).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Connection {
    peer: String,
    is_being_made: bool,
    inode: u64,
}

fn tables(pid: i32) -> Vec<Connection> {
    let files = ["net/tcp", "net/tcp6"];
    files
        .iter()
        .filter_map(|file| read(pid, file))
        .flat_map(|text| text.lines().filter_map(connection).collect::<Vec<_>>())
        .collect()
}

/// A line of `/proc/net/tcp` (proc(5)): addresses are words in the machine's byte order.
fn connection(line: &str) -> Option<Connection> {
    /// `TCP_ESTABLISHED` and `TCP_SYN_SENT`.
    const STATES: [&str; 2] = ["01", "02"];
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let state = STATES
        .iter()
        .position(|known| words.get(3) == Some(known))?;
    let (address, port) = words.get(2)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let peer = match address.len() {
        8 => {
            let word = u32::from_str_radix(address, 16).ok()?;
            format!("{}:{port}", Ipv4Addr::from(word.to_ne_bytes()))
        }
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                let digits = address.get(index * 8..index * 8 + 8)?;
                part.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
            }
            format!("[{}]:{port}", Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(Connection {
        peer,
        is_being_made: state == 1,
        inode: words.get(9)?.parse().ok()?,
    })
}

/// Names of functions in `wchan` or `stack`.
fn functions(text: &str) -> String {
    let names = text.lines().filter_map(|line| {
        let word = line.split_ascii_whitespace().next_back()?;
        let name = word.split('+').next()?;
        (name != "0" && !name.starts_with("0x")).then_some(name)
    });
    names.take(STACK_DEPTH).collect::<Vec<_>>().join(" < ")
}

fn children(pid: i32) -> Vec<String> {
    let descendants = tree::descendants(pid).unwrap_or_default();
    let living = descendants
        .iter()
        .filter(|entry| !matches!(entry.state, 'Z' | 'X'));
    let words = |entry: &tree::Entry| {
        format!(
            "process {} ({}), {}",
            entry.pid,
            entry.name,
            activity(entry.pid)
        )
    };
    living.take(MAX_CHILDREN).map(words).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// Asks until the process is as it should be, for at most ten seconds.
    fn until(pid: i32, is_it: impl Fn(&Diagnosis) -> bool) -> Diagnosis {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let diagnosis = of(pid);
            if is_it(&diagnosis) || Instant::now() > end {
                return diagnosis;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_process_that_sleeps_says_so_and_one_with_a_child_names_it() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 60 & wait"]).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let is_asleep =
            |d: &Diagnosis| d.sentence.starts_with("was waiting") && d.sentence.contains("(sleep)");
        let diagnosis = until(pid, is_asleep);
        let sleeper = tree::descendants(pid).unwrap();
        for entry in sleeper {
            let _ = entry.open().map(|p| p.map(|p| p.signal(libc::SIGKILL)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            diagnosis.sentence.starts_with("was waiting"),
            "{diagnosis:?}"
        );
        assert!(
            diagnosis.sentence.contains("had started process"),
            "{diagnosis:?}"
        );
        assert!(
            diagnosis.facts.iter().any(|(key, _)| *key == "children"),
            "{diagnosis:?}"
        );
    }

    #[test]
    fn addresses_are_written_as_people_write_them() {
        let line = "0: 0100007F:A1B2 05FFFE0A:1538 02 0:0 0:0 0 1000 0 4711 1";
        let found = connection(line).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(found.peer, "10.254.255.5:5432");
        }
        assert!(found.is_being_made && found.inode == 4711);
        assert_eq!(
            connection(&line.replace(" 02 ", " 0A ")),
            None,
            "a listener"
        );
        let six = "0: 00000000000000000000000000000000:1 00000000000000000000000001000000:0050 01 0 0 0 0 0 9";
        let found = connection(six).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(found.peer, "[::1]:80");
        }
        for broken in ["", "0: x y 01", "0: 0:0 0:0 01 0 0 0 0 0 x"] {
            assert_eq!(connection(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn system_calls_and_kernel_functions_have_names() {
        let target = |fd: u64| Some(format!("file {fd}"));
        let text = format!(
            "{} 0x7 0x0 0x0 0x0 0x0 0x0 0x7ffd 0x7f1a",
            libc::SYS_connect
        );
        assert_eq!(
            system_call(&text, &target).as_deref(),
            Some("connect on file 7")
        );
        let text = format!("{} 0x7 0x0", libc::SYS_futex);
        let futex = system_call(&text, &target).unwrap();
        assert!(futex.starts_with("futex"), "{futex}");
        assert_eq!(
            system_call("99999 0x0", &target).as_deref(),
            Some("system call 99999")
        );
        assert_eq!(system_call("running\n", &target), None);
        let stack = "[<0>] do_nanosleep+0x66/0x170\n[<0>] hrtimer_nanosleep+0xae/0x180\n";
        assert_eq!(functions(stack), "do_nanosleep < hrtimer_nanosleep");
        assert_eq!(functions("hrtimer_nanosleep"), "hrtimer_nanosleep");
        assert_eq!(functions("0"), "");
    }

    #[test]
    fn a_process_that_is_gone_is_no_error() {
        assert_eq!(of(i32::MAX - 1).sentence, "was gone");
    }
}
