//! Restart files: `restart.txt` that was touched, `always_restart.txt` that exists. They are in directories
//! of apps' users, so helper threads look, never the loop. Also: what workers are told of a restart.
//!
//! A worker that sees a restart file which is not the one acted upon hints at it; the agent looks for itself.
//! It also looks by itself every `PassengerStatThrottleRate` seconds. The mark of the file acted upon last is
//! in `routes`, where workers compare and an agent's successor goes on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use passenger_shm::messages::Registration;
use passenger_shm::{restart_mark, Hint};

use super::core::Agent;
use super::tasks::Happening;
use crate::config::{Application, Configuration};
use crate::pool::{CodeWait, Event, GroupId};

/// Looks that may be under way at once; the other helper threads are for starts and registrations.
const MAX_LOOKS: usize = 2;
/// Looks that may hang: each has a helper thread, and those are of limited number, too.
const MAX_HANGING: usize = 64;
/// A look that takes longer hangs in somebody's file system, perhaps for ever, and keeps no others from theirs.
const HANGS: Duration = Duration::from_secs(5);
/// Shortest time between two looks that nobody asked for.
const MIN_PERIOD: Duration = Duration::from_secs(1);
/// The mark of a restart file that is not there.
const ABSENT: u64 = 1;

/// A group's look at its restart files.
#[derive(Debug, Default)]
pub(super) struct RestartLook {
    /// Whether a helper thread is at it.
    is_under_way: bool,
    /// Whether somebody hinted since the last look began.
    is_wanted: bool,
    /// Whether the look under way was hinted at.
    was_wanted: bool,
    began: Option<Instant>,
}

impl RestartLook {
    /// Whether a helper thread is at it that will be done.
    fn is_busy(&self) -> bool {
        self.is_under_way && self.began.is_some_and(|began| began.elapsed() < HANGS)
    }

    /// No helper thread is to be had: as if it had not begun.
    fn give_up(&mut self) {
        self.is_under_way = false;
        self.is_wanted |= self.was_wanted;
    }
}

/// How many looks may begin, where so many are under way and so many of these do not hang.
fn room(busy: usize, under_way: usize) -> usize {
    let places = MAX_LOOKS.saturating_sub(busy);
    places.min(MAX_HANGING.saturating_sub(under_way - busy))
}

/// What a look saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct RestartFiles {
    mark: u64,
    always: bool,
}

impl Agent {
    /// Empties the ring; whether there was anything in it.
    pub(super) fn take_hints(&mut self) -> bool {
        let mut were_hints = false;
        while let Some(hint) = self.view.pop_hint() {
            were_hints = true;
            match hint {
                Hint::RestartTouched(reference) => {
                    let id = self.groups.by_reference(reference);
                    if let Some(group) = id.and_then(|id| self.groups.get_mut(id)) {
                        group.restart_look.is_wanted = true;
                    }
                }
                Hint::Overdue(reference) => self.retiring.overdue.push(reference),
                // The tables say the same.
                Hint::CapacityWanted(_) => {}
                Hint::ProcessSuspect(reference) => self.on_suspect(reference),
                // Only of a process that takes requests without limit they do not.
                Hint::Orphaned(reference) => self.abandoned(reference),
            }
        }
        if self.view.hints_overflowed() {
            were_hints = true;
            for id in self.groups.ids() {
                if let Some(group) = self.groups.get_mut(id) {
                    group.restart_look.is_wanted = true;
                }
            }
        }
        were_hints
    }

    /// Begins the looks that are due.
    pub(super) fn look_at_restart_files(&mut self) {
        let rate = self.configuration.global.stat_throttle_rate;
        let period = Duration::from_secs(u64::from(rate)).max(MIN_PERIOD);
        let is_due = |look: &RestartLook| {
            let is_old = look.began.is_none_or(|began| began.elapsed() >= period);
            !look.is_under_way && (look.is_wanted || is_old)
        };
        let busy = self.groups.iter().filter(|(_, g)| g.restart_look.is_busy());
        let under_way = self
            .groups
            .iter()
            .filter(|(_, g)| g.restart_look.is_under_way);
        let room = room(busy.count(), under_way.count());
        let mut due: Vec<(Option<Instant>, GroupId)> = self
            .groups
            .iter()
            .filter(|(_, group)| is_due(&group.restart_look))
            .map(|(id, group)| (group.restart_look.began, id))
            .collect();
        due.sort_unstable();
        for (_, id) in due.into_iter().take(room) {
            self.begin_restart_look(id);
        }
    }

    fn begin_restart_look(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        let look = &mut group.restart_look;
        look.began = Some(Instant::now());
        look.was_wanted = std::mem::take(&mut look.is_wanted);
        let Some(registration) = group.registration.clone() else {
            return;
        };
        look.is_under_way = true;
        let configuration = Arc::clone(&group.configuration);
        let out = self.happenings.clone();
        let begun = self.helpers.run(move || {
            let files = see(&configuration, &registration);
            let _ = out.blocking_send(Happening::SawRestartFiles { group: id, files });
        });
        if let Err(e) = begun {
            // The next look may find a thread.
            look.give_up();
            log::debug!("cannot look at restart files: {e}");
        }
    }

    pub(super) fn on_restart_files(&mut self, id: GroupId, files: Option<RestartFiles>) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        group.restart_look.is_under_way = false;
        if let Some(files) = files {
            let known = group.restart_mark;
            if known == 0 {
                log::debug!("saw the restart files of app {} first", group.name);
            }
            let was_touched = files.mark != ABSENT && files.mark != known;
            // Deleting it is no news, and making it anew with the same time is none either.
            if known == 0 || files.mark != ABSENT {
                group.restart_mark = files.mark;
            }
            if known != 0 && was_touched {
                self.restart(id, "its restart file was touched");
            } else if files.always && group.restart_look.was_wanted {
                self.restart(id, "always_restart.txt exists");
            } else if group.restart_mark != known {
                self.view.update_group(group.reference, &group.params());
            }
        }
        self.look_at_restart_files();
    }

    /// Replaces every process of a group by one that starts from now on.
    pub(super) fn restart(&mut self, id: GroupId, reason: &str) {
        self.replace(id, reason, Event::Restart { group: id });
    }

    /// The same, and nobody waits for the new code.
    pub(super) fn roll(&mut self, id: GroupId, reason: &str) {
        self.replace(id, reason, Event::Roll { group: id });
    }

    fn replace(&mut self, id: GroupId, reason: &str, event: Event) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        group.code_generation = group.code_generation.wrapping_add(1);
        group.is_resisting = false;
        self.board.touch();
        log::info!("app {}: {reason}, its processes are replaced", group.name);
        self.end_preloaders(Some(id));
        self.tell(event);
        // First the pool says how long requests wait, then workers see that there is something to wait for.
        self.settle();
        if let Some(group) = self.groups.get(id) {
            self.view.update_group(group.reference, &group.params());
        }
    }

    pub(super) fn await_code(&mut self, id: GroupId, wait: CodeWait) {
        if let Some(group) = self.groups.get_mut(id) {
            group.code_wait = wait;
            self.view.update_group(group.reference, &group.params());
        }
    }
}

/// Looks at the files of an app; `None` if it is not to be found. May block on its file system.
fn see(configuration: &Configuration, registration: &Registration) -> Option<RestartFiles> {
    let app = Application::find(configuration, registration).ok()?;
    let directory = app.options.restart_dir.as_deref().unwrap_or("tmp");
    let directory = app.app_root.join(directory);
    Some(RestartFiles {
        mark: mark_of(&directory.join("restart.txt")),
        always: fs::metadata(directory.join("always_restart.txt")).is_ok(),
    })
}

fn mark_of(file: &Path) -> u64 {
    let modified = fs::metadata(file).map(|m| (m.mtime(), m.mtime_nsec()));
    restart_mark(modified.ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_hangs_takes_no_place_from_others() {
        let look = |age: Duration| RestartLook {
            is_under_way: true,
            began: Instant::now().checked_sub(age),
            ..RestartLook::default()
        };
        assert!(look(Duration::ZERO).is_busy());
        assert!(!look(HANGS).is_busy());
        assert!(!RestartLook::default().is_busy());
    }

    #[test]
    fn looks_that_hang_are_of_limited_number() {
        assert_eq!(room(0, 0), MAX_LOOKS);
        assert_eq!(room(1, 1 + MAX_HANGING / 2), MAX_LOOKS - 1);
        assert_eq!(room(MAX_LOOKS, MAX_LOOKS), 0);
        assert_eq!(room(0, MAX_HANGING), 0);
    }

    #[test]
    fn a_look_that_finds_no_thread_is_wanted_on() {
        let mut look = RestartLook {
            is_under_way: true,
            was_wanted: true,
            ..RestartLook::default()
        };
        look.give_up();
        assert!(look.is_wanted && !look.is_under_way);
    }
}
