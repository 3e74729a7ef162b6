//! Making the segments and opening them: memfd, mode, seals, the handshake of version and layout. Owns
//! their life from `memfd_create` to `Mapping`; the tables in them are `tables.rs`'s.
//!
//! Order at creation, each step for a reason found by experiment (design-review, T1–T6, S17): memfd with
//! sealing allowed · mode 0600 *at once* (it is 0777, and a read-only descriptor could be reopened
//! for writing) · allocated in full (a page that cannot be had later would be a SIGBUS in httpd) · sealed
//! against resizing and further seals · header, its magic last · read-only descriptor of `routes`.

use std::fs::{File, OpenOptions};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::error::Error;
use crate::layout::{
    layout_hash, RoutesHeader, RoutesLayout, Stamp, TrafficLayout, LAYOUT_VERSION, ROUTES_MAGIC,
    TRAFFIC_MAGIC,
};
use crate::params::Capacities;
use crate::raw::{Mapping, One};
use crate::sync::{load_acquire, Ordering};

/// The descriptors of a fresh pair of segments, all close-on-exec.
#[derive(Debug)]
pub struct SegmentFds {
    /// `routes`, for the agent alone. Must never exist in httpd's parent or its children.
    pub routes: OwnedFd,
    /// `routes`, for everybody else.
    pub routes_read_only: OwnedFd,
    /// `traffic`, for everybody of the instance; never for apps.
    pub traffic: OwnedFd,
}

/// Makes both segments, empty, with headers.
///
/// # Errors
/// When capacities are out of range, or memory or descriptors are short; the text names the step.
pub fn create_segments(capacities: &Capacities) -> Result<SegmentFds, Error> {
    let routes_layout = RoutesLayout::of(capacities)?;
    let traffic_layout = TrafficLayout::of(capacities)?;
    let routes = create(c"passenger-routes", routes_layout.length)?;
    let traffic = create(c"passenger-traffic", traffic_layout.length)?;
    write_routes_header(routes.as_fd(), routes_layout.length, capacities)?;
    let mapping = Mapping::new(traffic.as_fd(), traffic_layout.length, true, "traffic")?;
    // SAFETY: used only until the end of this function, as is `mapping`.
    let stamp: One<Stamp> = unsafe { mapping.one(0) }?;
    write_stamp(stamp.get(), TRAFFIC_MAGIC);
    let routes_read_only = reopen_read_only(routes.as_fd())?;
    Ok(SegmentFds {
        routes,
        routes_read_only,
        traffic,
    })
}

fn create(name: &std::ffi::CStr, length: usize) -> Result<OwnedFd, Error> {
    let named = |doing: &str| format!("{doing} the segment `{}`", name.to_string_lossy());
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is a C string that outlives the call.
    let mut fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_NOEXEC_SEAL) };
    if fd < 0 {
        // Before Linux 6.3 the flag does not exist. The mode below takes the x bits away anyway.
        // SAFETY: as above.
        fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    }
    if fd < 0 {
        return Err(Error::last_os(named("create")));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an open descriptor and a mode.
    if unsafe { libc::fchmod(fd.as_raw_fd(), 0o600) } != 0 {
        return Err(Error::last_os(named("restrict")));
    }
    let bytes = libc::off_t::try_from(length).map_err(|_| Error::TooLarge {
        what: "a segment",
        given: length,
        limit: usize::MAX / 2,
    })?;
    // SAFETY: an open descriptor of ours; extends the file and reserves its pages.
    if unsafe { libc::fallocate(fd.as_raw_fd(), 0, 0, bytes) } != 0 {
        return Err(Error::last_os(format!(
            "{} ({length} bytes)",
            named("allocate")
        )));
    }
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: an open memfd of ours that allows seals.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(Error::last_os(named("seal")));
    }
    Ok(fd)
}

/// A descriptor that cannot be turned into a writable one: a new open file, not a duplicate.
fn reopen_read_only(fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = OpenOptions::new().read(true).open(&path);
    file.map(OwnedFd::from)
        .map_err(|e| Error::io(format!("reopen `routes` by {path}"), e))
}

fn write_routes_header(fd: BorrowedFd<'_>, length: usize, c: &Capacities) -> Result<(), Error> {
    let mapping = Mapping::new(fd, length, true, "routes")?;
    // SAFETY: used only until the end of this function, as is `mapping`.
    let header: One<RoutesHeader> = unsafe { mapping.one(0) }?;
    let header = header.get();
    let mut key = [0u8; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut key))
        .map_err(|e| Error::io("read a key from /dev/urandom", e))?;
    let key = u128::from_le_bytes(key);
    let values = [c.clients, c.groups, c.cells, c.processes, c.seats]
        .map(u32::from)
        .into_iter();
    // Relaxed: nobody believes any of it before the magic is there.
    for (word, value) in header.capacities.iter().zip(values.chain([c.keys, c.ring])) {
        word.store(value, Ordering::Relaxed);
    }
    for (word, shift) in header.instance_key.iter().zip([0, 64]) {
        #[allow(clippy::cast_possible_truncation)] // One half of the key.
        word.store((key >> shift) as u64, Ordering::Relaxed);
    }
    write_stamp(&header.stamp, ROUTES_MAGIC);
    Ok(())
}

fn write_stamp(stamp: &Stamp, magic: u64) {
    // Relaxed: see the magic.
    stamp.version.store(LAYOUT_VERSION, Ordering::Relaxed);
    stamp.hash.store(layout_hash(), Ordering::Relaxed);
    // Release, PAIR(stamp): last; with it everything before.
    stamp.magic.store(magic, Ordering::Release);
}

/// Makes the doorbell that workers ring and the agent waits for: close-on-exec and *non-blocking*, or a
/// hostile worker could fill it and make all others hang in `write` (design-review, T16).
///
/// # Errors
/// When descriptors are short.
pub fn create_doorbell() -> Result<OwnedFd, Error> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(Error::last_os("create the doorbell"));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Maps `routes`; checks stamp, capacities and length. The capacities decide about `traffic`, too.
pub(crate) fn open_routes(
    fd: BorrowedFd<'_>,
    writable: bool,
) -> Result<(Mapping, Capacities, RoutesLayout), Error> {
    let length = length_of(fd, "routes")?;
    if length < size_of::<RoutesHeader>() {
        return Err(Error::Corrupt {
            segment: "routes",
            what: format!("{length} bytes are too few for its header"),
        });
    }
    let mapping = Mapping::new(fd, length, writable, "routes")?;
    check_stamp(&mapping, ROUTES_MAGIC, "routes")?;
    // SAFETY: used only until the end of this function, which `mapping` outlives.
    let header: One<RoutesHeader> = unsafe { mapping.one(0) }?;
    // Relaxed: written before the magic that `check_stamp` acquired, and never again.
    let words = header
        .get()
        .capacities
        .each_ref()
        .map(|word| word.load(Ordering::Relaxed));
    let capacities = capacities_from(words).ok_or_else(|| Error::Corrupt {
        segment: "routes",
        what: format!("capacities {words:?}"),
    })?;
    let layout = RoutesLayout::of(&capacities)?;
    if layout.length != length {
        return Err(Error::Corrupt {
            segment: "routes",
            what: format!("{length} bytes, but its capacities need {}", layout.length),
        });
    }
    Ok((mapping, capacities, layout))
}

/// Maps `traffic`, whose shape `routes` has given.
pub(crate) fn open_traffic(
    fd: BorrowedFd<'_>,
    capacities: &Capacities,
    writable: bool,
) -> Result<(Mapping, TrafficLayout), Error> {
    let layout = TrafficLayout::of(capacities)?;
    let length = length_of(fd, "traffic")?;
    if layout.length != length {
        return Err(Error::Corrupt {
            segment: "traffic",
            what: format!("{length} bytes, but the capacities need {}", layout.length),
        });
    }
    let mapping = Mapping::new(fd, length, writable, "traffic")?;
    Ok((mapping, layout))
}

/// Compares magic, version and hash. Not for `traffic` in agent and watchdog: a hostile worker must not
/// keep a successor from starting by wiping the stamp; there `routes` vouches for the pair.
pub(crate) fn check_stamp(
    mapping: &Mapping,
    magic: u64,
    segment: &'static str,
) -> Result<(), Error> {
    // SAFETY: used only until the end of this function; the caller's mapping is alive.
    let stamp: One<Stamp> = unsafe { mapping.one(0) }?;
    let stamp = stamp.get();
    // PAIR(stamp)
    let found = load_acquire(&stamp.magic);
    if found != magic {
        let what = format!("its magic number is {found:016x} instead of {magic:016x}");
        return Err(Error::Corrupt { segment, what });
    }
    // Relaxed: stored before the magic.
    let found = (
        stamp.version.load(Ordering::Relaxed),
        stamp.hash.load(Ordering::Relaxed),
    );
    let expected = (LAYOUT_VERSION, layout_hash());
    if found != expected {
        return Err(Error::Version {
            segment,
            found,
            expected,
        });
    }
    Ok(())
}

fn capacities_from(words: [u32; 7]) -> Option<Capacities> {
    let [clients, groups, cells, processes, seats, keys, ring] = words;
    let narrow = |n: u32| u16::try_from(n).ok();
    Some(Capacities {
        clients: narrow(clients)?,
        groups: narrow(groups)?,
        cells: narrow(cells)?,
        processes: narrow(processes)?,
        seats: narrow(seats)?,
        keys,
        ring,
    })
}

fn length_of(fd: BorrowedFd<'_>, name: &str) -> Result<usize, Error> {
    let copy = fd.try_clone_to_owned();
    let length = copy
        .and_then(|fd| File::from(fd).metadata())
        .map(|m| m.len());
    let length = length.map_err(|e| Error::io(format!("ask for the length of `{name}`"), e))?;
    usize::try_from(length).map_err(|e| Error::io(name, std::io::Error::other(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn small() -> Capacities {
        Capacities {
            clients: 4,
            groups: 2,
            cells: 8,
            processes: 4,
            seats: 2,
            keys: 16,
            ring: 8,
        }
    }

    #[test]
    fn what_was_written_is_what_is_opened() {
        let fds = create_segments(&small()).unwrap();
        let (_, found, _) = open_routes(fds.routes_read_only.as_fd(), false).unwrap();
        assert_eq!(found, small());
        open_traffic(fds.traffic.as_fd(), &found, true).unwrap();
        let swapped = open_routes(fds.traffic.as_fd(), false)
            .unwrap_err()
            .to_string();
        assert!(swapped.contains("magic"), "{swapped}");
        open_traffic(fds.routes.as_fd(), &found, true).unwrap_err();
    }

    #[test]
    fn another_build_is_told_both_versions() {
        let fds = create_segments(&small()).unwrap();
        let file = File::from(fds.routes.try_clone().unwrap());
        file.write_all_at(&77u32.to_le_bytes(), 16).unwrap();
        let text = open_routes(fds.routes.as_fd(), true)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("version 77") && text.contains(&format!("version {LAYOUT_VERSION} ")),
            "{text}"
        );
        // Unfinished: everything but the magic.
        file.write_all_at(&[0; 8], 0).unwrap();
        assert!(open_routes(fds.routes.as_fd(), true).is_err());
    }

    #[test]
    fn two_instances_have_two_keys() {
        let key = |fds: &SegmentFds| {
            let mut key = [0; 16];
            File::from(fds.routes.try_clone().unwrap())
                .read_exact_at(&mut key, 56)
                .unwrap();
            key
        };
        let [one, two] = [(); 2].map(|()| key(&create_segments(&small()).unwrap()));
        assert_ne!(one, two);
        assert_ne!(one, [0; 16]);
    }
}
