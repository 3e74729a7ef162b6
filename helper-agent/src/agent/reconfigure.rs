//! A new configuration at a graceful: what runs goes on; apps whose options changed are replaced one
//! process after the other; apps it does not name any more lose their minimum and are forgotten when idle.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use passenger_shm::messages::Registration;

use super::core::{pool_limits, Agent};
use super::start::{exactly, parse, ConfigFiles};
use crate::config::{AppOptions, Configuration};
use crate::log as sink;
use crate::pool::{Event, GroupId};

impl Agent {
    pub(super) fn on_config(&mut self, generation: u64, fds: Vec<OwnedFd>) {
        let files = match exactly(fds) {
            Ok([document, log]) => ConfigFiles { document, log },
            Err(e) => {
                self.store.config_refused(generation, format!("[BUG] {e}"));
                return;
            }
        };
        // The log is a new file whatever the configuration is worth.
        match files.log.try_clone() {
            Ok(log) => sink::replace(log),
            Err(e) => log::error!("cannot write to the new log: {e}"),
        }
        match parse(&files.document) {
            Ok(configuration) => self.take_config(files, &Arc::new(configuration)),
            Err(message) => {
                log::error!(
                    "configuration {generation} is refused, the one before stays: {message}"
                );
                self.files.log = files.log;
                self.store.config_refused(generation, message);
            }
        }
    }

    fn take_config(&mut self, files: ConfigFiles, configuration: &Arc<Configuration>) {
        let generation = configuration.generation;
        let before = std::mem::replace(&mut self.files, files);
        self.waiting
            .past
            .add(self.configuration.generation, before.document);
        self.previous = Some(std::mem::replace(
            &mut self.configuration,
            Arc::clone(configuration),
        ));
        sink::set_level(configuration.global.log_level);
        self.app_logs
            .main_log(&self.files.log, configuration.global.log_level);
        let keep_from = self.waiting.past.oldest().unwrap_or(0);
        self.tell(Event::Configured(pool_limits(configuration)));
        for id in self.groups.ids() {
            self.drop_old_keys(id, keep_from);
            self.translate(id, configuration);
        }
        self.view.set_config_generation(generation);
        self.store.ready(generation);
        self.retry_parked();
        self.foresee();
        self.request_prestart_urls();
    }

    /// Finds a group's place in a new configuration.
    fn translate(&mut self, id: GroupId, configuration: &Arc<Configuration>) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        let root = &group.definition.registration.document_root;
        let is_gone =
            group.configuration.has_document_root(root) && !configuration.has_document_root(root);
        let translated = configuration
            .translate(&group.definition)
            .filter(|_| !is_gone);
        let options = translated.as_ref().map(|t| configuration.options(&t.chain));
        match (translated, options) {
            (Some(registration), Some(Ok(options))) => {
                self.reconfigure(id, registration, Arc::clone(configuration), options, None);
            }
            _ => {
                group.is_named = false;
                let limits = group.limits();
                if is_gone {
                    log::info!(
                        "app {} is not configured any more and ends with its last request",
                        group.name
                    );
                } else {
                    log::debug!("app {} waits for somebody to use it again", group.name);
                }
                self.tell(Event::GroupChanged { group: id, limits });
                if is_gone {
                    self.tell(Event::GroupGone { group: id });
                }
            }
        }
    }

    /// Gives a group its place in a configuration, and replaces its processes if that makes them outdated.
    pub(super) fn reconfigure(
        &mut self,
        id: GroupId,
        registration: Registration,
        configuration: Arc<Configuration>,
        options: AppOptions,
        name: Option<String>,
    ) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        let is_outdated = !options.spawns_like(&group.options)
            || !spawns_like(&configuration, &group.configuration, &registration);
        if let Ok(definition) = configuration.define(&registration, group.definition.identity) {
            group.definition = definition;
        }
        if options.app_log_file != group.options.app_log_file {
            group.app_log.forget();
        }
        group.registration = Some(registration);
        group.is_named = true;
        group.configuration = configuration;
        group.options = options;
        group.name = name.unwrap_or_else(|| group.name.clone());
        if is_outdated {
            group.code_generation = group.code_generation.wrapping_add(1);
            group.is_resisting = false;
            log::info!(
                "app {}: its configuration changed, its processes are replaced",
                group.name
            );
        }
        let (params, limits, reference) = (group.params(), group.limits(), group.reference);
        self.view.update_group(reference, &params);
        self.tell(Event::GroupChanged { group: id, limits });
        if is_outdated {
            self.end_preloaders(Some(id));
            self.tell(Event::Restart { group: id });
        }
    }
}

/// Whether what concerns starts outside the app's own sections is the same in both.
fn spawns_like(new: &Configuration, old: &Configuration, registration: &Registration) -> bool {
    let essence = |c: &Configuration| {
        let global = &c.global;
        (
            global.user_switching,
            global.default_user.clone(),
            global.default_group.clone(),
            global.default_ruby.clone(),
            c.environment(&registration.document_root),
        )
    };
    essence(new) == essence(old)
}
