//! What a worker tells neighbours: where addresses are from now on (RFC 5227, 2.3: announced more than once, for
//! one frame may be lost). Between batches.

use super::Worker;
use crate::limits::announcement::{AGAIN, AT_A_TIME, TIMES, WAITING};
use crate::packet::arp;
use std::collections::VecDeque;
use std::net::Ipv4Addr;

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The port by whose link, by number.
    pub port: u32,
    /// The VLAN; 0: without a tag.
    pub vlan: u16,
    /// The address.
    pub address: Ipv4Addr,
    /// Where it is.
    pub mac: [u8; 6],
}

impl Announcement {
    fn is_about_the_same(&self, other: &Self) -> bool {
        (self.port, self.vlan, self.address) == (other.port, other.vlan, other.address)
    }
}

struct Due {
    what: Announcement,
    when: u64,
    left: u32,
}

/// What is still to be said, the next one first.
#[derive(Default)]
pub(super) struct Announcements(VecDeque<Due>);

impl Announcements {
    /// What contradicts it is not said any more. Beyond [`WAITING`] the oldest go, which were said already.
    fn add(&mut self, what: Announcement, now: u64) {
        self.0.retain(|due| !due.what.is_about_the_same(&what));
        if self.0.len() >= WAITING {
            self.0.pop_back();
        }
        self.0.push_front(Due { what, when: now, left: TIMES });
    }

    /// The next one that is due, which is due again later if it was not the last time.
    fn take(&mut self, now: u64) -> Option<Announcement> {
        let mut due = self.0.pop_front_if(|due| due.when <= now)?;
        let what = due.what;
        due.left -= 1;
        if due.left > 0 {
            due.when = now + AGAIN;
            self.0.push_back(due);
        }
        Some(what)
    }
}

impl Worker {
    pub(super) fn announce(&mut self, all: Vec<Announcement>) {
        all.into_iter().for_each(|what| self.announcements.add(what, self.now));
        self.tidy_announcements();
    }

    /// Says what is due, a part at a time: a ring of frames has an end.
    pub(super) fn tidy_announcements(&mut self) {
        let now = self.now;
        let mut said = 0;
        while said < AT_A_TIME
            && let Some(Announcement { port, vlan, address, mac }) = self.announcements.take(now)
        {
            if said == 0 {
                self.look_at_version();
                self.outgoing.begin(self.active);
            }
            said += 1;
            // A port that cannot send now may the next time.
            let _ = self.send(port, &arp::announcement(vlan, mac, address.octets()));
        }
        if said > 0 {
            self.outgoing.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(last: u8, mac: u8) -> Announcement {
        Announcement { port: 1, vlan: 0, address: Ipv4Addr::new(192, 0, 2, last), mac: [2, 0, 0, 0, 0, mac] }
    }

    #[test]
    fn each_is_said_three_times_and_what_is_newer_instead_of_what_is_older() {
        let mut all = Announcements::default();
        all.add(about(1, 1), 0);
        all.add(about(2, 1), 0);
        assert_eq!([all.take(0), all.take(0), all.take(0)], [Some(about(2, 1)), Some(about(1, 1)), None]);
        all.add(about(1, 7), 5);
        assert_eq!([all.take(5), all.take(5)], [Some(about(1, 7)), None]);
        assert_eq!(all.take(AGAIN - 1), None);
        assert_eq!([all.take(AGAIN), all.take(AGAIN)], [Some(about(2, 1)), None]);
        assert_eq!([all.take(AGAIN + 5), all.take(AGAIN + 5)], [Some(about(1, 7)), None]);
        assert_eq!([all.take(3 * AGAIN), all.take(3 * AGAIN)], [Some(about(2, 1)), Some(about(1, 7))]);
        assert_eq!(all.take(u64::MAX), None);
    }

    #[test]
    fn there_are_never_more_than_may_wait() {
        let mut all = Announcements::default();
        for number in 0..2 * WAITING as u32 {
            all.add(Announcement { address: Ipv4Addr::from_bits(number), ..about(0, 1) }, 0);
        }
        assert_eq!(all.0.len(), WAITING);
    }
}
