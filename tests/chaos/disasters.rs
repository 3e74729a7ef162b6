//! What befalls the server in the chaos run, in an order that a seed decides.

use crate::apps;
use crate::incidents::{Incidents, Victim};
use crate::random::Random;
use harness::{processes, Instance, Language, Server, Setup};
use std::collections::BTreeMap;
use std::fs::{self, FileTimes};
use std::time::{Duration, SystemTime};

/// Kinds of disasters, and how often each comes.
const KINDS: [(Kind, u64); 8] = [
    (Kind::App, 30),
    (Kind::Agent, 20),
    (Kind::Watchdog, 12),
    (Kind::BothKeepers, 5),
    (Kind::Worker, 8),
    (Kind::Graceful, 10),
    (Kind::RestartFile, 10),
    (Kind::Reconfiguration, 10),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    App,
    Agent,
    Watchdog,
    BothKeepers,
    Worker,
    Graceful,
    RestartFile,
    Reconfiguration,
}

/// Brings them about.
pub(crate) struct Disasters<'a> {
    pub(crate) server: &'a mut Server,
    incidents: &'a Incidents,
    random: Random,
    counts: BTreeMap<Kind, usize>,
    /// What `CHAOS_GENERATION` is in the configuration.
    pub(crate) generation: usize,
    touches: u64,
}

impl<'a> Disasters<'a> {
    pub(crate) fn new(server: &'a mut Server, incidents: &'a Incidents, random: Random) -> Self {
        Disasters {
            server,
            incidents,
            random,
            counts: BTreeMap::new(),
            generation: 0,
            touches: 0,
        }
    }

    /// How long to wait for the next one.
    pub(crate) fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.between(50, 900))
    }

    /// The next one.
    pub(crate) fn strike(&mut self) {
        let weights = KINDS.map(|(_, weight)| weight);
        let kind = KINDS
            .get(self.random.weighted(&weights))
            .map_or(Kind::App, |(kind, _)| *kind);
        let language = *self
            .random
            .choose(&Language::ALL)
            .unwrap_or(&Language::Ruby);
        let has_struck = match kind {
            Kind::App => self.kill_one(Victim::App, &self.server.app_pids(language.name())),
            Kind::Worker => self.kill_one(Victim::Worker, &self.server.workers()),
            Kind::Agent => self.kill_keepers(&[Victim::Agent]),
            Kind::Watchdog => self.kill_keepers(&[Victim::Watchdog]),
            Kind::BothKeepers => self.kill_keepers(&[Victim::Agent, Victim::Watchdog]),
            Kind::Graceful => {
                self.server.graceful();
                true
            }
            Kind::RestartFile => self.touch(language),
            Kind::Reconfiguration => self.reconfigure(),
        };
        if has_struck {
            *self.counts.entry(kind).or_default() += 1;
        }
    }

    fn kill_one(&mut self, victim: Victim, pids: &[processes::ProcessId]) -> bool {
        let Some(pid) = self.random.choose(pids) else {
            return false;
        };
        self.incidents.kill(victim, *pid);
        true
    }

    /// Those that keep the instance: one of them, or both in the same instant.
    fn kill_keepers(&mut self, victims: &[Victim]) -> bool {
        let instance = self.server.instance();
        let (Some(watchdog), Some(agent)) = (
            instance.pid_now("watchdog.pid"),
            instance.pid_now("agent.pid"),
        ) else {
            return false;
        };
        for victim in victims {
            let pid = if *victim == Victim::Agent {
                agent
            } else {
                watchdog
            };
            self.incidents.kill(*victim, pid);
        }
        true
    }

    fn touch(&mut self, language: Language) -> bool {
        self.touches += 1;
        let path = self
            .server
            .app_root(language.name())
            .join("tmp/restart.txt");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + self.touches);
        let touched = fs::File::create(path)
            .and_then(|file| file.set_times(FileTimes::new().set_modified(time)));
        touched.is_ok()
    }

    fn reconfigure(&mut self) -> bool {
        self.generation += 1;
        let generation = self.generation;
        self.server.reconfigure(|setup| lines(setup, generation));
        true
    }

    pub(crate) fn instance(&self) -> Instance {
        self.server.instance()
    }

    /// How many there were of each kind.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.counts
            .iter()
            .map(|(kind, count)| (format!("{kind:?}"), *count))
            .collect()
    }
}

/// The configuration with that value of `CHAOS_GENERATION`.
pub(crate) fn lines(setup: Setup, generation: usize) -> Setup {
    let environment = format!("SetEnv CHAOS_GENERATION {generation}");
    Language::ALL.into_iter().fold(setup, |setup, language| {
        let size = ["PassengerMinInstances 2", "PassengerMaxInstances 2"];
        setup.with_lines_of(language.name(), &[size[0], size[1], &environment])
    })
}

/// The server of the chaos run.
pub(crate) fn server() -> Server {
    let setup = Language::ALL
        .into_iter()
        .fold(Setup::default(), |setup, language| {
            setup.site(apps::site(language))
        })
        .with("PassengerMaxPoolSize 9")
        .with("ServerLimit 16")
        .with("PassengerStatThrottleRate 0");
    lines(setup, 0).start()
}
