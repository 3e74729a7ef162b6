//! Full queues: workers count the requests they refuse, thousands a second when it comes to that. What the
//! administrator is told is how many it were since he was told last, at most once a second for each app. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::pool::GroupId;

/// Shortest time between two runs for one app.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Tally {
    counted: u64,
    untold: u64,
    told: Option<Instant>,
}

/// What was counted and told.
#[derive(Debug, Default)]
pub(crate) struct Rejections(BTreeMap<GroupId, Tally>);

impl Rejections {
    /// The counter of an app is there now. What it had when it was seen first was another agent's to tell; one that
    /// goes back is a hostile worker's, and begins anew.
    pub(crate) fn saw(&mut self, group: GroupId, counted: u64) {
        let tally = self.0.entry(group).or_insert(Tally {
            counted,
            untold: 0,
            told: None,
        });
        let new = counted.saturating_sub(tally.counted);
        tally.untold = tally.untold.saturating_add(new);
        tally.counted = counted;
    }

    /// How many to tell of now.
    pub(crate) fn due(&self, group: GroupId, now: Instant) -> Option<u64> {
        let tally = self.0.get(&group)?;
        let is_early = tally.told.is_some_and(|told| now < told + PAUSE);
        (tally.untold > 0 && !is_early).then_some(tally.untold)
    }

    /// That was told.
    pub(crate) fn told(&mut self, group: GroupId, now: Instant) {
        if let Some(tally) = self.0.get_mut(&group) {
            tally.untold = 0;
            tally.told = Some(now);
        }
    }

    /// Only these apps are there.
    pub(crate) fn keep(&mut self, groups: &[GroupId]) {
        self.0.retain(|known, _| groups.contains(known));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: GroupId = GroupId(1);

    #[test]
    fn thousands_become_one_number_a_second() {
        let (mut all, now) = (Rejections::default(), Instant::now());
        all.saw(APP, 0);
        assert_eq!(all.due(APP, now), None);
        all.saw(APP, 1);
        assert_eq!(all.due(APP, now), Some(1));
        all.told(APP, now);
        all.saw(APP, 500);
        all.saw(APP, 1_000);
        assert_eq!(all.due(APP, now + PAUSE / 2), None);
        assert_eq!(all.due(APP, now + PAUSE), Some(999));
        assert_eq!(all.due(APP, now + PAUSE), Some(999), "until it is told");
        all.told(APP, now + PAUSE);
        assert_eq!(all.due(APP, now + 3 * PAUSE), None);
    }

    #[test]
    fn what_was_counted_before_is_not_told_again() {
        let (mut all, now) = (Rejections::default(), Instant::now());
        all.saw(APP, 70);
        assert_eq!(all.due(APP, now), None);
        all.saw(APP, 3);
        assert_eq!(all.due(APP, now), None, "nonsense of a worker");
        all.saw(APP, 4);
        assert_eq!(all.due(APP, now), Some(1));
        all.saw(APP, u64::MAX);
        all.saw(APP, 0);
        all.saw(APP, u64::MAX);
        assert_eq!(all.due(APP, now), Some(u64::MAX));
        all.keep(&[GroupId(2)]);
        assert_eq!(all.due(APP, now), None);
    }
}
