//! One step of the world: what chance wants is done to it.

use helper_agent::pool::{Event, GroupId, GroupLimits, Millis, PoolLimits};

use crate::chances::Chance;
use crate::world::{Phase, World};

impl World {
    pub(crate) fn step(&mut self, chance: &Chance) {
        match *chance {
            Chance::Arrive { group } => {
                if let Some(queue) = self.queues.get_mut(&GroupId(group)) {
                    queue.push(self.now);
                    self.tell(Event::Demand {
                        group: GroupId(group),
                    });
                }
            }
            Chance::Serve => self.serve(),
            Chance::Abandon { process } => {
                if let Some(id) = self.pick(process, |a| a.in_use > 0) {
                    let actor = self.actors.get_mut(&id).unwrap();
                    actor.in_use -= 1;
                    actor.orphans += 1;
                }
            }
            Chance::Upgrade { process } => {
                if let Some(id) = self.pick(process, |a| a.in_use > 0) {
                    let actor = self.actors.get_mut(&id).unwrap();
                    actor.in_use -= 1;
                    actor.streams += 1;
                }
            }
            Chance::HangUp { process } => {
                if let Some(id) = self.pick(process, |a| a.streams > 0) {
                    self.actors.get_mut(&id).unwrap().streams = 0;
                }
            }
            Chance::SpawnSucceeds {
                process,
                concurrency,
            } => {
                if let Some(id) = self.pick(process, |a| a.phase == Phase::Starting) {
                    let actor = self.actors.get_mut(&id).unwrap();
                    actor.phase = Phase::Live;
                    actor.concurrency = concurrency;
                    self.tell(Event::SpawnReady {
                        process: id,
                        concurrency,
                        has_loaded: process % 2 == 0,
                    });
                }
            }
            Chance::SpawnFails { process } => {
                if let Some(id) = self.pick(process, |a| a.phase == Phase::Starting) {
                    self.end(id, Event::SpawnFailed { process: id });
                }
            }
            Chance::Crash { process } => {
                if let Some(id) = self.pick(process, |_| true) {
                    self.end(id, Event::Exited { process: id });
                }
            }
            Chance::Obey { process } => {
                if let Some(id) = self.pick(process, |a| matches!(a.phase, Phase::Told(_))) {
                    self.end(id, Event::Exited { process: id });
                }
            }
            Chance::Leave { process } => {
                if let Some(id) = self.pick(process, |_| true) {
                    self.tell(Event::LeaveAsked { process: id });
                }
            }
            Chance::WantWork { .. } | Chance::FinishWork { .. } => self.bother_about_work(chance),
            Chance::Restart { .. }
            | Chance::Retire { .. }
            | Chance::Limits { .. }
            | Chance::Resize { .. } => {
                self.administer(chance);
            }
            Chance::Pass { ms } => {
                self.now += ms;
                self.look();
            }
        }
    }

    fn bother_about_work(&mut self, chance: &Chance) {
        match *chance {
            Chance::WantWork { process } => {
                if let Some(process) = self.pick(process, |_| true) {
                    self.tell(Event::WorkWanted { process });
                }
            }
            Chance::FinishWork { process } => {
                if let Some(process) = self.pick(process, |a| a.phase == Phase::Working) {
                    self.tell(Event::WorkDone { process });
                }
            }
            _ => unreachable!("not about out-of-band work"),
        }
    }

    /// What an administrator may do.
    fn administer(&mut self, chance: &Chance) {
        match *chance {
            Chance::Restart { group } => self.restart(GroupId(group)),
            Chance::Retire { process } => {
                if let Some(process) = self.pick(process, |a| a.phase == Phase::Live) {
                    self.tell(Event::Retire { process });
                }
            }
            Chance::Limits {
                group,
                min,
                max,
                confirmed,
                rolling,
                resists,
            } => {
                let limits = GroupLimits {
                    min_instances: min,
                    max_instances: max,
                    confirmed,
                    rolling,
                    resists_errors: resists,
                };
                self.tell(Event::GroupChanged {
                    group: GroupId(group),
                    limits,
                });
            }
            Chance::Resize { max } => {
                self.max = max;
                let limits = PoolLimits {
                    max_processes: max,
                    idle_ms: Some(60_000),
                    stream_drain_ms: 10_000,
                    request_drain_ms: Some(600_000),
                };
                self.tell(Event::Configured(limits));
            }
            _ => unreachable!("not the administrator's"),
        }
    }

    /// The world behaves from here on: spawns succeed, apps finish and obey.
    pub(crate) fn calm(&mut self, rounds: usize) {
        for _ in 0..rounds {
            while let Some(id) = self.pick(0, |a| a.phase == Phase::Starting) {
                self.step(&Chance::SpawnSucceeds {
                    process: 0,
                    concurrency: 1,
                });
                assert_ne!(self.actors[&id].phase, Phase::Starting);
            }
            self.serve();
            while self.pick(0, |a| a.phase == Phase::Working).is_some() {
                self.step(&Chance::FinishWork { process: 0 });
            }
            for actor in self.actors.values_mut() {
                actor.orphans = 0;
                if actor.phase != Phase::Live {
                    actor.in_use = 0;
                }
            }
            self.now += self.pool.next_look_ms(Millis(self.now));
            self.look();
            while self
                .pick(0, |a| matches!(a.phase, Phase::Told(_)))
                .is_some()
            {
                self.step(&Chance::Obey { process: 0 });
            }
        }
    }
}
