//! The life of a request, in order: mapped earlier, now body, group, seat, exchange, and again if the rule
//! allows it.

use crate::admit::{admit, Wish};
use crate::apps::App;
use crate::config::{self, DirConfig};
use crate::error::RequestError;
use crate::error_page;
use crate::exchange::{attempt, Answer, AttemptError, Outbound};
use crate::ffi::log::for_request;
use crate::ffi::request::Request;
use crate::mapping::{self, Mapping};
use crate::next_request::Serving;
use crate::request_body::RequestBody;
use crate::restarts;
use crate::sticky::Sticky;
use crate::upgrade;
use crate::upstream::retry::{self, verdict, Failure, Verdict};
use crate::worker::{self, Worker};
use passenger_shm::{GroupRef, ProcessRef};
use std::time::{Duration, Instant};

/// Attempts that provably executed nothing are free, but not without end.
const MAX_ATTEMPTS: u32 = 20;
/// How long the agent has to notice that a process which refuses connections is dead.
const NOTICE_TIME: Duration = Duration::from_millis(1000);

/// What httpd is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not ours.
    Declined,
    /// A response was passed on.
    Answered,
    /// The request goes on without this thread, by our own means.
    Suspended,
    /// httpd shall answer with its page for this status.
    Status(u16),
}

/// Handles the request if it was mapped to an app.
pub(crate) fn handle(r: &mut Request<'_>) -> Outcome {
    if r.handler() != mapping::HANDLER.to_bytes() {
        return Outcome::Declined;
    }
    let Some(mapping) = r.attached() else {
        return Outcome::Declined;
    };
    let _serving = Serving::begin();
    match serve(r, mapping) {
        Ok(outcome) => outcome,
        Err(error) => {
            if error.is_worth_logging() {
                let root = &mapping.app.registration.document_root;
                let (code, app) = (error.code(), app_name(r, &mapping.app));
                let text = format_args!("{code} app {app}: {error} [document root {root}]");
                for_request(r.as_ptr(), log::Level::Error, text);
            }
            error_page::answer(r, &error)
        }
    }
}

/// The app's name as the agent's lines have it.
fn app_name(r: &Request<'_>, app: &App) -> String {
    let unset = DirConfig::default();
    let config = config::of_request(r.as_ptr()).unwrap_or(&unset);
    match (config.app_group_name(), &app.root) {
        (Some(name), _) => name.to_owned(),
        (None, Some(root)) => format!("{} ({})", root.display(), config.app_env()),
        (None, None) => format!("under {}", app.registration.document_root),
    }
}

fn serve(r: &mut Request<'_>, mapping: &Mapping) -> Result<Outcome, RequestError> {
    if upgrade::is_requested_in_vain(r) {
        return Ok(upgrade::refuse(r));
    }
    let app = &*mapping.app;
    let worker = worker::get().map_err(|e| RequestError::NoInstance {
        reason: e.to_string(),
    })?;
    let globals = config::globals();
    let body = RequestBody::receive(r, mapping.buffers_upload, &globals.data_buffer_dir)?;
    let mut outbound = Outbound::new(&body, mapping, &globals.data_buffer_dir, &worker.software);
    outbound.upgrades = upgrade::is_requested(r);
    let sticky = Sticky::of(r, mapping);
    let mut tries = Tries::new(r, &body);
    tries.wish.route = sticky.as_ref().and_then(|sticky| sticky.route);
    loop {
        let group = group(worker, app)?;
        restarts::notice(worker, app, group);
        let seat = admit(r, worker, group, tries.wish)?;
        let process = seat.process();
        outbound.cookie = sticky
            .as_ref()
            .map(|sticky| sticky.cookie(worker.client.route_of(process)));
        outbound.has_one_chance = tries.request.has_one_chance();
        match attempt(r, worker, seat, &mut outbound) {
            Ok(Answer::PassedOn) => return Ok(Outcome::Answered),
            Ok(Answer::Suspended) => return Ok(Outcome::Suspended),
            Ok(Answer::Override(status)) => return Ok(Outcome::Status(status)),
            Err(AttemptError::Fatal(error)) => return Err(error),
            Err(AttemptError::Truncated(reason)) => {
                let text = format_args!("PSGR0210 a response was broken off: {reason}");
                for_request(r.as_ptr(), log::Level::Error, text);
                return Ok(Outcome::Answered);
            }
            Err(AttemptError::Failed(failure)) => tries.again(worker, process, failure)?,
        }
    }
}

/// The app's group; asks the agent once per configuration.
fn group(worker: &Worker, app: &App) -> Result<GroupRef, RequestError> {
    if let Some(group) = app.group(&worker.view) {
        return Ok(group);
    }
    let group = worker
        .register(&app.registration)
        .map_err(|reason| RequestError::Refused { reason })?;
    app.set_group(Some(group));
    Ok(group)
}

/// Keeps count of what was tried.
struct Tries {
    request: retry::Request,
    attempts: u32,
    wish: Wish,
}

impl Tries {
    fn new(r: &Request<'_>, body: &RequestBody) -> Self {
        let request = retry::Request {
            is_idempotent: retry::is_idempotent(r.method()),
            is_replayable: body.is_replayable(),
            executions: 0,
        };
        Self {
            request,
            attempts: 0,
            wish: Wish::default(),
        }
    }

    /// Whether the request may go again after that failure.
    fn again(
        &mut self,
        worker: &Worker,
        process: ProcessRef,
        failure: Failure,
    ) -> Result<(), RequestError> {
        self.attempts += 1;
        let verdict = verdict(&failure, self.request);
        if verdict == Verdict::Never || self.attempts > MAX_ATTEMPTS {
            return Err(give_up(process, failure));
        }
        if verdict == Verdict::AgainOnce {
            self.request.executions += 1;
        }
        self.wish = Wish {
            route: None,
            avoid: Some(process),
        };
        if self.attempts > 1 {
            wait_until_noticed(worker, process);
        }
        Ok(())
    }
}

/// A process that refuses connections is dead or dying, and the agent is about to say so; asking for a seat
/// before that could return the same process again and again.
fn wait_until_noticed(worker: &Worker, process: ProcessRef) {
    let start = Instant::now();
    while worker.view.is_live(process) && start.elapsed() < NOTICE_TIME {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn give_up(process: ProcessRef, failure: Failure) -> RequestError {
    let process = format!("{}.{}", process.slot(), process.generation());
    match failure {
        Failure::ClientGone => RequestError::ClientGone,
        Failure::Unread(error) | Failure::MayHaveRun(error) => {
            RequestError::NoResponse { process, error }
        }
    }
}
