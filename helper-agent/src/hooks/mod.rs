//! Hooks: programs of root's that are run when something happens (`PassengerCtl hook_…`), for those who want a mail or
//! a page. No request ever waits for one; but a process whose request took too long is killed only when one has
//! looked into it.
//!
//! ```text
//!  agent ─┬─ runner ─► program, program …      each run: a process of its own that checks whose the programs are,
//!         └─ runner ─► program                 runs them, reads what they print, and ends them when time is up
//! watchdog ─ runner ─► program                 at httpd's start and stop
//! ```
//! A runner needs nobody: one whose agent dies goes on to its end.
//!
//! | file | owns |
//! |---|---|
//! | this one | which programs are named for what |
//! | `facts` | what a program is told, and in which form |
//! | `schedule` | how many run at once, how many wait (pure) |
//! | `rejections` | full queues, of which there may be thousands a second (pure) |
//! | `launch` | starting a runner |
//! | [`runner`] | the runner |

mod facts;
mod launch;
mod rejections;
pub mod runner;
mod schedule;

use std::collections::BTreeMap;
use std::path::PathBuf;

use passenger_shm::hooks::{commands, Hook};
use passenger_shm::messages::Directive;

pub(crate) use facts::Facts;
pub(crate) use launch::launch;
pub(crate) use rejections::Rejections;
pub(crate) use schedule::{Job, Schedule};

/// What is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks(BTreeMap<Hook, Programs>);

/// The programs of one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// In the order in which they are run.
    pub paths: Vec<PathBuf>,
    /// File and line that name them.
    pub place: String,
}

impl Hooks {
    /// Reads them in file order, the last line of each hook winning.
    ///
    /// # Errors
    /// When a line is not one that httpd's parent lets through.
    pub fn from_directives(directives: &[Directive]) -> Result<Self, String> {
        let mut hooks = BTreeMap::new();
        for it in directives.iter().filter(|it| it.name == "PassengerCtl") {
            let [option, written] = it.args.as_slice() else {
                continue;
            };
            let Some(hook) = Hook::of_option(option) else {
                continue;
            };
            let place = format!("{}:{}", it.file, it.line);
            let paths = commands(written)
                .map_err(|why| format!("PassengerCtl {option}: {why} ({place})"))?;
            hooks.insert(hook, Programs { paths, place });
        }
        Ok(Self(hooks))
    }

    /// What is to be run then.
    #[must_use]
    pub fn get(&self, hook: Hook) -> Option<&Programs> {
        self.0.get(&hook)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u32, option: &str, value: &str) -> Directive {
        Directive {
            name: "PassengerCtl".into(),
            args: vec![option.into(), value.into()],
            file: "hooks.conf".into(),
            line: number,
        }
    }

    #[test]
    fn the_last_line_of_a_hook_counts_and_names_its_place() {
        let hooks = Hooks::from_directives(&[
            line(1, "hook_spawn_failed", "/a"),
            line(2, "max_pool_size", "9"),
            line(3, "hook_spawn_failed", "/b;/c"),
        ])
        .unwrap();
        let programs = hooks.get(Hook::SpawnFailed).unwrap();
        assert_eq!(programs.paths, [PathBuf::from("/b"), PathBuf::from("/c")]);
        assert_eq!(programs.place, "hooks.conf:3");
        assert_eq!(hooks.get(Hook::AttachedProcess), None);
        let wrong = Hooks::from_directives(&[line(7, "hook_spawn_failed", "b")]).unwrap_err();
        assert!(wrong.contains("hooks.conf:7"), "{wrong}");
    }
}
