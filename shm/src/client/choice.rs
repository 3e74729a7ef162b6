//! Which process a request goes to. Owns the order among those with room: not to be avoided, no orphans, the
//! newest code, least busy, fewest streams, used last.

use std::cmp::Reverse;

use crate::ids::{GroupRef, ProcessRef};
use crate::protocol::seat::{self as seat_word, SeatState, SeatWord};
use crate::protocol::{counter, recent};
use crate::sync::Ordering;
use crate::tables::Member;

use super::{index_u32, Client};

/// The best process of a scan. `seat` is `None` if it counts instead.
pub(super) struct Choice<'a> {
    pub(super) member: Member<'a>,
    pub(super) seat: Option<(u16, SeatWord)>,
}

/// What a scan sees of one process with room.
pub(super) struct Room {
    busy: u32,
    streams: u32,
    has_orphans: bool,
    /// `None` if it counts instead.
    pub(super) seat: Option<(u16, SeatWord)>,
}

/// What makes one process better than another.
struct Wanted {
    newest_code: u32,
    avoid: Option<ProcessRef>,
}

impl Wanted {
    /// Smaller is better; 0 is as good as can be.
    fn score(&self, member: &Member<'_>, room: &Room) -> u32 {
        let name = ProcessRef::new(index_u32(member.index), member.word.generation());
        u32::from(self.avoid == Some(name)) << 31
            | u32::from(room.has_orphans) << 30
            | u32::from(member.code_generation() != self.newest_code) << 29
            | room.busy.min((1 << 17) - 1) << 12
            | room.streams.min((1 << 12) - 1)
    }
}

impl Client {
    /// The best process with room. The one that was used last is looked at first, and if it has nothing to do
    /// nobody else is looked at: requests one after the other find the same process warm, however many there
    /// are, and the others fall idle.
    pub(super) fn choose(&self, group: GroupRef, avoid: Option<ProcessRef>) -> Option<Choice<'_>> {
        let tables = self.tables();
        let slot = tables.routes.group(group)?;
        let wanted = Wanted {
            // Relaxed: a preference.
            newest_code: slot.code_generation.load(Ordering::Relaxed),
            avoid,
        };
        let recent = tables.traffic.recent(group.index());
        let front = recent.and_then(|word| tables.member(group, recent::front(word)));
        if let Some((0, choice)) = front.and_then(|member| self.rate(member, &wanted)) {
            return Some(choice);
        }
        let mut best: Option<((u32, Reverse<u64>), Choice<'_>)> = None;
        for member in tables.members(group) {
            let Some((score, choice)) = self.rate(member, &wanted) else {
                continue;
            };
            let turn = tables.traffic.turn(member.index).map_or(0, recent::turn);
            let rank = (score, Reverse(turn));
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, choice));
            }
        }
        best.map(|(_, choice)| choice)
    }

    fn rate<'a>(&'a self, member: Member<'a>, wanted: &Wanted) -> Option<(u32, Choice<'a>)> {
        let room = self.room(&member)?;
        let score = wanted.score(&member, &room);
        let seat = room.seat;
        Some((score, Choice { member, seat }))
    }

    /// What a process has to offer; `None` if it has no room.
    pub(super) fn room(&self, member: &Member<'_>) -> Option<Room> {
        let traffic = &self.tables().traffic;
        let streams = traffic.stream_total(member.index);
        let mut room = Room {
            busy: 0,
            streams: streams.map_or(0, counter::busy_hint),
            has_orphans: false,
            seat: None,
        };
        if member.word.is_unlimited() {
            let total = traffic.total(member.index);
            room.busy = total.map_or(0, counter::busy_hint);
            return Some(room);
        }
        let seats = traffic.seats(member.index, member.concurrency());
        for (seat, index) in seats.iter().zip(0u16..) {
            let word = seat_word::look(seat);
            match word.state() {
                SeatState::Free => room.seat = room.seat.or(Some((index, word))),
                state => {
                    room.busy += 1;
                    room.has_orphans |= state == SeatState::Orphan;
                }
            }
        }
        room.seat.is_some().then_some(room)
    }
}
