//! What may happen, and when: the agenda of a simulated machine, and its faults.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use helper_agent::pool::{Event, GroupId, GroupLimits, Millis, Pool, ProcessId};

use super::parts::{random_limits, Phase, Process};
use super::{limits, World};

/// Something that happens at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Next {
    /// The agent looks by itself.
    Look,
    /// Somebody rang for a look.
    Ring,
    /// Requests arrive.
    Arrive(GroupId),
    /// A start succeeds.
    Booted(ProcessId),
    /// A start fails.
    BootFails(ProcessId),
    /// A request's answer is complete.
    Done(ProcessId, u64),
    /// A client leaves; its app goes on.
    Abandon(ProcessId, u64),
    /// A process exits.
    Left(ProcessId),
    /// One of many things that go wrong.
    Fault,
}

/// What comes next, in the order of time, then in the order in which it was planned.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    heap: BinaryHeap<Reverse<(u64, u64, Next)>>,
    planned: u64,
}

impl Agenda {
    pub(super) fn at(&mut self, time: u64, next: Next) {
        self.planned += 1;
        self.heap.push(Reverse((time, self.planned, next)));
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Next)> {
        self.heap.pop().map(|Reverse((time, _, next))| (time, next))
    }
}

impl World {
    /// One thing that goes wrong, or that an administrator does.
    pub(super) fn fault(&mut self) {
        match self.dice.below(7) {
            0 | 1 => {
                if let Some(victim) = self.any_process(|_| true) {
                    self.end(victim);
                }
            }
            2 => {
                if let Some(process) = self.any_process(|p| p.phase == Phase::Live) {
                    self.tell(Event::LeaveAsked { process });
                }
            }
            3 => {
                if let Some(process) = self.any_process(|p| p.phase == Phase::Live) {
                    self.tell(Event::Retire { process });
                }
            }
            4 => self.deploy(),
            5 => self.reconfigure(),
            _ => self.new_agent(),
        }
    }

    fn any_process(&mut self, wanted: impl Fn(&Process) -> bool) -> Option<ProcessId> {
        let found: Vec<ProcessId> = self
            .processes
            .iter()
            .filter(|(_, p)| wanted(p))
            .map(|(id, _)| *id)
            .collect();
        let nth = self.dice.below(found.len() as u64);
        found.get(usize::try_from(nth).ok()?).copied()
    }

    fn any_group(&mut self) -> GroupId {
        GroupId(self.dice.below(self.shape.groups))
    }

    /// New code, broken now and then, and a restart.
    fn deploy(&mut self) {
        let group = self.any_group();
        let is_broken = self.dice.one_in(3);
        let app = self.app(group);
        app.is_broken = is_broken;
        app.edition += 1;
        self.tell(Event::Restart { group });
    }

    fn reconfigure(&mut self) {
        if self.dice.one_in(2) {
            let group = self.any_group();
            let limits = random_limits(&mut self.dice);
            self.app(group).limits = limits;
            self.tell(Event::GroupChanged { group, limits });
        } else {
            let max = 1 + self.dice.below(6);
            self.max = u32::try_from(max).unwrap_or(1);
            let before = self.processes.len();
            let now = limits(self.max);
            self.max = self.max.max(u32::try_from(before).unwrap_or(u32::MAX));
            self.tell(Event::Configured(now));
            self.max = now.max_processes;
        }
    }

    /// The agent dies; its successor finds what lives, and ends what was only starting.
    fn new_agent(&mut self) {
        self.pool = Pool::new(limits(self.max));
        // Names of the machine's processes are never used twice, whichever agent they come from.
        while self.pool.new_process_id() < self.newest {}
        self.processes.retain(|_, p| p.phase != Phase::Starting);
        let groups: Vec<(GroupId, GroupLimits)> = self
            .apps
            .iter()
            .map(|(id, app)| (*id, app.limits))
            .collect();
        let max_before = self.max;
        self.max = u32::MAX;
        let all: Vec<(ProcessId, Event)> = self
            .processes
            .iter()
            .map(|(id, p)| {
                let adopted = Event::Adopted {
                    group: p.group,
                    process: *id,
                    concurrency: p.concurrency,
                    draining: p.phase != Phase::Live,
                    away: false,
                    outdated: p.edition != self.apps[&p.group].edition,
                };
                (*id, adopted)
            })
            .collect();
        let mut later = Vec::new();
        for (group, limits) in groups {
            let none = GroupLimits {
                min_instances: 0,
                ..limits
            };
            for command in self.pool.handle(
                Millis(self.now),
                Event::GroupAdded {
                    group,
                    limits: none,
                },
            ) {
                self.obey(command);
            }
            later.push(Event::GroupChanged { group, limits });
            self.app(group).code_wait = helper_agent::pool::CodeWait::No;
        }
        for (id, adopted) in all {
            if let Some(process) = self.processes.get_mut(&id) {
                if process.phase == Phase::Asked {
                    process.phase = Phase::Draining;
                }
            }
            for command in self.pool.handle(Millis(self.now), adopted) {
                self.obey(command);
            }
        }
        self.max = max_before.max(u32::try_from(self.processes.len()).unwrap_or(u32::MAX));
        for event in later {
            self.tell(event);
        }
        self.max = max_before;
        for group in self.apps.keys().copied().collect::<Vec<_>>() {
            self.serve(group);
        }
    }
}
