//! Where the sections of both segments begin, for given capacities.

use std::mem::size_of;

use super::routes::MAX_PROCESSES;
use super::{GroupSlot, KeyEntry, ProcessSlot, RoutesHeader, Total, TrafficHeader, Waits, LINE};
use crate::error::Error;
use crate::params::Capacities;
use crate::protocol::cell::Cell;

/// Where the sections of `routes` begin, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoutesLayout {
    pub(crate) keys: usize,
    pub(crate) groups: usize,
    pub(crate) processes: usize,
    pub(crate) length: usize,
}

/// Where the sections of `traffic` begin, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TrafficLayout {
    pub(crate) ring: usize,
    pub(crate) seats: usize,
    pub(crate) totals: usize,
    pub(crate) bitmaps: usize,
    /// Bitmap words of one group that are in use.
    pub(crate) bitmap_words: usize,
    /// Bitmap words from one group to the next: whole lines, the last word of which says who was used last
    /// (`protocol/recent.rs`), where each take finds it on the way.
    pub(crate) bitmap_stride: usize,
    pub(crate) cells: usize,
    pub(crate) counters: usize,
    /// Counters from one client to the next: whole lines.
    pub(crate) counter_stride: usize,
    /// As the counters, and with their stride.
    pub(crate) streams: usize,
    pub(crate) limits: usize,
    pub(crate) waits: usize,
    pub(crate) length: usize,
}

impl RoutesLayout {
    /// The layout for checked capacities.
    pub(crate) fn of(c: &Capacities) -> Result<RoutesLayout, Error> {
        check(c)?;
        let mut end = size_of::<RoutesHeader>();
        Ok(RoutesLayout {
            keys: place(&mut end, c.keys as usize, size_of::<KeyEntry>()),
            groups: place(&mut end, usize::from(c.groups), size_of::<GroupSlot>()),
            processes: place(&mut end, usize::from(c.processes), size_of::<ProcessSlot>()),
            length: whole_lines(end),
        })
    }
}

impl TrafficLayout {
    /// The layout for checked capacities.
    pub(crate) fn of(c: &Capacities) -> Result<TrafficLayout, Error> {
        check(c)?;
        let [clients, groups, cells, processes, seats] =
            [c.clients, c.groups, c.cells, c.processes, c.seats].map(usize::from);
        let bitmap_words = cells.div_ceil(64);
        let bitmap_stride = whole_lines((bitmap_words + 1) * 8) / 8;
        let counter_stride = whole_lines(processes * 8) / 8;
        let mut end = size_of::<TrafficHeader>();
        Ok(TrafficLayout {
            ring: place(&mut end, c.ring as usize, 8),
            seats: place(&mut end, processes * seats, 8),
            totals: place(&mut end, processes, size_of::<Total>()),
            bitmaps: place(&mut end, groups * bitmap_stride, 8),
            bitmap_words,
            bitmap_stride,
            cells: place(&mut end, groups * cells, size_of::<Cell>()),
            counters: place(&mut end, clients * counter_stride, 8),
            counter_stride,
            streams: place(&mut end, clients * counter_stride, 8),
            limits: place(&mut end, processes * seats, 8),
            waits: place(&mut end, groups, size_of::<Waits>()),
            length: whole_lines(end),
        })
    }
}

/// Puts a section at the end, at the start of a line. The limits of [`check`] exclude overflow: 2³² bytes
/// at most per section, on 64-bit machines.
fn place(end: &mut usize, elements: usize, size: usize) -> usize {
    let start = whole_lines(*end);
    *end = start + elements * size;
    start
}

fn whole_lines(bytes: usize) -> usize {
    bytes.next_multiple_of(LINE)
}

fn check(c: &Capacities) -> Result<(), Error> {
    let limits = [
        ("clients", u32::from(c.clients), 32_768),
        ("groups", u32::from(c.groups), 4096),
        ("cells per group", u32::from(c.cells), 4096),
        (
            "processes",
            u32::from(c.processes),
            u32::from(MAX_PROCESSES),
        ),
        ("seats per process", u32::from(c.seats), 4096),
        ("keys", c.keys, 1 << 20),
        ("ring cells", c.ring, 1 << 16),
    ];
    for (what, given, limit) in limits {
        if given == 0 || given > limit {
            let what = format!("{given} {what} (1 to {limit} are possible)");
            return Err(Error::Corrupt {
                segment: "routes",
                what,
            });
        }
    }
    for (what, given) in [("keys", c.keys), ("ring cells", c.ring)] {
        if !given.is_power_of_two() {
            let what = format!("{given} {what}: not a power of two");
            return Err(Error::Corrupt {
                segment: "routes",
                what,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_follow_each_other_on_whole_lines_without_overlap() {
        for c in [
            Capacities::for_httpd(16, 400, 6),
            Capacities::for_httpd(20_000, 40_000, 900),
        ] {
            let r = RoutesLayout::of(&c).unwrap();
            let t = TrafficLayout::of(&c).unwrap();
            let starts = [
                r.keys,
                r.groups,
                r.processes,
                t.ring,
                t.seats,
                t.totals,
                t.bitmaps,
                t.cells,
                t.limits,
                t.waits,
            ];
            assert!(starts.iter().all(|start| start % LINE == 0));
            assert_eq!(r.groups - r.keys, c.keys as usize * 32);
            assert_eq!(
                r.processes - r.groups,
                usize::from(c.groups) * size_of::<GroupSlot>()
            );
            assert!(t.cells >= t.bitmaps + usize::from(c.groups) * t.bitmap_stride * 8);
            assert!(t.bitmap_words * 64 >= usize::from(c.cells));
            assert!(
                t.bitmap_words < t.bitmap_stride,
                "no room for who was used last"
            );
            let counters = usize::from(c.clients) * t.counter_stride * 8;
            assert_eq!(t.streams, t.counters + counters);
            assert_eq!(t.limits, t.streams + counters);
            assert_eq!(t.waits - t.limits, t.totals - t.seats);
            assert_eq!(t.length, t.waits + usize::from(c.groups) * 64);
        }
    }

    #[test]
    fn a_debian_default_is_a_few_megabytes() {
        let c = Capacities::for_httpd(16, 150, 6);
        let bytes = RoutesLayout::of(&c).unwrap().length + TrafficLayout::of(&c).unwrap().length;
        assert!(bytes < 4 << 20, "{bytes}");
    }

    #[test]
    fn impossible_capacities_are_named() {
        let good = Capacities::for_httpd(1, 1, 1);
        for bad in [
            Capacities {
                processes: 1025,
                ..good
            },
            Capacities { clients: 0, ..good },
            Capacities { ring: 1000, ..good },
        ] {
            assert!(RoutesLayout::of(&bad).is_err() && TrafficLayout::of(&bad).is_err());
        }
    }
}
