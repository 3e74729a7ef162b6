//! Apps that run before anybody asks: those with a minimum of their own (`PassengerMinInstances`) are started
//! with every configuration, and the URLs of `PassengerPreStart` are requested once per configuration.

use std::sync::Arc;

use passenger_shm::messages::Registration;

use super::core::Agent;
use super::tasks::{Happening, Happenings};
use crate::config::{Application, Configuration, Identity};
use crate::prestart;

impl Agent {
    /// Looks for apps that are to run from the start. A helper thread does: it looks at files.
    pub(super) fn foresee(&self) {
        let configuration = Arc::clone(&self.configuration);
        let (out, helpers) = (self.happenings.clone(), self.helpers.clone());
        let begun = self.helpers.run(move || {
            for registration in configuration.foreseen() {
                let (configuration, out) = (Arc::clone(&configuration), out.clone());
                // Each by itself: a directory that does not answer keeps no other app from being found.
                let begun = helpers.run(move || find(configuration, registration, &out));
                if let Err(e) = begun {
                    log::warn!(
                        "an app is not started in advance, there is no thread to look for it: {e}"
                    );
                }
            }
        });
        if let Err(e) = begun {
            log::warn!("no app is started in advance, there is no thread to look for them: {e}");
        }
    }

    pub(super) fn on_foreseen(
        &mut self,
        registration: &Registration,
        configuration: Arc<Configuration>,
        app: Application,
    ) {
        let is_known = self.groups.by_identity(Identity::of(&app)).is_some();
        if self.is_retired || is_known || configuration.generation != self.configuration.generation
        {
            return;
        }
        let name = app.group_name.clone();
        match self.place(registration, configuration, app) {
            Ok(id) => {
                if let Some(group) = self.groups.get_mut(id) {
                    group.is_foreseen = true;
                }
            }
            Err(e) => log::warn!("app {name} cannot be started in advance: {e}"),
        }
    }

    /// Has the URLs of `PassengerPreStart` requested, which starts their apps and warms them up.
    pub(super) fn request_prestart_urls(&self) {
        let global = &self.configuration.global;
        prestart::begin(&global.pre_start, &global.default_user);
    }
}

fn find(configuration: Arc<Configuration>, registration: Registration, out: &Happenings) {
    match Application::find(&configuration, &registration) {
        Ok(app) => {
            let foreseen = Happening::Foreseen {
                registration,
                configuration,
                app: Box::new(app),
            };
            let _ = out.blocking_send(foreseen);
        }
        // What was written for all hosts also holds for hosts without an app.
        Err(e) => log::debug!(
            "nothing is started in advance under {:?}: {e}",
            registration.document_root
        ),
    }
}
