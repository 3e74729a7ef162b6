//! The attacks of the design review (T1 to T4, T6) on segments as this crate makes them, by a process of
//! another user that has what a worker has: a read-only descriptor and mapping of `routes`, a writable
//! `traffic`. Needs root; says so and passes otherwise.
#![cfg(not(loom))]

mod common;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;

use common::{instance, Instance, SMALL};
use passenger_shm::create_segments;

const NOBODY: u32 = 65534;

fn is_root(test: &str) -> bool {
    // SAFETY: no precondition.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped {test}: only root can make a process of another user");
    }
    root
}

/// Runs `attack` in a child that is `nobody`, `dumpable` or not; its answer.
fn as_nobody(dumpable: bool, attack: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child only makes system calls and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: no pointers but an empty list of groups.
        let answer = unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let dropped = libc::setgroups(0, std::ptr::null()) == 0
                && libc::setgid(NOBODY) == 0
                && libc::setuid(NOBODY) == 0
                && libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable)) == 0;
            if dropped {
                attack()
            } else {
                99
            }
        };
        // SAFETY: no precondition.
        unsafe { libc::_exit(answer) };
    }
    let mut status = 0;
    // SAFETY: a child of ours, and an int that outlives the call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(
        libc::WIFEXITED(status),
        "the attacker died: status {status:#x}"
    );
    libc::WEXITSTATUS(status)
}

fn can_open(path: &str, flags: i32) -> bool {
    let path = CString::new(path).unwrap();
    // SAFETY: a C string that outlives the call.
    unsafe { libc::open(path.as_ptr(), flags) >= 0 }
}

fn can_map(fd: RawFd, protection: i32) -> bool {
    // SAFETY: no address wanted; nobody uses the mapping.
    unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            protection,
            libc::MAP_SHARED,
            fd,
            0,
        ) != libc::MAP_FAILED
    }
}

/// Everything T2 tried, one bit per success.
fn break_into(fd: RawFd) -> i32 {
    let path = format!("/proc/self/fd/{fd}");
    let mut broken = 0;
    let mut attempt = |bit: i32, success: bool| broken |= i32::from(success) << bit;
    attempt(0, can_open(&path, libc::O_RDWR));
    attempt(1, can_open(&path, libc::O_RDONLY));
    attempt(2, can_map(fd, libc::PROT_READ | libc::PROT_WRITE));
    // SAFETY: (all below) a mapping of our own that nobody else uses, descriptors, numbers.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        );
        if page == libc::MAP_FAILED {
            return 98;
        }
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        attempt(3, libc::mprotect(page, 4096, writable) == 0);
        let files = format!(
            "/proc/self/map_files/{:x}-{:x}",
            page as usize,
            page as usize + 4096
        );
        attempt(4, can_open(&files, libc::O_RDWR));
        let mem = libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDWR);
        let offset = libc::off_t::try_from(page as usize).unwrap_or(0);
        attempt(
            5,
            mem >= 0 && libc::pwrite(mem, c"x".as_ptr().cast(), 1, offset) == 1,
        );
        attempt(6, libc::fchmod(fd, 0o777) == 0);
        // In a user namespace of our own, as its root; it reports failure elsewhere as failure here.
        if libc::unshare(libc::CLONE_NEWUSER) == 0 {
            let maps = libc::open(c"/proc/self/uid_map".as_ptr(), libc::O_WRONLY);
            let line = c"0 65534 1";
            libc::write(maps, line.as_ptr().cast(), 9);
            attempt(
                7,
                can_open(&path, libc::O_RDWR) || libc::mprotect(page, 4096, writable) == 0,
            );
        }
    }
    broken
}

#[test]
fn t1_segments_are_for_their_owner_alone() {
    let fds = create_segments(&SMALL).unwrap();
    for fd in [&fds.routes, &fds.routes_read_only, &fds.traffic] {
        let mode = File::from(fd.try_clone().unwrap())
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        // SAFETY: (both) an open descriptor.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        // SAFETY: as above.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        let wanted = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        assert_eq!(seals & wanted, wanted);
    }
    // The control: the same file without our fchmod is anybody's.
    if is_root("t1") {
        // SAFETY: a C string that outlives the call.
        let open = unsafe { libc::memfd_create(c"control".as_ptr(), 0) };
        let path = format!("/proc/self/fd/{open}");
        assert_eq!(
            as_nobody(true, || i32::from(can_open(&path, libc::O_RDWR))),
            1
        );
    }
}

#[test]
fn t2_a_reader_of_routes_never_becomes_a_writer() {
    if !is_root("t2") {
        return;
    }
    let i = instance(&SMALL);
    let fd = i.fds.routes_read_only.as_raw_fd();
    for dumpable in [false, true] {
        let broken = as_nobody(dumpable, || break_into(fd));
        assert_eq!(broken, 0, "successes as bits, dumpable {dumpable}");
    }
}

#[test]
fn t3_the_writable_descriptor_is_the_only_way_in() {
    if !is_root("t3") {
        return;
    }
    let i = instance(&SMALL);
    // Why the writable one must never exist in httpd's parent: whoever inherits it can write.
    let writable = i.fds.routes.as_raw_fd();
    let both = libc::PROT_READ | libc::PROT_WRITE;
    assert_eq!(as_nobody(false, || i32::from(can_map(writable, both))), 1);
}

fn length(i: &Instance) -> libc::off_t {
    let length = File::from(i.fds.traffic.try_clone().unwrap())
        .metadata()
        .unwrap()
        .len();
    libc::off_t::try_from(length).unwrap()
}

#[test]
fn t4_traffic_cannot_be_resized_and_holes_in_it_are_harmless() {
    let i = instance(&SMALL);
    let group = i.group();
    let process = i.process(group, 1);
    let client = i.client(0);
    let seat = client.take(group, None).unwrap();
    let (fd, length) = (i.fds.traffic.as_raw_fd(), length(&i));
    let attack = || {
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: a descriptor and numbers.
        unsafe {
            i32::from(libc::ftruncate(fd, 0) == 0)
                | i32::from(libc::ftruncate(fd, length + 4096) == 0) << 1
                | i32::from(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE) == 0) << 2
                | i32::from(libc::fallocate(fd, punch, 0, length) == 0) << 3
        }
    };
    let broken = if is_root("part of t4") {
        as_nobody(true, attack)
    } else {
        attack()
    };
    assert_eq!(broken, 0b1000, "only the hole succeeds");
    // Everything is zero now, and everybody goes on.
    assert!(i.agent.load(process).is_idle());
    seat.release();
    client.take(group, None).unwrap().release();
    i.watchdog.sweep(client.id());
    passenger_shm::AgentView::attach(
        i.fds.routes.as_fd(),
        i.fds.traffic.as_fd(),
        passenger_shm::create_doorbell().unwrap(),
    )
    .expect("a successor starts whatever a worker did to the stamp of traffic");
}

#[test]
fn t6_what_cannot_be_sealed_is_not_what_we_make() {
    let i = instance(&SMALL);
    let before = length(&i);
    // SAFETY: descriptors and numbers. Root itself may not do it either.
    let cut = unsafe { libc::ftruncate(i.fds.routes.as_raw_fd(), 0) };
    assert_eq!(cut, -1);
    assert_eq!(length(&i), before);
    // The mapping is still whole: reading its last page does not kill us.
    assert!(i.agent.processes().is_empty());
}
