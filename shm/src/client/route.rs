//! Routes: a name for each app process that may leave the machine, so that a client can ask for the same
//! process again (sticky sessions). Made with the instance's key: nobody can guess one, or read slot and
//! generation out of it, and every worker and every successor of the agent makes the same.

use siphasher::sip::SipHasher24;
use std::hash::Hasher;

use crate::ids::{GroupRef, ProcessRef};

use super::{index_u32, Choice, Client, Seat, Seized, CHOICES};

/// No seat at the process of that route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffRoute {
    /// No process that takes requests has that route (any more).
    Gone,
    /// It has no free seat; `live` processes of the group take requests, it among them.
    Busy {
        /// How many.
        live: u32,
    },
}

impl Client {
    /// The route of a process.
    #[must_use]
    pub fn route_of(&self, process: ProcessRef) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.tables().routes.instance_key());
        hasher.write(b"route");
        hasher.write(&process.slot().to_le_bytes());
        hasher.write(&process.generation().to_le_bytes());
        hasher.finish()
    }

    /// Takes a seat at the process with that route, never waiting, past whoever waits for any seat: a freed
    /// seat that was not handed to somebody is anybody's.
    ///
    /// # Errors
    /// [`OffRoute`] says whether waiting makes sense.
    pub fn take_on_route(&self, group: GroupRef, route: u64) -> Result<Seat<'_>, OffRoute> {
        for _ in 0..CHOICES {
            let member = self.tables().members(group).find(|member| {
                let process = ProcessRef::new(index_u32(member.index), member.word.generation());
                self.route_of(process) == route
            });
            let member = member.ok_or(OffRoute::Gone)?;
            let Some(room) = self.room(&member) else {
                break;
            };
            let choice = Choice {
                member,
                seat: room.seat,
            };
            match self.seize(group, &choice) {
                Seized::Seat(seat) => return Ok(seat),
                Seized::Lost => {}
                Seized::NoGroup => return Err(OffRoute::Gone),
            }
        }
        let live = self.tables().members(group).map(|_| 1).sum();
        Err(OffRoute::Busy { live })
    }
}
