//! [`Pump`]: waits for any number of tunnels in one thread, and moves what can be moved.

use super::tunnel::{Look, Tunnel};
use crate::config;
use crate::ffi::relay as httpd;
use crate::ffi::relay_epoll::Epoll;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The token of a descriptor that is no tunnel's.
const OTHER: u64 = u64::MAX;

/// Tunnels, and what is known about them.
pub(crate) struct Pump {
    epoll: Epoll,
    tunnels: HashMap<u64, Tunnel>,
    next: u64,
    /// Have more to move.
    again: BTreeSet<u64>,
    scratch: Vec<u8>,
    looked: Instant,
    /// Good-byes to be said.
    farewells: Vec<Farewell>,
    /// This process ends: when all are cut off.
    leaving: Option<Instant>,
}

/// When a tunnel's client is told that this end goes away, and when it is cut off.
struct Farewell {
    at: Instant,
    tunnel: u64,
    deadline: Instant,
}

impl Pump {
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            tunnels: HashMap::new(),
            next: 0,
            again: BTreeSet::new(),
            scratch: Vec::new(),
            looked: Instant::now(),
            farewells: Vec::new(),
            leaving: None,
        })
    }

    /// Also ends a wait when this descriptor has news.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.epoll.add(fd, OTHER)
    }

    /// Takes a tunnel in.
    pub(crate) fn add(&mut self, tunnel: Tunnel) {
        let id = self.next;
        self.next += 1;
        let watched = self
            .epoll
            .add(tunnel.client().socket(), id)
            .and_then(|()| self.epoll.add(tunnel.app().as_fd(), id));
        if let Err(error) = watched {
            // It is still looked at with every tick, so it ends in order.
            log::error!("PSGR0220 a WebSocket cannot be waited for: {error}");
        }
        if let Some(deadline) = self.leaving {
            let at = Instant::now();
            self.farewells.push(Farewell {
                at,
                tunnel: id,
                deadline,
            });
        }
        self.tunnels.insert(id, tunnel);
        self.again.insert(id);
    }

    /// Whether there are no tunnels.
    pub(crate) fn is_empty(&self) -> bool {
        self.tunnels.is_empty()
    }

    /// One wait of at most `tick`, and everything that follows from it. Tunnels that are over go to `over`.
    pub(crate) fn turn(&mut self, tick: Duration, over: &mut dyn FnMut(Tunnel)) {
        let wait = if self.again.is_empty() {
            tick
        } else {
            Duration::ZERO
        };
        for event in self.epoll.wait(wait) {
            if event.token != OTHER {
                self.again.insert(event.token);
            }
        }
        let now = Instant::now();
        if now.saturating_duration_since(self.looked) >= tick {
            self.looked = now;
            self.look_after_all(now, over);
        }
        for id in std::mem::take(&mut self.again) {
            let Some(tunnel) = self.tunnels.get_mut(&id) else {
                continue;
            };
            match tunnel.look(now, &mut self.scratch) {
                Look::Wait => {}
                Look::Again => {
                    self.again.insert(id);
                }
                Look::Over => self.end(id, over),
            }
        }
    }

    /// What time alone brings: pings, deadlines, the end of this process or of an app's.
    fn look_after_all(&mut self, now: Instant, over: &mut dyn FnMut(Tunnel)) {
        let globals = config::globals();
        let time = Duration::from_secs(globals.websocket_drain_time.into());
        if self.leaving.is_none() && httpd::is_process_stopping() {
            self.leaving = Some(now + time);
            self.part(now, time, self.tunnels.keys().copied().collect());
        }
        let ending = self
            .tunnels
            .iter_mut()
            .filter_map(|(id, tunnel)| tunnel.must_part().then_some(*id));
        let ending: Vec<u64> = ending.collect();
        self.part(now, time, ending);
        let (due, later) = std::mem::take(&mut self.farewells)
            .into_iter()
            .partition(|farewell| farewell.at <= now);
        self.farewells = later;
        let due: Vec<Farewell> = due;
        for farewell in due {
            if let Some(tunnel) = self.tunnels.get_mut(&farewell.tunnel) {
                tunnel.leave(farewell.deadline);
            }
        }
        let interval = Duration::from_secs(globals.websocket_ping_interval.into());
        let ids: Vec<u64> = self.tunnels.keys().copied().collect();
        for id in ids {
            let look = self
                .tunnels
                .get_mut(&id)
                .map(|tunnel| tunnel.ping(now, interval));
            match look {
                Some(Look::Over) => self.end(id, over),
                _ => {
                    self.again.insert(id);
                }
            }
        }
    }

    /// Good-byes are spread over half the time, so that not all clients come back at once.
    fn part(&mut self, now: Instant, time: Duration, ids: Vec<u64>) {
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX).max(1);
        let farewells = (0..).zip(ids).map(|(place, tunnel)| Farewell {
            at: now + time / 2 / count * place,
            tunnel,
            deadline: now + time,
        });
        self.farewells.extend(farewells);
    }

    fn end(&mut self, id: u64, over: &mut dyn FnMut(Tunnel)) {
        if let Some(tunnel) = self.tunnels.remove(&id) {
            self.epoll.remove(tunnel.client().socket());
            over(tunnel);
        }
    }

    /// Says good-bye to all, without waiting for an answer.
    pub(crate) fn leave_at_once(&mut self) {
        let now = Instant::now();
        for tunnel in self.tunnels.values_mut() {
            tunnel.leave(now);
        }
    }
}
