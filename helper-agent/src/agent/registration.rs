//! A worker asks which group serves a configuration. The answer may need files of an app's user, so it is
//! found by a helper thread; a configuration that has not arrived yet is waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use passenger_shm::messages::{Registration, ToWorker};
use passenger_shm::GroupKey;
use tokio::sync::oneshot;

use super::core::Agent;
use super::groups::Group;
use super::restarts::RestartLook;
use super::start::parse;
use super::tasks::Happening;
use crate::config::{Application, Configuration, Identity};
use crate::pool::{CodeWait, Event, GroupId};
use crate::status::board::{GroupFacts, Tally};
use crate::store::Past;

/// How long a registration waits for its configuration, and for file systems. A worker gives its connection
/// up after ten seconds, so it is told before.
const PATIENCE: Duration = Duration::from_secs(8);

/// Workers that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Documents of configurations that some worker may still ask with.
    pub(super) past: Past,
    /// For a configuration that has not come.
    parked: Vec<(Registration, oneshot::Sender<ToWorker>, Instant)>,
    /// For a helper thread.
    tickets: HashMap<u64, Ticket>,
    next: u64,
}

#[derive(Debug)]
struct Ticket {
    registration: Registration,
    configuration: Arc<Configuration>,
    reply: oneshot::Sender<ToWorker>,
}

fn refuse(reply: oneshot::Sender<ToWorker>, message: String) {
    let _ = reply.send(ToWorker::RegisterRefused { message });
}

impl Agent {
    pub(super) fn register(
        &mut self,
        registration: Registration,
        reply: oneshot::Sender<ToWorker>,
    ) {
        if let Some(id) = self.groups.by_registration(&registration) {
            self.forget_guess(id);
            self.tell(Event::Demand { group: id });
            self.answer(id, reply);
            return;
        }
        if registration.generation > self.configuration.generation {
            // At a graceful, children of the new generation may be here before its configuration.
            self.waiting
                .parked
                .push((registration, reply, Instant::now() + PATIENCE));
            return;
        }
        match self.configuration_of(registration.generation) {
            Some(configuration) => self.find(registration, configuration, reply),
            None => refuse(
                reply,
                format!(
                    "httpd's configuration generation {} is too old: the newest is {}",
                    registration.generation, self.configuration.generation
                ),
            ),
        }
    }

    fn configuration_of(&self, generation: u64) -> Option<Arc<Configuration>> {
        let known = [Some(&self.configuration), self.previous.as_ref()];
        let known = known
            .into_iter()
            .flatten()
            .find(|c| c.generation == generation);
        known
            .cloned()
            .or_else(|| self.past_configuration(generation))
    }

    /// Read again: workers of long ago that meet an app for the first time are rare.
    fn past_configuration(&self, generation: u64) -> Option<Arc<Configuration>> {
        let document = self.waiting.past.document(generation)?;
        match parse(document) {
            Ok(configuration) => Some(Arc::new(configuration)),
            Err(e) => {
                log::error!(
                    "[BUG] configuration {generation} was in force and cannot be read: {e}"
                );
                None
            }
        }
    }

    /// Looks again at registrations that wait for a configuration.
    pub(super) fn retry_parked(&mut self) {
        let newest = self.configuration.generation;
        for (registration, reply, until) in std::mem::take(&mut self.waiting.parked) {
            if registration.generation <= newest {
                self.register(registration, reply);
            } else if Instant::now() >= until {
                let generation = registration.generation;
                refuse(
                    reply,
                    format!("httpd's configuration generation {generation} has not arrived"),
                );
            } else {
                self.waiting.parked.push((registration, reply, until));
            }
        }
    }

    fn find(
        &mut self,
        registration: Registration,
        configuration: Arc<Configuration>,
        reply: oneshot::Sender<ToWorker>,
    ) {
        self.waiting.next += 1;
        let ticket = self.waiting.next;
        let out = self.happenings.clone();
        let (config, wanted) = (Arc::clone(&configuration), registration.clone());
        let (found, look) = oneshot::channel();
        let begun = self.helpers.run(move || {
            // Nobody waits any more: it took too long.
            let _ = found.send(Application::find(&config, &wanted));
        });
        tokio::spawn(async move {
            let result = match (begun, tokio::time::timeout(PATIENCE, look).await) {
                (Err(e), _) => Err(format!(
                    "the agent cannot start a thread to find the app: {e}"
                )),
                (Ok(()), Ok(Ok(found))) => found.map(Box::new),
                (Ok(()), Ok(Err(_))) => Err("[BUG] looking for the app failed".to_owned()),
                (Ok(()), Err(_)) => Err(format!(
                    "the file system of the app did not answer within {} seconds",
                    PATIENCE.as_secs()
                )),
            };
            let _ = out.send(Happening::Found { ticket, result }).await;
        });
        self.waiting.tickets.insert(
            ticket,
            Ticket {
                registration,
                configuration,
                reply,
            },
        );
    }

    pub(super) fn on_found(&mut self, ticket: u64, result: Result<Box<Application>, String>) {
        let Some(ticket) = self.waiting.tickets.remove(&ticket) else {
            return;
        };
        let Ticket {
            registration,
            configuration,
            reply,
        } = ticket;
        let placed = result.and_then(|app| self.place(&registration, configuration, *app));
        match placed {
            Ok(id) => {
                self.tell(Event::Demand { group: id });
                self.answer(id, reply);
            }
            Err(message) => {
                log::error!(
                    "app under {:?} refused: {message}",
                    registration.document_root
                );
                refuse(reply, message);
            }
        }
    }

    fn answer(&self, id: GroupId, reply: oneshot::Sender<ToWorker>) {
        let Some(group) = self.groups.get(id) else {
            return;
        };
        let (group, generation) = (group.reference.index(), group.reference.generation());
        let _ = reply.send(ToWorker::Registered { group, generation });
    }

    /// The group of an application, which may be new, with a key that leads to it.
    pub(super) fn place(
        &mut self,
        registration: &Registration,
        configuration: Arc<Configuration>,
        app: Application,
    ) -> Result<GroupId, String> {
        let identity = Identity::of(&app);
        let id = match self.groups.by_identity(identity) {
            Some(id) => {
                self.renew(id, registration, configuration, app);
                id
            }
            None => self.create(registration, configuration, app, identity)?,
        };
        self.add_key(id, registration)?;
        if self.is_retired {
            self.leave_to_successor(id);
        }
        Ok(id)
    }

    fn create(
        &mut self,
        registration: &Registration,
        configuration: Arc<Configuration>,
        app: Application,
        identity: Identity,
    ) -> Result<GroupId, String> {
        let definition = configuration.define(registration, identity)?;
        let bytes = definition.encode()?;
        let facts = GroupFacts::of(&app);
        let mut group = Group {
            reference: passenger_shm::GroupRef::new(0, 0),
            name: app.group_name,
            definition,
            registration: Some(registration.clone()),
            is_named: true,
            configuration,
            options: app.options,
            code_generation: 1,
            code_wait: CodeWait::No,
            restart_mark: 0,
            restart_look: RestartLook::default(),
            is_foreseen: false,
            failure: None,
            not_preloaded: None,
            failed_at: 0,
            former_failure: None,
            failed_starts: 0,
            is_resisting: false,
            last_crash: None,
            tally: Tally::default(),
            app_log: Arc::default(),
            facts,
            preparing_since: None,
        };
        group.reference = self
            .view
            .create_group(&group.params(), &bytes)
            .map_err(|e| format!("no room for app {}: {e}", group.name))?;
        let limits = group.limits();
        log::info!("app {} is served from now on", group.name);
        let id = self.groups.insert(group);
        self.begin_rejections(id);
        self.board.touch_now();
        self.tell(Event::GroupAdded { group: id, limits });
        self.look_at_restart_files();
        Ok(id)
    }

    /// A registration of a newer configuration says what is configured now; inside one generation the
    /// first counts.
    fn renew(
        &mut self,
        id: GroupId,
        registration: &Registration,
        configuration: Arc<Configuration>,
        app: Application,
    ) {
        let Some(group) = self.groups.get(id) else {
            return;
        };
        let is_first = match &group.registration {
            Some(known) => known.generation < registration.generation || group.is_foreseen,
            None => true,
        };
        if is_first {
            self.forget_guess(id);
            self.reconfigure(
                id,
                registration.clone(),
                configuration,
                app.options,
                Some(app.group_name),
            );
        } else if !app.options.spawns_like(&group.options)
            && registration.generation == group.configuration.generation
        {
            log::warn!(
                "app {} is configured twice with different options; those of the place that was used first apply",
                group.name
            );
        }
    }

    /// Somebody asked: what is configured is known now.
    fn forget_guess(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get_mut(id) {
            group.is_foreseen = false;
        }
    }

    fn add_key(&mut self, id: GroupId, registration: &Registration) -> Result<(), String> {
        if !self.groups.remember(registration, id) {
            log::warn!(
                "an app has very many different configurations; its keys are collected anew"
            );
            self.groups.forget_registrations(id, u64::MAX);
            let _ = self.groups.remember(registration, id);
            if let Some(group) = self.groups.get(id) {
                self.view.remove_keys_of(group.reference);
            }
        }
        let Some(group) = self.groups.get(id) else {
            return Ok(());
        };
        let key = GroupKey::of(registration, self.view.instance_key());
        self.view
            .add_key(key, group.reference)
            .map_err(|e| format!("no room for a key of app {}: {e}", group.name))
    }

    /// Lets keys of configurations before `keep_from` go.
    pub(super) fn drop_old_keys(&mut self, id: GroupId, keep_from: u64) {
        let stay = self.groups.forget_registrations(id, keep_from);
        let Some(group) = self.groups.get(id) else {
            return;
        };
        self.view.remove_keys_of(group.reference);
        for registration in stay {
            let key = GroupKey::of(&registration, self.view.instance_key());
            if let Err(e) = self.view.add_key(key, group.reference) {
                log::warn!("no room for a key of app {}: {e}", group.name);
            }
        }
    }
}
