//! Another instance has taken over, of a newer build: new workers are its. Those there are may still ask for any
//! app; each ends soon after its last request, and httpd's parent ends the rest when none of them can ask any more.

use super::core::Agent;
use crate::pool::{Event, GroupId};

impl Agent {
    pub(super) fn on_retire(&mut self) {
        if std::mem::replace(&mut self.is_retired, true) {
            return;
        }
        log::info!(
            "another build has taken over: every app of this one ends five seconds after its last request"
        );
        for id in self.groups.ids() {
            self.leave_to_successor(id);
        }
    }

    /// No minimum, no idle time: it is there for requests of workers that know no other instance.
    pub(super) fn leave_to_successor(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        group.is_named = false;
        let limits = group.limits();
        self.tell(Event::GroupChanged { group: id, limits });
        self.tell(Event::GroupGone { group: id });
    }
}
