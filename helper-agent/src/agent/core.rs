//! The loop: one happening after the other, a look at the tables when somebody rings or a second has gone
//! by, and what the pool commands. The heartbeat comes from here, so a loop that hangs is noticed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use passenger_shm::channel::Channel;
use passenger_shm::AgentView;
use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::sync::mpsc;

use super::board::BoardWriter;
use super::ending::End;
use super::groups::Groups;
use super::hooks::AgentHooks;
use super::preloaders::Preloaders;
use super::processes::Processes;
use super::registration::Waiting;
use super::retiring::RetiringLook;
use super::start::{ConfigFiles, Inventory};
use super::store_link::StoreLink;
use super::tasks::{Happening, Happenings};
use super::workers::Worker;
use crate::app_log::Links;
use crate::cgroup::Cgroup;
use crate::config::Configuration;
use crate::helpers::Helpers;
use crate::instance;
use crate::log as sink;
use crate::pool::{Event, Millis, Pool, PoolLimits, ProcessId};
use crate::spawn::launch::Limits;
use crate::status::board::Board;
use crate::store::StartDescriptors;
use crate::sys::readiness::{self, Readable};

/// Happenings that may be pending; tasks wait when there are more.
const MAX_PENDING: usize = 256;
/// Shortest time between two looks that led to something, and longest between two that did not: while a
/// full pool is under load every request rings.
const LOOK_PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(32));

/// Everything the agent has. The files of this module each implement a part of it.
pub(super) struct Agent {
    pub(super) view: AgentView,
    pub(super) pool: Pool,
    pub(super) groups: Groups,
    pub(super) processes: Processes,
    pub(super) preloaders: Preloaders,
    /// Commands whose ports are being looked at.
    pub(super) suspects: BTreeSet<ProcessId>,
    pub(super) workers: BTreeMap<(u16, u16), Worker>,
    pub(super) waiting: Waiting,
    pub(super) configuration: Arc<Configuration>,
    /// The one before: its workers finish what they have.
    pub(super) previous: Option<Arc<Configuration>>,
    pub(super) files: ConfigFiles,
    pub(super) store: StoreLink,
    pub(super) descriptors: StartDescriptors,
    pub(super) instance_dir: PathBuf,
    pub(super) parent_pid: i32,
    pub(super) watchdog_generation: u32,
    /// As httpd has it.
    pub(super) oom_score_adj: Option<i32>,
    pub(super) loaders: PathBuf,
    pub(super) limits: Limits,
    /// Where apps are put, so that none can escape.
    pub(super) cgroup: Option<Cgroup>,
    pub(super) happenings: Happenings,
    /// For what may block.
    pub(super) helpers: Helpers,
    /// Who writes logs of single apps.
    pub(super) app_logs: Links,
    /// Programs that are run when something happens.
    pub(super) hooks: AgentHooks,
    /// When everything is to be over, once that was said.
    pub(super) stop_at: Option<Instant>,
    /// Whether another instance has taken over.
    pub(super) is_retired: bool,
    pub(super) next_token: u64,
    pub(super) retiring: RetiringLook,
    /// Processes that ended, of which it is not known how.
    pub(super) ends: Vec<End>,
    pub(super) board: BoardWriter,
    epoch: Instant,
    inbox: mpsc::Receiver<Happening>,
    events: VecDeque<Event>,
    pub(super) is_finished: bool,
    last_look: Instant,
    look_pause: Duration,
}

impl Agent {
    /// Takes over what the store has.
    pub(super) fn new(
        channel: Arc<Channel>,
        view: AgentView,
        inventory: Inventory,
        loaders: PathBuf,
        limits: Limits,
    ) -> io::Result<Self> {
        let (happenings, inbox) = mpsc::channel(MAX_PENDING);
        let configuration = Arc::new(inventory.configuration);
        let now = Instant::now();
        let image = inventory.descriptors.agent_image.try_clone()?;
        let app_logs = Links::new(image, inventory.oom_score_adj);
        let board = Board::open(inventory.descriptors.board.try_clone()?);
        let mut agent = Self {
            view,
            pool: Pool::new(pool_limits(&configuration)),
            groups: Groups::default(),
            processes: Processes::default(),
            preloaders: Preloaders::default(),
            suspects: BTreeSet::new(),
            workers: BTreeMap::new(),
            waiting: Waiting::default(),
            configuration,
            previous: None,
            files: inventory.files,
            store: StoreLink::new(channel, happenings.clone())?,
            descriptors: inventory.descriptors,
            cgroup: instance::cgroup(&inventory.instance_dir),
            instance_dir: inventory.instance_dir,
            parent_pid: inventory.parent_pid,
            watchdog_generation: inventory.watchdog_generation,
            oom_score_adj: inventory.oom_score_adj,
            loaders,
            limits,
            happenings,
            helpers: Helpers::default(),
            app_logs,
            hooks: AgentHooks::default(),
            stop_at: None,
            is_retired: false,
            // Answers to the agent before may still lie in a control socket: no two agents ask with the same.
            next_token: u64::from(std::process::id()) << 20 | 1,
            retiring: RetiringLook::default(),
            ends: Vec::new(),
            board: BoardWriter::new(board),
            epoch: now,
            inbox,
            events: VecDeque::new(),
            is_finished: false,
            last_look: now,
            look_pause: LOOK_PAUSE.0,
        };
        sink::set_level(agent.configuration.global.log_level);
        for worker in inventory.workers {
            agent.add_worker(worker);
        }
        let is_first = inventory.processes.is_empty() && agent.view.groups().is_empty();
        agent.adopt(inventory.processes);
        agent
            .view
            .set_config_generation(agent.configuration.generation);
        agent.settle();
        agent.look();
        agent.view.beat();
        agent.store.ready(agent.configuration.generation);
        agent.foresee();
        if is_first {
            agent.request_prestart_urls();
        }
        for message in inventory.later {
            agent.on_store(&message, Vec::new());
        }
        agent.settle();
        Ok(agent)
    }

    /// Runs until everything is over.
    pub(super) async fn run(&mut self) -> io::Result<()> {
        let doorbell = readiness::watch(Arc::new(self.descriptors.doorbell.try_clone()?))?;
        let mut children = signal(SignalKind::child())?;
        let admin = Arc::new(self.descriptors.admin.try_clone()?);
        watch(super::admin::serve(admin, self.happenings.clone()));
        self.reap_strangers();
        while !(self.is_finished && self.preloaders.are_gone() && self.are_hooks_over()) {
            self.view.beat();
            self.store.watch_the_watchdog();
            self.turn(&doorbell, &mut children).await?;
            self.settle();
            self.write_board();
        }
        self.end_app_logs();
        self.store.stopped();
        Ok(())
    }

    /// Waits for one thing and deals with it.
    async fn turn(
        &mut self,
        doorbell: &Readable<OwnedFd>,
        children: &mut Signal,
    ) -> io::Result<()> {
        let quiet_until = self.last_look + self.look_pause;
        let may_ring = Instant::now() >= quiet_until;
        if may_ring && !self.view.sleep_begins() {
            self.look();
            return Ok(());
        }
        let next_look = if may_ring {
            self.last_look + Duration::from_millis(self.pool.next_look_ms(self.now()))
        } else {
            quiet_until
        };
        tokio::select! {
            happening = self.inbox.recv() => {
                if may_ring {
                    self.view.sleep_ends();
                }
                if let Some(happening) = happening {
                    self.on_happening(happening);
                }
            }
            guard = doorbell.readable(), if may_ring => {
                self.view.sleep_ends();
                silence(doorbell);
                guard?.clear_ready();
                self.look();
            }
            _ = children.recv() => {
                if may_ring {
                    self.view.sleep_ends();
                }
                self.reap_strangers();
            }
            () = tokio::time::sleep_until(next_look.into()) => {
                if may_ring {
                    self.view.sleep_ends();
                    self.look();
                } else {
                    // Quiet time is over; hints that came in it are in the ring.
                    self.look_at_hints();
                }
            }
        }
        Ok(())
    }

    /// Milliseconds since this agent started.
    pub(super) fn now(&self) -> Millis {
        Millis(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Notes an event for the pool; [`Agent::settle`] hands it over.
    pub(super) fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Tells the pool everything that happened and does what it commands, until nothing is left.
    pub(super) fn settle(&mut self) {
        while let Some(event) = self.events.pop_front() {
            log::trace!("pool: {event:?}");
            for command in self.pool.handle(self.now(), event) {
                log::debug!("pool: {command:?}");
                self.obey(command);
            }
        }
    }

    /// Looks at the tables and tells the pool.
    pub(super) fn look(&mut self) {
        self.take_hints();
        self.look_at_restart_files();
        self.retry_parked();
        // What the pool commands changes the tables: what is seen before it does not prove anything after it.
        self.settle();
        self.look_after_app_logs();
        let observation = self.observe();
        self.last_look = Instant::now();
        sink::catch_up();
        self.tell(Event::Looked(observation));
        let size = self.pool.size();
        self.settle();
        self.ask_about_orphans();
        self.end_overdue();
        self.look_for_retiring();
        self.give_up_explanations();
        self.look_after_hooks();
        self.settle();
        self.look_pause = if self.pool.size() == size {
            (self.look_pause * 2).clamp(LOOK_PAUSE.0, LOOK_PAUSE.1)
        } else {
            LOOK_PAUSE.0
        };
    }

    /// A look, but only if somebody asked for one.
    fn look_at_hints(&mut self) {
        if self.take_hints() {
            self.look();
        } else {
            self.look_pause = Duration::ZERO;
        }
    }
}

/// The pool's limits in a configuration.
pub(super) fn pool_limits(configuration: &Configuration) -> PoolLimits {
    let global = &configuration.global;
    let idle = u64::from(global.pool_idle_time) * 1_000;
    PoolLimits {
        max_processes: global.max_pool_size,
        idle_ms: (idle > 0).then_some(idle),
        stream_drain_ms: u64::from(global.websocket_drain_time) * 1_000,
        request_drain_ms: (global.drain_time > 0).then(|| u64::from(global.drain_time) * 1_000),
    }
}

/// Empties the doorbell, an eventfd.
fn silence(doorbell: &Readable<OwnedFd>) {
    let mut count = [0; 8];
    let fd = std::os::fd::AsRawFd::as_raw_fd(&doorbell.get_ref().as_fd());
    // Empty already: rung and silenced before.
    let _ = nix::unistd::read(fd, &mut count);
}

/// Starts a task that ends with what it watches; its only failure is being out of descriptors.
pub(super) fn watch(
    task: impl std::future::Future<Output = io::Result<()>> + Send + 'static,
) -> tokio::task::AbortHandle {
    let guarded = async move {
        if let Err(e) = task.await {
            log::error!("cannot watch a descriptor: {e}");
        }
    };
    tokio::spawn(guarded).abort_handle()
}
