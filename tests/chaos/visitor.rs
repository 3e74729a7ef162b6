//! One client of the chaos run: mixed requests, each answer checked byte for byte and judged as README.md
//! says.

use crate::apps;
use crate::incidents::{Incidents, Victim};
use crate::latency::Latencies;
use crate::random::Random;
use harness::{Client, Language, Request, Response};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How often a request whose failure is excused is sent again.
const ATTEMPTS: usize = 20;

/// What the requests of a client came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Right answers, by kind of request.
    pub(crate) right: BTreeMap<&'static str, usize>,
    /// Sent again because httpd closed a kept-alive connection.
    pub(crate) resent: usize,
    /// Failures that something killed excuses, by what was seen.
    pub(crate) excused: BTreeMap<&'static str, usize>,
    /// All others.
    pub(crate) failures: Vec<String>,
    /// Names of POSTs that were answered.
    pub(crate) posts: Vec<(Language, String)>,
    /// Times of right answers, without those that are slow by themselves.
    pub(crate) latencies: Latencies,
}

impl Tally {
    pub(crate) fn extend(&mut self, other: Tally) {
        for (kind, count) in other.right {
            *self.right.entry(kind).or_default() += count;
        }
        for (what, count) in other.excused {
            *self.excused.entry(what).or_default() += count;
        }
        self.resent += other.resent;
        self.failures.extend(other.failures);
        self.posts.extend(other.posts);
        self.latencies.extend(other.latencies);
    }

    pub(crate) fn total(&self) -> usize {
        self.right.values().sum()
    }
}

/// What came of one attempt.
enum Outcome {
    Answered(Response),
    /// A kept-alive connection was closed before a byte of the response.
    Closed,
    Broken(io::Error),
}

/// A client.
pub(crate) struct Visitor {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) random: Random,
    pub(crate) incidents: Arc<Incidents>,
    pub(crate) tally: Tally,
    connections: BTreeMap<&'static str, Client>,
    serial: u64,
}

impl Visitor {
    pub(crate) fn new(name: &str, port: u16, random: Random, incidents: Arc<Incidents>) -> Visitor {
        Visitor {
            name: name.to_owned(),
            port,
            random,
            incidents,
            tally: Tally::default(),
            connections: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Sends one request, of a random kind to a random site, until it is right.
    pub(crate) fn visit(&mut self) {
        self.serial += 1;
        let name = format!("{}-{}", self.name, self.serial);
        let language = *self
            .random
            .choose(&Language::ALL)
            .unwrap_or(&Language::Ruby);
        match self.random.weighted(&[45, 10, 10, 5, 15, 10, 5]) {
            0 => self.text(language, "bytes", &name, (1, 3_000)),
            1 => self.text(language, "bytes", &name, (100_000, 400_000)),
            2 => self.text(language, "stream", &name, (10_000, 100_000)),
            3 => self.slow(language, &name),
            4 => self.post(language, &name),
            5 => {
                let expected = apps::static_file();
                self.get(language, "static", "/static.bin", expected.as_bytes());
            }
            _ => self.leave_early(language, &name),
        }
    }

    fn text(&mut self, language: Language, kind: &'static str, name: &str, lengths: (u64, u64)) {
        let length = self.random.between(lengths.0, lengths.1);
        let expected = apps::text(name, usize::try_from(length).unwrap_or(0));
        let target = format!("/{kind}?{name}&{length}");
        self.get(language, kind, &target, expected.as_bytes());
    }

    fn slow(&mut self, language: Language, name: &str) {
        let target = format!("/slow?{name}&{}", self.random.between(20, 300));
        self.get(language, "slow", &target, format!("{name}\n").as_bytes());
    }

    /// Hangs up while the app computes: its process must not be given to others meanwhile.
    fn leave_early(&mut self, language: Language, name: &str) {
        let Ok(mut client) = Client::connect(self.port, language.name()) else {
            return;
        };
        let request = Request::get(&format!("/slow?{name}&50"));
        if client.send(&request).is_ok() {
            client.abort();
            *self.tally.right.entry("abandoned").or_default() += 1;
        }
    }

    fn get(&mut self, language: Language, kind: &'static str, target: &str, expected: &[u8]) {
        let mut request = Request::get(target);
        if self.random.between(1, 10) == 1 {
            request = request.header("Connection", "close");
        }
        for _ in 0..ATTEMPTS {
            let began = Instant::now();
            let outcome = self.exchange(language, &request);
            if let Outcome::Answered(response) = &outcome {
                if response.status == 200 && response.body == expected {
                    *self.tally.right.entry(kind).or_default() += 1;
                    if kind != "slow" {
                        self.tally.latencies.add(began.elapsed());
                    }
                    return;
                }
            }
            if let Err(failure) = self.judge(&outcome, began, 2) {
                self.fail(&format!("GET {} {target}: {failure}", language.name()));
                return;
            }
        }
        self.fail(&format!(
            "GET {target}: not right after {ATTEMPTS} attempts"
        ));
    }

    /// Sent once, on a connection of its own: nobody knows whether it was executed when it fails.
    fn post(&mut self, language: Language, name: &str) {
        let length = usize::try_from(self.random.between(0, 40_000)).unwrap_or(0);
        let body = apps::text(name, length);
        let request = Request::post(&format!("/once?{name}"), body.as_bytes());
        self.connections.remove(language.name());
        let began = Instant::now();
        let outcome = self.exchange(language, &request);
        if let Outcome::Answered(response) = &outcome {
            if response.status == 200 && response.body == body.as_bytes() {
                *self.tally.right.entry("post").or_default() += 1;
                self.tally.latencies.add(began.elapsed());
                self.tally.posts.push((language, name.to_owned()));
                return;
            }
        }
        if let Err(failure) = self.judge(&outcome, began, 1) {
            self.fail(&format!("POST {} {name}: {failure}", language.name()));
        }
    }

    /// Notes a failure with the time of the day, to be found in the log.
    fn fail(&mut self, failure: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let of_day = now.unwrap_or_default().as_secs() % 86_400;
        let (hours, minutes, seconds) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        self.tally.failures.push(format!(
            "{hours:02}:{minutes:02}:{seconds:02} UTC {failure}"
        ));
    }

    /// Whether what came instead of the right answer is excused; a 502 is by so many killed apps.
    fn judge(
        &mut self,
        outcome: &Outcome,
        began: Instant,
        apps_for_502: usize,
    ) -> Result<(), String> {
        let workers = self.incidents.since(Victim::Worker, began);
        let apps = self.incidents.since(Victim::App, began);
        let excuse = match outcome {
            Outcome::Closed => {
                self.tally.resent += 1;
                return Ok(());
            }
            Outcome::Broken(e) if is_cut(e) && workers > 0 => "broken by a killed worker",
            Outcome::Broken(e) if is_cut(e) && apps > 0 => "cut by a killed app",
            Outcome::Answered(r) if r.status == 502 && apps >= apps_for_502 => "502 after kills",
            Outcome::Broken(e) => {
                return Err(format!(
                    "{e} ({:?}) after {} ms",
                    e.kind(),
                    began.elapsed().as_millis()
                ))
            }
            Outcome::Answered(r) => {
                let (length, took) = (r.body.len(), began.elapsed().as_millis());
                let text: String = r.text().chars().take(200).collect();
                return Err(format!(
                    "status {} with {length} bytes after {took} ms, {apps} apps killed: {text:?}",
                    r.status
                ));
            }
        };
        *self.tally.excused.entry(excuse).or_default() += 1;
        Ok(())
    }

    fn exchange(&mut self, language: Language, request: &Request) -> Outcome {
        let site = language.name();
        let kept = self.connections.remove(site);
        let is_reused = kept.is_some();
        let mut client = match kept.map_or_else(|| Client::connect(self.port, site), Ok) {
            Ok(client) => client,
            Err(e) => return Outcome::Broken(e),
        };
        let head = client.send(request).and_then(|()| client.response_head());
        let (status, headers) = match head {
            Ok(head) => head,
            Err(e) if is_reused && is_closed(&e) => return Outcome::Closed,
            Err(e) => return Outcome::Broken(e),
        };
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        loop {
            match client.body_piece() {
                Ok(piece) if piece.is_empty() => break,
                Ok(piece) => response.body.extend_from_slice(&piece),
                Err(e) => return Outcome::Broken(e),
            }
        }
        if response.header("connection") != Some("close") {
            self.connections.insert(site, client);
        }
        Outcome::Answered(response)
    }
}

/// Whether a connection ended, and not a deadline or a rule of HTTP.
fn is_cut(error: &io::Error) -> bool {
    is_closed(error) || error.kind() == io::ErrorKind::UnexpectedEof
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | BrokenPipe
    )
}
