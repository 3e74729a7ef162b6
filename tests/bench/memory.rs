//! What processes of a large app cost in memory, loaded in each or forked by a preloader: right after the start, and
//! after they have served requests, which unshares what they write to.

use harness::processes::{self, ProcessId};
use harness::wait::{until, PATIENCE};
use harness::{App, Language, Load, Server, Setup, Site, UnderTest};
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

const RUBY: &str = include_str!("heavy/config.ru");
const PYTHON: &str = include_str!("heavy/passenger_wsgi.py");

/// Processes of each contestant.
const PROCESSES: usize = 4;
/// Requests that all of them together serve before the second look.
const REQUESTS: usize = 4_000;
/// Loading takes a while, four times even more.
const LOADING: Duration = Duration::from_secs(120);

/// Who runs the app, and how.
struct Contestant {
    name: &'static str,
    under_test: UnderTest,
    language: Language,
    method: &'static str,
}

const CONTESTANTS: [Contestant; 6] = [
    Contestant {
        name: "Rack, direct",
        under_test: UnderTest::Ours,
        language: Language::Ruby,
        method: "direct",
    },
    Contestant {
        name: "Rack, smart",
        under_test: UnderTest::Ours,
        language: Language::Ruby,
        method: "smart",
    },
    Contestant {
        name: "Rack, Phusion Passenger direct",
        under_test: UnderTest::Passenger,
        language: Language::Ruby,
        method: "direct",
    },
    Contestant {
        name: "Rack, Phusion Passenger smart",
        under_test: UnderTest::Passenger,
        language: Language::Ruby,
        method: "smart",
    },
    Contestant {
        name: "WSGI, direct",
        under_test: UnderTest::Ours,
        language: Language::Python,
        method: "direct",
    },
    Contestant {
        name: "WSGI, smart",
        under_test: UnderTest::Ours,
        language: Language::Python,
        method: "smart",
    },
];

/// Sizes in MB.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Of a process on average: what it shares with nobody.
    private: u64,
    /// Of all of them and their preloader together, every page counted once.
    together: u64,
}

/// Measures and prints a table.
pub(crate) fn run() {
    println!(
        "| | private per process, MB | after {REQUESTS} requests | all {PROCESSES} and preloader, MB | \
         after {REQUESTS} requests | start of a further process |\n|---|---|---|---|---|---|"
    );
    for contestant in &CONTESTANTS {
        println!("{}", contestant.measure());
    }
}

impl Contestant {
    fn measure(&self) -> String {
        let text = match self.language {
            Language::Python => PYTHON,
            _ => RUBY,
        };
        let site = Site::new("heavy", App::inline(self.language, text))
            .with(&format!("PassengerMinInstances {PROCESSES}"))
            .with(&format!("PassengerSpawnMethod {}", self.method));
        let mut server = Setup::of(site)
            .under_test(self.under_test)
            .without_htaccess()
            .with(&format!("PassengerMaxPoolSize {PROCESSES}"))
            .with("LogLevel warn")
            .start();
        let pids = await_processes(&server);
        let before = sizes(&server, &pids);
        // As many at once as there are processes, so that all of them work.
        let load = Load::start(server.port(), "heavy", "/", PROCESSES);
        until("the requests", LOADING, || load.answered() >= REQUESTS);
        let tally = load.finish();
        assert_eq!(tally.failures, Vec::<String>::new());
        let after = sizes(&server, &pids);
        let again = restart_one(&server, &pids);
        server.stop_within(PATIENCE);
        server.abandon();
        format!(
            "| {} | {} | {} | {} | {} | {} ms |",
            self.name,
            before.private,
            after.private,
            before.together,
            after.together,
            again.as_millis()
        )
    }
}

/// The processes that answer, once there are as many as there should be.
fn await_processes(server: &Server) -> Vec<ProcessId> {
    let mut pids = BTreeSet::new();
    until("all processes of the app", LOADING, || {
        let waiting: Vec<_> = (0..2 * PROCESSES)
            .map(|_| {
                let mut client = server.client("heavy");
                let request = harness::Request::get("/pid");
                client.send(&request).expect("send a request");
                client
            })
            .collect();
        for mut client in waiting {
            // Right after a process was killed not everybody answers.
            let answer = client.response().expect("an answer");
            pids.extend(answer.text().trim().parse::<ProcessId>());
        }
        pids.retain(|pid| processes::is_alive(*pid));
        pids.len() == PROCESSES
    });
    pids.into_iter().collect()
}

/// How long it takes until the place of a process that was killed is taken.
fn restart_one(server: &Server, pids: &[ProcessId]) -> Duration {
    let began = Instant::now();
    processes::signal(pids[0], nix::sys::signal::Signal::SIGKILL);
    until("its end", PATIENCE, || !processes::is_alive(pids[0]));
    await_processes(server);
    began.elapsed()
}

fn sizes(server: &Server, pids: &[ProcessId]) -> Sizes {
    let root = server.app_root("heavy");
    let is_of_the_app = |pid: &ProcessId| processes::directory_of(*pid) == Some(root.clone());
    let all = processes::all().into_iter().filter(is_of_the_app);
    let private = |pid: &ProcessId| processes::private_memory_kib(*pid).unwrap_or(0);
    let count = u64::try_from(pids.len()).unwrap_or(1);
    Sizes {
        private: pids.iter().map(private).sum::<u64>() / count / 1024,
        together: all.map(proportional_kib).sum::<u64>() / 1024,
    }
}

/// Pages that several processes have count in parts.
fn proportional_kib(pid: ProcessId) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Pss:"));
    let size = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    size.unwrap_or(0)
}
