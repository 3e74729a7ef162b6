//! What httpd's parent must not forget over a restart, when the module is unloaded and loaded again.
//!
//! Plain numbers and bytes in httpd's retained data, which lives until the process ends. No pointer
//! of ours may be in there: code and statics move at each restart.
//!
//! ```text
//! 0         4          8              264                          SIZE
//! | version | channel  | draining × 8  | fields of that version…        |
//! ```
//! The first three keep their places in every version from 3 on, so that any later build can tell the
//! instances of earlier ones to stop.

use std::ffi::CStr;
use std::mem;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use super::bindings::{ap_retained_data_create, ap_retained_data_get};

const KEY: &CStr = c"mod_passenger.instance";
/// Room for every version to come.
const SIZE: usize = 4096;
/// Version of the layout below.
const VERSION: u32 = 3;
/// First version that keeps what drains where it is.
const FIRST_WITH_DRAINING: u32 = 3;
/// "No descriptor".
const NONE: RawFd = -1;
/// Most bytes of an instance directory's path.
pub(crate) const PATH_BYTES: usize = 512;
/// Most bytes of a build id.
pub(crate) const BUILD_BYTES: usize = 64;
/// Most instances that may end beside each other.
pub(crate) const MOST_DRAINING: usize = 8;

/// An instance that another one has replaced, until it has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draining {
    channel: RawFd,
    /// Whether it was told to stop: 0 or 1.
    told: u32,
    /// Since when none of its workers can ask for anything, by the monotonic clock in seconds; 0: one can.
    quiet_since: u64,
    /// The first generation of workers that it serves, as configurations are counted.
    pub(crate) first: u64,
    /// The last one.
    pub(crate) last: u64,
}

const NOBODY: Draining = Draining {
    channel: NONE,
    told: 0,
    quiet_since: 0,
    first: 0,
    last: 0,
};

#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    version: u32,
    channel: RawFd,
    draining: [Draining; MOST_DRAINING],
    routes: RawFd,
    traffic: RawFd,
    doorbell: RawFd,
    hello: RawFd,
    /// Both ends of the reserve, and the watchdog's image.
    reserve: [RawFd; 3],
    watchdog: i32,
    /// Process id of the parent itself.
    parent: i32,
    /// The configuration it was started with.
    generation: u64,
    build: [u8; BUILD_BYTES],
    instance_dir: [u8; PATH_BYTES],
}

const _: () = {
    assert!(mem::size_of::<Raw>() <= SIZE);
    assert!(mem::offset_of!(Raw, version) == 0 && mem::offset_of!(Raw, channel) == 4);
    assert!(mem::offset_of!(Raw, draining) == 8 && mem::offset_of!(Raw, routes) == 264);
    assert!(mem::size_of::<Draining>() == 32 && mem::offset_of!(Draining, last) == 24);
};

/// A running instance, as the parent that started it and its children know it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Retained {
    /// Process id of the watchdog we started; 0 once it died (its successor is nobody's child).
    pub(crate) watchdog: i32,
    /// Process id of httpd's parent.
    pub(crate) parent: i32,
    /// Generation of the configuration it was started with.
    pub(crate) generation: u64,
    /// Build that started it.
    pub(crate) build: String,
    /// Absolute path of the instance directory.
    pub(crate) instance_dir: String,
}

/// The descriptors of an instance, owned.
pub(crate) struct Descriptors {
    /// Parent channel.
    pub(crate) channel: OwnedFd,
    /// `routes`, read-only.
    pub(crate) routes: OwnedFd,
    /// `traffic`.
    pub(crate) traffic: OwnedFd,
    /// The agent's doorbell.
    pub(crate) doorbell: OwnedFd,
    /// Workers' end of the hello channel.
    pub(crate) hello: OwnedFd,
    /// Writing and reading end of the reserve, image of the watchdog: for another watchdog, and never
    /// for workers.
    pub(crate) reserve: [OwnedFd; 3],
}

fn raw() -> Option<*mut Raw> {
    // SAFETY: the key is a C string; httpd's process pool exists whenever our code runs.
    let data = unsafe { ap_retained_data_get(KEY.as_ptr()) }.cast::<Raw>();
    (!data.is_null()).then_some(data)
}

fn read() -> Option<Raw> {
    // SAFETY: `raw` is the SIZE bytes `write` created, and a Raw is any bytes. Only the parent
    // writes, and only while it is single-threaded; its children have their own copy.
    let raw = raw().map(|data| unsafe { ptr::read(data) })?;
    (raw.version == VERSION).then_some(raw)
}

fn write(new: Raw) {
    let data = raw().unwrap_or_else(|| {
        // SAFETY: the key is a C string; the memory comes zeroed and lives as long as httpd.
        unsafe { ap_retained_data_create(KEY.as_ptr(), SIZE as _) }.cast()
    });
    // SAFETY: SIZE bytes, at least a Raw, aligned by APR; nobody else looks (see `read`).
    unsafe { ptr::write(data, new) };
}

/// The retained instance, if there is one of this layout.
pub(crate) fn get() -> Option<Retained> {
    let raw = read().filter(|raw| raw.channel != NONE)?;
    Some(Retained {
        watchdog: raw.watchdog,
        parent: raw.parent,
        generation: raw.generation,
        build: text(&raw.build),
        instance_dir: text(&raw.instance_dir),
    })
}

/// The parent channel of the retained instance, open for as long as it is retained.
pub(crate) fn channel() -> Option<BorrowedFd<'static>> {
    let fd = read()?.channel;
    // SAFETY: a descriptor `keep` took ownership of. The parent closes it only after
    // `take_channel`, when it is NONE here; the borrower duplicates it at once.
    (fd != NONE).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Retains a new instance. What was retained before must have been given up.
pub(crate) fn keep(instance: &Retained, descriptors: Descriptors) {
    let before = read();
    write(Raw {
        version: VERSION,
        channel: descriptors.channel.into_raw_fd(),
        routes: descriptors.routes.into_raw_fd(),
        traffic: descriptors.traffic.into_raw_fd(),
        doorbell: descriptors.doorbell.into_raw_fd(),
        hello: descriptors.hello.into_raw_fd(),
        reserve: descriptors.reserve.map(IntoRawFd::into_raw_fd),
        watchdog: instance.watchdog,
        parent: instance.parent,
        generation: instance.generation,
        draining: before.map_or([NOBODY; MOST_DRAINING], |raw| raw.draining),
        build: bytes(&instance.build),
        instance_dir: bytes(&instance.instance_dir),
    });
}

/// Both ends of the reserve and the watchdog's image, open for as long as the instance is retained.
pub(crate) fn reserve() -> Option<[BorrowedFd<'static>; 3]> {
    let fds = read()?.reserve;
    // SAFETY: descriptors `keep` took ownership of; closed only when the instance is given up, which
    // the borrowers, who have them duplicated at once, do not outlive.
    (!fds.contains(&NONE)).then(|| fds.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) }))
}

/// Another watchdog has taken over what is retained.
pub(crate) fn replace_watchdog(channel: OwnedFd, watchdog: i32) {
    if let Some(mut raw) = read() {
        close(raw.channel);
        raw.channel = channel.into_raw_fd();
        raw.watchdog = watchdog;
        write(raw);
    }
}

/// Forgets the watchdog's process id once it died: the number will be another process' one day.
pub(crate) fn forget_watchdog() {
    if let Some(mut raw) = read() {
        raw.watchdog = 0;
        write(raw);
    }
}

/// Gives up the retained instance: closes what its workers need and returns the parent channel, of
/// whatever layout version it was.
pub(crate) fn take_channel() -> Option<OwnedFd> {
    let data = raw()?;
    // SAFETY: as in `read`; `channel` has its place in every version.
    let fd = unsafe { (*data).channel };
    // SAFETY: as above, and these have theirs since that version.
    let (version, draining) = unsafe { ((*data).version, (*data).draining) };
    let (is_known, raw) = (read().is_some(), read());
    if let Some(raw) = raw {
        for fd in [raw.routes, raw.traffic, raw.doorbell, raw.hello] {
            close(fd);
        }
        raw.reserve.into_iter().for_each(close);
    }
    let empty = Raw {
        version: VERSION,
        channel: NONE,
        routes: NONE,
        traffic: NONE,
        doorbell: NONE,
        hello: NONE,
        reserve: [NONE; 3],
        watchdog: 0,
        parent: 0,
        generation: 0,
        draining: if version >= FIRST_WITH_DRAINING {
            draining
        } else {
            [NOBODY; MOST_DRAINING]
        },
        build: [0; BUILD_BYTES],
        instance_dir: [0; PATH_BYTES],
    };
    write(empty);
    // A foreign version with channel 0 would be zeroed memory: descriptor 0 is never a channel.
    let is_channel = if is_known { fd != NONE } else { fd > 2 };
    // SAFETY: owned by the retained data until now, and no longer named there.
    is_channel.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Keeps the channel of an instance that was replaced, with the first and the last generation of workers that use
/// it. Gives the channel back if there is no room.
///
/// # Errors
/// See above.
pub(crate) fn add_draining(channel: OwnedFd, (first, last): (u64, u64)) -> Result<(), OwnedFd> {
    let Some(mut raw) = read() else {
        return Err(channel);
    };
    let Some(free) = raw.draining.iter_mut().find(|d| d.channel == NONE) else {
        return Err(channel);
    };
    *free = Draining {
        channel: channel.into_raw_fd(),
        told: 0,
        quiet_since: 0,
        first,
        last,
    };
    write(raw);
    Ok(())
}

/// All replaced instances that have not ended, oldest first.
pub(crate) fn draining() -> Vec<Draining> {
    let all = read().map_or([NOBODY; MOST_DRAINING], |raw| raw.draining);
    let mut all: Vec<Draining> = all.into_iter().filter(|d| d.channel != NONE).collect();
    all.sort_by_key(|draining| draining.last);
    all
}

impl Draining {
    /// Its parent channel, open until [`Draining::forget`].
    pub(crate) fn channel(&self) -> BorrowedFd<'static> {
        // SAFETY: a descriptor that `add_draining` took ownership of. The parent, which has one thread,
        // closes it only in `forget`; the borrower duplicates it at once.
        unsafe { BorrowedFd::borrow_raw(self.channel) }
    }

    /// Whether it was told to stop.
    pub(crate) fn was_told(&self) -> bool {
        self.told != 0
    }

    /// Notes that it was told to stop.
    pub(crate) fn note_told(&self) {
        self.replace(Draining { told: 1, ..*self });
    }

    /// Notes whether its workers are quiet at `now`; since when they are, then.
    pub(crate) fn note_quiet(&self, is_quiet: bool, now: u64) -> Option<u64> {
        let quiet_since = match (is_quiet, self.quiet_since) {
            (false, _) => 0,
            (true, 0) => now.max(1),
            (true, since) => since,
        };
        if quiet_since != self.quiet_since {
            self.replace(Draining {
                quiet_since,
                ..*self
            });
        }
        is_quiet.then_some(quiet_since)
    }

    /// It has ended: its channel is closed.
    pub(crate) fn forget(self) {
        if self.replace(NOBODY) {
            close(self.channel);
        }
    }

    fn replace(&self, with: Draining) -> bool {
        let Some(mut raw) = read() else { return false };
        let own = raw.draining.iter_mut().find(|d| d.channel == self.channel);
        let Some(own) = own else { return false };
        *own = with;
        write(raw);
        true
    }
}

/// In a child: closes what is the parent's alone, and hands over what is the workers'.
///
/// Under `httpd -X` the one process is both: it keeps everything and gets duplicates.
pub(crate) fn inherit() -> Option<(Retained, [OwnedFd; 4])> {
    let retained = get();
    let mut raw = read()?;
    let fds = [raw.routes, raw.traffic, raw.doorbell, raw.hello];
    let is_parent = raw.parent == own_pid();
    if !is_parent {
        close(raw.channel);
        raw.draining.iter().for_each(|d| close(d.channel));
        raw.reserve.into_iter().for_each(close);
        raw.reserve = [NONE; 3];
        (raw.channel, raw.draining) = (NONE, [NOBODY; MOST_DRAINING]);
        (raw.routes, raw.traffic, raw.doorbell, raw.hello) = (NONE, NONE, NONE, NONE);
        write(raw);
    }
    if fds.contains(&NONE) {
        return None;
    }
    if is_parent {
        let copies = fds.map(|fd| {
            // SAFETY: retained and open; duplicated at once.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fd.try_clone_to_owned().ok()
        });
        let [Some(a), Some(b), Some(c), Some(d)] = copies else {
            return None;
        };
        return retained.map(|retained| (retained, [a, b, c, d]));
    }
    // SAFETY: this process' own copies of the parent's descriptors, named nowhere else any more.
    retained.map(|retained| (retained, fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })))
}

fn own_pid() -> i32 {
    // SAFETY: a system call without arguments.
    unsafe { libc::getpid() }
}

fn close(fd: RawFd) {
    if fd != NONE {
        // SAFETY: only called with descriptors the retained data owns, which is then overwritten.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Cut to the room there is; callers check what must not be cut.
fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let mut room = [0; N];
    for (to, from) in room.iter_mut().zip(text.bytes().take(N.saturating_sub(1))) {
        *to = from;
    }
    room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_the_round_trip() {
        assert_eq!(text(&bytes::<8>("abc")), "abc");
        assert_eq!(text(&bytes::<4>("abcdef")), "abc");
        assert_eq!(text(b"full"), "full");
    }
}
