//! What a client sees of a group's processes without taking anything: words for the log, not a basis for
//! decisions; each is true at its own moment.

use crate::ids::{GroupRef, ProcessRef};
use crate::params::Occupancy;
use crate::protocol::counter;
use crate::protocol::seat::{self as seat_word, SeatState};
use crate::sync::Ordering;
use crate::tables::Member;

use super::{index_u32, Client};

impl Client {
    /// The processes that serve a group, and how busy each is.
    #[must_use]
    pub fn occupancy(&self, group: GroupRef) -> Vec<Occupancy> {
        let slot = self.tables().routes.group(group);
        // Relaxed: for the eye.
        let newest = slot.map_or(0, |slot| slot.code_generation.load(Ordering::Relaxed));
        let members = self.tables().members(group);
        members.map(|member| self.glance(&member, newest)).collect()
    }

    fn glance(&self, member: &Member<'_>, newest: u32) -> Occupancy {
        let traffic = &self.tables().traffic;
        let (mut busy, mut orphans) = (0, 0);
        if member.word.is_unlimited() {
            busy = traffic.total(member.index).map_or(0, counter::busy_hint);
        } else {
            for seat in traffic.seats(member.index, member.concurrency()) {
                let state = seat_word::look(seat).state();
                busy += u32::from(state != SeatState::Free);
                orphans += u32::from(state == SeatState::Orphan);
            }
        }
        Occupancy {
            process: ProcessRef::new(index_u32(member.index), member.word.generation()),
            pid: member.pid(),
            // 0 where there is no limit.
            concurrency: index_u32(member.concurrency()),
            busy,
            orphans,
            is_newest: member.code_generation() == newest,
        }
    }
}
