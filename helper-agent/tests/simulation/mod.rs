//! The simulated machine; what it is made of in `parts.rs`, what may happen in `schedule.rs`.

mod parts;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use helper_agent::pool::{
    CodeWait, Command, Event, GroupId, LoadSeen, Millis, Observation, Pool, PoolLimits, ProcessId,
    QueueSeen,
};

pub(crate) use parts::Shape;
use parts::{App, Dice, Phase, Process, Request};
use schedule::{Agenda, Next};

/// After the last arrival and fault everything must be over within so long: the longest back-off and every
/// turn of every group.
const AFTERMATH_MS: u64 = 300_000;

/// The machine.
pub(crate) struct World {
    dice: Dice,
    shape: Shape,
    now: u64,
    pool: Pool,
    max: u32,
    apps: BTreeMap<GroupId, App>,
    processes: BTreeMap<ProcessId, Process>,
    agenda: Agenda,
    next_request: u64,
    arrived: u64,
    served: u64,
    told: u64,
    died: u64,
    /// Name of the youngest process there ever was.
    newest: ProcessId,
    trace: DefaultHasher,
}

impl World {
    /// A machine at the beginning of the schedule of that number.
    pub(crate) fn new(seed: u64, shape: Shape) -> Self {
        let mut dice = Dice::new(seed);
        let apps = (0..shape.groups)
            .map(|n| (GroupId(n), App::random(&mut dice, &shape)))
            .collect();
        let max = shape.pool;
        let mut world = Self {
            dice,
            now: 0,
            pool: Pool::new(limits(max)),
            max,
            apps,
            processes: BTreeMap::new(),
            agenda: Agenda::default(),
            next_request: 0,
            arrived: 0,
            served: 0,
            told: 0,
            died: 0,
            newest: ProcessId(0),
            trace: DefaultHasher::new(),
            shape,
        };
        for group in world.apps.keys().copied().collect::<Vec<_>>() {
            let limits = world.apps[&group].limits;
            world.tell(Event::GroupAdded { group, limits });
            let first = world.dice.below(world.shape.gap_ms);
            world.agenda.at(first, Next::Arrive(group));
        }
        world.agenda.at(0, Next::Look);
        if world.shape.has_faults {
            world.agenda.at(100, Next::Fault);
        }
        world
    }

    /// Plays the whole schedule; what comes back tells two runs apart.
    pub(crate) fn play(mut self) -> u64 {
        let end = self.shape.length_ms + AFTERMATH_MS;
        while let Some((at, next)) = self.agenda.pop() {
            self.now = self.now.max(at);
            if self.now > end || (self.is_over() && self.now > self.shape.length_ms) {
                break;
            }
            self.happen(next);
        }
        let waiting: Vec<_> = self
            .apps
            .iter()
            .filter(|(_, app)| !app.queue.is_empty())
            .map(|(id, app)| (id, app.queue.len()))
            .collect();
        assert_eq!(
            self.arrived,
            self.served + self.told + self.died,
            "requests are not accounted for; still waiting: {waiting:?}, processes {:?}, pool {:?}",
            self.processes,
            self.pool
        );
        assert!(
            self.shape.has_faults || (self.told == 0 && self.died == 0),
            "{} told and {} died without a fault",
            self.told,
            self.died
        );
        self.trace.finish()
    }

    /// Whether nobody waits and nothing is executed.
    fn is_over(&self) -> bool {
        self.arrived == self.served + self.told + self.died
    }

    fn has_weather(&self) -> bool {
        self.now < self.shape.length_ms
    }

    fn has_storm(&self) -> bool {
        self.shape.has_faults && self.has_weather()
    }

    fn tell(&mut self, event: Event) {
        for command in self.pool.handle(Millis(self.now), event) {
            (self.now, format!("{command:?}")).hash(&mut self.trace);
            self.obey(command);
        }
        assert_eq!(
            self.pool.size(),
            self.processes.len(),
            "a process is not accounted for"
        );
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Spawn { group, process } => self.spawn(group, process),
            Command::Drain { process } => {
                let process = self.process(process, "drained");
                assert_eq!(process.phase, Phase::Live, "drained twice");
                process.phase = Phase::Draining;
            }
            Command::AskToStop { process } => {
                let in_use = self.process(process, "asked").in_use.len();
                assert_eq!(in_use, 0, "asked to stop with requests in execution");
                self.process(process, "asked").phase = Phase::Asked;
                let is_stubborn = self.has_storm() && self.dice.one_in(10);
                if !is_stubborn {
                    let delay = self.dice.around(20);
                    self.agenda.at(self.now + delay, Next::Left(process));
                }
            }
            Command::Terminate { process } => {
                self.process(process, "terminated");
                let ignores_it = self.has_storm() && self.dice.one_in(4);
                if !ignores_it {
                    self.agenda.at(self.now + 1, Next::Left(process));
                }
            }
            Command::Kill { process } => {
                let victim = self.process(process, "killed");
                assert!(
                    victim.in_use.is_empty(),
                    "killed with requests in execution"
                );
                victim.phase = Phase::Asked;
                self.agenda.at(self.now + 2, Next::Left(process));
            }
            Command::AwaitCode { group, wait } => {
                self.app(group).code_wait = wait;
                self.serve(group);
            }
            Command::KeptOld { group } => {
                let serves = |p: &Process| p.group == group && p.phase == Phase::Live;
                assert!(self.processes.values().any(serves), "nothing was kept");
            }
            Command::NoteFailure { group } => {
                let live = |p: &Process| p.group == group && p.phase == Phase::Live;
                if !self.processes.values().any(live) {
                    let told = self.app(group).queue.drain(..).count();
                    self.told += told as u64;
                }
            }
            Command::Rest { .. }
            | Command::Work { .. }
            | Command::Resume { .. }
            | Command::WorkOverdue { .. }
            | Command::CannotWork { .. } => panic!("nobody wants out-of-band work"),
            Command::DrainOverdue { .. } => panic!("no request takes a minute"),
            Command::Forget { group } => panic!("{group:?} is configured and was forgotten"),
            Command::Finished => panic!("nobody said stop"),
        }
    }

    /// A start begins, and its end is already known.
    fn spawn(&mut self, group: GroupId, process: ProcessId) {
        let app = &self.apps[&group];
        let born = Process::new(group, app.edition);
        let boot = self.dice.around(app.boot_ms);
        let is_broken = app.is_broken && self.has_weather();
        let luck = self.dice.below(1_000);
        let next = if is_broken || (self.has_weather() && luck < app.fails_per_mille) {
            Next::BootFails(process)
        } else {
            Next::Booted(process)
        };
        let hangs = self.has_weather() && self.dice.below(1_000) < app.hangs_per_mille;
        let (delay, next) = if hangs {
            (self.shape.start_timeout_ms, Next::BootFails(process))
        } else {
            (boot, next)
        };
        self.newest = self.newest.max(process);
        self.processes.insert(process, born);
        assert!(
            self.processes.len() <= self.max as usize,
            "{} processes in a pool of {}",
            self.processes.len(),
            self.max
        );
        self.agenda.at(self.now + delay, next);
    }

    fn process(&mut self, id: ProcessId, what: &str) -> &mut Process {
        let process = self.processes.get_mut(&id);
        process.unwrap_or_else(|| panic!("{id:?} is {what} and does not exist"))
    }

    fn app(&mut self, id: GroupId) -> &mut App {
        self.apps.get_mut(&id).expect("an app that exists")
    }

    /// Gives requests that wait to free seats, as workers do: the newest code first, then the least busy.
    fn serve(&mut self, group: GroupId) {
        while let Some((request, process)) = self.next_served(group) {
            let app = self.app(group);
            let service_ms = app.service_ms;
            let duration = self.dice.around(service_ms);
            let seat = self.process(process, "taken");
            seat.in_use.insert(request);
            seat.takes += 1;
            self.agenda
                .at(self.now + duration, Next::Done(process, request));
            if self.has_storm() && self.dice.one_in(200) {
                let left = self.now + self.dice.below(duration.max(1));
                self.agenda.at(left, Next::Abandon(process, request));
            }
        }
    }

    fn next_served(&mut self, group: GroupId) -> Option<(u64, ProcessId)> {
        let app = &self.apps[&group];
        app.queue.front()?;
        let newest_only = app.code_wait != CodeWait::No;
        let has_room = |p: &Process| p.concurrency == 0 || p.busy() < p.concurrency as usize;
        let (id, _) = self
            .processes
            .iter()
            .filter(|(_, p)| p.group == group && p.phase == Phase::Live && has_room(p))
            .filter(|(_, p)| !newest_only || p.edition == app.edition)
            .min_by_key(|(id, p)| (p.edition != app.edition, p.busy(), **id))?;
        let id = *id;
        let request = self.app(group).queue.pop_front()?;
        Some((request.number, id))
    }

    /// A look at the tables, as the agent does.
    fn look(&mut self) {
        let now = self.now;
        let queues = self.apps.iter().map(|(id, app)| {
            let seen = QueueSeen {
                waiting: u32::try_from(app.queue.len()).unwrap_or(u32::MAX),
                oldest_ms: app.queue.front().map_or(0, |r| now - r.since),
            };
            (*id, seen)
        });
        let loads = self.processes.iter().map(|(id, p)| (*id, p.load()));
        let observation = Observation {
            queues: queues.collect(),
            loads: loads.collect(),
        };
        let waits = |app: &App| app.queue.front().map_or(0, |r| now - r.since);
        let longest = self.apps.iter().map(|(id, app)| (waits(app), *id)).max();
        if let Some((waited, group)) = longest {
            assert!(
                waited <= self.shape.patience_ms,
                "a request of {group:?} has waited {waited} ms: {:?}, processes {:?}, pool {:?}",
                self.apps[&group],
                self.processes,
                self.pool
            );
        }
        self.tell(Event::Looked(observation));
    }

    fn happen(&mut self, next: Next) {
        match next {
            Next::Look => {
                self.look();
                let pause = self.pool.next_look_ms(Millis(self.now)).max(1);
                self.agenda.at(self.now + pause, Next::Look);
            }
            Next::Ring => self.look(),
            Next::Arrive(group) => self.arrive(group),
            Next::Booted(id) => self.booted(id),
            Next::BootFails(id) => {
                let starts = |p: &Process| p.phase == Phase::Starting;
                if self.processes.get(&id).is_some_and(starts) {
                    self.processes.remove(&id);
                    self.tell(Event::SpawnFailed { process: id });
                }
            }
            Next::Done(id, request) => {
                let Some(process) = self.processes.get_mut(&id) else {
                    return;
                };
                let group = process.group;
                process.orphans.remove(&request);
                if process.in_use.remove(&request) {
                    self.served += 1;
                }
                self.serve(group);
            }
            Next::Abandon(id, request) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    if process.in_use.remove(&request) {
                        process.orphans.insert(request);
                        self.served += 1;
                    }
                }
            }
            Next::Left(id) => self.end(id),
            Next::Fault => {
                if self.has_weather() {
                    self.fault();
                    let pause = self.dice.around(self.shape.fault_gap_ms);
                    self.agenda.at(self.now + pause, Next::Fault);
                }
            }
        }
    }

    fn arrive(&mut self, group: GroupId) {
        if !self.has_weather() {
            return;
        }
        let burst = 1 + self.dice.below(self.shape.burst);
        for _ in 0..burst {
            let number = self.next_request;
            self.next_request += 1;
            self.arrived += 1;
            let since = self.now;
            self.app(group).queue.push_back(Request { number, since });
        }
        self.serve(group);
        if !self.apps[&group].queue.is_empty() {
            // The first registers its app; the others ring.
            if self.dice.one_in(3) {
                self.tell(Event::Demand { group });
            }
            let bell = self.dice.below(32);
            self.agenda.at(self.now + bell, Next::Ring);
        }
        let gap = self.dice.around(self.shape.gap_ms);
        self.agenda.at(self.now + gap, Next::Arrive(group));
    }

    fn booted(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if process.phase != Phase::Starting {
            return;
        }
        let group = process.group;
        let app = &self.apps[&group];
        assert_eq!(
            process.edition, app.edition,
            "a start from before a restart joins"
        );
        let concurrency = app.concurrency;
        process.phase = Phase::Live;
        process.concurrency = concurrency;
        self.tell(Event::SpawnReady {
            process: id,
            concurrency,
            has_loaded: true,
        });
        self.serve(group);
    }

    /// A process is gone, with what it was executing.
    fn end(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get(&id) else {
            return;
        };
        let load = vec![(id, process.load())];
        self.tell(Event::Looked(Observation {
            queues: vec![],
            loads: load,
        }));
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        self.died += process.in_use.len() as u64;
        let was_killed = process.phase == Phase::Starting && self.dice.one_in(2);
        self.tell(if was_killed {
            Event::SpawnKilled { process: id }
        } else {
            Event::Exited { process: id }
        });
    }
}

fn limits(max_processes: u32) -> PoolLimits {
    PoolLimits {
        max_processes,
        stream_drain_ms: 0,
        request_drain_ms: None,
        idle_ms: Some(30_000),
    }
}

impl Process {
    fn busy(&self) -> usize {
        self.in_use.len() + self.orphans.len()
    }

    fn load(&self) -> LoadSeen {
        let count = |set: &BTreeSet<u64>| u32::try_from(set.len()).unwrap_or(u32::MAX);
        LoadSeen {
            in_use: count(&self.in_use),
            orphans: count(&self.orphans),
            streams: 0,
            takes: self.takes,
        }
    }
}
