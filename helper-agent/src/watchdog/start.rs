//! From `exec` to the loop, as a child of httpd's parent; what every start has in common.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use nix::sys::socket::SockType;
use passenger_shm::channel::Channel;
use passenger_shm::hooks::Hook;
use passenger_shm::messages::{FromParent, ToParent};
use passenger_shm::{Capacities, WatchdogView};

use super::core::{Events, Originals, Watchdog};
use super::hooks::{self, WatchdogHooks};
use super::rebuild;
use super::reserve::Reserve;
use super::settings::{Head, Settings};
use super::status::AgentHistory;
use super::succession;
use super::supervisor::Supervisor;
use super::table::{ConfigEntry, Table, Workers};
use super::takeover;
use crate::admin;
use crate::cgroup::{Cgroup, Place};
use crate::hooks::Hooks;
use crate::instance::{self, Instance, Properties};
use crate::loaders;
use crate::output::Scratch;
use crate::status::{self, board::Board};
use crate::store::{Past, StartDescriptors};
use crate::sys::patience::Patience;
use crate::sys::pidfd::Pidfd;
use crate::sys::signals::Signals;
use crate::sys::{descriptor, limits, listener, process};

/// Number of the parent channel, by protocol.
const PARENT_CHANNEL: i32 = 3;

/// The program. Returns its exit status: 0 after an orderly end, 1 when it could not start; never 7 or
/// 15, which would tell httpd to end itself.
#[must_use]
pub fn main() -> i32 {
    takeover::set_name();
    crate::log::install();
    let mut arguments = std::env::args().skip(1);
    let made = match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => fresh(),
        (Some("--take-over"), Some(number)) => match number.parse() {
            Ok(number) => succession::take_over(number).map(Some),
            Err(e) => Err(format!(
                "--take-over wants a descriptor's number, not {number}: {e}"
            )),
        },
        _ => Err("passenger-watchdog is started by httpd, not by hand".to_owned()),
    };
    match made {
        Ok(Some(watchdog)) => watchdog.run(),
        Ok(None) => 0,
        Err(message) => {
            log::error!("{message}");
            1
        }
    }
}

/// What applies to both kinds of start, whoever started us.
pub(super) fn prepare() -> Result<(Signals, Originals), String> {
    let signals = [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGPIPE,
    ];
    let signals = Signals::new(&signals).map_err(|e| format!("cannot block signals: {e}"))?;
    process::become_subreaper()
        .map_err(|e| format!("cannot adopt orphaned app processes (subreaper): {e}"))?;
    let oom_score_adj = limits::oom_score_adj().ok();
    // Not for an ordinary user; then we are as likely to be chosen as anybody.
    let _ = limits::set_oom_score_adj(-1000);
    let nofile = limits::raise_nofile().ok();
    Ok((
        signals,
        Originals {
            oom_score_adj,
            nofile,
        },
    ))
}

/// A start by httpd's parent. `Ok(None)`: it went away before it had said anything.
fn fresh() -> Result<Option<Watchdog>, String> {
    let parent_pid: i32 = std::env::var("PASSENGER_PARENT_PID")
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or("passenger-watchdog is started by httpd, not by hand (no PASSENGER_PARENT_PID)")?;
    let channel = descriptor::take_inherited(PARENT_CHANNEL)
        .map(Channel::from)
        .map_err(|e| format!("there is no channel to httpd on descriptor {PARENT_CHANNEL}: {e}"))?;
    let (signals, originals) = prepare()?;
    channel
        .receive_credentials()
        .map_err(|e| format!("cannot identify httpd's parent: {e}"))?;
    let Ok(parent) = Pidfd::open(parent_pid) else {
        return Ok(None);
    };
    // Asked after opening: if it still is our parent, the pidfd is its.
    if nix::unistd::getppid().as_raw() != parent_pid {
        return Ok(None);
    }
    let basis = Basis {
        channel: &channel,
        parent_pid,
        signals,
        originals,
    };
    let made = match first_order(&channel, &parent, parent_pid)? {
        Some(Order::Configure(config)) => build(basis, parent, config),
        Some(Order::Rebuild(fds)) => rebuild::rebuild(basis, parent, fds),
        None => return Ok(None),
    };
    if let Err(message) = &made {
        // httpd's parent writes this where its administrator looks; if it is gone, our log has it.
        let _ = channel.send(
            &ToParent::Failed {
                message: message.clone(),
            },
            &[],
        );
    }
    made.map(Some)
}

/// What a watchdog that httpd's parent has started begins with.
pub(super) struct Basis<'a> {
    pub(super) channel: &'a Channel,
    pub(super) parent_pid: i32,
    pub(super) signals: Signals,
    pub(super) originals: Originals,
}

/// What the parent wants of it.
enum Order {
    Configure(ConfigEntry),
    Rebuild(Vec<OwnedFd>),
}

/// Waits for the first message.
fn first_order(
    channel: &Channel,
    parent: &Pidfd,
    parent_pid: i32,
) -> Result<Option<Order>, String> {
    loop {
        let readable = channel.wait_readable(Duration::from_secs(1));
        if !readable.map_err(|e| format!("cannot wait for httpd's configuration: {e}"))? {
            if parent.has_exited() {
                return Ok(None);
            }
            continue;
        }
        let received = match channel.recv::<FromParent>() {
            Ok(Some(received)) => received,
            Ok(None) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => continue,
            Err(e) => return Err(format!("cannot read httpd's configuration: {e}")),
        };
        // Before our SO_PASSCRED a message names nobody; then httpd has no other process yet.
        let is_parent = received
            .peer
            .as_ref()
            .is_none_or(|p| p.pid == parent_pid || p.pid == 0);
        match received.message {
            FromParent::Configure { generation } if is_parent => {
                let config = ConfigEntry::from_fds(generation, received.fds)?;
                return Ok(Some(Order::Configure(config)));
            }
            FromParent::Rebuild {} if is_parent => {
                return Ok(Some(Order::Rebuild(received.fds)));
            }
            FromParent::Stop { .. } if is_parent => return Ok(None),
            FromParent::Configure { .. }
            | FromParent::Rebuild {}
            | FromParent::Retire {}
            | FromParent::Dismiss {}
            | FromParent::Stop { .. } => {}
        }
    }
}

fn build(basis: Basis<'_>, parent: Pidfd, config: ConfigEntry) -> Result<Watchdog, String> {
    let Basis {
        channel,
        parent_pid,
        signals,
        originals,
    } = basis;
    let head = Head::read(&config)?;
    head.apply_log(&config);
    // httpd's start, not an upgrade or an instance that is made because one died.
    let is_start = config.generation == 1;
    let hooks = head.hooks();
    if is_start {
        let image = open_agent_image()?;
        let hook = Hook::BeforeWatchdogInitialization;
        hooks::run_to_end(&hooks, hook, image.as_fd(), originals, Some(&parent))?;
    }
    let registry = head.registry();
    if registry.exists() {
        for path in instance::remove_stale(&registry).map_err(|e| e.to_string())? {
            log::info!("removed {}, left by an instance that died", path.display());
        }
    }
    let instance = Instance::create(&registry).map_err(|e| e.to_string())?;
    let directory = instance.path.clone();
    make_cgroup(&instance);
    pin_loaders(&instance);
    let made = write_properties(&instance, &head, parent_pid).and_then(|()| {
        let capacities = head.capacities();
        let descriptors = make_descriptors(&capacities, channel, parent, instance)?;
        let settings = head.settings();
        Parts {
            signals,
            originals,
            descriptors,
            config,
            settings,
            hooks,
            parent_pid,
            generation: 1,
        }
        .assemble(directory.clone())
    });
    let made = made.map(|mut watchdog| {
        watchdog.hooks.is_start = is_start;
        watchdog.renew_reserve();
        watchdog
    });
    made.inspect_err(|_| {
        super::stop::remove_directory(&directory, &mut Patience::new(Instant::now()));
    })
}

/// Without one everything works, but for processes that escape from their session and whose watchdog and
/// agent die both: these are found by nobody.
fn make_cgroup(instance: &Instance) {
    match Cgroup::create(&Place::default(), instance.name()) {
        Ok(cgroup) => match instance::write_cgroup(&instance.path, &cgroup) {
            Ok(()) => log::debug!("apps are in the control group {}", cgroup.path().display()),
            Err(e) => {
                cgroup.remove();
                log::warn!("{e}");
            }
        },
        Err(why) => log::debug!("apps get no control group of their own: {why}"),
    }
}

/// Without a copy everything works until an upgrade.
fn pin_loaders(instance: &Instance) {
    let pinned = process::own_image_path()
        .and_then(|program| loaders::pin(&loaders::installed(&program), &instance.path));
    if let Err(e) = pinned {
        log::warn!(
            "the instance in {} gets no copy of the loaders ({e}): those that are installed are used, and after an \
             upgrade its last processes may meet newer ones",
            instance.path.display()
        );
    }
}

fn make_descriptors(
    capacities: &Capacities,
    channel: &Channel,
    parent: Pidfd,
    instance: Instance,
) -> Result<StartDescriptors, String> {
    let agent_image = open_agent_image()?;
    let watchdog_image = open_image(Path::new("/proc/self/exe"))?;
    let segments = passenger_shm::create_segments(capacities)
        .map_err(|e| format!("cannot create the shared memory: {e}"))?;
    let no_channel = |e: io::Error| format!("cannot create the workers' channel: {e}");
    let (hello, hello_workers) = Channel::pair().map_err(no_channel)?;
    hello.receive_credentials().map_err(no_channel)?;
    let (reserve_write, reserve_read) =
        Reserve::pair().map_err(|e| format!("cannot create the reserve: {e}"))?;
    let listen = |name: &str, kind: SockType| {
        let path = instance.path.join(name);
        listener::open_to_all(&path, kind)
            .map_err(|e| format!("cannot listen at {}: {e}", path.display()))
    };
    Ok(StartDescriptors {
        routes: segments.routes,
        routes_read_only: segments.routes_read_only,
        traffic: segments.traffic,
        doorbell: descriptor::doorbell().map_err(|e| format!("cannot create the doorbell: {e}"))?,
        hello: hello.into(),
        hello_workers: hello_workers.into(),
        status: listen(status::SOCKET, SockType::Stream)?,
        admin: listen(admin::SOCKET, SockType::SeqPacket)?,
        board: Board::create().map_err(|e| format!("cannot create the board: {e}"))?,
        lock: instance.lock,
        watchdog_image,
        agent_image,
        parent_channel: channel.as_fd().try_clone_to_owned().map_err(no_channel)?,
        parent_pidfd: parent.into(),
        reserve_write,
        reserve_read,
    })
}

fn open_agent_image() -> Result<OwnedFd, String> {
    let image = process::own_image_path().map_err(|e| format!("cannot find own program: {e}"))?;
    open_image(&image.with_file_name("passenger-helper-agent"))
}

fn open_image(path: &Path) -> Result<OwnedFd, String> {
    File::open(path).map(OwnedFd::from).map_err(|e| {
        format!(
            "cannot open the program {}: {e}; is the installation complete?",
            path.display()
        )
    })
}

fn write_properties(instance: &Instance, head: &Head, parent_pid: i32) -> Result<(), String> {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let properties = Properties {
        name: instance.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        build: head.build.clone(),
        server_software: head.apache.software.clone(),
        parent_pid,
        created_at: since_epoch.as_secs(),
    };
    instance::write_properties(&instance.path, &properties).map_err(|e| e.to_string())
}

/// What a watchdog is assembled from.
pub(super) struct Parts {
    pub(super) signals: Signals,
    pub(super) originals: Originals,
    pub(super) descriptors: StartDescriptors,
    pub(super) config: ConfigEntry,
    pub(super) settings: Settings,
    pub(super) hooks: Hooks,
    pub(super) parent_pid: i32,
    pub(super) generation: u32,
}

impl Parts {
    pub(super) fn assemble(self, instance_dir: PathBuf) -> Result<Watchdog, String> {
        let failed = |e: io::Error| format!("cannot set up the watchdog's event loop: {e}");
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        if let Err(e) = instance::write_pid(&instance_dir, "watchdog.pid", own) {
            // Only tools read it: no reason for an instance to die of a full disk.
            log::warn!("{e}");
        }
        let Parts {
            signals,
            originals,
            descriptors,
            config,
            settings,
            hooks,
            parent_pid,
            generation,
        } = self;
        let routes = descriptors.routes_read_only.as_fd();
        let view = WatchdogView::attach(routes, descriptors.traffic.as_fd())
            .map_err(|e| format!("cannot map the shared memory: {e}"))?;
        let table = Table {
            config,
            pending: None,
            past: Past::default(),
            workers: Workers::new(view.capacities().clients).map_err(failed)?,
            processes: BTreeMap::new(),
        };
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(failed);
        let (write, read) = (&descriptors.reserve_write, &descriptors.reserve_read);
        let reserve = Reserve::new(copy(write)?, copy(read)?).map_err(failed)?;
        let now = Instant::now();
        let mut watchdog = Watchdog {
            parent: Channel::from(copy(&descriptors.parent_channel)?),
            parent_token: 0,
            parent_death: Pidfd::from(copy(&descriptors.parent_pidfd)?),
            parent_death_token: 0,
            hello: Channel::from(copy(&descriptors.hello)?),
            instance_dir,
            parent_pid,
            generation,
            originals,
            descriptors,
            signals,
            view,
            table,
            supervisor: Supervisor::new(now),
            agent: None,
            agent_history: AgentHistory::default(),
            status_token: None,
            reporters: Vec::new(),
            scratch: Scratch::new().map_err(failed)?,
            settings,
            hooks: WatchdogHooks::new(hooks),
            busy_outputs: Vec::new(),
            ending: None,
            is_retired: false,
            told_parent: false,
            next_round: now,
            reserve,
            reserve_renewals: 0,
            events: Events::new().map_err(failed)?,
        };
        watchdog.watch_fixed().map_err(failed)?;
        Ok(watchdog)
    }
}
