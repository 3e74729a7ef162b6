//! A small instance for tests: segments with views of every role.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use passenger_shm::{
    create_doorbell, create_segments, AgentView, Capacities, Client, ClientId, GroupParams,
    GroupRef, InspectView, ModuleView, ProcessParams, ProcessRef, Protocol, SegmentFds,
    WatchdogView,
};

pub const SMALL: Capacities = Capacities {
    clients: 8,
    groups: 4,
    cells: 70,
    processes: 70,
    seats: 4,
    keys: 16,
    ring: 16,
};

pub struct Instance {
    pub fds: SegmentFds,
    pub agent: AgentView,
    pub module: ModuleView,
    pub watchdog: WatchdogView,
    pub inspect: InspectView,
}

pub fn instance(capacities: &Capacities) -> Instance {
    let fds = create_segments(capacities).unwrap();
    let bell = create_doorbell().unwrap();
    let agent = AgentView::attach(
        fds.routes.as_fd(),
        fds.traffic.as_fd(),
        bell.try_clone().unwrap(),
    )
    .unwrap();
    agent.adopt();
    let read_only = fds.routes_read_only.as_fd();
    let module = ModuleView::attach(read_only, fds.traffic.as_fd(), bell).unwrap();
    let watchdog = WatchdogView::attach(read_only, fds.traffic.as_fd()).unwrap();
    let inspect = InspectView::attach(read_only, Some(fds.traffic.as_fd())).unwrap();
    Instance {
        agent,
        module,
        watchdog,
        inspect,
        fds,
    }
}

pub const PARAMS: GroupParams = GroupParams {
    queue_limit: 0,
    queue_time_ms: 0,
    code_generation: 1,
    code_wait_ms: 0,
    restart_mark: 0,
};

impl Instance {
    pub fn group(&self) -> GroupRef {
        self.agent.create_group(&PARAMS, b"test").unwrap()
    }

    pub fn process(&self, group: GroupRef, concurrency: u32) -> ProcessRef {
        self.process_of(group, concurrency, 1)
    }

    pub fn process_of(&self, group: GroupRef, concurrency: u32, code: u32) -> ProcessRef {
        let process = self.agent.reserve_process(group).unwrap();
        self.agent
            .publish(process, &process_params(concurrency, code));
        process
    }

    pub fn client(&self, slot: u16) -> Client {
        self.module.client(ClientId::new(slot, 1))
    }
}

pub fn process_params(concurrency: u32, code_generation: u32) -> ProcessParams {
    ProcessParams {
        pid: 4711,
        uid: 33,
        concurrency,
        protocol: Protocol::Http,
        code_generation,
        port: 0,
    }
}

/// Polls until `condition` holds; fails after ten seconds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
