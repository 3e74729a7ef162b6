//! Who deals with what: each happening, each message of the watchdog, each command of the pool.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use passenger_shm::ClientId;

use super::core::Agent;
use super::processes::Body;
use super::tasks::Happening;
use crate::pool::{Command, Event};
use crate::store::ToAgent;

impl Agent {
    /// Deals with what has happened.
    pub(super) fn on_happening(&mut self, happening: Happening) {
        match happening {
            Happening::Store(message, fds) => self.on_store(&message, fds),
            Happening::StoreMissed => self.store.missed(),
            Happening::StoreClosed => self.become_watchdog(),
            Happening::Administered {
                viewer,
                request,
                reply,
            } => self.on_administered(viewer, &request, reply),
            Happening::Asked {
                client,
                message,
                reply,
            } => self.on_asked(client, message, reply),
            Happening::Found { ticket, result } => self.on_found(ticket, result),
            Happening::Foreseen {
                registration,
                configuration,
                app,
            } => self.on_foreseen(&registration, configuration, *app),
            Happening::SawRestartFiles { group, files } => self.on_restart_files(group, files),
            Happening::Measured { process, megabytes } => self.on_measured(process, megabytes),
            Happening::Prepared {
                group,
                process,
                result,
            } => {
                self.on_prepared(group, process, result);
            }
            Happening::Said { process, .. }
            | Happening::Exited { process }
            | Happening::ControlClosed { process }
            | Happening::OutputClosed { process }
            | Happening::Overdue { process }
            | Happening::Conclude { process }
                if self.preloaders.has(process) =>
            {
                self.on_preloader(process, happening);
            }
            Happening::Said { process, said } => self.on_said(process, said),
            Happening::Answered { process } => self.on_answered(process),
            Happening::LookedAtPort {
                process,
                is_deserted,
            } => self.on_looked_at_port(process, is_deserted),
            Happening::Exited { process } => self.on_exited(process),
            Happening::ControlClosed { process } => self.on_control_closed(process),
            Happening::OutputClosed { process } => self.on_output_closed(process),
            Happening::Hello { process, heard } => self.on_hello(process, heard),
            Happening::ForkOverdue { process } => self.on_fork_overdue(process),
            Happening::StartTimedOut { process } => self.on_start_timed_out(process),
            Happening::Diagnosed { process, diagnosis } => self.on_diagnosed(process, diagnosis),
            Happening::Overdue { process } => self.on_overdue(process),
            Happening::Conclude { process } => self.conclude(process),
            Happening::Inspected { process } => self.with_body(process, Body::kill_group),
        }
    }

    /// Deals with what the watchdog says.
    pub(super) fn on_store(&mut self, message: &ToAgent, fds: Vec<OwnedFd>) {
        match *message {
            ToAgent::Beat => self.store.heard(),
            ToAgent::Config { generation } => self.on_config(generation, fds),
            ToAgent::Worker {
                slot,
                generation,
                pid,
            } => {
                self.on_worker(ClientId::new(slot, generation), pid, fds);
            }
            ToAgent::WorkerGone { slot, generation } => {
                self.workers.remove(&(slot, generation));
                // Its seats are orphans now.
                self.look();
            }
            ToAgent::ChildExited { pid, status } => self.on_child_exited(pid, status),
            ToAgent::Retire => self.on_retire(),
            ToAgent::Stop { deadline_ms } => self.on_stop(deadline_ms),
            ToAgent::PastConfig { generation } => {
                for document in fds {
                    self.waiting.past.add(generation, document);
                }
            }
            ToAgent::Start { .. } | ToAgent::Process { .. } | ToAgent::StoreEnd => {
                log::error!("[BUG] the watchdog sent a part of the store after its end");
            }
        }
    }

    fn on_stop(&mut self, deadline_ms: u64) {
        log::info!("ending all apps, by force after {deadline_ms} ms");
        self.stop_at = Some(Instant::now() + Duration::from_millis(deadline_ms));
        self.end_preloaders(None);
        self.tell(Event::Stop { deadline_ms });
        self.settle();
        self.look();
    }

    /// Does what the pool commands.
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Spawn { group, process } => self.spawn(group, process),
            Command::Drain { process } => self.drain(process),
            Command::Rest { process } => {
                if let Some(process) = self.processes.get(process) {
                    self.view.rest(process.reference);
                }
            }
            Command::Work { process } => self.tell_to_work(process),
            Command::Resume { process } => {
                if let Some(process) = self.processes.get(process) {
                    self.view.resume(process.reference);
                }
            }
            Command::WorkOverdue { process } => self.complain_of(process),
            Command::CannotWork { group } => {
                if let Some(group) = self.groups.get(group) {
                    log::warn!(
                        "app {} asks for out-of-band work, but its only process is never taken out of service for \
                         that: allow it another one (PassengerMaxPoolSize, PassengerMaxInstances)",
                        group.name
                    );
                }
            }
            Command::DrainOverdue { process } => self.complain_of_requests(process),
            Command::AskToStop { process } | Command::Terminate { process }
                if self.is_being_inspected(process) => {}
            Command::AskToStop { process } => self.with_body(process, Body::ask_to_stop),
            Command::Terminate { process } => self.with_body(process, Body::terminate),
            Command::Kill { process } => self.kill(process),
            Command::AwaitCode { group, wait } => self.await_code(group, wait),
            Command::KeptOld { group } => {
                self.board.touch();
                if let Some(group) = self.groups.get_mut(group) {
                    group.is_resisting = true;
                    log::warn!(
                        "app {}: its new code does not start, the processes of the old code go on serving \
                         until the next restart",
                        group.name
                    );
                }
            }
            Command::NoteFailure { group } => {
                if let Some(group) = self.groups.get(group) {
                    self.view.note_spawn_failure(group.reference);
                }
            }
            Command::Forget { group } => {
                self.end_preloaders(Some(group));
                if let Some(group) = self.groups.remove(group) {
                    log::info!(
                        "app {} is not configured any more and forgotten",
                        group.name
                    );
                    self.view.remove_group(group.reference);
                }
            }
            Command::Finished => self.is_finished = true,
        }
    }
}
