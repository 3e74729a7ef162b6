//! Starting one app for a trial, in the very way the agent would: same rules about whose it is, same shim, same
//! loader, same report if it fails. No httpd is involved and nothing of it is left.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use passenger_shm::messages::{self, Apache, Config, Registration, Server};

use super::checks::path_of_httpd;
use super::steer;
use super::validate::{Finding, Level};
use crate::config::Configuration;
use crate::output::{Drained, LineDrain, Scratch};
use crate::spawn::diagnosis;
use crate::spawn::dialogue::{self, Lines, Said};
use crate::spawn::launch::{self, Launched, Limits};
use crate::spawn::prepare::{self, Prepared};
use crate::spawn::report::{self, Cause, Story, Tail};
use crate::sys::patience::Patience;
use crate::sys::process;
use crate::watchdog::stop;

/// How long a process that has started may take to end again.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// The end of what it printed may take so long to arrive.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Starts the app in that directory.
pub(super) fn start(app: &Path, prefix: &Path) -> Finding {
    let check = format!("whether the app in {} starts", app.display());
    let result = prepare_trial(app, prefix).and_then(|(prepared, directory, source)| {
        let result = run(&prepared, prefix, &directory);
        let _ = fs::remove_dir_all(&directory);
        match result {
            Ok(text) => Ok(format!("{text} It was tried with {source}.")),
            Err(text) => Err(format!("{text}\nIt was tried with {source}.")),
        }
    });
    match result {
        Ok(text) => Finding::new(&check, Level::Ok, text),
        Err(text) => Finding::new(&check, Level::Error, text),
    }
}

/// What would be started, a directory for its socket that only we can enter, and whose directives these are.
fn prepare_trial(app: &Path, prefix: &Path) -> Result<(Prepared, PathBuf, String), String> {
    let app = app
        .canonicalize()
        .map_err(|e| format!("cannot find {}: {e}", app.display()))?;
    let public = app.join("public");
    let document_root = public.to_str().ok_or("its path is not UTF-8")?.to_owned();
    let (source, config, registration) = steer::configured(&app).map_or_else(
        || {
            let registration = Registration {
                generation: 1,
                chain: vec![],
                document_root: document_root.clone(),
                base_uri: String::new(),
            };
            let source = "the directives' defaults (no running instance serves it)".to_owned();
            (source, plain(&document_root), registration)
        },
        |(instance, config, registration)| {
            let source = format!("the directives that instance {instance} has for it");
            (source, config, registration)
        },
    );
    let configuration = Configuration::parse(&messages::encode_config(&config)?)?;
    let loaders = prefix.join("share/passenger/loaders");
    // What is looked up, and what the app gets, is what httpd's apps get.
    std::env::set_var("PATH", path_of_httpd());
    let prepared = prepare::prepare(&configuration, &registration, &loaders)?;
    let mut random = [0; 8];
    process::random_bytes(&mut random).map_err(|e| format!("no random numbers: {e}"))?;
    let name = format!("passenger-trial-{:016x}", u64::from_ne_bytes(random));
    let directory = std::env::temp_dir().join(name);
    DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .map_err(|e| format!("cannot make the directory {}: {e}", directory.display()))?;
    Ok((prepared, directory, source))
}

/// The configuration of an httpd without any directive of ours.
fn plain(document_root: &str) -> Config {
    Config {
        generation: 1,
        build: String::new(),
        apache: Apache {
            uid: process::effective_uid(),
            gid: nix::unistd::getegid().as_raw(),
            software: "passenger-config validate".to_owned(),
            mpm: String::new(),
            server_limit: 1,
            max_threads: 1,
        },
        global: vec![],
        servers: vec![Server {
            name: String::new(),
            document_root: document_root.to_owned(),
            env: vec![],
        }],
        records: vec![],
    }
}

fn run(prepared: &Prepared, prefix: &Path, directory: &Path) -> Result<String, String> {
    if prepared.port.is_some() {
        return Ok("It is not tried: the meteor command would build it first.".to_owned());
    }
    let failed = |what: &'static str| move |e: io::Error| format!("cannot {what}: {e}");
    process::become_subreaper().map_err(failed("look after its processes"))?;
    let image = prefix.join("libexec/passenger-helper-agent");
    let image = File::open(&image).map_err(|e| format!("cannot open {}: {e}", image.display()))?;
    let listener = launch::bind(&directory.join("s"), None, launch::BACKLOG)
        .map_err(failed("make its socket"))?;
    let began = Instant::now();
    let launched = launch::launch(
        image.as_fd(),
        &prepared.order,
        Some(listener),
        Limits::default(),
    )
    .map_err(failed("start a process"))?;
    let mut trial = Trial {
        launched,
        lines: Lines::default(),
        story: Story::default(),
        drain: LineDrain::new(""),
        scratch: Scratch::new().map_err(failed("read its output"))?,
        tail: Tail::default(),
    };
    for (key, value) in &prepared.facts {
        trial.story.fact(*key, value);
    }
    let outcome = trial
        .watch(prepared.timeout)
        .map_err(failed("watch its start"));
    let took = began.elapsed();
    let is_ready = matches!(outcome, Ok(None));
    trial.end(is_ready);
    let user = &prepared.user;
    match outcome? {
        None => Ok(format!(
            "It was ready after {} ms, as user {user}.",
            took.as_millis()
        )),
        Some(cause) => Err(trial.explain(&cause, prepared)),
    }
}

struct Trial {
    launched: Launched,
    lines: Lines,
    story: Story,
    drain: LineDrain,
    scratch: Scratch,
    tail: Tail,
}

impl Trial {
    /// Follows the dialogue; `None`: it is ready.
    fn watch(&mut self, limit: Duration) -> io::Result<Option<Cause>> {
        let deadline = Instant::now() + limit;
        self.launched.control.write_all(dialogue::go().as_bytes())?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let diagnosis = diagnosis::of(self.launched.pid);
                self.story.was_doing(diagnosis.sentence);
                for (key, value) in diagnosis.facts {
                    self.story.fact(key, value);
                }
                return Ok(Some(Cause::TimedOut(limit)));
            }
            let control = self.launched.control.as_fd();
            wait(&[control, self.launched.output.as_fd()], left)?;
            self.read_output()?;
            if let Some(end) = self.read_control()? {
                return Ok(end);
            }
        }
    }

    /// `Some(None)`: ready. `Some(Some(_))`: failed.
    fn read_control(&mut self) -> io::Result<Option<Option<Cause>>> {
        let mut buffer = [0; 2_048];
        let length = match self.launched.control.read(&mut buffer) {
            Ok(0) => return Ok(Some(Some(self.ended()))),
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Some(Some(self.ended())));
            }
            Err(e) => return Err(e),
        };
        let lines = match self.lines.push(&buffer[..length]) {
            Ok(lines) => lines,
            Err(text) => return Ok(Some(Some(Cause::Misspoke(text)))),
        };
        for line in lines {
            match dialogue::parse(&line) {
                Ok(Said::Step(step)) => self.story.began(step),
                Ok(Said::Info(key, value)) => self.story.fact(key, value),
                Ok(Said::Error(step, text)) => return Ok(Some(Some(Cause::Said { step, text }))),
                Ok(Said::Ready { .. }) => return Ok(Some(None)),
                Ok(
                    Said::Busy { .. }
                    | Said::Leave
                    | Said::Preloaded
                    | Said::WorkWanted
                    | Said::WorkDone(_),
                ) => {}
                Err(text) => return Ok(Some(Some(Cause::Misspoke(text)))),
            }
        }
        Ok(None)
    }

    fn ended(&self) -> Cause {
        let gone = wait(&[self.launched.pidfd.as_fd()], LAST_WORDS);
        let exit = gone
            .ok()
            .and_then(|()| self.launched.pidfd.peek().ok().flatten());
        Cause::Ended(exit.map(|exit| exit.status))
    }

    fn read_output(&mut self) -> io::Result<()> {
        let tail = &mut self.tail;
        let output = self.launched.output.as_fd();
        let mut keep = |line: &str| tail.push(line);
        while self.drain.drain(output, &mut self.scratch, &mut keep)? == Drained::More {}
        Ok(())
    }

    /// Ends it and whatever it started; collects its last words.
    fn end(&mut self, is_ready: bool) {
        if is_ready {
            let _ = self.launched.control.write_all(dialogue::stop().as_bytes());
            let _ = wait(&[self.launched.pidfd.as_fd()], END_PATIENCE);
        } else {
            let _ = wait(&[self.launched.pidfd.as_fd()], LAST_WORDS);
        }
        stop::end_descendants(&mut Patience::new(Instant::now()));
        // What it printed is in the pipe; an error only means that there is no more.
        let _ = self.read_output();
    }

    fn explain(&self, cause: &Cause, prepared: &Prepared) -> String {
        let output = self.tail.text();
        let name = &prepared.group_name;
        let failure = report::failure(String::new(), name, cause, &self.story, &output, true);
        let mut text = format!("{}.\n{}", failure.summary, failure.advice);
        if !output.is_empty() {
            text.push_str("\nIt printed:\n");
            text.extend(output.lines().map(|line| format!("  {line}\n")));
        }
        for (key, value) in failure.facts.iter().filter(|(key, _)| key != "variables") {
            text.push_str(&format!("\n{key}: {value}"));
        }
        text
    }
}

/// Waits until one of them has something to say.
fn wait(fds: &[BorrowedFd<'_>], limit: Duration) -> io::Result<()> {
    let mut fds: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    // Unfinished lines are looked at again, so never for long.
    let limit = limit.min(Duration::from_millis(500));
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
    match poll(&mut fds, limit) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
