//! Questions of tools on the `admin` socket: restart an app, detach a process.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use passenger_shm::channel::{discard, Channel};
use tokio::sync::oneshot;

use super::core::{watch, Agent};
use super::tasks::{Happening, Happenings};
use crate::admin::{Answer, Request};
use crate::pool::Event;
use crate::status::viewer::Viewer;
use crate::sys::process::effective_uid;
use crate::sys::{listener, readiness};

/// Connections at once of one ordinary user, and of all of them. Root has as many places of its own: nobody can keep it
/// out. Whoever finds no place is told so at once, so that the queue of the socket stays empty.
const MOST_OF_ONE: usize = 4;
const MOST_OF_ALL: usize = 32;
/// Pause after a connection could not be accepted.
const RETRY: Duration = Duration::from_secs(1);
/// Who has not asked by then, or does not take the answer, is not heard any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is talking.
#[derive(Debug, Clone, Default)]
struct Places(Arc<Mutex<BTreeMap<u32, usize>>>);

/// A place that is free again when this is dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    uid: u32,
}

impl Places {
    fn take(&self, uid: u32) -> Option<Place> {
        let mut taken = self.taken();
        let own = taken.get(&uid).copied().unwrap_or(0);
        let is_others = |(other, count): (&u32, &usize)| (*other != 0).then_some(*count);
        let is_free = if uid == 0 {
            own < MOST_OF_ALL
        } else {
            let all: usize = taken.iter().filter_map(is_others).sum();
            own < MOST_OF_ONE && all < MOST_OF_ALL
        };
        is_free.then(|| {
            taken.insert(uid, own + 1);
            let places = self.clone();
            Place { places, uid }
        })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        // There is no state that a panic could leave half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        let left = taken.remove(&self.uid).unwrap_or(0).saturating_sub(1);
        if left > 0 {
            taken.insert(self.uid, left);
        }
    }
}

/// Accepts connections for ever.
pub(super) async fn serve(socket: Arc<OwnedFd>, out: Happenings) -> io::Result<()> {
    let places = Places::default();
    let ready = readiness::watch(Arc::clone(&socket))?;
    loop {
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
        let Ok(uid) = getsockopt(&connection, PeerCredentials).map(|peer| peer.uid()) else {
            continue;
        };
        let Some(place) = places.take(uid) else {
            turn_away(connection);
            // Who connects in a loop must not keep the others from their turn.
            tokio::task::yield_now().await;
            continue;
        };
        let out = out.clone();
        watch(async move {
            let _place = place;
            let conversation = tokio::time::timeout(PATIENCE, converse(connection, uid, &out));
            if let Ok(Err(e)) = conversation.await {
                log::debug!("a connection to the admin socket ended: {e}");
            }
            Ok(())
        });
    }
}

/// Says why, without waiting.
fn turn_away(connection: OwnedFd) {
    let text = "too many others are asking; try again in some seconds".to_owned();
    let told =
        Channel::foreign(connection).and_then(|channel| channel.send(&Answer::Refused(text), &[]));
    if let Err(e) = told {
        log::debug!("a connection to the admin socket is turned away: {e}");
    }
}

async fn converse(connection: OwnedFd, uid: u32, out: &Happenings) -> io::Result<()> {
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
            Request::RestartApp { name, rolling } => self.restart_by_name(viewer, name, *rolling),
            Request::DetachProcess { pid } => self.detach(viewer, *pid),
            Request::Configuration { name } => self.configuration_by_name(viewer, name),
        };
        let _ = reply.send(answer);
    }

    /// Every group of that name: two apps may have got the same.
    fn restart_by_name(&mut self, viewer: Viewer, name: &str, rolling: bool) -> Answer {
        let named = self.groups.iter().filter(|(_, group)| group.name == name);
        let ids: Vec<_> = named
            .filter(|(_, group)| viewer.may_see(group.facts.uid))
            .map(|(id, _)| id)
            .collect();
        if ids.is_empty() {
            return Answer::Unknown;
        }
        for id in ids {
            let reason = "passenger-config restart-app was called";
            if rolling {
                self.roll(id, reason);
            } else {
                self.restart(id, reason);
            }
        }
        Answer::Done
    }

    /// The first group of that name that somebody can tell of.
    fn configuration_by_name(&self, viewer: Viewer, name: &str) -> Answer {
        let named = self.groups.iter().filter(|(_, group)| group.name == name);
        let mut visible = named.filter(|(_, group)| viewer.may_see(group.facts.uid));
        let known = visible.find_map(|(_, group)| {
            let registration = group.registration.clone()?;
            Some((group, registration))
        });
        let Some((group, registration)) = known else {
            return Answer::Unknown;
        };
        match group.configuration.excerpt(&registration) {
            Ok(config) => Answer::Configured {
                config: Box::new(config),
                registration,
            },
            Err(text) => Answer::Refused(text),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_keeps_neither_another_nor_root_out_and_places_come_back() {
        let places = Places::default();
        let hog: Vec<Place> = std::iter::from_fn(|| places.take(1000)).collect();
        assert_eq!(hog.len(), MOST_OF_ONE);
        let mut crowd: Vec<Place> = (2000..2100).filter_map(|uid| places.take(uid)).collect();
        assert_eq!(hog.len() + crowd.len(), MOST_OF_ALL);
        assert!(places.take(3000).is_none());
        let root: Vec<Place> = std::iter::from_fn(|| places.take(0)).collect();
        assert_eq!(root.len(), MOST_OF_ALL);
        crowd.pop();
        assert!(places.take(1000).is_none(), "still too many of his");
        assert!(places.take(3000).is_some());
        drop((hog, crowd, root));
        assert!(places.taken().is_empty());
    }
}
