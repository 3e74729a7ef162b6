//! Hooks (`PassengerCtl hook_…`) as httpd's parent has to do with them: it refuses to start with a program that others
//! than root could change, and waits longer for an instance that runs some at start and stop.

use std::path::Path;
use std::time::Duration;

use passenger_shm::hooks::{check_program, commands, Hook};
use passenger_shm::messages::Directive;

/// The directive they are written with.
const DIRECTIVE: &str = "PassengerCtl";

/// What is wrong with the programs that are named, each a sentence with its place.
pub(super) fn problems(directives: &[Directive], own: u32) -> Vec<String> {
    let mut problems = Vec::new();
    for (hook, it) in in_force(directives) {
        let Some(written) = it.args.get(1) else {
            continue;
        };
        let named = match commands(written) {
            Ok(named) => named,
            Err(why) => {
                problems.push(said(hook, &why, it));
                continue;
            }
        };
        let wrong = named
            .iter()
            .filter_map(|program| check_program(Path::new(program), own).err());
        problems.extend(wrong.map(|why| said(hook, &why, it)));
    }
    problems
}

fn said(hook: Hook, why: &str, it: &Directive) -> String {
    let (file, line) = (&it.file, it.line);
    format!("{DIRECTIVE} hook_{}: {why} ({file}:{line})", hook.name())
}

/// The last line of each hook.
fn in_force(directives: &[Directive]) -> impl Iterator<Item = (Hook, &Directive)> {
    let last = |hook: Hook| {
        let sets = |it: &&Directive| {
            let option = it.args.first().filter(|_| it.name == DIRECTIVE);
            option.and_then(|option| Hook::of_option(option)) == Some(hook)
        };
        directives.iter().rev().find(sets).map(|it| (hook, it))
    };
    Hook::ALL.into_iter().filter_map(last)
}

/// How much longer an instance may take to be ready, and to end, because of what it has to run then.
pub(super) fn patience(directives: &[Directive]) -> (Duration, Duration) {
    let (mut start, mut stop) = (Duration::ZERO, Duration::ZERO);
    for (hook, _) in in_force(directives) {
        let seconds = Duration::from_secs(hook.seconds().into());
        match hook {
            Hook::BeforeWatchdogInitialization | Hook::AfterWatchdogInitialization => {
                start += seconds;
            }
            Hook::BeforeWatchdogShutdown | Hook::AfterWatchdogShutdown => stop += seconds,
            _ => {}
        }
    }
    (start, stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u32, option: &str, value: &str) -> Directive {
        Directive {
            name: DIRECTIVE.to_owned(),
            args: vec![option.to_owned(), value.to_owned()],
            file: "/etc/apache2/hooks.conf".to_owned(),
            line: number,
        }
    }

    #[test]
    fn a_program_that_must_not_run_is_named_with_file_and_line() {
        let own = nix::unistd::geteuid().as_raw();
        let written = [
            line(1, "hook_spawn_failed", "/no/such/program"),
            line(2, "hook_spawn_failed", "/bin/true; /no/other/program"),
            line(3, "hook_attached_process", "/bin/true"),
            line(4, "hook_detached_process", "true"),
            line(5, "max_pool_size", "/not/a/hook"),
        ];
        let problems = problems(&written, own);
        assert_eq!(problems.len(), 2, "{problems:?}");
        for (beginning, end) in [
            ("PassengerCtl hook_detached_process: ", "hooks.conf:4)"),
            ("PassengerCtl hook_spawn_failed: ", "hooks.conf:2)"),
        ] {
            let is_it = |it: &String| it.starts_with(beginning) && it.ends_with(end);
            assert!(problems.iter().any(is_it), "{problems:?}");
        }
    }

    #[test]
    fn httpd_waits_for_what_runs_at_its_start_and_stop_alone() {
        let written = [
            line(1, "hook_spawn_failed", "/bin/true"),
            line(2, "hook_before_watchdog_initialization", "/bin/true"),
            line(3, "hook_before_watchdog_initialization", "/bin/false"),
            line(4, "hook_after_watchdog_shutdown", "/bin/true"),
        ];
        let (start, stop) = patience(&written);
        assert_eq!((start.as_secs(), stop.as_secs()), (30, 10));
        assert_eq!(patience(&[]), (Duration::ZERO, Duration::ZERO));
    }
}
