//! Clients with a watch: requests at a steady pace, what became of each, and how long it took.

use harness::{Client, Request};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// When each answered request began, and how long it took.
    pub(crate) answers: Vec<(Instant, Duration)>,
    /// Every other outcome, as a sentence.
    pub(crate) failures: Vec<String>,
}

/// Clients at work.
pub(crate) struct Traffic {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Traffic {
    /// Starts `clients` that each send `GET target` to the sites in turn, one request every `pace`.
    pub(crate) fn start(
        port: u16,
        sites: &[String],
        target: &str,
        clients: usize,
        pace: Duration,
    ) -> Traffic {
        let is_over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let clients = (0..clients)
            .map(|first| {
                let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
                let (sites, request) = (sites.to_vec(), Request::get(target));
                let turns = (0..sites.len() * clients)
                    .skip(first)
                    .step_by(clients)
                    .map(|turn| turn % sites.len())
                    .collect::<Vec<_>>();
                std::thread::spawn(move || {
                    let mut seen = Seen::default();
                    for turn in turns.into_iter().cycle() {
                        if is_over.load(Ordering::Relaxed) {
                            break;
                        }
                        let begun = Instant::now();
                        // A connection of its own: httpd closes kept ones at a graceful restart.
                        let answer = Client::connect(port, &sites[turn])
                            .and_then(|mut client| client.exchange(&request));
                        match answer {
                            Ok(response) if response.status == 200 => {
                                seen.answers.push((begun, begun.elapsed()));
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Ok(response) => {
                                seen.failures.push(format!("status {}", response.status));
                            }
                            Err(e) => seen.failures.push(e.to_string()),
                        }
                        std::thread::sleep(pace.saturating_sub(begun.elapsed()));
                    }
                    seen
                })
            })
            .collect();
        Traffic {
            is_over,
            answered,
            clients,
        }
    }

    /// Requests answered until now.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Lets every client finish the request it is at.
    pub(crate) fn finish(self) -> Seen {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().expect("a client panicked");
            all.answers.extend(seen.answers);
            all.failures.extend(seen.failures);
        }
        all
    }
}

impl Seen {
    /// Answers whose request began in that time.
    pub(crate) fn between(&self, from: Instant, to: Instant) -> Latencies {
        let is_in = |(begun, _): &&(Instant, Duration)| (from..to).contains(begun);
        let mut sorted: Vec<Duration> = self
            .answers
            .iter()
            .filter(is_in)
            .map(|(_, took)| *took)
            .collect();
        sorted.sort_unstable();
        Latencies { sorted }
    }

    /// All answers.
    pub(crate) fn all(&self) -> Latencies {
        let mut sorted: Vec<Duration> = self.answers.iter().map(|(_, took)| *took).collect();
        sorted.sort_unstable();
        Latencies { sorted }
    }
}

/// How long requests took.
pub(crate) struct Latencies {
    sorted: Vec<Duration>,
}

impl Latencies {
    /// That many of a thousand took no longer.
    pub(crate) fn quantile(&self, per_mille: usize) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        let at = last * per_mille / 1_000;
        self.sorted.get(at).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests, p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
            self.sorted.len(),
            self.quantile(500),
            self.quantile(990),
            self.quantile(1_000)
        )
    }
}
