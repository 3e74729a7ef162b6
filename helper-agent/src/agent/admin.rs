//! Questions of tools on the `admin` socket: restart an app, detach a process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use passenger_shm::channel::{discard, Channel};
use tokio::sync::{oneshot, Semaphore};

use super::core::{watch, Agent};
use super::tasks::{Happening, Happenings};
use crate::admin::{Answer, Request};
use crate::pool::Event;
use crate::status::compose::Viewer;
use crate::sys::process::effective_uid;
use crate::sys::{listener, readiness};

/// Connections at once; others wait to be accepted.
const MAX_CONNECTIONS: usize = 16;
/// Pause after a connection could not be accepted.
const RETRY: Duration = Duration::from_secs(1);
/// Who has not asked by then, or does not take the answer, is not heard any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// Accepts connections for ever.
pub(super) async fn serve(socket: Arc<OwnedFd>, out: Happenings) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let ready = readiness::watch(Arc::clone(&socket))?;
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let connection = loop {
            match listener::accept(socket.as_fd()) {
                Ok(Some(connection)) => break connection,
                // Asked before the flag is cleared; one that comes in between sets it again.
                Ok(None) => ready.readable().await?.clear_ready(),
                Err(e) => {
                    // Out of descriptors: later there may be some.
                    log::warn!("cannot accept a connection on the admin socket: {e}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let out = out.clone();
        watch(async move {
            let _place = place;
            let conversation = tokio::time::timeout(PATIENCE, converse(connection, &out));
            if let Ok(Err(e)) = conversation.await {
                log::debug!("a connection to the admin socket ended: {e}");
            }
            Ok(())
        });
    }
}

async fn converse(connection: OwnedFd, out: &Happenings) -> io::Result<()> {
    let uid = getsockopt(&connection, PeerCredentials)?.uid();
    let channel = Arc::new(Channel::foreign(connection)?);
    let fd = readiness::watch(Arc::clone(&channel))?;
    let request = loop {
        let mut guard = fd.readable().await?;
        match guard.try_io(|fd| fd.get_ref().get().recv::<Request>()) {
            Err(_would_block) => {}
            Ok(Ok(Some(received))) => {
                discard(received.fds);
                break received.message;
            }
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData => {
                let text = format!("that is not a question of this version: {e}");
                return channel.send(&Answer::Refused(text), &[]);
            }
            Ok(Err(e)) => return Err(e),
        }
    };
    let (reply, answer) = oneshot::channel();
    let viewer = Viewer::of(uid, effective_uid());
    let happening = Happening::Administered {
        viewer,
        request,
        reply,
    };
    let _ = out.send(happening).await;
    match answer.await {
        Ok(answer) => channel.send(&answer, &[]),
        Err(_) => Ok(()),
    }
}

impl Agent {
    pub(super) fn on_administered(
        &mut self,
        viewer: Viewer,
        request: &Request,
        reply: oneshot::Sender<Answer>,
    ) {
        let answer = match request {
            _ if self.stop_at.is_some() => Answer::Refused("the instance is ending".to_owned()),
            Request::RestartApp { name } => self.restart_by_name(viewer, name),
            Request::DetachProcess { pid } => self.detach(viewer, *pid),
        };
        let _ = reply.send(answer);
    }

    /// Every group of that name: two apps may have got the same.
    fn restart_by_name(&mut self, viewer: Viewer, name: &str) -> Answer {
        let named = self.groups.iter().filter(|(_, group)| group.name == name);
        let ids: Vec<_> = named
            .filter(|(_, group)| viewer.may_see(group.facts.uid))
            .map(|(id, _)| id)
            .collect();
        if ids.is_empty() {
            return Answer::Unknown;
        }
        for id in ids {
            self.restart(id, "passenger-config restart-app was called");
        }
        Answer::Done
    }

    fn detach(&mut self, viewer: Viewer, pid: i32) -> Answer {
        let Some(id) = self.processes.by_pid(pid) else {
            return Answer::Unknown;
        };
        let Some(process) = self.processes.get(id) else {
            return Answer::Unknown;
        };
        let group = self.groups.get(process.group);
        let owner = group.and_then(|group| group.facts.uid);
        if !viewer.may_see(owner) {
            return Answer::Unknown;
        }
        if !process.is_serving() {
            let text = format!("process {pid} is not ready for requests yet, or has ended");
            return Answer::Refused(text);
        }
        let name = group.map_or("?", |group| &group.name);
        log::info!("app {name}: process {pid} is detached by passenger-config");
        self.tell(Event::LeaveAsked { process: id });
        Answer::Done
    }
}
