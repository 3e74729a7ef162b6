//! Real processes over real segments: workers that hold and wait are killed and stopped at random moments,
//! swept, and replaced; app processes come and go. At the end every word is accounted for, and at no
//! moment do two workers hold one seat.
//!
//! `PASSENGER_CHAOS_SECONDS` makes it longer than its two seconds.
#![cfg(not(loom))]

mod common;

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{instance, process_params, until, Instance, PARAMS};
use passenger_shm::{
    AgentView, Capacities, Client, ClientId, GroupParams, GroupRef, ModuleView, ProcessState, Seat,
};

const CAPACITIES: Capacities = Capacities {
    clients: 6,
    groups: 4,
    cells: 64,
    processes: 16,
    seats: 4,
    keys: 16,
    ring: 64,
};
const THREADS: u16 = 3;

/// A page of words that all processes share: who is inside each seat, and how often each worker was.
struct Witness(&'static [AtomicU64]);

impl Witness {
    fn new() -> Witness {
        // SAFETY: a fresh anonymous mapping, no address wanted.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        // SAFETY: 512 aligned words that are never unmapped and only used as atomics.
        Witness(unsafe { std::slice::from_raw_parts(page.cast(), 512) })
    }

    fn seat(&self, slot: u32, number: u64) -> &AtomicU64 {
        &self.0[slot as usize * 4 + usize::try_from(number >> 32).unwrap()]
    }

    fn served(&self, client: ClientId) -> &AtomicU64 {
        &self.0[256 + usize::from(client.slot())]
    }

    fn enter(&self, seat: &Seat<'_>) {
        if seat.number() >> 63 == 0 {
            let before = self
                .seat(seat.process().slot(), seat.number())
                .swap(1, Ordering::SeqCst);
            if before != 0 {
                die("two workers hold one seat");
            }
        }
    }

    fn leave(&self, seat: &Seat<'_>) {
        if seat.number() >> 63 == 0 {
            self.seat(seat.process().slot(), seat.number())
                .store(0, Ordering::SeqCst);
        }
    }
}

/// Exits with a status that the parent takes for a failure.
fn die(why: &str) -> ! {
    eprintln!("{why}");
    // SAFETY: no precondition; nothing of the test harness may run in the child.
    unsafe { libc::_exit(9) }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn pick(&mut self, n: u16) -> u16 {
        u16::try_from(self.below(u64::from(n))).unwrap()
    }
}

/// One request: take or wait, be inside for a moment, give back.
fn request(client: &Client, group: GroupRef, witness: &Witness, random: &mut Random) {
    let seat = match client.take(group, None) {
        Ok(seat) => seat,
        Err(_) => {
            let Ok(mut waiter) = client.enqueue(group) else {
                std::thread::yield_now();
                return;
            };
            // Some leave without a seat, as when their client hangs up.
            let patience = 1 + random.below(20);
            match (0..patience).find_map(|_| waiter.wait(Duration::from_millis(20))) {
                Some(seat) => seat,
                None => return,
            }
        }
    };
    witness.enter(&seat);
    for _ in 0..random.below(300) {
        std::hint::spin_loop();
    }
    witness.served(client.id()).fetch_add(1, Ordering::SeqCst);
    // An orphan is left with the witness inside: the agent asks the app, here the witness, first.
    if random.below(200) == 0 {
        witness.leave(&seat);
        seat.orphan();
    } else {
        witness.leave(&seat);
        seat.release();
    }
}

/// A worker process; returns its PID.
fn start_worker(i: &Instance, id: ClientId, groups: &[GroupRef], witness: &Witness) -> i32 {
    let bell = i.agent.doorbell().try_clone_to_owned().unwrap();
    // SAFETY: the child only runs the code below and leaves by _exit; the harness's other thread is
    // asleep, and glibc makes its allocator usable after fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid > 0 {
        return pid;
    }
    // A test that fails leaves nobody behind.
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let view =
        ModuleView::attach(i.fds.routes_read_only.as_fd(), i.fds.traffic.as_fd(), bell).unwrap();
    let client = view.client(id);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (view, client) = (&view, &client);
            scope.spawn(move || {
                let mut random = Random(u64::from(id.slot() + 1) << 32 | u64::from(thread + 1));
                while !view.is_superseded() {
                    let group = groups[usize::from(random.pick(3) / 2)];
                    request(client, group, witness, &mut random);
                }
            });
        }
    });
    // SAFETY: no precondition.
    unsafe { libc::_exit(0) }
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: a child of ours that was not waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Waits for a child; its status.
fn reap(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: a child of ours, and an int that outlives the call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

struct Worker {
    pid: i32,
    id: ClientId,
    stopped: bool,
}

/// What the agent does all the time: frees orphans (the app is never inside here), revokes grants.
fn maintain(agent: &AgentView, witness: &Witness) {
    while agent.pop_hint().is_some() {}
    for process in agent.processes() {
        for orphan in agent.orphans(process.process) {
            // Whoever was inside is dead.
            witness
                .seat(process.process.slot(), orphan.number)
                .store(0, Ordering::SeqCst);
            agent.free_orphan(process.process, &orphan);
        }
    }
    agent.revoke_stale_grants(Duration::from_millis(50));
}

/// Replaces an app process: drains one, and starts another when it is idle.
fn turn_over(agent: &AgentView, random: &mut Random) {
    let processes = agent.processes();
    for process in &processes {
        if process.state == ProcessState::Draining && agent.load(process.process).is_idle() {
            agent.dead(process.process);
            agent.free_process(process.process);
            let fresh = agent.reserve_process(process.group).unwrap();
            agent.publish(fresh, &process_params(process.concurrency, 1));
        }
    }
    let victim = &processes[usize::from(random.pick(u16::try_from(processes.len()).unwrap()))];
    if victim.state == ProcessState::Live {
        agent.drain(victim.process);
    }
}

fn chaos(i: &Instance, workers: &mut [Worker], groups: &[GroupRef], witness: &Witness) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let seconds = std::env::var("PASSENGER_CHAOS_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let deadline = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
    let mut kills = 0;
    while Instant::now() < deadline {
        // Not synchronisation: the moments at which things happen are to be random.
        std::thread::sleep(Duration::from_micros(random.below(4000)));
        maintain(&i.agent, witness);
        let worker = &mut workers[usize::from(random.pick(CAPACITIES.clients))];
        match random.below(5) {
            0 | 1 => {
                kill(worker.pid, libc::SIGKILL);
                let status = reap(worker.pid);
                assert!(
                    libc::WIFSIGNALED(status),
                    "worker failed: status {status:#x}"
                );
                i.watchdog.sweep(worker.id);
                let id = ClientId::new(worker.id.slot(), worker.id.generation() + 1);
                *worker = Worker {
                    pid: start_worker(i, id, groups, witness),
                    id,
                    stopped: false,
                };
                kills += 1;
            }
            2 => {
                kill(worker.pid, libc::SIGSTOP);
                worker.stopped = true;
            }
            3 => {
                kill(worker.pid, libc::SIGCONT);
                worker.stopped = false;
            }
            _ => turn_over(&i.agent, &mut random),
        }
    }
    eprintln!("{kills} workers killed");
    for worker in workers.iter_mut().filter(|worker| worker.stopped) {
        kill(worker.pid, libc::SIGCONT);
        worker.stopped = false;
    }
}

#[test]
fn whatever_is_killed_or_stopped_every_word_is_accounted_for() {
    let i = instance(&CAPACITIES);
    let witness = Witness::new();
    let groups = [
        i.agent
            .create_group(
                &GroupParams {
                    queue_limit: 5,
                    ..PARAMS
                },
                b"",
            )
            .unwrap(),
        i.agent.create_group(&PARAMS, b"").unwrap(),
    ];
    i.process(groups[0], 1);
    i.process(groups[0], 2);
    i.process(groups[0], 1);
    i.process(groups[1], 0);
    let mut workers: Vec<_> = (0..CAPACITIES.clients)
        .map(|slot| ClientId::new(slot, 1))
        .map(|id| Worker {
            pid: start_worker(&i, id, &groups, &witness),
            id,
            stopped: false,
        })
        .collect();

    chaos(&i, &mut workers, &groups, &witness);

    // Afterwards everybody is served again: nobody waits for a seat that nobody gives.
    let before: Vec<_> = workers
        .iter()
        .map(|w| witness.served(w.id).load(Ordering::SeqCst))
        .collect();
    let mut random = Random(1);
    until("every worker is served", || {
        maintain(&i.agent, &witness);
        turn_over(&i.agent, &mut random);
        workers
            .iter()
            .zip(&before)
            .all(|(w, before)| witness.served(w.id).load(Ordering::SeqCst) > before + 10)
    });
    i.agent.supersede();
    for worker in &workers {
        assert_eq!(reap(worker.pid), 0, "worker {:?} failed", worker.id);
    }
    maintain(&i.agent, &witness);
    let idle = || {
        i.agent
            .processes()
            .iter()
            .all(|p| i.agent.load(p.process).is_idle())
    };
    until("grants to the dead are revoked", || {
        i.agent.revoke_stale_grants(Duration::from_millis(1));
        idle()
    });
    for group in groups {
        assert_eq!(i.agent.queue(group).length, 0);
        assert_eq!(i.client(0).queue(group).length, 0, "a bit without a cell");
    }
    for worker in &workers {
        assert_eq!(i.watchdog.sweep(worker.id), passenger_shm::Sweep::default());
    }
}
